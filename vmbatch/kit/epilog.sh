#!/bin/sh
# epilog.sh start|stop: the context's late part, after network and sshd: the share, and the messages to the host.

case $0 in
    /*/epilog.sh) medium=${0%/*} ;;
    */epilog.sh) medium=$PWD/${0%/*} ;;
    *) medium=$PWD ;; # sourced where it lies, as CernVM does (cernvm/amiconfig, hepix_functions)
esac
[ -f "$medium/kit/lib.sh" ] || exit 1

# shellcheck source=lib.sh
. "$medium/kit/lib.sh"
# shellcheck source=share.sh
. "$medium/kit/share.sh"
# shellcheck source=party.sh
. "$medium/kit/party.sh"
# shellcheck source=pulse.sh
. "$medium/kit/pulse.sh"
# shellcheck source=pool.sh
. "$medium/kit/pool.sh"

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

# wait_until_ready: the site's own word on what ready means; what it says last is shown, and told if it never succeeds
wait_until_ready() {
    [ -f "$medium/site/ready" ] || return 0
    doing='running site/ready'
    patience=${VMBATCH_PATIENCE:-200}
    waited=0 seen=
    until try "${patience}000" "$base/ready" run_ready; do
        last_line "$base/ready.log"
        [ "$last" = "$seen" ] || say "not ready yet: $last"
        seen=$last
        [ "$waited" -lt "${patience}000" ] || fail "site/ready did not succeed within $patience seconds${last:+: $last}"
        sleep 1
        waited=$((waited + 1000))
    done
}

run_ready() {
    if [ -x "$medium/site/ready" ]; then
        exec "$medium/site/ready"
    else
        exec sh "$medium/site/ready"
    fi
}

# serve_console: for a job that comes by a console
serve_console() {
    [ -n "${VMBATCH_CONSOLE-}" ] || return 0
    doing='starting the shell on the console'
    sh "$medium/kit/console.sh" start
}

# tell_times: when prolog and epilog began, when there was an address, and now that all is mounted
tell_times() {
    began=0
    [ ! -f "$base/began" ] || read -r began <"$base/began"
    clock
    tell times "$began $times $now"
}

again=${2-} # of a guest that has had a job
case ${1-} in
    start)
        start epilog
        clock
        times=$now
        [ "${VMBATCH_MESSAGES:-share}" = share ] || open_messages
        find_address
        clock
        times="$times $now"
        [ -n "$shared" ] || open_messages
        serve_console
        check_prolog
        mount_shares
        messages=$shared
        if [ -n "${VMBATCH_POOL-}" ]; then
            wait_for_job
        else
            tell_times
        fi
        check_home
        tell announce "$address"
        run_site epilog.d
        wait_until_ready
        if [ -n "${prepared-}" ]; then
            hear_login
        else
            wait_for_login
        fi
        meet_party
        feed_watchdog
        tell ready "$address"
        shared=$messages
        [ -z "${prepared-}" ] || rmdir "$new" || : # nobody waits any more
        [ -z "${prepared-}" ] || [ -z "${VMBATCH_REUSE-}" ] || hold_port
        beat
        [ -z "${held-}" ] || wait_for_next
        ;;
    stop)
        start epilog
        unmount_shares
        ;;
    *)
        echo "usage: epilog.sh start|stop" >&2
        exit 2
        ;;
esac
