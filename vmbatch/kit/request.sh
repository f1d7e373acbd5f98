#!/bin/sh
# request.sh ID: takes the request for run ID from its input, for a job.sh whose own input is the job's terminal.

case ${1-} in '' | *[!0123456789abcdef]*) exit 2 ;; esac
run=${0%/kit/*}/job/run.$1
umask 077
mkdir "$run" || exit 1
cat >"$run/request"
