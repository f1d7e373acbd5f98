#!/bin/sh
# console-run.sh SESSION FILES RUN: for console-serve.sh: the kit's job.sh with its streams, then its status to the host.
# Descriptor 5 takes lines to the host.

session=$1 files=$2
# As sshd would start it; a shell cannot take back what was ignored when it was started.
set -- /bin/sh "${0%/*}/job.sh" "$3"
! env --default-signal=INT,QUIT,PIPE true 2>/dev/null || set -- env --default-signal=INT,QUIT,PIPE "$@"

trap : HUP INT QUIT TERM
"$@" <"$files/in" >"$files/out" 2>"$files/err" 5>&-
status=$?
echo "$status" >"$files/exit"
echo "$session exit $status" >&5
