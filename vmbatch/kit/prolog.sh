#!/bin/sh
# prolog.sh start|stop: the context's early part, as root and before sshd: the user, the keys, the job's files.

case ${1-} in
    start) ;;
    stop) exit 0 ;;
    *)
        echo "usage: prolog.sh start|stop" >&2
        exit 2
        ;;
esac

case $0 in
    /*/prolog.sh) medium=${0%/*} ;;
    */prolog.sh) medium=$PWD/${0%/*} ;;
    *) medium=$PWD ;; # sourced where it lies, as CernVM does (cernvm/amiconfig, hepix_functions)
esac
[ -f "$medium/kit/lib.sh" ] || exit 1

kit=$medium/kit
# shellcheck source=lib.sh
. "$kit/lib.sh"
# shellcheck source=context.sh
. "$kit/context.sh"

start prolog
take_context
