#!/bin/sh
# wait.sh: the prolog.sh of a guest that is to be saved. The guest waits here, before it has a name, keys, a network or a user. It
# is saved without its medium. Each guest that is made of it gets the medium of a job, becomes one of its own, and takes its
# context as if it had just booted.
# shellcheck disable=SC2034,SC2154 # base, waited and root are lib.sh's

kit=${VMBATCH_ROOT-}/var/lib/vmbatch/kit
case $0 in
    "$kit"/*) ;;
    *) # the medium will go away: nothing of it may be in use
        set -ea
        # shellcheck source=/dev/null
        . "${0%/*}/parameters.sh"
        rm -rf "$kit"
        mkdir -p "${kit%/*}"
        cp -R "${0%/*}/kit" "$kit"
        chmod -R u=rwX,go=rX "$kit"
        cd /
        exec /bin/sh "$kit/wait.sh"
        ;;
esac

# shellcheck source=lib.sh
. "$kit/lib.sh"
# shellcheck source=context.sh
. "$kit/context.sh"

# report WORDS: a message, on whatever console the node may be reading
report() {
    for console in console ttyS0 hvc0; do
        [ ! -w "$root/dev/$console" ] || { printf '\nvmbatch 1 %s\n' "$1" >>"$root/dev/$console"; } 2>/dev/null || :
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
    [ -r "$root/sys/class/rtc/rtc0/since_epoch" ] || fail 'the guest has no hardware clock, /sys/class/rtc/rtc0'
    read -r seconds <"$root/sys/class/rtc/rtc0/since_epoch"
    date -s "@$seconds" >/dev/null
}

# renew_random: the kernel's random numbers are no other guest's from now on
renew_random() {
    doing='renewing the random numbers'
    "$kit/reseed" || fail "the kernel does not renew its random numbers (RNDRESEEDCRNG, Linux 4.14), or /var is mounted noexec"
}

# renew_machine_id: for whoever asks from now on; where /etc was read-only at the boot it is a mount of the file in /run
renew_machine_id() {
    doing='renewing the machine id'
    IFS=- read -r one two three four five <"$root/proc/sys/kernel/random/uuid"
    id=$one$two$three$four$five
    for file in run/machine-id etc/machine-id var/lib/dbus/machine-id; do
        [ ! -f "$root/$file" ] || [ -h "$root/$file" ] || { printf '%s\n' "$id" >"$root/$file"; } 2>/dev/null || :
    done
}

# look: sets $disks to the machine's
look() {
    set -- "$root"/sys/block/*
    disks=$*
}

# mount_new: mounts the medium, if that is what has come
mount_new() {
    for disk in $disks; do
        case " $there " in *" $disk "*) continue ;; esac
        mount -t iso9660 -o ro "$root/dev/${disk##*/}" "$base/medium" 2>/dev/null || continue
        [ ! -f "$base/medium/seed" ] || return 0
        umount "$base/medium"
        there="$there $disk"
    done
    return 1
}

# prepare: what can be done of a job's context before there is one
prepare() {
    doing='preparing for a user'
    read_accounts
    prepare_home
    [ ! -d "$root/etc/ssh" ] || offer_key "$host_key"
}

begin wait
trap 'give_up "$?"' EXIT
load_modules
prepare
set_clock
renew_random
doing='unmounting the medium'
umount "$base/medium"
sync
look
there=$disks
until look && [ "$disks" != "$there" ]; do
    [ $((waited % 500)) -ne 0 ] || report "waiting $VMBATCH_TOKEN"
    pause
done
there=$disks
report "alone $VMBATCH_TOKEN"

# Here the guest is saved.
until look && [ "$disks" != "$there" ] && read -r now _ <"$root/proc/uptime" && mount_new; do
    pause
done
trap 'finish "$?"' EXIT
printf '%s\n' "$now" >"$base/resumed"
doing='renewing the random numbers'
cat "$base/medium/seed" >"$root/dev/urandom"
renew_random
set_clock
renew_machine_id
medium=$base/medium resumed=yes
start prolog
take_context
