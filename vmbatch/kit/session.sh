# shellcheck shell=sh disable=SC2034
# The processes of a job, as the kernel knows them. Sourced by job.sh and signal.sh.

# look PID: sets $state, $parent and $session of a process; false if there is none
look() {
    { IFS= read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    # shellcheck disable=SC2086 # words wanted; a name may have blanks and brackets in it, what follows has none
    set -- ${stat##*) }
    state=${1-} parent=${2-} session=${4-}
}

# members SESSION [JOB_SH WATCHER]: sets $members to the processes of a session but for job.sh and its watcher
members() {
    members=
    for process in /proc/[0-9]*/stat; do
        process=${process%/stat}
        process=${process#/proc/}
        look "$process" && [ "$session" = "$1" ] && [ "$state" != Z ] || continue
        case ${3+"$process $parent"} in "$2 "* | "${3-} "* | *" ${3-}") continue ;; esac
        members="$members $process"
    done
}

# find_job RUN: sets $members to the processes of a run's job: of its session, or on its terminal; false if it has none yet
find_job() {
    members=
    { read -r pid <"$1/pid"; } 2>/dev/null || return 1
    if { read -r of_terminal job_sh watcher <"$1/terminal"; } 2>/dev/null; then
        members "$of_terminal" "$job_sh" "$watcher"
    elif ! look "$pid" || [ "$session" = "$pid" ]; then
        members "$pid" # a session keeps its number when its first process is gone
    fi
}
