# shellcheck shell=sh disable=SC2034,SC2154
# The guest's host key, so that the host knows whom it talks to, and the job's key for the user. Sourced by prolog.sh.

host_key=/etc/ssh/ssh_host_ed25519_key

install_host_key() {
    doing='installing the host key'
    [ -f "$medium/ssh/host_key" ] || return 0 # by ROOTSSH, which has seen the guest's own
    dropbear=$root/etc/dropbear
    [ -d "$dropbear" ] && command -v dropbearconvert >/dev/null || dropbear=
    [ -n "$dropbear" ] || [ -d "$root/etc/ssh" ] || fail 'no place for the host key: no /etc/ssh, no /etc/dropbear with dropbearconvert'
    if [ -d "$root/etc/ssh" ]; then
        write_openssh_key "$root$host_key"
        offer_key "$host_key"
        restart_sshd
    fi
    if [ -n "$dropbear" ]; then
        rm -f "$dropbear/dropbear_ed25519_host_key"
        dropbearconvert openssh dropbear "$medium/ssh/host_key" "$dropbear/dropbear_ed25519_host_key"
        chmod 600 "$dropbear/dropbear_ed25519_host_key"
    fi
}

write_openssh_key() {
    [ ! -e "$1" ] && [ ! -h "$1" ] || rm -f "$1"
    umask 077
    lines "$medium/ssh/host_key" >"$1"
    umask 022
    lines "$medium/ssh/host_key.pub" >"$1.pub"
}

# offer_key PATH: sshd offers its default keys unless its configuration names some: then ours must be among them
offer_key() {
    [ "${offered-}" != "$1" ] || return 0
    offered=$1
    config=$root/etc/ssh/sshd_config
    [ -f "$config" ] || return 0
    named=$(grep -hi '^[[:space:]]*HostKey[[:space:]]' "$config" "$config.d"/*.conf 2>/dev/null || :)
    case $named in '' | *"$1"*) return 0 ;; esac
    cp -p "$config" "$config.new"
    {
        printf 'HostKey %s\n' "$1"
        cat "$config"
    } >"$config.new"
    mv -f "$config.new" "$config"
}

# restart_sshd: an sshd that already runs takes the new key
restart_sshd() {
    for file in "$root/run/sshd.pid" "$root/var/run/sshd.pid"; do
        { read -r pid <"$file" && read -r process <"$root/proc/$pid/stat"; } 2>/dev/null || continue
        case $process in
            "$pid (sshd) "*)
                kill -HUP "$pid"
                return
                ;;
        esac
    done
}

# trust_job_key: in the user's home, or where that comes from a share, in a place of our own that sshd looks at, too
trust_job_key() {
    doing="installing the job's key"
    if [ -n "${VMBATCH_HOME_SHARED-}" ]; then
        trust_key_elsewhere
    else
        trust_key_at_home
    fi
}

# trusted_keys: prints the job's key, and those of its other guests, a line each
trusted_keys() {
    for list in authorized_key party_keys; do
        [ ! -f "$medium/ssh/$list" ] || lines "$medium/ssh/$list"
    done
}

trust_key_elsewhere() {
    [ -f "$root/etc/ssh/sshd_config" ] ||
        fail 'a home on a share needs OpenSSH in the guest: no other sshd can take a key from elsewhere'
    mkdir -p "$base/keys"
    trusted_keys >"$base/keys/$VMBATCH_USER"
    chmod 644 "$base/keys/$VMBATCH_USER"
    offer_place
}

# offer_place: OpenSSH's sshd looks for keys in our place, too
offer_place() {
    config=$root/etc/ssh/sshd_config
    [ -f "$config" ] || return 0
    named=$(grep -hi '^[[:space:]]*AuthorizedKeysFile[[:space:]]' "$config" "$config.d"/*.conf 2>/dev/null || :)
    case $named in *"$base/keys/%u"*) return 0 ;; esac
    read -r _ named <<EOF || :
$named
EOF
    cp -p "$config" "$config.new"
    {
        printf 'AuthorizedKeysFile %s %s\n' "${named:-.ssh/authorized_keys}" "$base/keys/%u"
        cat "$config"
    } >"$config.new"
    mv -f "$config.new" "$config"
    restart_sshd
}

# The home directory may be the user's own already: nothing there is followed or written through.
trust_key_at_home() {
    directory=${new_home:-"$root$VMBATCH_HOME"}/.ssh
    keys=$directory/authorized_keys
    [ ! -h "$directory" ] && [ ! -h "$keys" ] || fail "symbolic link in $VMBATCH_HOME/.ssh"
    if [ -n "${new_home-}" ]; then
        umask 077
        trusted_keys >>"$keys"
        umask 022
        return
    fi
    if [ -d "$directory" ]; then
        owner "$directory"
        [ "$owner" = "$VMBATCH_UID" ] || fail "$VMBATCH_HOME/.ssh belongs to uid $owner, not to $VMBATCH_USER"
        chmod go-w "$directory"
    else
        mkdir -m 700 "$directory"
    fi
    [ ! -e "$keys.vmbatch" ] && [ ! -h "$keys.vmbatch" ] || rm -rf "$keys.vmbatch"
    umask 077
    {
        [ ! -f "$keys" ] || grep -vxF -e "$(trusted_keys)" "$keys" || :
        trusted_keys
    } >"$keys.vmbatch"
    umask 022
    chown "$VMBATCH_UID:$VMBATCH_GID" "$directory" "$keys.vmbatch"
    mv -f "$keys.vmbatch" "$keys"
}
