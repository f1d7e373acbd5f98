#!/bin/sh
# install.sh ROOT: puts what runs the context into a guest's tree: for systemd, for SysV init, or just the program.

[ $# -eq 1 ] && [ -d "$1" ] || {
    echo 'usage: install.sh ROOT (a directory)' >&2
    exit 2
}
set -e
root=${1%/}
here=$(cd "$(dirname "$0")" && pwd)
umask 022

# put MODE FILE PATH: installs the file in the tree
put() {
    mkdir -p "$root${3%/*}"
    cp "$here/$2" "$root$3"
    chmod "$1" "$root$3"
}

put 755 vmbatch-guest /usr/local/sbin/vmbatch-guest

if [ -d "$root/usr/lib/systemd/system" ] || [ -d "$root/lib/systemd/system" ]; then
    wants=$root/etc/systemd/system/multi-user.target.wants
    mkdir -p "$wants"
    for unit in vmbatch-prolog.service vmbatch-epilog.service; do
        put 644 "$unit" "/etc/systemd/system/$unit"
        ln -sf "../$unit" "$wants/$unit"
    done
elif [ -d "$root/etc/init.d" ] && [ -d "$root/etc/rc3.d" ]; then
    put 755 vmbatch-prolog.init /etc/init.d/vmbatch-prolog
    put 755 vmbatch-epilog.init /etc/init.d/vmbatch-epilog
    for level in 2 3 4 5; do
        [ -d "$root/etc/rc$level.d" ] || continue
        ln -sf ../init.d/vmbatch-prolog "$root/etc/rc$level.d/S02vmbatch-prolog"
        ln -sf ../init.d/vmbatch-epilog "$root/etc/rc$level.d/S99vmbatch-epilog"
    done
else
    echo 'no systemd and no SysV init here: run "vmbatch-guest prolog" before sshd and "vmbatch-guest epilog" after it'
fi
