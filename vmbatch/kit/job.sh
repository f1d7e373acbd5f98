#!/bin/sh
# job.sh ID: reads a request (docs/architecture.md, "In the guest") from its input and runs the job with the rest of it; or with
# all of it, where request.sh has taken the request.

base=${0%/kit/*}
run= script=$base/job/script command= args= cwd=${HOME:-/} wanted= login= lifeline= relays=
# shellcheck source=session.sh
. "$base/kit/session.sh"

# end STATUS: notes the status for status.sh, which takes a whole line only, and exits with it. A job that was ended has none.
end() {
    [ -z "$run" ] || [ -e "$run/lost" ] || printf '%s\n' "$1" >"$run/status"
    [ -z "$relays" ] || drain
    exit "$1"
}

# refuse TEXT: for a request that we do not understand or cannot do
refuse() {
    printf 'vmbatch: %s\n' "$1" >&2
    end 125
}

# check ESC: refuses what no host of ours would have written
check() {
    case $1 in *[!A-Za-z0-9/._=:,+@%\ \\-]* | *\\[!0]* | *\\) refuse 'bad value in the request' ;; esac
}

# decode ESC: sets $value; a process is only spent on what needs it
decode() {
    check "$1"
    case $1 in
        *\\*) value=$(printf '%b.' "$1") && value=${value%.} ;;
        *) value=$1 ;;
    esac
}

# The request is bytes. From here on "$@" is the job's environment; a locale that we came with is its, not ours.
id=${1-}
set -- ${LC_ALL+"LC_ALL=$LC_ALL"}
LC_ALL=C

case $id in '' | *[!0-9a-f]*) refuse 'bad run id' ;; esac
exec 4<&0
if [ -f "$base/job/run.$id/request" ]; then
    run=$base/job/run.$id
    exec <"$run/request" && rm -f "$run/request" || refuse "cannot read the request of run $id"
else
    mkdir -m 700 "$base/job/run.$id" || refuse "cannot make run $id"
    run=$base/job/run.$id
fi

IFS= read -r line && [ "$line" = 'vmbatch 1' ] || refuse 'this is not a request of version 1'
while :; do
    IFS= read -r line || refuse 'the request has no end'
    case $line in *' '*) rest=${line#* } ;; *) rest= ;; esac
    case $line in
        'env '*)
            name=${rest%% *}
            case $name in '' | [0-9]* | *[!A-Za-z0-9_]*) refuse 'bad name of a variable in the request' ;; esac
            decode "${rest#"$name"}"
            value=${value# }
            if [ "$name" = PBS_NODEFILE ] && [ -f "$base/job/nodefile" ]; then
                value=$base/job/nodefile
            fi
            set -- "$@" "$name=$value"
            ;;
        'cwd '*) decode "$rest" && cwd=$value ;;
        'shell' | 'shell '*) decode "$rest" && wanted=$value ;;
        'file '*)
            check "$rest"
            script=$run/script
            printf '%b' "$rest" >>"$script" || refuse 'cannot write the script'
            ;;
        'args '*) decode "$rest" && args=$value ;;
        'command '*) decode "$rest" && command=$value ;;
        login) login=yes ;;
        lifeline) lifeline=yes ;;
        run) break ;;
        *) refuse 'unknown item in the request' ;;
    esac
done
if [ -n "$lifeline" ]; then
    exec </dev/null
else
    exec <&4 4<&-
fi

# Whose shell: the one asked for if the guest has it; one that is none (-S /usr/bin/python3) can still run the script.
shell=${SHELL:-/bin/sh}
[ -x "$shell" ] || shell=/bin/sh
case $wanted in [!/]* | *[!A-Za-z0-9/._+-]*) wanted= ;; esac
[ -f "$wanted" ] && [ -x "$wanted" ] || wanted=$shell
case $wanted in *sh) shell=$wanted ;; esac

if [ -z "$command" ] && [ -z "$login" ]; then
    [ -f "$script" ] || refuse 'there is no script to run'
    [ -x "$script" ] || chmod 700 "$script"
    line=
    IFS= read -r line <"$script"
    case $line in
        '#!'*remoteshell*) command="exec \"$wanted\" \"$script\" $args" ;;
        '#!'*) command="exec \"$script\" $args" ;;
        *) command="exec \"$wanted\" \"$script\" $args" ;;
    esac
fi

# around STAGE ENVIRONMENT: runs what the site, and the user, want run in the guest before or after the job, as the user
around() {
    stage=$1
    shift
    case $stage in before) own=prologue ;; *) own=epilogue ;; esac
    for hook in "$base/$stage.d"/* "${HOME:-/}/.vmbatch/$own"; do
        [ -f "$hook" ] && [ -x "$hook" ] || continue
        env "$@" "VMBATCH_STATUS=${status-}" "$hook" </dev/null 2>&3 || {
            failed=$?
            [ "$stage" = after ] || return "$failed"
        }
    done
}

# run ENVIRONMENT: the job's own shell gets the job's environment. A session of its own, unless that would cost it its terminal.
run() {
    case $login${shell##*/} in
        yes*) set -- "$@" "$shell" -l ;;
        csh | tcsh) set -- "$@" "$shell" -c "$command" ;; # their -l suffers no company
        *) set -- "$@" "$shell" -l -c "$command" ;;
    esac
    # shellcheck disable=SC2016 # for the inner shell
    set -- /bin/sh -c 'echo "$$" >"$0/pid"; [ ! -e "$0/lost" ] || exit 255; exec 2>&3 3>&- 4<&-; exec env "$@"' "$run" "$@"
    [ -t 0 ] || ! command -v setsid >/dev/null || set -- setsid "$@"
    "$@"
}

# An MPI that knows Torque would start its processes through mom, who is not in here: by ssh, unless the job says how.
[ ! -d "$base/party" ] ||
    set -- OMPI_MCA_plm=rsh PRTE_MCA_plm=ssh HYDRA_LAUNCHER=ssh I_MPI_HYDRA_BOOTSTRAP=ssh "$@"
# watch: when the host's side of the connection is gone, the job ends. With a lifeline our input tells, else our parent.
watch() {
    exec >/dev/null 3>&- # a redirection of the whole function would have dash keep copies
    trap '' HUP INT QUIT # of a terminal
    if [ -n "$lifeline" ]; then
        while IFS= read -r _; do :; done
    else
        while [ -d "/proc/$PPID" ]; do sleep 5; done
    fi
    : >"$run/lost"
    until end_job; do
        [ -d "/proc/$$" ] || return
        sleep 1
    done
}

# unwatch: another signal might be lost on a watcher that is so new that it still has our traps
unwatch() {
    kill -9 "$watch"
}

# note_processes: sets $old to those there are before the job
note_processes() {
    set -- /proc/[0-9]*
    old=$*
}

# end_rest: what the job has left behind dies, as on a node. Most jobs leave nothing, and no new process: that is seen at once.
end_rest() {
    read -r pid <"$run/pid" || return
    if kill -0 "-$pid"; then
        end_job
        return
    fi
    set --
    for process in /proc/[0-9]*; do
        case " $old " in *" $process "*) ;; *) [ "$process" = "/proc/$watch" ] || set -- "$@" "$process/stat" ;; esac
    done
    [ $# -eq 0 ] || end_job "$@"
}

# end_job [STAT...]: kills what runs of the job, until nothing does: who is killed may just have forked; false if it has not begun
end_job() {
    find_job "$run" "$@" || return 1
    rounds=0
    while [ -n "$members" ] && [ "$rounds" -lt 100 ]; do
        # shellcheck disable=SC2086 # words wanted
        kill -9 $members
        rounds=$((rounds + 1))
        find_job "$run"
    done
}

# relay: has the job write into pipes of ours. dropbear takes a pipe that has nothing after all for one that has ended (its
# common-channel.c, send_msg_channel_data). While the end of a file on 9p is being looked for, to send it into a pipe, Linux
# before 6.5 shows that pipe with a page in it, which then goes again (lib/iov_iter.c, ITER_PIPE): such as by busybox's cat.
relay() {
    [ -d /sys/fs/9p ] && [ ! -t 0 ] && { read -r server <"/proc/$PPID/comm"; } 2>/dev/null && [ "$server" = dropbear ] &&
        mkfifo -m 600 "$run/out" "$run/err" 2>/dev/null || return 0
    cat <"$run/out" 4<&- &
    relays=$!
    cat <"$run/err" >&2 4<&- &
    relays="$relays $!"
    exec >"$run/out" 2>"$run/err"
}

# drain: waits until all that was written has gone
drain() {
    exec >/dev/null 3>&-
    for process in $relays; do
        while kill -0 "$process"; do
            wait "$process"
        done
    done
}

case $cwd in /*) ;; *) cwd=${HOME:-/} ;; esac
cd "$cwd" 2>/dev/null || cd "${HOME:-/}" 2>/dev/null || cd / || refuse 'no working directory'

# Handlers, not `ignore`: a child gets the default back. What a shell says about a child's death is not the job's output.
trap : HUP INT QUIT USR1 USR2 ALRM TERM
relay
exec 3>&2 2>/dev/null
if [ -n "$lifeline" ]; then
    watch <&4 &
    exec 4<&-
else
    watch &
fi
watch=$!
note_processes
[ ! -t 0 ] || echo "$(sed 's/.*) //' /proc/$$/stat | cut -d' ' -f4) $$ $watch" >"$run/terminal" # the session is the job's, too
around before "$@" || {
    status=$?
    printf 'vmbatch: %s failed with status %s; the job was not run\n' "$hook" "$status" >&3
    unwatch
    end "$status"
}
run "$@"
status=$?
end_rest
around after "$@"
unwatch
end "$status"
