#!/bin/sh
# pbsdsh [-c N | -n N | -h HOST] [-o] [-s] [-u] [-v] PROGRAM [ARGUMENT...]: runs a program in the job's guests, once for each slot of
# the node file, by ssh; for jobs that would use Torque's program of this name. Its exit status is the highest of the runs'.

usage() {
    echo 'usage: pbsdsh [-c N | -n N | -h HOST] [-o] [-s] [-u] [-v] PROGRAM [ARGUMENT...]' >&2
    exit 2
}

copies='' slot='' host='' order='' unique='' loud=''
while getopts c:n:h:osuv option; do
    case $option in
        c) copies=$OPTARG ;;
        n) slot=$OPTARG ;;
        h) host=$OPTARG ;;
        o | s) order=yes ;; # -o: Torque does not wait for output; here both mean: one after the other
        u) unique=yes ;;
        v) loud=yes ;;
        *) usage ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || usage
case $copies$slot in *[!0-9]*) usage ;; esac
[ -f "${PBS_NODEFILE-}" ] || {
    echo 'pbsdsh: there is no node file' >&2
    exit 2
}

# quote TEXT: prints it as one word for a shell
quote() {
    quoted=$(printf '%s.' "$1" | sed "s/'/'\\\\''/g")
    printf "'%s' " "${quoted%.}"
}

# The program, its directory and the job's variables; that of the slot is added for each run.
command=$(
    for name in $(env | sed -n 's/^\(PBS_[A-Z_]*\|PATH\)=.*/\1/p'); do
        [ "$name" = PBS_VNODENUM ] || eval "quote \"$name=\$$name\""
    done
    for word; do quote "$word"; done
)
directory=$(quote "$PWD")

# run NUMBER HOST: in that slot
run() {
    [ -z "$loud" ] || echo "pbsdsh: slot $1 on $2" >&2
    ssh -n -o BatchMode=yes "$2" "cd $directory 2>/dev/null; exec env PBS_VNODENUM=$1 $command"
}

status=0
note() {
    [ "$1" -le "$status" ] || status=$1
}

number=0 started=0 seen=' ' children=
while read -r node; do
    this=$number
    number=$((number + 1))
    [ -z "$slot" ] || [ "$slot" -eq "$this" ] || continue
    [ -z "$host" ] || [ "$host" = "$node" ] || continue
    if [ -n "$unique" ]; then
        case $seen in *" $node "*) continue ;; esac
        seen="$seen$node "
    fi
    [ -z "$copies" ] || [ "$started" -lt "$copies" ] || break
    started=$((started + 1))
    if [ -n "$order" ]; then
        run "$this" "$node"
        note $?
    else
        run "$this" "$node" &
        children="$children $!"
    fi
done <"$PBS_NODEFILE"
for child in $children; do
    wait "$child"
    note $?
done
[ "$started" -gt 0 ] || {
    echo 'pbsdsh: no such slot' >&2
    exit 2
}
exit "$status"
