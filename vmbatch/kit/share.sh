# shellcheck shell=sh disable=SC2034,SC2154
# Shares between host and guest: our address towards their server, mounting, unmounting, and where messages go. Sourced by epilog.sh.

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

# find_server SOURCE: sets $server to the number of its server, or to nothing if it has none
find_server() {
    case $1 in
        \[*\]:*) server=${1#?} server=${server%%\]*} ;;
        *:*) server=${1%%:*} ;;
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

# find_address: sets $address as soon as the network has one for us; to "-" where the job comes by a console and there is none
find_address() {
    doing='looking for our own address'
    [ "${VMBATCH_MESSAGES:-share}" != share ] || [ -n "$VMBATCH_SHARE_SOURCE" ] || fail 'the context names no share to mount'
    find_server "$VMBATCH_SHARE_SOURCE"
    address= patience=120000 waited=0
    [ -z "${VMBATCH_CONSOLE-}" ] || [ -n "$server" ] || patience=0
    until
        if [ -n "$server" ] && command -v ip >/dev/null; then route_address; else any_address; fi
    do
        if [ "$waited" -ge "$patience" ]; then
            [ "$patience" -eq 0 ] || fail "no network within 120 seconds: no address towards ${server:-the host}"
            address=-
            return
        fi
        pause
    done
}

mounted() {
    while read -r _ path _; do
        [ "$path" != "$1" ] || return 0
    done <"$root/proc/mounts"
    return 1
}

# mount_at TYPE OPTIONS SOURCE PATH: mounts it, if need be by the kernel's own means; tries again for a minute
mount_at() {
    doing="mounting $3"
    type=$1 options=$2 source=$3 place=$4
    ! mounted "$place" || return 0
    case $type in
        nfs | nfs4)
            ! command -v modprobe >/dev/null || { [ "$type" = nfs4 ] && knows nfs4; } || modprobe "nfsv${type#nfs}" 2>/dev/null ||
                modprobe nfsv3 2>/dev/null || modprobe nfs 2>/dev/null || :
            choose_version
            find_server "$source"
            [ -x "$root/sbin/mount.$type" ] || without_helper
            ;;
        9p)
            ! command -v modprobe >/dev/null || modprobe 9pnet_virtio 2>/dev/null || :
            options=trans=virtio,version=9p2000.L,msize=262144${options:+,$options}
            ;;
    esac
    mkdir -p "$root$place"
    waited=0
    until mounted "$place" || try 60000 "$base/mount" mount -t "$type" ${options:+-o "$options"} "$source" "$root$place"; do
        last_line "$base/mount.log"
        [ "$waited" -lt 60000 ] || fail "failed while mounting $source at $place${last:+: $last}"
        knows "$type" || fail "failed while mounting $source at $place: the guest's kernel has no file system $type${last:+ ($last)}"
        sleep 1
        waited=$((waited + 1000))
    done
}

# try LIMIT FILE COMMAND...: runs it, with what it says in FILE.log, until $waited is LIMIT, or for five seconds: a server that is
# silent may hold a mount far longer, and does not let it be killed. So it is a sleep that is waited for, which the command's end ends.
try() {
    limit=$1 record=$2
    shift 2
    [ "$limit" -ge $((waited + 5000)) ] || limit=$((waited + 5000))
    [ ! -f "$record.status" ] || rm -f "$record.status"
    uptime
    began=$uptime
    sleep $(((limit - waited + 999) / 1000)) >/dev/null 2>&1 &
    alarm=$!
    {
        trap - EXIT
        set +e
        ("$@")
        echo "$?" >"$record.status"
        kill -9 "$alarm"
    } </dev/null >"$record.log" 2>&1 &
    process=$!
    { wait "$alarm" || :; } 2>/dev/null # some shells say how it has ended
    status=
    { read -r status <"$record.status" || :; } 2>/dev/null
    [ -n "$status" ] || {
        kill -9 "$process" 2>/dev/null
        echo 'it did not end' >>"$record.log"
        waited=$limit
        return 1
    }
    uptime
    waited=$((waited + (uptime - began) * 10))
    return "$status"
}

# uptime: sets $uptime to the hundredths of a second since the kernel began
uptime() {
    read -r uptime _ </proc/uptime
    hundredths "$uptime"
    uptime=$hundredths
}

# last_line FILE: sets $last to its last line that has something; mount(8) ends with where there may be more
last_line() {
    last=
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in
            '' | *'dmesg(1) may have more information'*) ;;
            *) last=$line ;;
        esac
    done <"$1"
}

# knows TYPE: whether the kernel has this file system, now that a mount has asked for it
knows() {
    [ -r "$root/proc/filesystems" ] || return 0
    while read -r word name; do
        [ "${name:-$word}" != "$1" ] || return 0
    done <"$root/proc/filesystems"
    return 1
}

# choose_version: nfs is version 3 unless the options name another one, as mount.nfs takes the newest. There, locks between guests
# need rpcbind and statd, and a guest that the server can call back: so there are none unless the options have lock.
choose_version() {
    case $type:,$options, in
        nfs4:* | *,vers=4* | *,nfsvers=4* | *,v4*) return ;;
        *,vers=* | *,nfsvers=* | *,v3,*) ;;
        *) options=vers=3${options:+,$options} ;;
    esac
    case ,$options, in *,lock,* | *,nolock,*) ;; *) options=nolock,$options ;; esac
}

# without_helper: what mount.nfs would tell the kernel (nfs(5))
without_helper() {
    case $type:,$options, in
        nfs4:* | *,vers=4* | *,nfsvers=4* | *,v4*)
            type=nfs4
            options=addr=$server,clientaddr=$address${options:+,$options}
            ;;
        *) options=addr=$server,mountaddr=$server,proto=tcp,mountproto=tcp,$options ;;
    esac
}

# open_messages: makes $shared a directory from which the host gets what `tell` writes
open_messages() {
    case ${VMBATCH_MESSAGES:-share} in
        share)
            mount_at "$VMBATCH_SHARE_TYPE" "$VMBATCH_SHARE_OPTIONS" "$VMBATCH_SHARE_SOURCE" "$VMBATCH_SHARE_PATH"
            shared=$root$VMBATCH_SHARE_PATH
            ;;
        console)
            doing='making a place for messages'
            rm -rf "$base/messages"
            mkdir "$base/messages"
            shared=$base/messages
            ;;
        channel) find_channel ;;
    esac
}

# find_channel: sets $shared to the virtio-serial port of that name (Linux, drivers/char/virtio_console.c)
find_channel() {
    doing='looking for the port org.vmbatch.0'
    waited=0
    while :; do
        for file in "$root"/sys/class/virtio-ports/*/name; do
            [ -f "$file" ] && IFS= read -r name <"$file" || continue
            [ "$name" = org.vmbatch.0 ] || continue
            file=${file%/name}
            shared=$root/dev/${file##*/}
            [ ! -c "$shared" ] || return 0
        done
        [ "$waited" -lt 30000 ] || fail 'the guest has no port org.vmbatch.0: is there a driver virtio_console?'
        [ "$waited" -ne 0 ] || ! command -v modprobe >/dev/null || modprobe virtio_console 2>/dev/null || :
        pause
    done
}

# mount_shares: the template's further file systems
mount_shares() {
    number=0
    while [ "$number" -lt "${VMBATCH_SHARES:-0}" ]; do
        eval "mount_at \"\$VMBATCH_SHARE${number}_TYPE\" \"\$VMBATCH_SHARE${number}_OPTIONS\" \"\$VMBATCH_SHARE${number}_SOURCE\" \
            \"\$VMBATCH_SHARE${number}_PATH\""
        number=$((number + 1))
    done
}

# check_home: a home on a share is the user's
check_home() {
    [ -n "${VMBATCH_HOME_SHARED-}" ] || return 0
    doing='looking for the home directory'
    [ -d "$root$VMBATCH_HOME" ] || fail "$VMBATCH_HOME is not on the share that the template mounts there"
    owner "$root$VMBATCH_HOME"
    [ "$owner" = "$VMBATCH_UID" ] || fail "$VMBATCH_HOME on its share belongs to uid $owner, not to $VMBATCH_USER"
}

unmount_shares() {
    number=${VMBATCH_SHARES:-0}
    while [ "$number" -gt 0 ]; do
        number=$((number - 1))
        eval "unmount_at \"\$VMBATCH_SHARE${number}_PATH\""
    done
    [ "${VMBATCH_MESSAGES:-share}" != share ] || unmount_at "$VMBATCH_SHARE_PATH"
}

unmount_at() {
    doing="unmounting $1"
    mounted "$1" || return 0
    umount "$root$1" || umount -l "$root$1"
}
