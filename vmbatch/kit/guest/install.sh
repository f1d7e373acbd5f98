#!/bin/sh
# install.sh ROOT: puts what runs the context into a guest's tree, for what starts it: systemd, SysV init or BusyBox init.

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

# follow PATH: sets $real to where links lead in the tree, or to nothing; without readlink, which old systems lack
follow() {
    real=$1
    links=0
    while [ -h "$root$real" ]; do
        links=$((links + 1))
        [ "$links" -le 8 ] || real=
        target=$(ls -ld "$root$real")
        target=${target#* -> }
        case $target in
            /*) real=$target ;;
            *) real=${real%/*}/$target ;;
        esac
    done
}

# find_init: sets $init by what /sbin/init is, as Debian's packages bring units and boot scripts alike
find_init() {
    follow /sbin/init
    init=
    case ${real##*/} in
        systemd) init=systemd ;;
        busybox) init=busybox ;;
        *)
            if [ -d "$root/etc/init.d" ] && { [ -d "$root/etc/rc3.d" ] || [ -d "$root/etc/rc2.d" ]; }; then
                init=sysv
            elif [ ! -e "$root$real" ] && { [ -e "$root/usr/lib/systemd/systemd" ] || [ -e "$root/lib/systemd/systemd" ]; }; then
                init=systemd
            elif [ -f "$root/etc/init.d/rcS" ] && { [ -e "$root/bin/busybox" ] || [ -e "$root/usr/bin/busybox" ]; }; then
                init=busybox
            fi
            ;;
    esac
}

for_systemd() {
    wants=$root/etc/systemd/system/multi-user.target.wants
    mkdir -p "$wants"
    for unit in vmbatch-prolog.service vmbatch-epilog.service; do
        put 644 "$unit" "/etc/systemd/system/$unit"
        ln -sf "../$unit" "$wants/$unit"
    done
}

# S00, as Debian's insserv numbers from 01. Its rc starts by .depend.start alone, unless .legacy-bootordering is there.
for_sysv() {
    put 755 vmbatch-prolog.init /etc/init.d/vmbatch-prolog
    put 755 vmbatch-epilog.init /etc/init.d/vmbatch-epilog
    for level in 2 3 4 5; do
        [ -d "$root/etc/rc$level.d" ] || continue
        ln -sf ../init.d/vmbatch-prolog "$root/etc/rc$level.d/S00vmbatch-prolog"
        ln -sf ../init.d/vmbatch-epilog "$root/etc/rc$level.d/S99vmbatch-epilog"
    done
    [ ! -f "$root/etc/init.d/.depend.start" ] || : >"$root/etc/init.d/.legacy-bootordering"
}

# runs_scripts: whether rcS runs /etc/init.d/S??*, as Buildroot's does
runs_scripts() {
    [ -f "$root/etc/init.d/rcS" ] && grep -q '/etc/init\.d/S\(??\|\[0-9\]\[0-9\]\)\*' "$root/etc/init.d/rcS"
}

# starts_sshd FILE: whether the file is there and names sshd
starts_sshd() {
    [ -f "$root$1" ] && grep -q 'sshd\|dropbear' "$root$1"
}

# add_entries: into /etc/inittab, prolog behind all else that is sysinit
add_entries() {
    table=$root/etc/inittab
    awk -F: '
        { line[NR] = $0 }
        $0 !~ /^[ \t]*#/ && $3 == "sysinit" { last = NR }
        END {
            if (!last) print "::sysinit:/usr/local/sbin/vmbatch-guest prolog"
            for (at = 1; at <= NR; at++) {
                print line[at]
                if (at == last) print "::sysinit:/usr/local/sbin/vmbatch-guest prolog"
            }
            print "::once:/usr/local/sbin/vmbatch-guest epilog"
        }' "$table" >"$table.new"
    cat "$table.new" >"$table"
    rm -f "$table.new"
}

for_busybox() {
    if runs_scripts; then
        put 755 vmbatch-prolog.init /etc/init.d/S15vmbatch-prolog
        put 755 vmbatch-epilog.init /etc/init.d/S99vmbatch-epilog
    elif [ -f "$root/etc/inittab" ] && ! starts_sshd /etc/init.d/rcS; then
        add_entries
    else
        echo 'in /etc/init.d/rcS, run "/usr/local/sbin/vmbatch-guest prolog" before sshd,'
        echo 'and "/usr/local/sbin/vmbatch-guest epilog &" at the end'
    fi
}

put 755 vmbatch-guest /usr/local/sbin/vmbatch-guest
for part in early lib kernel-line network user; do
    put 755 "../$part.sh" "/usr/local/lib/vmbatch/$part.sh"
done
find_init
for file in /sbin/init /init /etc/init.d/rcS /etc/inittab /etc/rc.local; do
    [ ! -f "$root$file" ] || [ -h "$root$file" ] || ! grep -q 'vmbatch-guest prolog' "$root$file" || exit 0
done
case $init in
    systemd) for_systemd ;;
    sysv) for_sysv ;;
    busybox) for_busybox ;;
    *) echo 'no init that is known here: run "vmbatch-guest prolog" before sshd and "vmbatch-guest epilog" after it' ;;
esac
