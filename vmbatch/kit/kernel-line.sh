# shellcheck shell=sh disable=SC2034,SC2154
# Parameters from the kernel's command line, for what a guest must know before its context arrives over ssh. Sourced.
# Anyone in the guest can read that line, so nothing secret is there. Words that are not ours are left alone; ours must be right:
#   vbuser= vbgroup= vbuid= vbgid= vbhome= vbhost= vbjob=, and vbnet0=, vbnet1=, ... as in vmbatch/network.py

# kernel_line: sets and exports the parameters, VMBATCH_USER and so on; false if the line has none of ours
kernel_line() {
    doing="reading the kernel's command line"
    line=
    IFS= read -r line <"$root/proc/cmdline" || [ -n "$line" ] || return 1
    unquote
    VMBATCH_NETS=0 nets=
    for name in USER GROUP UID GID HOME HOST JOB; do
        eval "parameter_$name="
    done
    set -f
    # shellcheck disable=SC2086 # words wanted
    set -- $line
    set +f
    for word; do
        case $word in
            --) break ;; # what follows is for init
            vbuser=*) take USER "$word" ;;
            vbgroup=*) take GROUP "$word" ;;
            vbuid=*) take UID "$word" ;;
            vbgid=*) take GID "$word" ;;
            vbhome=*) take HOME "$word" ;;
            vbhost=*) take HOST "$word" ;;
            vbjob=*) take JOB "$word" ;;
            vbnet[0123456789]*=*) take_net "$word" ;;
        esac
    done
    check_nets
    all=$parameter_USER$parameter_GROUP$parameter_UID$parameter_GID$parameter_HOME$parameter_HOST$parameter_JOB$nets
    [ -n "$all" ] || return 1
    export_user
    VMBATCH_HOSTNAME=$parameter_HOST VMBATCH_JOB=$parameter_JOB
    export VMBATCH_HOSTNAME VMBATCH_JOB VMBATCH_NETS
}

# unquote: puts a character that none of our values may have for every part of $line in quotes, in which blanks part no words
# (Linux, lib/cmdline.c, next_arg)
unquote() {
    while :; do
        case $line in
            *\"*\"*)
                rest=${line#*\"}
                line=${line%%\"*}\;\;${rest#*\"}
                ;;
            *\"*) line=${line%%\"*}\;\; ;;
            *) return 0 ;;
        esac
    done
}

# take NAME WORD: sets parameter_NAME to the value in the word
take() {
    value=${2#*=}
    case $value in '' | *[!A-Za-z0-9._@+/:\[\]-]*) refuse_word "$2" ;; esac
    case $1 in
        UID | GID) case $value in *[!0123456789]* | 0* | ???????????*) refuse_word "$2" ;; esac ;;
        HOME) case $value in /*) ;; *) refuse_word "$2" ;; esac ;;
        HOST) case $value in -* | *[!A-Za-z0-9.-]*) refuse_word "$2" ;; esac ;;
        USER | GROUP) case $value in -* | *[!A-Za-z0-9._@+-]*) refuse_word "$2" ;; esac ;;
    esac
    eval "former=\$parameter_$1; parameter_$1=\$value"
    [ -z "$former" ] || fail "the kernel's line has ${2%%=*}= twice"
}

refuse_word() {
    fail "the kernel's line has a bad ${1%%=*}="
}

# export_user: the parameters of the user, all or none
export_user() {
    set -- "$parameter_USER" "$parameter_GROUP" "$parameter_UID" "$parameter_GID"
    case "$1:$2:$3:$4" in
        :::)
            [ -z "$parameter_HOME" ] || fail "the kernel's line has vbhome= without vbuser="
            return 0
            ;;
        :* | *::* | *:) fail "the kernel's line must have vbuser=, vbgroup=, vbuid= and vbgid=, or none of them" ;;
    esac
    VMBATCH_USER=$1 VMBATCH_GROUP=$2 VMBATCH_UID=$3 VMBATCH_GID=$4 VMBATCH_GROUPS= VMBATCH_SHELL=
    VMBATCH_HOME=${parameter_HOME:-/home/$1}
    export VMBATCH_USER VMBATCH_GROUP VMBATCH_UID VMBATCH_GID VMBATCH_GROUPS VMBATCH_SHELL VMBATCH_HOME
}

# take_net WORD: sets and exports VMBATCH_NETN_... of vbnetN=MAC,
# or of vbnetN=MAC,ADDRESS4,GATEWAY4,ADDRESS6,GATEWAY6,DNS;DNS,SEARCH;SEARCH
take_net() {
    net=${1%%=*} value=${1#*=}
    net=${net#vbnet}
    case $net in *[!0123456789]* | 0?* | ???*) refuse_word "$1" ;; esac
    case $value in *';;'* | *[!A-Za-z0-9.:/,\;=-]*) refuse_word "$1" ;; esac
    case " $nets " in *" $net "*) fail "the kernel's line has vbnet$net= twice" ;; esac
    nets="$nets $net"
    case $value in
        *,*,*,*,*,*,*,*) refuse_word "$1" ;;
        *,*,*,*,*,*,*) method=static ;;
        *,*) refuse_word "$1" ;;
        *) method=dhcp ;;
    esac
    rest=$value,
    for name in MAC ADDRESS4 GATEWAY4 ADDRESS6 GATEWAY6 DNS SEARCH; do
        field=${rest%%,*}
        rest=${rest#*,}
        case $name in DNS | SEARCH) spaces ;; *) case $field in *\;*) refuse_word "$1" ;; esac ;; esac
        set_net "$name" "$field"
        case $name in
            MAC) case $field in ??:??:??:??:??:??) ;; *) refuse_word "$1" ;; esac ;;
            ADDRESS4) four=$field ;;
            ADDRESS6) [ "$method" = dhcp ] || [ -n "$four$field" ] || refuse_word "$1" ;;
        esac
    done
    set_net METHOD "$method"
}

set_net() {
    eval "VMBATCH_NET${net}_$1=\$2"
    eval "export VMBATCH_NET${net}_$1"
}

# spaces: sets $field to it with spaces for its semicolons
spaces() {
    while :; do
        case $field in
            *\;*) field="${field%%\;*} ${field#*\;}" ;;
            *) return 0 ;;
        esac
    done
}

# check_nets: sets VMBATCH_NETS; there must be no gap in the numbers
check_nets() {
    for net in $nets; do
        case " $nets " in *" $VMBATCH_NETS "*) ;; *) fail "the kernel's line lacks vbnet$VMBATCH_NETS=" ;; esac
        VMBATCH_NETS=$((VMBATCH_NETS + 1))
    done
}
