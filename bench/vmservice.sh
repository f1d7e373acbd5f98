#!/bin/sh
# /bin/true in a guest the way the published VM-Service had it: the image is copied, mounted for a key, booted, asked at port 22 until it
# answers, entered by ssh as root, ended, and mounted again for the output. With the shortest of everything that the text leaves open.
#
#   vmservice.sh IMAGE DOMAIN MAC WORK    DOMAIN is the XML of a guest with its disk at WORK/disk.raw; the file system begins at 1 MiB

set -eu
image=$1 domain=$2 mac=$3 work=$4

cp --sparse=never "$image" "$work/disk.raw"

mkdir "$work/root"
mount -o loop,offset=1048576 "$work/disk.raw" "$work/root"
ssh-keygen -q -t ed25519 -N '' -f "$work/key"
mkdir -p "$work/root/root/.ssh"
cp "$work/key.pub" "$work/root/root/.ssh/authorized_keys"
umount "$work/root"

virsh -q create "$domain" > /dev/null
address=
until [ -n "$address" ]; do
    sleep 0.1
    address=$(virsh -q net-dhcp-leases lab --mac "$mac" | awk '{ split($5, part, "/"); found = part[1] } END { print found }')
done
until ssh-keyscan -T 1 -t ed25519 "$address" > "$work/known_hosts" 2> /dev/null && [ -s "$work/known_hosts" ]; do
    sleep 0.1
done
ssh -F none -n -i "$work/key" -o BatchMode=yes -o UserKnownHostsFile="$work/known_hosts" "root@$address" /bin/true > "$work/out"
virsh -q destroy vmservice > /dev/null

mount -o loop,offset=1048576 "$work/disk.raw" "$work/root"
cp "$work/out" "$work/output"
umount "$work/root"
rm -r "$work"
