#!/bin/sh
# rootssh.sh start: run by the host as root over ssh, once the context lies in medium.new: puts it in its place, runs prolog.sh,
# prints why that failed if it did, and leaves epilog.sh running. It may run again, whatever has become of an earlier run.

base=${VMBATCH_ROOT-}/var/lib/vmbatch
medium=$base/medium
log=$base/rootssh.log
groups=$base/rootssh.groups # a line for each run of this boot: boot id, process group
PATH=${PATH:+$PATH:}/usr/sbin:/usr/bin:/sbin:/bin
export PATH
umask 022

# find_group: sets $boot and $group, our process group
find_group() {
    read -r boot </proc/sys/kernel/random/boot_id
    read -r _ _ _ _ group _ <"/proc/$$/stat"
}

# end_earlier: an earlier run may still be at work for a host that lost its connection
end_earlier() {
    [ -f "$groups" ] || return 0
    while read -r when other; do
        case $other in '' | *[!0123456789]* | 0 | 1 | "$group") continue ;; esac
        [ "$when" != "$boot" ] || kill -9 "-$other" 2>/dev/null
    done <"$groups"
    rm -f "$groups"
}

remember() {
    printf '%s %s\n' "$boot" "$group" >>"$groups"
}

# complain: prints why prolog.sh failed: its own last words, or the log's
complain() {
    reason=
    { IFS= read -r reason <"$base/failed"; } 2>/dev/null
    [ -n "$reason" ] || while IFS= read -r line || [ -n "$line" ]; do
        reason=${line:-$reason}
    done <"$log"
    printf '%s\n' "${reason:-prolog.sh failed and did not say why}"
}

case ${1-} in
    start)
        find_group
        end_earlier
        remember
        [ -f "$medium.new/prolog.sh" ] || {
            echo "there is no context in $medium.new"
            exit 1
        }
        rm -rf "$medium" && mv "$medium.new" "$medium" || exit 1
        rm -f "$base/failed"
        /bin/sh "$medium/prolog.sh" start </dev/null >"$log" 2>&1 || {
            complain
            exit 1
        }
        set -- /bin/sh "$medium/kit/rootssh.sh" epilog
        ! command -v setsid >/dev/null || set -- setsid "$@"
        trap '' HUP
        "$@" </dev/null >>"$log" 2>&1 &
        ;;
    epilog)
        find_group
        remember
        exec /bin/sh "$medium/epilog.sh" start
        ;;
    *)
        echo 'usage: rootssh.sh start' >&2
        exit 2
        ;;
esac
