#!/bin/sh
# console-serve.sh PLACE: the user's side of the console's protocol (vmbatch/consolelink.py): jobs and commands for the host.
# Input is the device, set raw by console.sh; PLACE is a directory of the user's own for nothing but this.
#
# The main loop does what the host says; other processes read the host's lines, cut the job's output into frames, feed the job, and
# write to the device. Each ends when what it reads from, or writes to, has ended: so all do with the loop, or with the session.

place=$1
base=${0%/kit/*}
kit=${0%/*}
window=2   # frames of the input that may be under way
piece=6144 # bytes of a frame of output at most
LC_ALL=C

exec 3<&0 </dev/null >/dev/null 2>&1
# shellcheck source=console-line.sh
. "$kit/console-line.sh"

# As sshd would: whatever su made of it.
while IFS=: read -r name _ _ _ _ home shell; do
    [ "$name" != "$VMBATCH_USER" ] || break
done <"${VMBATCH_ROOT-}/etc/passwd"
HOME=$home SHELL=${shell:-/bin/sh} USER=$VMBATCH_USER LOGNAME=$VMBATCH_USER
export HOME SHELL USER LOGNAME
unset VMBATCH_USER VMBATCH_ROOT
cd "$HOME" || cd /

# encode, decode FILE: base64 as this guest can
if command -v base64; then
    encode() { base64; }
    decode() { base64 -d >"$1"; }
elif command -v openssl; then
    encode() { openssl base64; }
    decode() { openssl base64 -d >"$1"; }
else
    encode() { uuencode -m x | sed '1d;$d'; }
    decode() {
        {
            echo 'begin-base64 600 x'
            cat
            echo '===='
        } | uudecode -o "$1"
    }
fi

# measure FILE: sets $size and $checksum; busybox may have no cksum
# shellcheck disable=SC2046 # words wanted
if command -v cksum; then
    summer='cksum'
    measure() {
        set -- $(cksum <"$1")
        checksum=$1 size=$2
    }
else
    summer=sha256sum
    measure() {
        set -- $(wc -c <"$1") $(sha256sum <"$1")
        checksum=$2 size=$1
    }
fi

# write_line: to the device, whole line or frame by whole line or frame: its input has a text, or the path of a file with a frame
write_line() {
    while IFS= read -r text; do
        case $text in
            /*) cat "$text" >&3 ;;
            *) printf '\nvb> %s|%s.\n' "$text" "$text" >&3 ;;
        esac
    done
}

# send TEXT: a line, or a file with a frame, to the host
send() {
    printf '%s\n' "$1" >&5
}

# spool NAME: cuts its input into frames, each sent when there is a line on descriptor 4 for it; an empty one is the end
spool() {
    number=0
    while dd bs="$piece" count=1 >"$files/$1.raw"; do
        measure "$files/$1.raw"
        head="$session $1 $number $size $checksum"
        frame=$files/$1.$((number % 2))
        {
            printf '\nvb> %s|%s.\n' "$head" "$head"
            [ "$size" -eq 0 ] || encode <"$files/$1.raw"
        } >"$frame" && read -r _ <&4 || break
        send "$frame"
        number=$((number + 1))
        echo "$number" >"$files/$1.made"
        [ "$size" -ne 0 ] || return 0
    done
    # The session's end, or no room for a frame: the host must not take what it has for all.
    : >"$files/$1.broken"
    send "$session broken $1"
}

# feed: writes the frames that were taken, one for each line on descriptor 4, which has its size; an empty one is the end
feed() {
    number=0 discard=
    while read -r size <&4; do
        [ "$size" -ne 0 ] || return 0
        [ -n "$discard" ] || cat "$files/in.$((number % window))" || discard=yes
        number=$((number + 1))
        echo "$number" >"$files/fed"
        send "$session fed $number"
    done
}

# start_run ID: the job and what carries its streams
start_run() {
    mkfifo "$files/in" "$files/out" "$files/err" "$files/go" "$files/in.go"
    # For reading, too: to open a pipe for writing alone waits for a reader, and busybox does not start again after a signal.
    exec 6<>"$files/go" 8<>"$files/in.go"
    # By exec, as a shell keeps what a function has redirected.
    (exec 3<&- 6>&- 8>&- 4<"$files/go" <"$files/out" && spool out) &
    (exec 3<&- 6>&- 8>&- 4<"$files/go" <"$files/err" && spool err) &
    (exec 3<&- 6>&- 8>&- 4<"$files/in.go" >"$files/in" && feed) &
    # Not with `&`, which would have the job ignore SIGINT and SIGQUIT: a shell that starts a pipeline and is killed by its end.
    # shellcheck disable=SC2016 # for the inner shell
    (unset LC_ALL && exec /bin/sh -c '/bin/sh "$0" "$@" | kill -9 $$' \
        "$kit/console-run.sh" "$session" "$files" "$1" 3<&- 6>&- 8>&-)
    run=$1 out_done=0 err_done=0
    echo >&6 # one frame of output at a time
}

# acknowledge OUT ERR: the host has done with so many frames of each: as many others may take their place
acknowledge() {
    is_number "$1" && is_number "$2" && [ -n "$run" ] || return 0
    while [ "$out_done" -lt "$1" ]; do
        echo >&6
        out_done=$((out_done + 1))
    done
    while [ "$err_done" -lt "$2" ]; do
        echo >&6
        err_done=$((err_done + 1))
    done
}

# send_again NAME FIRST: frames of that stream from this one on
send_again() {
    made=
    read -r made <"$files/$1.made" && is_number "$made" || return 0
    number=$2
    while [ "$number" -lt "$made" ]; do
        send "$files/$1.$((number % 2))"
        number=$((number + 1))
    done
}

# tell_state OUT ERR: all that the host may have missed, from these frames on
tell_state() {
    [ -n "$run" ] && is_number "$1" && is_number "$2" || return 0
    send "$session took $took"
    ! read -r number <"$files/fed" || send "$session fed $number"
    send_again out "$1"
    send_again err "$2"
    for name in out err; do
        [ ! -e "$files/$name.broken" ] || send "$session broken $name"
    done
    ! read -r status <"$files/exit" || send "$session exit $status"
}

# take NUMBER SIZE CHECKSUM FILE: a frame of the job's input, whose base64 is in FILE unless it is empty
take() {
    is_number "$1" && is_number "$2" && [ -n "$run" ] || return 0
    if [ "$1" -lt "$took" ]; then
        send "$session took $took"
    elif [ "$1" -eq "$took" ] && is_whole "$2" "$3" "$4" "$files/in.$((took % window))"; then
        took=$((took + 1))
        send "$session took $took"
        echo "$2" >&8
    else
        send "$session miss $took"
    fi
}

# is_whole SIZE CHECKSUM FROM TO: whether FROM makes these bytes, which go to TO
is_whole() {
    [ "$1" -ne 0 ] || return 0
    decode "$4" <"$3"
    measure "$4"
    [ "$size $checksum" = "$1 $2" ]
}

# begin SESSION: another host, or the same again; the streams of a run of the session before end
begin() {
    exec 6>&- 8>&-
    [ -z "$session" ] || rm -rf "$files"
    session=$1 files=$place/$1 run= took=0 answered= answer=
    mkdir "$files"
}

# obey NUMBER COMMAND...: a command of the kit's; one that is asked for again is answered again, but not done again
obey() {
    if [ "$1" != "$answered" ]; then
        answered=$1
        case $2 in
            login | status | signal) answer=$(/bin/sh "$kit/$2.sh" ${3+"$3"} ${4+"$4"} 3<&- 5>&- 6>&- 8>&-) ;;
            *) false ;;
        esac
        answer="$? $answer"
    fi
    send "$session done $answered $answer"
}

# serve: reads lines as read_lines prints them
serve() {
    trap : PIPE # of what has ended; not ignored, as a job would have to do so too
    session=
    while read -r line; do
        # shellcheck disable=SC2086 # words wanted
        set -- $line
        case ${1-} in '' | *[!0123456789abcdef]*) continue ;; esac
        if [ "${2-}" = hello ]; then
            [ "$1" = "$session" ] || begin "$1"
            send "$session ready 1 user $summer"
            continue
        elif [ "$1" != "$session" ]; then
            send "$1 gone"
            continue
        fi
        case ${2-} in
            say) send_messages "$session" ;;
            do) obey "${3-}" "${4-}" ${5+"$5"} ${6+"$6"} ;;
            run)
                [ -n "$run" ] || start_run "${3-}"
                send "$session began $run"
                ;;
            in) take "${3-}" "${4-}" "${5-}" "${6-}" ;;
            got) acknowledge "${3-}" "${4-}" ;;
            ask)
                acknowledge "${3-}" "${4-}"
                tell_state "${5-}" "${6-}"
                ;;
        esac
    done
}

rm -rf "${place:?}"/* # of one who was killed
mkfifo "$place/line" || exit
set -f # the host's lines are no patterns
exec 5<>"$place/line"
(exec 5>&- <"$place/line" && write_line) &
{
    exec 5>&-
    read_lines "$place"
} | {
    exec 3<&-
    serve
}
