# shellcheck shell=sh disable=SC2034,SC2154
# What makes a guest that of a job, whenever that comes: the user, the keys, the job's files. Sourced by prolog.sh and epilog.sh.

# settle: out of the context in $medium
settle() {
    create_user
    trust_job_key
    install_party_key
    place_programs
    place_job
    unpack_archives
    run_site prolog.d
}

# place_programs: those of the site that run as the user around the job
place_programs() {
    doing="placing the site's programs"
    for stage in before.d after.d; do
        [ ! -d "$base/$stage" ] || rm -rf "${base:?}/$stage"
        [ -d "$medium/site/$stage" ] || continue
        cp -R "$medium/site/$stage" "$base/$stage"
        chmod -R u=rwX,go=rX "$base/$stage"
    done
}

# The directory is the user's in the end, so it is made anew and filled while it is still ours; in a guest that waited they came there.
place_job() {
    doing="placing the job's files"
    if [ -z "${prepared-}" ]; then
        [ ! -d "$base/job" ] || rm -rf "$base/job"
        mkdir -m 700 "$base/job"
        umask 077
        [ ! -d "$medium/job" ] || cp "$medium/job"/* "$base/job"
        umask 022
    elif [ ! -d "$base/job" ]; then
        mkdir -m 700 "$base/job"
    fi
    hand_over "$base/job"
}

unpack_archives() {
    [ -f "$medium/tar/list" ] || return 0
    while read -r number strip flag path; do
        doing="unpacking tar/$number.tar to $path"
        path=$root/${path#/}
        mkdir -p "$path"
        set -- "-x${flag#-}pf" "$medium/tar/$number.tar" -C "$path"
        [ "$strip" -eq 0 ] || set -- "$@" "--strip-components=$strip"
        tar "$@" </dev/null
    done <"$medium/tar/list"
}

# Files that we made or replaced get the labels that SELinux wants of them.
relabel() {
    doing='labelling files for SELinux'
    [ -e /sys/fs/selinux/enforce ] || [ -e /selinux/enforce ] || return 0
    [ -z "$root" ] && command -v restorecon >/dev/null || return 0
    restorecon -R /etc/passwd /etc/group /etc/shadow /etc/gshadow /etc/shells /etc/hostname /etc/hosts /etc/ssh \
        /etc/resolv.conf /etc/network /etc/NetworkManager/system-connections /etc/sysconfig/network-scripts \
        "${VMBATCH_HOME-}/.ssh" ${new_home:+"$new_home"} "$base" 2>/dev/null || :
}
