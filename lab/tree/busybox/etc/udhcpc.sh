#!/bin/sh
# What udhcpc calls: take the address that the server gave, and leave it in /run/address.
# shellcheck disable=SC2154 # udhcpc sets them
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr flush dev "$interface"
ip addr add "$ip/${mask:-24}" dev "$interface"
[ -z "$router" ] || ip route add default via "${router%% *}"
echo "$ip" >/run/address
