# shellcheck shell=sh disable=SC2034,SC2154
# Interfaces with a static address: set at once, and written down for whatever sets up the guest's network later, which must
# not ask DHCP instead. Also the job's lines of /etc/hosts. Sourced by prolog.sh, before the guest's network is up.
# The parameters are those of vmbatch/network.py; interfaces that ask DHCP are left to the guest.

newline='
'
tab=$(printf '\t')

# set_network: all of it
set_network() {
    servers= domains= own4= own6=
    number=0
    while [ "$number" -lt "${VMBATCH_NETS:-0}" ]; do
        read_net
        case $method in
            static) set_interface ;;
            *) [ -z "${resumed-}" ] || start_interface ;;
        esac
        number=$((number + 1))
    done
    write_resolver
    write_hosts
}

# read_net: sets $mac, $method, ... to the parameters of interface $number
read_net() {
    doing="reading the parameters of interface $number"
    for name in MAC METHOD ADDRESS4 GATEWAY4 ADDRESS6 GATEWAY6 DNS SEARCH; do
        eval "value=\${VMBATCH_NET${number}_$name-}"
        case $name in
            MAC) mac=$value ;;
            METHOD) method=$value ;;
            ADDRESS4) address4=$value ;;
            GATEWAY4) gateway4=$value ;;
            ADDRESS6) address6=$value ;;
            GATEWAY6) gateway6=$value ;;
            DNS) dns=$value ;;
            SEARCH) search=$value ;;
        esac
    done
}

set_interface() {
    wait_for_interface
    wait_for_udev
    doing="setting up $device"
    stop_dhcp
    if command -v ip >/dev/null; then
        apply_ip
    else
        apply_ifconfig
    fi
    doing="writing down the network of $device"
    host4=${address4%/*} prefix4=${address4#*/}
    host6=${address6%/*} prefix6=${address6#*/}
    [ -z "$address4" ] || mask_of "$prefix4"
    write_networkd
    write_ifupdown
    write_networkmanager
    write_ifcfg
    own4=${own4:-$host4} own6=${own6:-$host6}
    add_words servers "$dns"
    add_words domains "$search"
}

# start_interface: one that asks DHCP and has come behind the guest's own start of its network, if that was by ifup: once it has been
# run for all interfaces, nobody does it for another one
start_interface() {
    for state in run/network/ifstate var/run/network/ifstate var/run/ifstate; do
        [ -s "$root/$state" ] || continue
        wait_for_interface
        doing="bringing up $device"
        ifup "$device" >&2 || :
        return
    done
}

# add_words NAME WORDS: adds those that the list in that variable does not have
add_words() {
    eval "words=\$$1"
    for word in $2; do
        case " $words " in *" $word "*) ;; *) words=$words${words:+ }$word ;; esac
    done
    eval "$1=\$words"
}

# mask_of PREFIX: sets $netmask
mask_of() {
    bits=$1 netmask=
    for byte in 255 255 255 255; do
        [ "$bits" -ge 8 ] || byte=$((256 - (1 << (8 - bits))))
        bits=$((bits > 8 ? bits - 8 : 0))
        netmask=$netmask${netmask:+.}$byte
    done
}

# find_interface: sets $device to the interface with the address $mac, and $there to all of them; hardware before the rest
find_interface() {
    device= there=
    for file in "$root"/sys/class/net/*/address; do
        { IFS= read -r found <"$file"; } 2>/dev/null || continue
        file=${file%/address}
        there="$there${there:+, }${file##*/} $found"
        [ "$found" = "$mac" ] || continue
        [ -n "$device" ] && [ ! -e "$file/device" ] || device=${file##*/}
    done
    [ -n "$device" ]
}

wait_for_interface() {
    doing="looking for the interface $mac"
    find_interface && return
    ! command -v modprobe >/dev/null || modprobe virtio_net 2>/dev/null || :
    end=$((waited + 10000))
    until find_interface; do
        [ "$waited" -lt "$end" ] || fail "no interface has the address $mac after 10 seconds; there is ${there:-none}"
        pause
    done
}

# wait_for_udev: until it knows the interface, as it cannot rename one that is up; three seconds, not more
wait_for_udev() {
    [ -e "$root/run/udev/control" ] || return 0
    IFS= read -r index <"$root/sys/class/net/$device/ifindex" || return 0
    end=$((waited + 3000))
    until [ -e "$root/run/udev/data/n$index" ] || [ "$waited" -ge "$end" ]; do
        pause
    done
    find_interface
}

# stop_dhcp: ends clients that are at work on $device already; killed hard, as some take the address away when they end
stop_dhcp() {
    for file in "$root"/proc/[0-9]*/stat; do
        { IFS= read -r process <"$file"; } 2>/dev/null || continue
        case $process in *'(dhclient)'* | *'(dhcpcd)'* | *'(udhcpc)'* | *'(pump)'*) ;; *) continue ;; esac
        arguments=$(tr '\0' ' ' <"${file%/stat}/cmdline" 2>/dev/null) || continue
        case " $arguments " in *" $device "*) kill -9 "${process%% *}" 2>/dev/null || : ;; esac
    done
}

# put_setting FILE VALUE: writes it if the file is there
put_setting() {
    [ ! -e "$1" ] || { printf '%s\n' "$2" >"$1"; } 2>/dev/null || :
}

# quiet_ipv6: routers change nothing, and an address is used at once, without asking the others for it
quiet_ipv6() {
    settings=$root/proc/sys/net/ipv6/conf/$device
    [ -z "$address6" ] || put_setting "$settings/disable_ipv6" 0
    put_setting "$settings/accept_dad" 0
    put_setting "$settings/accept_ra" 0
    put_setting "$settings/autoconf" 0
}

# bring_up COMMAND: brings the interface up; until it is, udev may rename it, as where that is only now being started. For a moment
# /sys has its old name still, which no command knows any more.
bring_up() {
    over=$((waited + 2000))
    until quiet_ipv6 && "$@" "$device" up 2>/dev/null; do
        [ "$waited" -lt "$over" ] || "$@" "$device" up
        pause
        wait_for_interface
        doing="setting up $device"
    done
}

# apply_ip: $device gets its addresses and routes, and loses what DHCP may have given it
apply_ip() {
    bring_up ip link set dev
    if [ -n "$address4" ]; then
        previous=
        for word in $(ip -4 addr show dev "$device"); do
            [ "$previous" != inet ] || [ "$word" = "$address4" ] || ip addr del "$word" dev "$device" 2>/dev/null || :
            previous=$word
        done
        has_word "$address4" "$(ip -4 addr show dev "$device")" || ip addr add "$address4" brd + dev "$device"
        [ -z "$gateway4" ] || ip route replace default via "$gateway4" dev "$device" proto static
    fi
    if [ -n "$address6" ]; then
        has_word "$address6" "$(ip -6 addr show dev "$device")" || ip -6 addr add "$address6" dev "$device" nodad 2>/dev/null ||
            ip -6 addr add "$address6" dev "$device"
        [ -z "$gateway6" ] || ip -6 route replace default via "$gateway6" dev "$device" proto static
    fi
}

# has_word WORD TEXT: whether it is one of the words of the text
has_word() {
    for word in $2; do
        [ "$word" != "$1" ] || return 0
    done
    return 1
}

# apply_ifconfig: the same where there is no ip
apply_ifconfig() {
    bring_up ifconfig
    if [ -n "$address4" ]; then
        mask_of "${address4#*/}"
        ifconfig "$device" "${address4%/*}" netmask "$netmask"
        [ -z "$gateway4" ] || has_word "$gateway4" "$(route -n)" || route add default gw "$gateway4" dev "$device"
    fi
    if [ -n "$address6" ]; then
        case $(ifconfig "$device") in
            *[\ :]"${address6%/*}"[\ /]*) ;;
            *) ifconfig "$device" add "$address6" ;;
        esac
        [ -z "$gateway6" ] || has_word "$gateway6" "$(route -n -A inet6)" ||
            route -A inet6 add default gw "$gateway6" dev "$device"
    fi
}

# setting NAME VALUE: a line of a configuration, unless there is no value
setting() {
    [ -z "$2" ] || printf '%s\n' "$1$2"
}

write_networkd() {
    [ -d "$root/usr/lib/systemd/network" ] || [ -d "$root/lib/systemd/network" ] || return 0
    directory=$root/etc/systemd/network
    [ ! -d "$root/run/systemd" ] || directory=$root/run/systemd/network
    mkdir -p "$directory"
    {
        printf '[Match]\nMACAddress=%s\n\n[Network]\nDHCP=no\nIPv6AcceptRA=no\nIPv6DuplicateAddressDetection=0\n' "$mac"
        [ -n "$address6" ] || echo LinkLocalAddressing=no
        for word in $address4 $address6; do setting Address= "$word"; done
        for word in $gateway4 $gateway6; do setting Gateway= "$word"; done
        for word in $dns; do setting DNS= "$word"; done
        setting Domains= "$search"
    } >"$directory/01-vmbatch-$number.network"
}

# write_ifupdown: our stanzas take the place of others for $device, wherever these are
write_ifupdown() {
    interfaces=$root/etc/network/interfaces
    [ -f "$interfaces" ] || return 0
    automatic=
    for file in "$interfaces" "$interfaces".d/* "$root"/run/network/interfaces.d/*; do
        [ ! -f "$file" ] || drop_stanzas "$file"
    done
    # ifup adds the address itself, and fails if it is there.
    clear="    pre-up ip addr flush dev $device 2>/dev/null || ifconfig $device 0.0.0.0 || true
    pre-up ip link set dev $device down 2>/dev/null || ifconfig $device down || true"
    {
        [ -n "$automatic" ] || printf 'auto %s\n' "$device"
        if [ -n "$address4" ]; then
            printf 'iface %s inet static\n%s\n' "$device" "$clear"
            printf '    address %s\n    netmask %s\n' "$host4" "$netmask"
            setting '    gateway ' "$gateway4"
            setting '    dns-nameservers ' "$dns"
            setting '    dns-search ' "$search"
            clear=
        fi
        if [ -n "$address6" ]; then
            printf 'iface %s inet6 static\n' "$device"
            setting '' "$clear"
            printf '    address %s\n    netmask %s\n' "$host6" "$prefix6"
            setting '    gateway ' "$gateway6"
            printf '    accept_ra 0\n    autoconf 0\n    dad-attempts 0\n'
            [ -z "$clear" ] || setting '    dns-nameservers ' "$dns"
            [ -z "$clear" ] || setting '    dns-search ' "$search"
        fi
    } >>"$interfaces"
}

# drop_stanzas FILE: takes what is about $device alone out of the file; sets $automatic if it still is to be brought up at boot
drop_stanzas() {
    text= dropping= joined= changed=
    while IFS= read -r line || [ -n "$line" ]; do
        if [ -z "$joined" ]; then
            word=${line#"${line%%[! "$tab"]*}"}
            rest=${word#"${word%%[ "$tab"]*}"}
            word=${word%"$rest"}
            rest=${rest#"${rest%%[! "$tab"]*}"}
            this=$dropping
            case $word in
                '' | '#'*) this= ;;
                iface)
                    dropping=
                    [ "${rest%%[ "$tab"]*}" != "$device" ] || dropping=yes
                    this=$dropping
                    ;;
                auto | allow-auto)
                    dropping= this=
                    case " $rest " in
                        " $device ") this=yes ;;
                        *[\ "$tab"]"$device"[\ "$tab"]*) automatic=yes ;;
                    esac
                    ;;
                mapping | allow-* | source | source-dir* | no-auto-down | no-scripts | rename | template) dropping= this= ;;
            esac
        fi
        case $line in *\\) joined=yes ;; *) joined= ;; esac
        if [ -n "$this" ]; then
            changed=yes
        else
            text=$text$line$newline
        fi
    done <"$1"
    [ -z "$changed" ] || printf '%s' "$text" >"$1"
}

# write_networkmanager: a profile that comes before all others
write_networkmanager() {
    directory=$root/etc/NetworkManager
    [ -d "$directory" ] || return 0
    mkdir -p "$directory/system-connections"
    file=$directory/system-connections/vmbatch-$number.nmconnection
    [ ! -e "$file" ] || rm -f "$file"
    servers4= servers6=
    for word in $dns; do
        case $word in *:*) servers6=$servers6$word\; ;; *) servers4=$servers4$word\; ;; esac
    done
    listed=
    for word in $search; do listed=$listed$word\;; done
    umask 077 # or it is not read
    {
        printf '[connection]\nid=vmbatch-%s\nuuid=00000000-0000-4000-8000-' "$number"
        printf '%s\n' "$mac" | tr -d :
        printf 'type=802-3-ethernet\nautoconnect=true\nautoconnect-priority=999\n\n[802-3-ethernet]\nmac-address=%s\n' "$mac"
        write_ip_settings ipv4 disabled "$address4" "$gateway4" "$servers4"
        write_ip_settings ipv6 ignore "$address6" "$gateway6" "$servers6"
    } >"$file"
    umask 022
}

# write_ip_settings SECTION OFF ADDRESS GATEWAY SERVERS: a section of the profile; with OFF for a method if there is no address
write_ip_settings() {
    printf '\n[%s]\n' "$1"
    if [ -z "$3" ]; then
        printf 'method=%s\n' "$2"
        return
    fi
    printf 'method=manual\naddress1=%s\ndad-timeout=0\n' "$3${4:+,$4}"
    setting dns= "$5"
    setting dns-search= "$listed"
}

# write_ifcfg: for the scripts of EL5 to EL7; ARPCHECK costs them three seconds
write_ifcfg() {
    directory=$root/etc/sysconfig/network-scripts
    [ -d "$directory" ] || return 0
    file=$directory/ifcfg-$device
    [ ! -h "$file" ] || rm -f "$file"
    {
        printf 'DEVICE=%s\nHWADDR=%s\nTYPE=Ethernet\nONBOOT=yes\nBOOTPROTO=none\nARPCHECK=no\n' "$device" "$mac"
        if [ -n "$address4" ]; then
            printf 'IPADDR=%s\nNETMASK=%s\nPREFIX=%s\n' "$host4" "$netmask" "$prefix4"
            setting GATEWAY= "$gateway4"
        fi
        if [ -n "$address6" ]; then
            printf 'IPV6INIT=yes\nIPV6_AUTOCONF=no\nIPV6ADDR=%s\n' "$address6"
            setting IPV6_DEFAULTGW= "$gateway6"
        fi
        index=1
        for word in $dns; do
            printf 'DNS%s=%s\n' "$index" "$word"
            index=$((index + 1))
        done
        [ -z "$search" ] || printf 'DOMAIN="%s"\n' "$search"
    } >"$file"
}

# write_resolver: the name servers of all static interfaces, if there are any
write_resolver() {
    [ -n "$servers$domains" ] || return 0
    doing='writing /etc/resolv.conf'
    file=$root/etc/resolv.conf
    if [ -h "$file" ]; then
        target=$(ls -ld "$file")
        target=${target##* -> }
        case $target in
            *systemd/resolve/*)
                mkdir -p "$root/run/systemd/resolved.conf.d"
                {
                    echo '[Resolve]'
                    setting DNS= "$servers"
                    setting Domains= "$domains"
                } >"$root/run/systemd/resolved.conf.d/vmbatch.conf"
                return
                ;;
            /*) target=$root$target ;;
            *) target=$root/etc/$target ;;
        esac
        mkdir -p "${target%/*}"
        write_nameservers >"$target"
    else
        write_nameservers >"$file.vmbatch"
        mv -f "$file.vmbatch" "$file"
    fi
}

write_nameservers() {
    setting 'search ' "$domains"
    for word in $servers; do
        setting 'nameserver ' "$word"
    done
}

# write_hosts: a block of our own in /etc/hosts: our name at our address instead of 127.0.1.1, and the context's file hosts
write_hosts() {
    doing='writing /etc/hosts'
    file=$root/etc/hosts more=${medium-}/hosts
    begin='# VmBatch: hosts of the job' end='# VmBatch: end'
    [ -f "$more" ] || more=/dev/null
    text= before= dropping=
    if [ -f "$file" ]; then
        while IFS= read -r line || [ -n "$line" ]; do
            before=$before$line$newline
            case $line in
                "$begin") dropping=yes ;;
                "$end") dropping= ;;
                "127.0.1.1 ${VMBATCH_HOSTNAME-}") [ -n "$dropping$own4$own6" ] || text=$text$line$newline ;;
                *) [ -n "$dropping" ] || text=$text$line$newline ;;
            esac
        done <"$file"
    fi
    block=
    while IFS= read -r line || [ -n "$line" ]; do
        block=$block$line$newline
    done <"$more"
    for word in $own6 $own4; do
        case $newline$block in
            *"$newline$word "*) ;;
            *) [ -z "${VMBATCH_HOSTNAME-}" ] || block="$word $VMBATCH_HOSTNAME$newline$block" ;;
        esac
    done
    [ -z "$block" ] || text=$text$begin$newline$block$end$newline
    [ "$text" != "$before" ] || return 0
    [ ! -f "$file" ] || cp -p "$file" "$file.vmbatch"
    printf '%s' "$text" >"$file.vmbatch"
    mv -f "$file.vmbatch" "$file"
}
