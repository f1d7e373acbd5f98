# shellcheck shell=sh disable=SC2034,SC2154
# The share between host and guest: our address towards its server, mounting, unmounting. Sourced by epilog.sh.

# first_inet WORDS: sets $address to the first IPv4 address behind the word inet that is not the loopback's
first_inet() {
    previous=
    for word; do
        case $previous:${word#addr:} in
            inet:127.*) ;;
            inet:*)
                address=${word#addr:}
                address=${address%%/*}
                return 0
                ;;
        esac
        previous=$word
    done
    return 1
}

# any_address: sets $address to an address of ours, for when the way to the server cannot be asked for
# shellcheck disable=SC2046 # words wanted
any_address() {
    first_inet $(ip -4 addr 2>/dev/null) && return
    first_inet $(ifconfig 2>/dev/null) && return
    for word in $(hostname -I 2>/dev/null); do
        first_inet inet "$word" && return
    done
    return 1
}

# route_address: sets $address to our own one on the way to $server
route_address() {
    route=$(ip route get "$server" 2>/dev/null) || return 1
    case $route in *' src '*) ;; *) return 1 ;; esac
    address=${route#* src }
    address=${address%%[!0-9a-fA-F.:]*}
}

# find_server: sets $server to the number of the share's server, or to nothing if it has none
find_server() {
    case $VMBATCH_SHARE_SOURCE in
        '') fail 'the context names no share to mount' ;;
        \[*\]:*) server=${VMBATCH_SHARE_SOURCE#?} server=${server%%\]*} ;;
        *:*) server=${VMBATCH_SHARE_SOURCE%%:*} ;;
        *) server= ;;
    esac
    case $server in
        *[!0-9a-fA-F.:]*)
            # shellcheck disable=SC2046 # words wanted: the number comes first
            set -- $(getent hosts "$server" 2>/dev/null)
            server=${1-$server}
            ;;
    esac
}

# find_address: sets $address as soon as the network has one for us
find_address() {
    doing='looking for our own address'
    find_server
    address=
    until
        if [ -n "$server" ] && command -v ip >/dev/null; then route_address; else any_address; fi
    do
        [ "$waited" -lt 120000 ] || fail "no network within 120 seconds: no address towards ${server:-the host}"
        pause
    done
}

mounted() {
    while read -r _ path _; do
        [ "$path" != "$VMBATCH_SHARE_PATH" ] || return 0
    done <"$root/proc/mounts"
    return 1
}

# mount_share: mounts it, if need be by the kernel's own means, and sets $shared
mount_share() {
    doing="mounting $VMBATCH_SHARE_SOURCE"
    type=$VMBATCH_SHARE_TYPE options=$VMBATCH_SHARE_OPTIONS
    case $type in
        nfs | nfs4)
            ! command -v modprobe >/dev/null || modprobe nfsv4 2>/dev/null || modprobe nfs 2>/dev/null || :
            if [ ! -x "$root/sbin/mount.$type" ]; then
                type=nfs4 options=addr=$server,clientaddr=$address${options:+,$options}
            fi
            ;;
    esac
    mkdir -p "$root$VMBATCH_SHARE_PATH"
    tries=60
    until mounted || mount -t "$type" ${options:+-o "$options"} "$VMBATCH_SHARE_SOURCE" "$root$VMBATCH_SHARE_PATH"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 1
    done
    shared=$root$VMBATCH_SHARE_PATH
}

unmount_share() {
    doing="unmounting $VMBATCH_SHARE_PATH"
    mounted || return 0
    umount "$root$VMBATCH_SHARE_PATH" || umount -l "$root$VMBATCH_SHARE_PATH"
}
