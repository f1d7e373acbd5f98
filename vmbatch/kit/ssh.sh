# shellcheck shell=sh disable=SC2034,SC2154
# The guest's host key, so that the host knows whom it talks to, and the job's key for the user. Sourced by prolog.sh.

install_host_key() {
    doing='installing the host key'
    command -v dropbearconvert >/dev/null && dropbear=$root/etc/dropbear || dropbear=
    [ -n "$dropbear" ] || [ -d "$root/etc/ssh" ] || fail 'no place for the host key: neither /etc/ssh nor dropbearconvert'
    if [ -d "$root/etc/ssh" ]; then
        write_openssh_key "$root/etc/ssh/ssh_host_ed25519_key"
        offer_key /etc/ssh/ssh_host_ed25519_key
        restart_sshd
    fi
    if [ -n "$dropbear" ]; then
        mkdir -p "$dropbear"
        rm -f "$dropbear/dropbear_ed25519_host_key"
        dropbearconvert openssh dropbear "$medium/ssh/host_key" "$dropbear/dropbear_ed25519_host_key"
        chmod 600 "$dropbear/dropbear_ed25519_host_key"
    fi
}

write_openssh_key() {
    [ ! -e "$1" ] && [ ! -h "$1" ] || rm -f "$1"
    umask 077
    cat "$medium/ssh/host_key" >"$1"
    umask 022
    cat "$medium/ssh/host_key.pub" >"$1.pub"
}

# offer_key PATH: sshd offers its default keys unless its configuration names some: then ours must be among them
offer_key() {
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

# The home directory may be the user's own already: nothing there is followed or written through.
trust_job_key() {
    doing="installing the job's key"
    directory=$root$VMBATCH_HOME/.ssh
    keys=$directory/authorized_keys
    [ ! -h "$directory" ] && [ ! -h "$keys" ] || fail "symbolic link in $VMBATCH_HOME/.ssh"
    if [ -d "$directory" ]; then
        owner "$directory"
        [ "$owner" = "$VMBATCH_UID" ] || fail "$VMBATCH_HOME/.ssh belongs to uid $owner, not to $VMBATCH_USER"
        chmod go-w "$directory"
    else
        mkdir -m 700 "$directory"
    fi
    IFS= read -r key <"$medium/ssh/authorized_key" || [ -n "$key" ]
    [ ! -e "$keys.vmbatch" ] && [ ! -h "$keys.vmbatch" ] || rm -rf "$keys.vmbatch"
    umask 077
    {
        [ ! -f "$keys" ] || grep -vxF -e "$key" "$keys" || :
        printf '%s\n' "$key"
    } >"$keys.vmbatch"
    umask 022
    chown "$VMBATCH_UID:$VMBATCH_GID" "$directory" "$keys.vmbatch"
    mv -f "$keys.vmbatch" "$keys"
}
