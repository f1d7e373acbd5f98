# shellcheck shell=sh disable=SC2034
# The processes of a job, as the kernel knows them (proc(5), stat). Sourced by job.sh and signal.sh.

# members SESSION JOB_SH WATCHER STAT...: sets $members to those processes of a session that are no zombies, but for job.sh and its
# watcher with children. By one sed, as a shell reads byte by byte; what a process has for a name misleads nobody but its own user.
# GNU sed gives up, with status 4, at a process that goes just then (sed/utils.c, panic): the others are still to be seen.
members() {
    members= job_sh=$2 watcher=$3 looks=0
    sed="s/^\([0-9][0-9]*\) (.*) [A-Y] \([0-9][0-9]*\) [0-9]* $1 .*/\1:\2/p"
    shift 3
    until found=$(sed -n "$sed" "$@" 2>/dev/null) || [ $? -ne 4 ] || [ "$looks" -ge 100 ]; do
        looks=$((looks + 1))
    done
    for process in $found; do
        case $process in "$job_sh:"* | "$watcher:"* | *":$watcher") continue ;; esac
        members="$members ${process%:*}"
    done
}

# find_job RUN [STAT...]: sets $members to the processes of a run's job: of its session, or on its terminal; false if it has none yet
find_job() {
    members= session=
    { read -r pid <"$1/pid"; } 2>/dev/null || return 1
    { read -r session job_sh watcher <"$1/terminal"; } 2>/dev/null
    shift
    [ $# -ne 0 ] || set -- /proc/[0-9]*/stat
    members "${session:-$pid}" "${job_sh-}" "${watcher-}" "$@"
}
