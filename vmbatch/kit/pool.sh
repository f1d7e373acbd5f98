# shellcheck shell=sh disable=SC2034,SC2154
# A guest that waits for a job, in a pool: it is whole but for what is the job's, which comes through its port. Sourced by epilog.sh.

# shellcheck source=user.sh
. "$medium/kit/user.sh"
# shellcheck source=ssh.sh
. "$medium/kit/ssh.sh"
# shellcheck source=settle.sh
. "$medium/kit/settle.sh"
# shellcheck source=clean.sh
. "$medium/kit/clean.sh"

# wait_for_job: returns as the guest of a job, whose context is $medium from then on, and tells the node by the port what comes next
wait_for_job() {
    find_channel
    doing='waiting for a job'
    port=$shared taken=$base/taken first=$medium
    prepare
    until take; do
        pause
    done
    medium=$taken
    before=${VMBATCH_HOSTNAME-}
    doing='reading parameters.sh'
    set -a
    # shellcheck source=/dev/null
    . "$medium/parameters.sh"
    set +a
    rename_host
    settle
    relabel
}

# prepare: all that can be done without knowing for whom, as each program that is run later makes the user wait
prepare() {
    prepared=yes
    for program in head tar mkdir mv chown; do
        command -v "$program" >/dev/null || fail "a guest that waits for a job needs the program $program"
        [ -n "$again" ] || "$program" --help </dev/null >/dev/null 2>&1 || :
    done
    drains=yes
    case $(tar --version 2>/dev/null) in *'GNU tar'*) drains= ;; esac
    [ -z "${VMBATCH_REUSE-}" ] || survey
    read_accounts
    prepare_home
    rm -f "$base/entered"
    mkfifo -m 666 "$base/entered"
    exec 4<>"$base/entered"
}

# take: false if the node has only looked whether there is somebody. A port takes nothing as long as nobody listens at its other
# end (Linux, drivers/char/virtio_console.c), so that a guest waits here without any work. It is opened once at a time.
take() {
    rm -rf "$taken" "$base/job"
    {
        printf 'vmbatch 1 waiting %s %s\n' "$VMBATCH_TOKEN" "$address" >&3 && IFS= read -r line <&3 || return 1
        case $line in 'vmbatch 1 job '*) ;; *) return 1 ;; esac
        doing="unpacking the job's context"
        unpack "${line#vmbatch 1 job }" <&3 || broken=yes
    } 3<>"$shared"
    [ -z "${broken-}" ] || exit 1
}

# unpack BYTES: the context into $taken and the job's files into their place, closed to all. BusyBox' tar reads on behind the end.
unpack() {
    umask 077
    if [ -z "$drains" ]; then
        tar -xf - -C "$base"
    else
        head -c "$1" | tar -xf - -C "$base"
    fi
    unpacked=$?
    umask 022
    return "$unpacked"
}

# rename_host: the job's host name in place of $before, the one under which the guest waited
rename_host() {
    doing='setting the host name'
    text=
    [ ! -f "$root/etc/hosts" ] || while IFS= read -r line || [ -n "$line" ]; do
        case $line in *" $before") line="${line%" $before"} $VMBATCH_HOSTNAME" ;; esac
        text=$text$line$newline
    done <"$root/etc/hosts"
    printf '%s' "$text" >"$root/etc/hosts"
    [ -n "$VMBATCH_HOSTNAME" ] || return 0
    printf '%s\n' "$VMBATCH_HOSTNAME" >"$root/proc/sys/kernel/hostname"
    printf '%s\n' "$VMBATCH_HOSTNAME" >"$root/etc/hostname"
}

# hear_login: as wait_for_login, but is told by login.sh
hear_login() {
    until [ -e "$base/job/login" ]; do
        read -r _ <&4 || pause
    done
    exec 4>&-
}

# hold_port: from here on the port is open: what goes to the host goes there by descriptor 3, as nobody can open it a second time
hold_port() {
    exec 3<>"$port"
    held=$port
}

# wait_for_next: when the node says that the job is over, this guest cleans itself, and begins to wait anew. Until the node opens the
# port nothing is taken from here, as in `take`.
wait_for_next() {
    doing='waiting for the end of the job'
    until printf 'vmbatch 1 busy %s %s\n' "$VMBATCH_TOKEN" "$address" >&3 && IFS= read -r line <&3 &&
        [ "$line" = 'vmbatch 1 over' ]; do
        pause
    done
    stop_beating
    exec 3>&-
    held= shared=$port
    clean
    exec /bin/sh "$first/epilog.sh" start again
}
