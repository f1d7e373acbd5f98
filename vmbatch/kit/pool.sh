# shellcheck shell=sh disable=SC2034,SC2154
# A guest that waits for a job, in a pool: it is whole but for what is the job's, which comes through its port. Sourced by epilog.sh.

# shellcheck source=user.sh
. "$medium/kit/user.sh"
# shellcheck source=ssh.sh
. "$medium/kit/ssh.sh"
# shellcheck source=settle.sh
. "$medium/kit/settle.sh"

# wait_for_job: returns as the guest of a job, whose context is $medium from then on, and tells the node by the port what comes next
wait_for_job() {
    find_channel
    taken=$base/taken
    doing='waiting for a job'
    rehearse
    read_accounts
    until take; do
        pause
    done
    medium=$taken
    doing='reading parameters.sh'
    set -a
    # shellcheck source=/dev/null
    . "$medium/parameters.sh"
    set +a
    set_hostname
    settle
    relabel
}

# rehearse: what will be run when the job comes is in memory then
rehearse() {
    for program in head tar mkdir mv cp chown chmod rm rmdir; do
        "$program" --help
    done </dev/null >/dev/null 2>&1 || :
}

# take: false if the node has only looked whether there is somebody. A port takes nothing as long as nobody listens at its other
# end (Linux, drivers/char/virtio_console.c), so that a guest waits here without any work.
take() {
    rm -rf "$taken"
    mkdir -m 700 "$taken"
    {
        printf 'vmbatch 1 waiting %s %s\n' "$VMBATCH_TOKEN" "$address" >&3 && IFS= read -r line <&3 || return 1
        case $line in 'vmbatch 1 job '*) ;; *) return 1 ;; esac
        head -c "${line#vmbatch 1 job }" <&3 | tar -xf - -C "$taken"
    } 3<>"$shared"
}
