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
    /*) medium=${0%/*} ;;
    */*) medium=$PWD/${0%/*} ;;
    *) medium=$PWD ;;
esac

# shellcheck source=lib.sh
. "$medium/kit/lib.sh"
# shellcheck source=user.sh
. "$medium/kit/user.sh"
# shellcheck source=ssh.sh
. "$medium/kit/ssh.sh"

install_kit() {
    doing='installing the kit'
    [ ! -d "$base/kit" ] || rm -rf "$base/kit"
    cp -R "$medium/kit" "$base/kit"
    chmod -R u=rwX,go=rX "$base/kit"
}

# As the kernel sees it, as it is kept, and so that it resolves without a name server.
set_hostname() {
    doing='setting the host name'
    [ -n "$VMBATCH_HOSTNAME" ] || return 0
    printf '%s\n' "$VMBATCH_HOSTNAME" >"$root/proc/sys/kernel/hostname"
    printf '%s\n' "$VMBATCH_HOSTNAME" >"$root/etc/hostname"
    add_line "$root/etc/hosts" "127.0.1.1 $VMBATCH_HOSTNAME"
}

# The directory is the user's in the end, so it is made anew and filled while it is still ours.
place_job() {
    doing="placing the job's files"
    [ ! -d "$base/job" ] || rm -rf "$base/job"
    mkdir -m 700 "$base/job"
    [ ! -d "$medium/job" ] || cp "$medium/job"/* "$base/job"
    chmod -R 700 "$base/job"
    chown -R "$VMBATCH_UID:$VMBATCH_GID" "$base/job"
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
        "$VMBATCH_HOME/.ssh" "$base" || :
}

start prolog
echo 'prolog.sh did not finish' >"$base/failed"
install_kit
set_hostname
create_user
install_host_key
trust_job_key
place_job
unpack_archives
run_site prolog.d
relabel
: >"$base/failed"
