# shellcheck shell=sh disable=SC2034,SC2154
# The other guests of a job on several nodes: names, and ssh between them without questions. Sourced by prolog.sh and epilog.sh.

party=$base/party # root's, but for the key, which is the user's

# install_party_key: by prolog.sh: the key of this guest's user towards the others; ssh.sh trusts those of all
install_party_key() {
    [ ! -d "$party" ] || rm -rf "$party"
    [ -f "$medium/ssh/party" ] || return 0
    doing='installing the key for the other guests'
    mkdir -m 755 "$party"
    umask 077
    lines "$medium/ssh/party_key" >"$party/id_ed25519"
    umask 022
    chown "$VMBATCH_UID:$VMBATCH_GID" "$party/id_ed25519"
    [ -h "$root/usr/local/bin/pbsdsh" ] || command -v pbsdsh >/dev/null || offer_pbsdsh
}

# offer_pbsdsh: where the guest has none
offer_pbsdsh() {
    mkdir -p "$root/usr/local/bin"
    ln -s /var/lib/vmbatch/kit/pbsdsh.sh "$root/usr/local/bin/pbsdsh"
}

# meet_party: by epilog.sh: what the login brought, as lines "ADDRESS NAME KEYTYPE KEY" in a file of the user's
meet_party() {
    [ -f "$medium/ssh/party" ] || return 0
    doing='learning of the other guests'
    [ -f "$base/job/party" ] && [ ! -h "$base/job/party" ] || fail 'the host did not say where the other guests are'
    names=' '
    while read -r name; do
        names="$names$name "
    done <"$medium/ssh/party"
    hosts= patterns=$names missing=$names
    : >"$party/known_hosts"
    while read -r place name type key rest; do
        case $place in '' | *[!0-9A-Fa-f.:]*) refuse_party ;; esac
        case $type in '' | *[!0-9A-Za-z.@-]*) refuse_party ;; esac
        case $key in '' | *[!0-9A-Za-z+/=]*) refuse_party ;; esac
        case $missing in *" $name "*) ;; *) refuse_party ;; esac
        [ -z "$rest" ] || refuse_party
        missing="${missing%%" $name "*} ${missing#*" $name "}"
        hosts="$hosts$place $name
"
        patterns="$patterns$place "
        printf '%s,%s %s %s\n' "$name" "$place" "$type" "$key" >>"$party/known_hosts"
    done <"$base/job/party"
    case $missing in *[!\ ]*) refuse_party ;; esac
    name_party
    configure_ssh
}

refuse_party() {
    fail 'what the login brought of the other guests is not what the host sends'
}

# name_party: /etc/hosts, with this guest's own address, too: an MPI tells the others what its own name resolves to
name_party() {
    file=$root/etc/hosts
    [ ! -f "$file" ] || cp -p "$file" "$file.vmbatch"
    {
        printf '%s' "$hosts"
        [ ! -f "$file" ] || without_names
    } >"$file.vmbatch"
    mv -f "$file.vmbatch" "$file"
}

# without_names: the lines of $file but for those whose first name is one of the job's guests
without_names() {
    set -f
    while IFS= read -r line || [ -n "$line" ]; do
        # shellcheck disable=SC2086 # words wanted
        set -- $line
        case $names in *" ${2-#} "*) ;; *) printf '%s\n' "$line" ;; esac
    done <"$file"
    set +f
}

# configure_ssh: the user's own configuration comes before the system's; of the latter, what stands first counts
configure_ssh() {
    file=$root/etc/ssh/ssh_config
    [ -d "${file%/*}" ] || return 0
    [ ! -f "$file" ] || cp -p "$file" "$file.vmbatch"
    {
        cat <<EOF
# vmbatch: the guests of this job
Host$patterns
IdentityFile /var/lib/vmbatch/party/id_ed25519
IdentitiesOnly yes
UserKnownHostsFile /var/lib/vmbatch/party/known_hosts
GlobalKnownHostsFile /var/lib/vmbatch/party/known_hosts
StrictHostKeyChecking yes
CheckHostIP no
Host *
# vmbatch: end
EOF
        [ ! -f "$file" ] || sed '/^# vmbatch: the guests of this job$/,/^# vmbatch: end$/d' "$file"
    } >"$file.vmbatch"
    mv -f "$file.vmbatch" "$file"
}
