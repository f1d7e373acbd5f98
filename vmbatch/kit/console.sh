#!/bin/sh
# console.sh start: has the host's job shell come in through the character device VMBATCH_CONSOLE, as VMBATCH_USER.
# For root. The device is used by nobody else; what is served there outlives this script, and is started again when it ends.

root=${VMBATCH_ROOT-}
base=$root/var/lib/vmbatch
here=${0%/*}
PATH=${PATH:+$PATH:}/usr/sbin:/usr/bin:/sbin:/bin
export PATH
LC_ALL=C
umask 022

device=${VMBATCH_CONSOLE-}
case $device in /*) ;; *) device=/dev/$device ;; esac

# lacks: whether something is not there that console-serve.sh needs; sets $reason
lacks() {
    for programs in su stty mkfifo awk dd 'cksum sha256sum' 'base64 openssl uudecode'; do
        found=
        for program in $programs; do
            ! command -v "$program" >/dev/null || found=yes
        done
        [ -n "$found" ] || {
            reason="the guest lacks what the shell on $device needs: $programs"
            return 0
        }
    done
    return 1
}

# is_known: whether the user is in passwd
is_known() {
    while IFS=: read -r name _; do
        [ "$name" != "${VMBATCH_USER-}" ] || return 0
    done <"$root/etc/passwd"
    return 1
}

# make_place: sets $place to a new directory of the user's own: in memory where there is such, as a job may fill the disk.
# One that the user has is left alone, as removing what a user can change is no work for root.
make_place() {
    [ ! -d "${place:-/none}" ] || return 0
    for place in "$root/dev/shm/vmbatch-console.$$" "$base/console.$$"; do
        { mkdir -m 700 "$place" && chown "$VMBATCH_UID:$VMBATCH_GID" "$place"; } && return
    done
    return 1
}

# send TEXT: a line to the host
send() {
    printf '\nvb> %s|%s.\n' "$1" "$1" >&3
}

# serve_messages: for a guest that can do no more than say why
serve_messages() {
    # shellcheck source=console-line.sh
    . "$here/console-line.sh"
    read_lines '' | while read -r session verb _; do
        case $verb in
            hello) send "$session ready 1 messages" ;;
            say) send_messages "$session" ;;
        esac
    done
}

# serve MODE: once, with the device as descriptor 3
serve() {
    exec 3<>"$device" || return
    stty raw -echo clocal <&3
    if [ "$1" = user ]; then
        env -i PATH=/usr/local/bin:/usr/bin:/bin VMBATCH_ROOT="$root" VMBATCH_USER="$VMBATCH_USER" \
            su -s /bin/sh "$VMBATCH_USER" -c "exec /bin/sh $base/kit/console-serve.sh $place" <&3 >&3
    else
        serve_messages
    fi
}

case ${1-} in
    start)
        leader=
        ! command -v setsid >/dev/null || leader=setsid
        # In the background, but not with `&`, which would have all jobs ignore SIGINT and SIGQUIT: a shell that starts a pipeline
        # and is killed by its end. Nor is what goes on the leader of the session: that would get the device for its terminal.
        # shellcheck disable=SC2016 # for the inner shell
        { $leader /bin/sh -c '/bin/sh "$0" guard | kill -9 $$' "$0" || :; } </dev/null >/dev/null 2>&1
        ! lacks || {
            echo "$reason" >&2
            exit 1
        }
        ;;
    guard)
        trap : HUP INT QUIT TERM
        exec >/dev/null
        while :; do
            mode=messages
            ! { is_known && [ -f "$base/kit/console-serve.sh" ] && make_place; } || lacks || mode=user
            [ ! -c "$device" ] || (serve "$mode")
            sleep 1
        done
        ;;
    *)
        echo 'usage: console.sh start' >&2
        exit 2
        ;;
esac
