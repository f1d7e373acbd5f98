# shellcheck shell=sh disable=SC2034,SC2154
# What a job leaves in a guest that is to have another one of the same user is removed; docs/pool.md has a table. Sourced by pool.sh.
# Whatever cannot be removed, or seen to be gone, fails: then the guest ends. Root's own doings in the guest are not looked at.

# survey: what there was before the first job: what is mounted, and the directories in which users can write
survey() {
    for program in find rm sed umount kill; do
        command -v "$program" >/dev/null || fail "a guest that is to have several jobs needs the program $program"
    done
    [ -z "$again" ] || return 0
    doing='looking for where users can write'
    set --
    : >"$base/mounts"
    while read -r _ place type _; do
        printf '%s\n' "$place" >>"$base/mounts"
        case $type in
            ext[234] | xfs | btrfs | f2fs | tmpfs | ramfs | rootfs | overlay | aufs | devtmpfs | mqueue | jfs | reiserfs | zfs)
                set -- "$@" "$root$(printf '%b' "$place")"
                ;;
        esac
    done <"$root/proc/mounts"
    find "$@" -xdev -type d \( -perm -2 -o -perm -20 \) -print >"$base/open" 2>/dev/null || : # what goes meanwhile is no matter
}

# clean: all that is the user's; nobody can log in from the first step on
clean() {
    check_whose
    close_account
    forget_timers
    end_connections
    end_processes
    end_session
    unmount_new
    remove_ipc
    remove_files
    run_site clean.d
    remove_job
    doing='looking for what is left'
    ! find_processes || fail "processes of $VMBATCH_USER began again:$found"
}

# check_whose: in an image that has the user's name, number or home of its own nobody can tell its files from the job's; where a user
# may have other numbers, too, nobody can find all processes (subuid(5))
check_whose() {
    doing='looking whose the home directory is'
    text=$passwd_text
    ! entry "$VMBATCH_USER" || fail "the image has an account $VMBATCH_USER of its own"
    while IFS=: read -r name _ number _; do
        [ "$number" != "$VMBATCH_UID" ] || fail "the image has an account $name with the number $number of $VMBATCH_USER"
    done <<EOF
$passwd_text
EOF
    load "$etc/subuid"
    ! entry "$VMBATCH_USER" && ! entry "$VMBATCH_UID" || fail "the image gives $VMBATCH_USER further numbers in /etc/subuid"
    [ -n "${VMBATCH_HOME_SHARED-}" ] || [ -n "$new_home" ] || fail "the image has a directory $VMBATCH_HOME of its own"
}

# close_account: passwd, group, shadow and gshadow are again what they were before the job
close_account() {
    doing='closing the account'
    mkdir -m 700 "$new"
    copy_accounts
    for file in passwd group shadow gshadow; do
        eval "text=\$${file}_text"
        [ ! -f "$new/$file" ] || printf '%s' "${text#"$newline"}" >"$new/$file"
    done
    mv -f "$new"/* "$etc"
}

# forget_timers: what would start something as the user, and goes by name; and the key, where that is elsewhere
forget_timers() {
    doing="removing the user's timers"
    set -- "$root/var/lib/systemd/linger/$VMBATCH_USER" "$base/keys/$VMBATCH_USER"
    for place in cron cron/crontabs cron/tabs; do
        set -- "$@" "$root/var/spool/$place/$VMBATCH_USER"
    done
    rm -f "$@"
}

# scan SCRIPT FILES...: sets $found to what sed makes of them; false for nothing. GNU sed gives up, with status 4, at a process that
# goes just then.
scan() {
    script=$1 looks=0
    shift
    until found=$(sed -n "$script" "$@" 2>/dev/null) || [ $? -ne 4 ] || [ "$looks" -ge 100 ]; do
        looks=$((looks + 1))
    done
    [ -n "$found" ]
}

# end_connections: of ssh, as one that was let in asks for nobody's leave any more. Who listens, at the port of jobs, stays.
end_connections() {
    end_found 'the connections of ssh' find_connections
}

# end_found WHAT FIND [HELP]: kills what FIND sets $found to, until that is nothing; HELP does more where that takes long
end_found() {
    doing="ending $1"
    rounds=0
    while "$2"; do
        [ "$rounds" -lt 40 ] || fail "$1 do not end"
        # shellcheck disable=SC2086 # words wanted
        kill -9 $found 2>/dev/null || :
        [ "$rounds" -lt 2 ] || [ -z "${3-}" ] || "$3"
        rounds=$((rounds + 1))
    done
}

# find_connections: sets $found to the processes of sshd and dropbear that do not listen; false if there are none
find_connections() {
    connections= listeners=
    ! scan 's/^ *[0-9]*: [0-9A-F]*:0016 [0-9A-F]*:0000 0A [^ ]* [^ ]* [^ ]* *[0-9]* *[0-9]* \([0-9]*\) .*/socket:[\1]/p' \
        "$root/proc/net/tcp" "$root/proc/net/tcp6" || listeners=$found
    scan 's/^\([0-9]*\) (sshd[^)]*) [A-Y] .*/\1/p
s/^\([0-9]*\) (dropbear) [A-Y] .*/\1/p' "$root"/proc/[0-9]*/stat || return 1
    for pid in $found; do
        listens "$pid" || connections="$connections $pid"
    done
    found=$connections
    [ -n "$found" ]
}

# listens PID: whether a process has one of the sockets in $listeners
listens() {
    sockets=$(ls -l "$root/proc/$1/fd" 2>/dev/null) || return 1
    for socket in $listeners; do
        case $sockets in *"$socket"*) return 0 ;; esac
    done
    return 1
}

# find_processes: sets $found to the living ones of the user, by any of their four numbers; false if there are none
find_processes() {
    scan "/^State:/h
/^Pid:/H
/^Uid:/{
s/\$/ /
/[[:space:]]${VMBATCH_UID}[[:space:]]/{
x
/^State:[[:space:]]*[ZX]/!s/.*Pid:[[:space:]]*/ /p
}
}" "$root"/proc/[0-9]*/status
}

# end_processes: until there are none; of those that multiply faster than they are found the kernel ends all at once
end_processes() {
    end_found "the processes of $VMBATCH_USER" find_processes end_all_at_once
}

end_all_at_once() {
    [ -z "$root" ] && command -v setpriv >/dev/null || return 0
    # shellcheck disable=SC2016 # for the inner shell
    setpriv --reuid "$VMBATCH_UID" --clear-groups /bin/sh -c '[ "$(id -u)" -ne "$0" ] || kill -9 -1' "$VMBATCH_UID" 2>/dev/null || :
}

# end_session: what systemd keeps of the user's logins
end_session() {
    doing="ending the session of $VMBATCH_USER"
    [ -d "$root/run/user/$VMBATCH_UID" ] || [ -d "$root/sys/fs/cgroup/user.slice/user-$VMBATCH_UID.slice" ] || return 0
    ! command -v systemctl >/dev/null || systemctl stop "user-$VMBATCH_UID.slice" "user-runtime-dir@$VMBATCH_UID.service" 2>/dev/null || :
}

# unmount_new: what has been mounted since, such as what a user's FUSE has left; no file below it is removed
unmount_new() {
    doing='unmounting what was not there before'
    while read -r _ place _; do
        has_line "$base/mounts" "$place" || umount -l "$root$(printf '%b' "$place")"
    done <"$root/proc/mounts"
    while read -r _ place _; do
        has_line "$base/mounts" "$place" || fail "$place is still mounted"
    done <"$root/proc/mounts"
}

# remove_ipc: System V's by what the kernel lists of it (Linux, ipc/shm.c, msg.c, sem.c), POSIX queues as files
remove_ipc() {
    doing='removing shared memory, queues and semaphores'
    [ ! -f "$root/proc/sysvipc/shm" ] || while read -r _ id _ _ _ _ _ uid _ maker _; do
        remove_object -m
    done <"$root/proc/sysvipc/shm"
    [ ! -f "$root/proc/sysvipc/msg" ] || while read -r _ id _ _ _ _ _ uid _ maker _; do
        remove_object -q
    done <"$root/proc/sysvipc/msg"
    [ ! -f "$root/proc/sysvipc/sem" ] || while read -r _ id _ _ uid _ maker _; do
        remove_object -s
    done <"$root/proc/sysvipc/sem"
    queues=
    if [ -f "$root/proc/filesystems" ] && knows mqueue && ! has_line "$base/mounts" /dev/mqueue; then
        queues=$base/queues
        mkdir -p "$queues"
        mount -t mqueue none "$queues"
        find "$queues" -xdev -user "$VMBATCH_UID" -exec rm -f {} +
        umount "$queues"
        rmdir "$queues"
    fi
}

# remove_object KIND: with this $id, if it is the user's
remove_object() {
    case $VMBATCH_UID in "$uid" | "$maker") ipcrm "$1" "$id" ;; esac
}

# remove_files: what is the user's wherever users can write, and the home that was made for the job
remove_files() {
    doing="removing the files of $VMBATCH_USER"
    [ -z "$new_home" ] || rm -rf "$new_home"
    set --
    while IFS= read -r place; do
        [ ! -d "$place" ] || set -- "$@" "$place"
    done <"$base/open"
    for place in /var/spool /var/mail /run/user; do
        [ ! -d "$root$place" ] || set -- "$@" "$root$place"
    done
    [ $# -ne 0 ] || return 0
    find "$@" -xdev -user "$VMBATCH_UID" -prune -exec rm -rf {} +
    left=$(find "$@" -xdev -user "$VMBATCH_UID" -print)
    [ -z "$left" ] || fail "it cannot remove $left"
}

# remove_job: what came with it, and the name that the guest had for it
remove_job() {
    doing="removing the job's files"
    rm -rf "$taken" "$base/job" "$base/before.d" "$base/after.d" "$base/ready.log" "$base/ready.status"
    [ ! -d "$messages" ] || rm -f "$messages/heartbeat"
    name=$VMBATCH_HOSTNAME VMBATCH_HOSTNAME=$before before=$name
    rename_host
}
