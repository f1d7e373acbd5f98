# shellcheck shell=sh disable=SC2154
# Signs of life while the job runs: for the host, and for the hypervisor's watchdog. Sourced by epilog.sh.
# Both go on behind this script; where a sign cannot be given any more, the guest is as good as dead.

# beat: a message to the host from time to time
beat() {
    [ -n "${VMBATCH_HEARTBEAT-}" ] || return 0
    {
        trap - EXIT
        set +e
        count=0
        while sleep "$VMBATCH_HEARTBEAT" 3>&-; do
            count=$((count + 1))
            tell heartbeat "$count"
        done
    } </dev/null >/dev/null 2>&1 &
    beating=$!
}

# stop_beating: of a guest whose job is over
stop_beating() {
    [ -n "${beating-}" ] || return 0
    kill -9 "$beating" || :
    wait "$beating" || :
}

# feed_watchdog: opening it starts it, each byte feeds it (Linux, Documentation/watchdog/watchdog-api.rst); who closes it without
# a V leaves it running. Where init feeds it already it is busy, and left alone.
feed_watchdog() {
    [ -n "${VMBATCH_WATCHDOG-}" ] || return 0
    ! command -v modprobe >/dev/null || modprobe i6300esb 2>/dev/null || :
    if [ ! -w "$root/dev/watchdog" ]; then
        say 'the domain has a watchdog, but the guest no /dev/watchdog: is there a driver for it?'
        return 0
    fi
    {
        trap - EXIT
        set +e
        while printf . && sleep 5; do :; done >"$root/dev/watchdog"
    } </dev/null >/dev/null 2>&1 &
}
