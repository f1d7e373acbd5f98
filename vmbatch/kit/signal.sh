#!/bin/sh
# signal.sh ID NAME [alone]: sends the signal to all processes of run ID, or to its first one; exits 1 if that is not (or no longer)
# running.

case ${1-} in '' | *[!0123456789abcdef]*) exit 2 ;; esac
case ${2-} in
    HUP | INT | QUIT | ABRT | KILL | USR1 | USR2 | PIPE | ALRM | TERM | CONT | STOP | TSTP | TTIN | TTOU) ;;
    URG | XCPU | XFSZ | WINCH) ;;
    *) exit 2 ;;
esac
name=$2

run=${0%/kit/*}/job/run.$1
[ ! -e "$run/status" ] || exit 1
# shellcheck source=session.sh
. "${0%/*}/session.sh"
find_job "$run" || exit 1
if [ "${3-}" = alone ]; then
    kill "-$name" "$pid" 2>/dev/null
    exit
fi
if [ -n "$members" ]; then
    # shellcheck disable=SC2086 # words wanted
    kill "-$name" $members 2>/dev/null
    exit 0
fi
# In a guest without setsid the job has neither session nor group of its own.
{ kill "-$name" "-$pid" || kill "-$name" "$pid"; } 2>/dev/null
