# shellcheck shell=sh disable=SC2034,SC2154
# Makes the submitting user known to the guest: passwd, group, shadow, gshadow, home directory. Sourced by prolog.sh.
# Files are handled as text in variables, each line between two newlines; names are always quoted, so never patterns.

newline='
'

# load FILE: sets $text to its lines
load() {
    text=$newline
    [ ! -f "$1" ] || text=$newline$(cat "$1")$newline
}

# entry NAME: sets $entry to what follows "NAME:" on its first line in $text; false if there is none
entry() {
    case $text in *"$newline$1:"*) ;; *) return 1 ;; esac
    entry=${text#*"$newline$1:"}
    entry=${entry%%"$newline"*}
}

# drop NAME: takes the lines of that name out of $text
drop() {
    while entry "$1"; do
        text=${text%%"$newline$1:"*}$newline${text#*"$newline$1:$entry$newline"}
    done
}

# without_user MEMBERS: sets $members to that list without the user
without_user() {
    members=
    rest=$1
    while [ -n "$rest" ]; do
        member=${rest%%,*}
        [ "$member" = "$VMBATCH_USER" ] || members=$members${members:+,}$member
        case $rest in *,*) rest=${rest#*,} ;; *) rest= ;; esac
    done
}

# leave_groups: takes the user out of all member lists in $text
leave_groups() {
    case $text in *[,:]"$VMBATCH_USER"[,"$newline"]*) ;; *) return 0 ;; esac
    old=$text
    text=$newline
    while IFS= read -r line; do
        case ,${line##*:}, in
            *,"$VMBATCH_USER",*)
                without_user "${line##*:}"
                line=${line%:*}:$members
                ;;
        esac
        [ -z "$line" ] || text=$text$line$newline
    done <<EOF
$old
EOF
}

# plan_groups: from the guest's groups in $text sets $groups to our lines of group, $secrets to those of gshadow
plan_groups() {
    groups= secrets= numbers=' '
    for wanted in "$VMBATCH_GROUP:$VMBATCH_GID" ${VMBATCH_GROUPS-}; do
        name=${wanted%:*} gid=${wanted##*:}
        number "$gid"
        case $numbers in *" $gid "*) continue ;; esac
        numbers=$numbers$gid' '
        # The guest may use this name for another group.
        members=
        if entry "$name"; then
            entry=${entry#*:}
            [ "${entry%%:*}" = "$gid" ] || name=vb$gid
        fi
        if entry "$name"; then
            without_user "${entry##*:}"
        fi
        [ "$gid" = "$VMBATCH_GID" ] || members=$members${members:+,}$VMBATCH_USER
        groups=$groups$name:x:$gid:$members$newline
        secrets="$secrets$name:!::$members$newline"
    done
}

# put FILE LINES: writes a new version of the file out of $text: our lines, then those of other names
put() {
    case $1 in group | gshadow) leave_groups ;; esac
    ours=$2
    while [ -n "$ours" ]; do
        drop "${ours%%:*}"
        ours=${ours#*"$newline"}
    done
    text=${text#"$newline"}
    printf '%s' "$2$text" >"$new/$1"
}

# number TEXT: fails unless it is one
number() {
    case $1 in '' | *[!0123456789]*) fail "the context has '$1' for a number" ;; esac
}

# check_user: what would break the guest rather than make a user
check_user() {
    number "$VMBATCH_UID"
    number "$VMBATCH_GID"
    case $VMBATCH_USER in '' | *[:/,"$newline"]* | -*) fail "the user's name is '$VMBATCH_USER'" ;; esac
    [ "$VMBATCH_USER" != root ] && [ "$VMBATCH_UID" -ne 0 ] || fail 'the user is root'
    case $VMBATCH_HOME in /*) ;; *) fail "the home directory is '$VMBATCH_HOME'" ;; esac
}

# choose_shell: sets $shell to the user's, or to one that the guest has
choose_shell() {
    for shell in "$VMBATCH_SHELL" /bin/bash /bin/sh; do
        [ -z "$shell" ] || [ ! -x "$root$shell" ] || return 0
    done
}

# prepare_home: as anybody's first one is
prepare_home() {
    prepared_home=$base/home
    [ ! -d "$prepared_home" ] || rm -rf "$prepared_home"
    mkdir -m 700 "$prepared_home"
    [ ! -d "$root/etc/skel" ] || cp -R "$root/etc/skel/." "$prepared_home"
    [ -d "$prepared_home/.ssh" ] || mkdir -m 700 "$prepared_home/.ssh"
}

# make_home: a new one is $new_home until all is in it; one that was the replaced account's changes hands; any other stays as it is
make_home() {
    home=$root${VMBATCH_HOME%/} new_home=
    if [ ! -d "$home" ]; then
        [ -n "${prepared_home-}" ] || prepare_home
        new_home=$prepared_home
        return
    fi
    owner "$home"
    case $owner in
        "$VMBATCH_UID" | 0) ;;
        "$former") take_over "$home" "$home/.ssh" ;;
        *) fail "$VMBATCH_HOME belongs to uid $owner, not to $VMBATCH_USER" ;; # and sshd would refuse the login
    esac
}

# hand_over DIRECTORIES: to the user, with a home that is new, which gets into its place with that
hand_over() {
    set -- "$@" ${new_home:+"$new_home"}
    [ $# -eq 0 ] || chown -R "$VMBATCH_UID:$VMBATCH_GID" "$@"
    [ -n "${new_home-}" ] || return 0
    [ -d "${home%/*}" ] || mkdir -p "${home%/*}"
    mv "$new_home" "$home"
    new_home=$home
}

# take_over DIRECTORIES: gives those that were the replaced account's to the user, but not what is in them
take_over() {
    for directory; do
        [ -d "$directory" ] && [ ! -h "$directory" ] || continue
        owner "$directory"
        [ "$owner" != "$former" ] || chown "$VMBATCH_UID:$VMBATCH_GID" "$directory"
    done
}

# read_accounts: sets $group_text, $gshadow_text, $shadow_text and $passwd_text to the guest's files. New versions are made beside
# these, from copies that have their modes and times, and then moved over them.
read_accounts() {
    etc=$root/etc new=$root/etc/.vmbatch
    [ -d "$new" ] || mkdir -m 700 "$new"
    copy_accounts
    load "$etc/group"
    group_text=$text
    load "$etc/gshadow"
    gshadow_text=$text
    load "$etc/shadow"
    shadow_text=$text
    load "$etc/passwd"
    passwd_text=$text
}

# copy_accounts: those that there are, to where new versions are made
copy_accounts() {
    set --
    for file in group gshadow shadow passwd; do
        [ ! -f "$etc/$file" ] || set -- "$@" "$etc/$file"
    done
    [ $# -eq 0 ] || cp -p "$@" "$new"
}

# have_read: whether that has been done, and nobody has changed them since; false, too, where the shell does not know -nt
# shellcheck disable=SC3013
have_read() {
    [ -n "${passwd_text-}" ] || return 1
    for file in group gshadow shadow passwd; do
        [ ! -f "$etc/$file" ] || { [ -f "$new/$file" ] && [ ! "$etc/$file" -nt "$new/$file" ]; } || return 1
    done
}

create_user() {
    doing='creating the user'
    check_user
    choose_shell
    have_read || read_accounts

    text=$group_text
    plan_groups
    put group "$groups"
    if [ -f "$etc/gshadow" ]; then
        text=$gshadow_text
        put gshadow "$secrets"
    fi
    password='*'
    if [ -f "$etc/shadow" ]; then
        password=x
        text=$shadow_text
        put shadow "$VMBATCH_USER:*:::::::$newline"
    fi
    text=$passwd_text
    former=
    if entry "$VMBATCH_USER"; then
        former=${entry#*:}
        former=${former%%:*}
    fi
    put passwd "$VMBATCH_USER:$password:$VMBATCH_UID:$VMBATCH_GID::$VMBATCH_HOME:$shell$newline"
    mv -f "$new"/* "$etc"
    [ -n "${prepared-}" ] || rmdir "$new"

    add_line "$etc/shells" "$shell" # dropbear refuses other ones
    [ -n "${VMBATCH_HOME_SHARED-}" ] || make_home
}
