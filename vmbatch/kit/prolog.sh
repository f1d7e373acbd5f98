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
    /*/prolog.sh) medium=${0%/*} ;;
    */prolog.sh) medium=$PWD/${0%/*} ;;
    *) medium=$PWD ;; # sourced where it lies, as CernVM does (cernvm/amiconfig, hepix_functions)
esac
[ -f "$medium/kit/lib.sh" ] || exit 1

# shellcheck source=lib.sh
. "$medium/kit/lib.sh"
# shellcheck source=network.sh
. "$medium/kit/network.sh"
# shellcheck source=user.sh
. "$medium/kit/user.sh"
# shellcheck source=ssh.sh
. "$medium/kit/ssh.sh"
# shellcheck source=party.sh
. "$medium/kit/party.sh"

install_kit() {
    doing='installing the kit'
    [ ! -d "$base/kit" ] || rm -rf "$base/kit"
    cp -R "$medium/kit" "$base/kit"
    chmod -R u=rwX,go=rX "$base/kit"
    for stage in before.d after.d; do
        [ ! -d "$base/$stage" ] || rm -rf "${base:?}/$stage"
        [ ! -d "$medium/site/$stage" ] || cp -R "$medium/site/$stage" "$base/$stage"
    done
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
        /etc/resolv.conf /etc/network /etc/NetworkManager/system-connections /etc/sysconfig/network-scripts \
        "$VMBATCH_HOME/.ssh" "$base" 2>/dev/null || :
}

start prolog
clock
printf '%s\n' "$now" >"$base/began"
echo 'prolog.sh did not finish' >"$base/failed"
install_kit
set_hostname
set_network
create_user
install_host_key
trust_job_key
install_party_key
place_job
unpack_archives
run_site prolog.d
relabel
: >"$base/failed"
