#!/bin/sh
# stage.sh in|out: as the user. Reads where from its input, line by line; then `in` unpacks the tar archive that follows into that
# directory, and `out` writes one of the files that were named. A line is what it is: no names with a newline come here.

refuse() {
    printf 'vmbatch: %s\n' "$1" >&2
    exit 1
}

LC_ALL=C
export LC_ALL
way=${1-} directory=
set --
IFS= read -r line && [ "$line" = 'vmbatch 1' ] || refuse 'this is not a request of version 1'
while :; do
    IFS= read -r line || refuse 'the request has no end'
    case $line in
        'dir /'*) directory=${line#dir } ;;
        'name '?*) set -- "$@" "./${line#name }" ;;
        run) break ;;
        *) refuse 'unknown item in the request' ;;
    esac
done
[ -n "$directory" ] || refuse 'no directory in the request'

case $way in
    in)
        mkdir -p "$directory" || refuse "$directory cannot be made in the guest"
        cd "$directory" || refuse "$directory cannot be entered in the guest"
        exec tar -xf -
        ;;
    out)
        cd "$directory" 2>/dev/null || refuse "$directory is not in the guest"
        missing=
        for name; do
            shift
            if [ -e "$name" ] || [ -h "$name" ]; then
                set -- "$@" "$name"
            else
                printf 'vmbatch: %s is not in the guest, in %s\n' "${name#./}" "$directory" >&2
                missing=yes
            fi
        done
        [ $# -gt 0 ] || refuse 'nothing of what was asked for is in the guest'
        tar -cf - "$@" || exit
        [ -z "$missing" ]
        ;;
    *) refuse 'stage.sh in|out' ;;
esac
