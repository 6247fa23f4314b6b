# What the benchmarks share: sourced by kafka.sh and amqp.sh. Builds the instruments, installs Node and its clients, samples
# with perf. Linux only.
#
#   BENCH_ROUNDS     rounds, in each of which every program runs once (5)
#   BENCH_BUILD      the build that is measured: release or debug (release)
#   BENCH_OUT        a file that the Markdown is added to as well
#   BENCH_PERF       1: also sample the worker and the runner with perf (as root), and print where they spend their time

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${LAGLESS_CACHE:-$HOME/.cache/lagless}
target=${CARGO_TARGET_DIR:-$cache/target}
export CARGO_TARGET_DIR=$target
rounds=${BENCH_ROUNDS:-5}
build=${BENCH_BUILD:-release}
node_home=$cache/bench-node
node=$node_home/node_modules/.bin/node
lagless=$target/$build/lagless
tools=$target/$build/examples/bench-tools
work=$(mktemp -d "${TMPDIR:-/tmp}/lagless-bench.XXXXXX")

say() { echo "bench: $*" >&2; }
die() { say "$*"; exit 1; }

[ "$(uname)" = Linux ] || die "CPU times and memory are read from /proc, which only Linux has"

# --- what is measured with ----------------------------------------------------------------------------------------------

build_tools() {
    local flags=(--locked --example bench-tools)
    if [ "$build" = release ]; then flags+=(--release); fi
    (cd "$root" && cargo build --quiet "${flags[@]}") >&2
    [ -x "$lagless" ] || die "$lagless is missing; run 'make bench'"
}

# Outside the checkout, as everything that is fetched; installed anew when the versions change.
install_node() {
    command -v npm >/dev/null || die "npm is needed to install the Node clients"
    mkdir -p "$node_home"
    if ! cmp -s "$here/node/package.json" "$node_home/package.json" || [ ! -x "$node" ]; then
        say "installing Node and its clients into $node_home"
        cp "$here/node/package.json" "$node_home/package.json.new"
        rm -f "$node_home/package.json"
        (cd "$node_home" && cp package.json.new package.json &&
            npm install --no-package-lock --no-audit --no-fund --loglevel=error >&2) ||
            { rm -f "$node_home/package.json"; die "npm could not install them, see above"; }
        rm -f "$node_home/package.json.new"
    fi
    cp "$here"/node/*.mjs "$node_home/"
}

# --- where the time goes ------------------------------------------------------------------------------------------------

# Samples everything that runs beside a command, and shows what the worker and the runner did.
measure_perf() {
    local perf_pid
    perf record -q -a -e cpu-clock -F 999 -o "$work/perf.data" >/dev/null 2>&1 &
    perf_pid=$!
    "$@" >/dev/null
    kill -s INT "$perf_pid"
    wait "$perf_pid" || true
    perf report -i "$work/perf.data" --stdio --sort dso,symbol --comms "$(perf_comms)" --percentage relative --percent-limit 0.7 2>/dev/null |
        grep -v '^#' | grep -v '^$' | cut -c 1-150
}

# Threads have names of their own, which is how perf tells them.
perf_comms() {
    perf report -i "$work/perf.data" --stdio --sort comm 2>/dev/null |
        sed -n 's/^ *[0-9.]*% *\(.*[^ ]\) *$/\1/p' | grep -E '^(lagless|exe|tokio-rt|kafka-|isolate|watchdog|rdk:|V8|admin)' | paste -sd,
}

# --- the report ---------------------------------------------------------------------------------------------------------

machine() {
    local model
    model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
    echo "$(nproc) cores${model:+ of $model}, $1 on the same machine"
}

# Where the figures come from: the size that was asked for, and the broker.
provenance() {
    echo "Command: \`make bench\` ($build build, $1, BENCH_ROUNDS=$rounds), on $(machine "$2"),"
    echo "$("$node" --version | sed 's/^v/Node /'), at commit $(git -C "$root" describe --always --dirty 2>/dev/null || echo unknown)."
}

# What perf and the threads' clocks have said of the last run, from files that may be empty.
where_time_goes() {
    printf '\nCPU time of Lagless by thread, in the last run:\n\n'
    grep '^|' "$work/threads"
    if [ -s "$work/perf" ]; then
        printf '\nBy function, of the samples of the worker and the runner:\n\n```\n'
        cat "$work/perf"
        echo '```'
    fi
}

publish() {
    cat "$work/report"
    if [ -n "${BENCH_OUT:-}" ]; then cat "$work/report" >>"$BENCH_OUT"; fi
}
