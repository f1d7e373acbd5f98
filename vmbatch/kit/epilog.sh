#!/bin/sh
# epilog.sh start|stop: the context's late part, after network and sshd: the share, and the messages to the host.

case $0 in
    /*) medium=${0%/*} ;;
    */*) medium=$PWD/${0%/*} ;;
    *) medium=$PWD ;;
esac

# shellcheck source=lib.sh
. "$medium/kit/lib.sh"
# shellcheck source=share.sh
. "$medium/kit/share.sh"

# A prolog that failed, or never ran, is told and the end of it.
check_prolog() {
    doing='looking for the outcome of prolog.sh'
    [ -f "$base/failed" ] || fail 'prolog.sh has not run'
    IFS= read -r line <"$base/failed" || return 0
    fail "prolog: ${line#prolog: }"
}

# The host logs in as the user; what that leaves behind is the proof that a user can.
wait_for_login() {
    doing='waiting for the login'
    waited=0
    until [ -e "$base/job/login" ]; do
        [ "$waited" -lt 600000 ] || fail 'the host did not log in within 600 seconds'
        pause
    done
}

case ${1-} in
    start)
        start epilog
        find_address
        mount_share
        check_prolog
        tell announce "$address"
        run_site epilog.d
        wait_for_login
        tell ready "$address"
        ;;
    stop)
        start epilog
        unmount_share
        ;;
    *)
        echo "usage: epilog.sh start|stop" >&2
        exit 2
        ;;
esac
