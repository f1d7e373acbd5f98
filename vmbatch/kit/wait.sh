#!/bin/sh
# wait.sh: the prolog.sh of a guest that is to be saved. The guest waits here, before it has a name, keys, a network or a user. It
# is saved without its medium. Each guest that is made of it gets the medium of a job, becomes one of its own, and goes on with
# that medium's prolog.sh as if it had just booted.
# shellcheck disable=SC2154 # base, root and now are lib.sh's

place=/var/lib/vmbatch/wait
case $0 in
    "$place"/*) here=$place ;;
    *) # the medium will go away: nothing of it may be in use
        rm -rf "$place"
        mkdir -p "$place"
        cp "${0%/*}"/kit/* "${0%/*}/parameters.sh" "$place"
        cd /
        exec /bin/sh "$place/wait.sh"
        ;;
esac

# shellcheck source=lib.sh
. "$here/lib.sh"

# report WORDS: a message, on whatever console the node may be reading
report() {
    for console in /dev/console /dev/ttyS0 /dev/hvc0; do
        { printf '\nvmbatch 1 %s\n' "$1" >"$console"; } 2>/dev/null || :
    done
}

# give_up STATUS: tells the node why this guest cannot be saved
give_up() {
    trap - EXIT
    [ "$1" -ne 0 ] || exit 0
    report "failed $VMBATCH_TOKEN ${reason:-status $1 while $doing}"
    exit 1
}

# load_modules: what a job's guest would wait for
load_modules() {
    ! command -v modprobe >/dev/null || for module in virtio_net virtio_blk isofs nfsv4 nfsv3; do
        modprobe "$module" 2>/dev/null || :
    done
}

# set_clock: to that of the machine, which follows the node's while a saved guest's stands
set_clock() {
    doing='setting the clock'
    read -r seconds </sys/class/rtc/rtc0/since_epoch || fail 'the guest has no hardware clock, /sys/class/rtc/rtc0'
    date -s "@$seconds" >/dev/null
}

# renew_random: the kernel's random numbers are no other guest's from now on
renew_random() {
    doing='renewing the random numbers'
    "$here/reseed" || fail "the guest's kernel does not renew its random numbers (RNDRESEEDCRNG)"
}

# renew_machine_id: whoever asks from now on; where /etc was read-only at the boot it is a mount of the file in /run
renew_machine_id() {
    doing='renewing the machine id'
    read -r id </proc/sys/kernel/random/uuid
    id=$(printf '%s' "$id" | tr -d -)
    for file in /run/machine-id /etc/machine-id /var/lib/dbus/machine-id; do
        [ ! -f "$file" ] || [ -h "$file" ] || { printf '%s\n' "$id" >"$file"; } 2>/dev/null || :
    done
}

# find_new: sets $device to a disk that was not there and has our label
find_new() {
    for path in /sys/block/*; do
        case " $there " in *" $path "*) continue ;; esac
        device=/dev/${path##*/}
        { label=$(dd if="$device" bs=1 skip=32808 count=8); } 2>/dev/null
        [ "$label" != 'VMBATCH ' ] || return 0
    done
    return 1
}

begin wait
trap 'give_up "$?"' EXIT
# shellcheck source=/dev/null
. "$here/parameters.sh"
load_modules
set_clock
renew_random
doing='unmounting the medium'
umount "$base/medium"
sync
set -- /sys/block/*
there=$*
until
    set -- /sys/block/*
    [ "$there" != "$*" ]
do
    [ $((waited % 500)) -ne 0 ] || report "waiting $VMBATCH_TOKEN"
    pause
done
there=$*
: >"$base/wait.log"
report "alone $VMBATCH_TOKEN"

# Here the guest is saved.
until
    set -- /sys/block/*
    [ "$there" != "$*" ] && find_new
do
    pause
done
trap 'finish "$?"' EXIT
read -r now _ </proc/uptime
printf '%s\n' "$now" >"$base/resumed"
doing='mounting the medium'
mount -t iso9660 -o ro "$device" "$base/medium"
cat "$base/medium/seed" >/dev/urandom
renew_random
set_clock
renew_machine_id
cd /
rm -rf "$here"
exec /bin/sh "$base/medium/prolog.sh" start
