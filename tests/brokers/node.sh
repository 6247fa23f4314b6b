# Read by the scripts of this folder: ports, log files, and a node that lasts as long as a command. The reader has set
#
#   node       the word that begins each of its messages, and the name of the node's log file, $node.log
#   cache      where the log of a run that failed is kept
#
# and has functions `stop DIR`, and `bring_up DIR`, which starts a node and exports what tells the command about it.
# shellcheck shell=bash disable=SC2154 # set by the reader

say() { echo "$node: $*" >&2; }
die() { say "$*"; exit 1; }

# --- ports --------------------------------------------------------------------------------------------------------------

is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Prints so many different ports that nobody listens on, below the range from which systems give out ports for outgoing
# connections.
free_ports() {
    local port found=" " left=$1
    for _ in $(seq 200); do
        [ "$left" -gt 0 ] || { echo "$found"; return 0; }
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        case $found in *" $port "*) continue ;; esac
        is_open "$port" && continue
        found="$found$port "
        left=$((left - 1))
    done
    die "found no free ports between 20000 and 31999"
}

# --- the log ------------------------------------------------------------------------------------------------------------

log_size() { wc -c <"$1/$node.log"; }

# Whether the part of the log from a size on holds a text.
has_logged() { grep -q "$3" < <(tail -c "+$(($2 + 1))" "$1/$node.log"); }

# Ends with the last lines of the log of a node that does not start.
fail_start() {
    say "did not come up within $2 s; the end of $1/$node.log:"
    tail -n 40 "$1/$node.log" >&2
    stop "$1" --kill
    exit 1
}

# --- a node for the time of a command -----------------------------------------------------------------------------------

with_dir=
with_child=

# Keeps the log of a run that failed, then leaves nothing behind.
end_with() {
    local status=$?
    trap - EXIT INT TERM HUP
    stop "$with_dir" || say "could not stop the node in $with_dir"
    if [ "$status" -ne 0 ] && [ -s "$with_dir/$node.log" ]; then
        mkdir -p "$cache"
        cp "$with_dir/$node.log" "$cache/$node-failed.log" && say "the server's log is kept in $cache/$node-failed.log"
    fi
    rm -rf "$with_dir"
    exit "$status"
}

interrupt_with() {
    # The command has a process group of its own, so this reaches what it started as well.
    [ -n "$with_child" ] && kill -s TERM -- "-$with_child" 2>/dev/null
    exit "$1"
}

# Brings up a node in a folder of its own, and runs a command with it.
run_with() {
    local started=$SECONDS status=0
    with_dir=$(mktemp -d "${TMPDIR:-/tmp}/lagless-$node.XXXXXX")
    trap end_with EXIT
    trap 'interrupt_with 130' INT
    trap 'interrupt_with 143' TERM
    trap 'interrupt_with 129' HUP
    say "starting in $with_dir"
    bring_up "$with_dir"
    say "ready on port $(cat "$with_dir/port") after $((SECONDS - started)) s"
    # In the background, so that a signal is acted on at once and not when the command ends.
    set -m
    "$@" </dev/null &
    with_child=$!
    set +m
    wait "$with_child" || status=$?
    with_child=
    exit "$status"
}

# Prints the comment that a script begins with.
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0" >&2; exit 2; }
