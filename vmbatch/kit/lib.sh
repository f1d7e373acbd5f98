# shellcheck shell=sh disable=SC2034,SC2154
# What prolog.sh and epilog.sh share: places, the step being done, and how a failure is remembered and told.
# The caller sets $medium. VMBATCH_ROOT is a prefix for all paths of the guest.

root=${VMBATCH_ROOT-}
base=$root/var/lib/vmbatch
PATH=${PATH:+$PATH:}/usr/sbin:/usr/bin:/sbin:/bin
export PATH
umask 022

doing=starting # the step, in words, for the message when it fails
reason=        # why we failed, if we know it better than that
shared=        # where messages go: a directory, or a device
waited=0       # milliseconds spent in pause

# begin NAME: from here on any command that fails ends the script through `finish`
begin() {
    [ -d "$base" ] || mkdir -p "$base"
    log=$base/$1.log
    exec 2>"$log"
    trap 'finish "$?"' EXIT
    set -e
}

# start NAME: begins, and reads the context
start() {
    begin "$1"
    doing='reading parameters.sh'
    set -a
    # shellcheck source=/dev/null
    . "$medium/parameters.sh"
    set +a
}

# finish STATUS: runs at exit; a failure goes to the console, where the host finds it too, into `failed` and through the share
finish() {
    trap - EXIT
    set +e
    [ "$1" -ne 0 ] || exit 0
    if [ -z "$reason" ]; then
        complaint=
        while IFS= read -r line || [ -n "$line" ]; do
            complaint=${line:-$complaint}
        done <"$log"
        reason="status $1 while $doing${complaint:+: $complaint}"
    fi
    reason=$(printf '%s' "$reason" | LC_ALL=C tr -c '\040-\176' ' ' | cut -b 1-500)
    say "gave up: $reason"
    printf '%s\n' "$reason" >"$base/failed"
    [ -z "$shared" ] || tell failed "$reason"
    exit 1
}

# fail TEXT: ends the script for a reason we know
fail() {
    reason=$1
    exit 1
}

# say TEXT: a line for whoever watches: the console, and the log of what started us
say() {
    printf 'vmbatch: %s\n' "$1"
    [ ! -w "$root/dev/console" ] || { printf 'vmbatch: %s\n' "$1" >"$root/dev/console"; } 2>/dev/null || :
}

# tell KIND TEXT: a message to the host, complete with its newline; a share that is full may have room again a moment later
tell() {
    place=$shared tries=0
    [ ! -d "$place" ] || place=$place/$1
    if [ "$place" = "${held-}" ]; then
        printf 'vmbatch 1 %s %s %s\n' "$1" "$VMBATCH_TOKEN" "$2" >&3
        return
    fi
    until printf 'vmbatch 1 %s %s %s\n' "$1" "$VMBATCH_TOKEN" "$2" >"$place"; do
        [ "$tries" -lt 5 ] && [ -d "$shared" ] || {
            doing="writing $place"
            return 1
        }
        tries=$((tries + 1))
        sleep 1
    done
}

# clock: sets $now to the seconds since the kernel began, such as 12.34, or since a guest that was saved went on
clock() {
    now=0
    read -r now _ </proc/uptime || :
    [ ! -f "$base/resumed" ] || since_resumed
}

since_resumed() {
    hundredths "$now"
    whole=$hundredths
    read -r now <"$base/resumed"
    hundredths "$now"
    whole=$((whole - hundredths))
    now=$(printf '%d.%02d' $((whole / 100)) $((whole % 100)))
}

# hundredths SECONDS: sets $hundredths
hundredths() {
    hundredths=${1#*.}
    hundredths=$((${1%.*} * 100 + ${hundredths#0}))
}

# set_hostname: as the kernel sees it, as it is kept, and so that it resolves without a name server
set_hostname() {
    doing='setting the host name'
    [ -n "$VMBATCH_HOSTNAME" ] || return 0
    printf '%s\n' "$VMBATCH_HOSTNAME" >"$root/proc/sys/kernel/hostname"
    printf '%s\n' "$VMBATCH_HOSTNAME" >"$root/etc/hostname"
    add_line "$root/etc/hosts" "127.0.1.1 $VMBATCH_HOSTNAME"
}

# run_site DIRECTORY: runs the site's scripts there, in name order, with the context in their environment
run_site() {
    for script in "$medium/site/$1"/*; do
        [ -f "$script" ] || continue
        doing="running site/$1/${script##*/}"
        if [ -x "$script" ]; then
            "$script" </dev/null
        else
            sh "$script" </dev/null
        fi
    done
}

# pause: a twentieth of a second, or a whole one where sleep takes no fractions
pause() {
    if [ -z "${coarse-}" ] && sleep 0.05 2>/dev/null; then
        waited=$((waited + 50))
    else
        coarse=yes
        sleep 1
        waited=$((waited + 1000))
    fi
}

# lines FILE: prints it, each line complete, without a program
lines() {
    while IFS= read -r line || [ -n "$line" ]; do
        printf '%s\n' "$line"
    done <"$1"
}

# has_line FILE LINE: whether the file has exactly this line
has_line() {
    [ -f "$1" ] || return 1
    while IFS= read -r line || [ -n "$line" ]; do
        [ "$line" != "$2" ] || return 0
    done <"$1"
    return 1
}

# add_line FILE LINE: appends the line unless it is there
add_line() {
    has_line "$1" "$2" || printf '%s\n' "$2" >>"$1"
}

# owner PATH: sets $owner to the uid that owns it
owner() {
    owner=$(ls -dn "$1")
    # shellcheck disable=SC2086 # words wanted: mode, links, uid
    set -- $owner
    owner=$3
}
