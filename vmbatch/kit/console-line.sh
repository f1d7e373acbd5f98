# shellcheck shell=sh disable=SC2154
# The host's side of the console's protocol (vmbatch/consolelink.py), as console.sh and console-serve.sh read it; sourced by both.
# The caller has send, which is given the text of a line to the host.

# is_number TEXT: whether it is one that the shell can count with
is_number() {
    case $1 in '' | *[!0123456789]* | ?????????????*) return 1 ;; esac
}

# read_lines PLACE: prints the text of each whole line of the host's on descriptor 3, and drops all else that comes.
# The base64 of a frame goes to a file in PLACE first, whose path is put behind the text; whether it is whole is not known then.
# That is work for awk: a shell reads a terminal one byte at a time, and bash more than its line.
read_lines() {
    # shellcheck disable=SC2016 # for awk
    awk -v "place=$1" '
        function finish() {
            close(file)
            missing = 0
            print head, file
            fflush()
        }
        { at = index($0, "vb< ") }
        at {
            if (missing) finish()
            text = substr($0, at + 4)
            sub(/\r$/, "", text)
            head = substr(text, 1, (length(text) - 2) / 2)
            if (head == "" || text != head "|" head ".") next
            words = split(head, word, " ")
            if (place != "" && words == 5 && word[2] == "in" && word[4] > 0) {
                file = place "/text." (++count % 8)
                printf "" >file
                missing = int((word[4] + 2) / 3) * 4
            } else {
                print head
                fflush()
            }
            next
        }
        missing && $0 != "" && !index($0, " ") {
            print >file
            missing -= length($0)
            if (missing <= 0) finish()
        }
    ' <&3
}

# send_messages SESSION: what the kit has to say to the host, as often as the host asks
send_messages() {
    for kind in announce ready failed; do
        [ -f "$base/messages/$kind" ] || continue
        IFS= read -r message <"$base/messages/$kind" || continue
        send "$1 says $message"
    done
}
