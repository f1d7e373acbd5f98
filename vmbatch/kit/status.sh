#!/bin/sh
# status.sh ID: prints the exit status of run ID if it has ended; else exits 1.

case ${1-} in '' | *[!0123456789abcdef]*) exit 2 ;; esac
{ read -r status <"${0%/kit/*}/job/run.$1/status"; } 2>/dev/null || exit 1
printf '%s\n' "$status"
