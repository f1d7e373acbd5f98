#!/bin/sh
# signal.sh ID NAME: sends the signal to the process group of run ID; exits 1 if that is not (or no longer) running.

case ${1-} in '' | *[!0123456789abcdef]*) exit 2 ;; esac
case ${2-} in
    HUP | INT | QUIT | ABRT | KILL | USR1 | USR2 | PIPE | ALRM | TERM | CONT | STOP | TSTP | TTIN | TTOU) ;;
    URG | XCPU | XFSZ | WINCH) ;;
    *) exit 2 ;;
esac

run=${0%/kit/*}/job/run.$1
[ ! -e "$run/status" ] || exit 1
{ read -r pid <"$run/pid"; } 2>/dev/null || exit 1
# A job on a terminal, or in a guest without setsid, leads no group of its own.
{ kill "-$2" "-$pid" || kill "-$2" "$pid"; } 2>/dev/null
