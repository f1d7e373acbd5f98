# shellcheck shell=sh disable=SC2034,SC2154
# The context in $medium, as far as it is taken before network and sshd. Sourced, with what it needs from $kit, by prolog.sh and wait.sh.

# shellcheck source=network.sh
. "$kit/network.sh"
# shellcheck source=user.sh
. "$kit/user.sh"
# shellcheck source=ssh.sh
. "$kit/ssh.sh"
# shellcheck source=party.sh
. "$kit/party.sh"
# shellcheck source=settle.sh
. "$kit/settle.sh"

take_context() {
    clock
    printf '%s\n' "$now" >"$base/began"
    echo 'prolog.sh did not finish' >"$base/failed"
    [ "$kit" = "$base/kit" ] || install_kit
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
}

install_kit() {
    doing='installing the kit'
    [ ! -d "$base/kit" ] || rm -rf "$base/kit"
    cp -R "$kit" "$base/kit"
}
