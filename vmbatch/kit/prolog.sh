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
# shellcheck source=settle.sh
. "$medium/kit/settle.sh"

install_kit() {
    doing='installing the kit'
    [ ! -d "$base/kit" ] || rm -rf "$base/kit"
    cp -R "$medium/kit" "$base/kit"
}

start prolog
clock
printf '%s\n' "$now" >"$base/began"
echo 'prolog.sh did not finish' >"$base/failed"
install_kit
set_hostname
set_network
install_host_key
if [ -n "${VMBATCH_POOL-}" ]; then
    [ "${VMBATCH_SHARES:-0}" -eq 0 ] || offer_place # the user's home may be on one
    unpack_archives
else
    settle
fi
relabel
: >"$base/failed"
