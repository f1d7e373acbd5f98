#!/bin/sh
# early.sh: run by vmbatch-guest in a guest without a medium: host name, network and user as far as the kernel's command line
# says, before the network is up and before sshd. The context itself comes later, over root's ssh.

here=${0%/*}
# shellcheck source=lib.sh
. "$here/lib.sh"
# shellcheck source=kernel-line.sh
. "$here/kernel-line.sh"
# shellcheck source=network.sh
. "$here/network.sh"
# shellcheck source=user.sh
. "$here/user.sh"

begin early
kernel_line || exit 0
set_hostname
set_network
if [ -n "${VMBATCH_USER-}" ]; then
    create_user
    hand_over
fi
