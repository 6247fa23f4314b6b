#!/usr/bin/env bash
# Measures Lagless, a plain rdkafka loop and two Node clients side by side on the Kafka in KAFKA_BROKERS, then starts and
# memory, and prints Markdown. `make bench` builds and calls it; leave the machine alone meanwhile. Linux only.
#
#   BENCH_MESSAGES   messages in the topic (500000)
#   BENCH_ROUNDS     rounds, in each of which every program runs once (5)
#   BENCH_BUILD      the build that is measured: release or debug (release)
#   BENCH_OUT        a file that gets the Markdown as well
#   BENCH_PERF       1: also sample the worker and the runner with perf (as root), and print where they spend their time
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${LAGLESS_CACHE:-$HOME/.cache/lagless}
target=${CARGO_TARGET_DIR:-$cache/target}
export CARGO_TARGET_DIR=$target
messages=${BENCH_MESSAGES:-500000}
rounds=${BENCH_ROUNDS:-5}
build=${BENCH_BUILD:-release}
node_home=$cache/bench-node
node=$node_home/node_modules/.bin/node
lagless=$target/$build/lagless
tools=$target/$build/examples/bench-tools

say() { echo "bench: $*" >&2; }
die() { say "$*"; exit 1; }

: "${KAFKA_BROKERS:?is not set; run this through tests/brokers/kafka.sh with}"
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

# --- one run of each program --------------------------------------------------------------------------------------------

work=$(mktemp -d "${TMPDIR:-/tmp}/lagless-bench.XXXXXX")
topic=bench-$$
idle_topic=bench-idle-$$

clean_up() {
    for name in "$topic" "$idle_topic"; do
        "$tools" drop --brokers "$KAFKA_BROKERS" --topic "$name" >/dev/null 2>&1 || true
    done
    rm -rf "$work"
}

# The worker's command on a topic, as a group.
worker_command() {
    worker=("$lagless" run -c "$here/lagless.toml" --log error
        --set "source.kafka.brokers=$KAFKA_BROKERS"
        --set "service.bench.trigger.order.topics=$1"
        --set "service.bench.trigger.order.group=$2")
}

run_count() { "$tools" count --brokers "$KAFKA_BROKERS" --topic "$topic" --group "$1" --messages "$messages"; }

run_lagless() {
    worker_command "$topic" "$1"
    "$tools" worker --threads --brokers "$KAFKA_BROKERS" --topic "$topic" --group "$1" --messages "$messages" \
        -- "${worker[@]}" 2> >(tee "$work/threads" | grep -v '^|' >&2 || true)
}

run_node() {
    BENCH_TOPIC=$topic BENCH_GROUP=$2 BENCH_COUNT=$messages NODE_NO_WARNINGS=1 "$node" "$node_home/$1.mjs"
}

run_platformatic() { run_node platformatic "$1"; }
run_kafkajs() { run_node kafkajs "$1"; }

measure_rounds() {
    local round program figures
    mkdir "$work/figures"
    for round in $(seq "$rounds"); do
        for program in count lagless platformatic kafkajs; do
            figures=$("run_$program" "$topic-$program-$round") || die "$program has failed in round $round"
            say "round $round, $program: $figures"
            echo "$figures" >>"$work/figures/$program"
        done
    done
}

# --- starts and memory --------------------------------------------------------------------------------------------------

answer='process.stdin.once("data", (line) => { const data = JSON.parse(line); console.log(data.amount + data.seq); process.stdin.destroy(); })'

# shellcheck disable=SC2016 # backticks are Markdown here
measure_starts() {
    local line='{"seq":1,"amount":2.5}'
    "$tools" start --label 'process start to first result, `lagless run --stdin`' --line "$line" \
        -- "$lagless" run -c "$here/echo.toml" --stdin --log error
    "$tools" start --label 'the same in Node without any client' --line "$line" -- "$node" -e "$answer"
    "$tools" start --label '`node -e 0` to its end' -- "$node" -e 0
    "$tools" cold -- "$lagless" run -c "$here/starts.toml"
}

measure_memory() {
    worker_command "$idle_topic" "$idle_topic"
    "$tools" memory -- "${worker[@]}"
}

# --- where the time goes ------------------------------------------------------------------------------------------------

# Samples everything that runs, and shows what our two processes did.
measure_perf() {
    local perf_pid
    perf record -q -a -e cpu-clock -F 999 -o "$work/perf.data" >/dev/null 2>&1 &
    perf_pid=$!
    run_lagless "$topic-perf" >/dev/null
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
    echo "$(nproc) cores${model:+ of $model}, Kafka on the same machine"
}

report() {
    echo "Command: \`make bench\` ($build build, BENCH_MESSAGES=$messages, BENCH_ROUNDS=$rounds), on $(machine),"
    echo "$("$node" --version | sed 's/^v/Node /'), at commit $(git -C "$root" describe --always --dirty 2>/dev/null || echo unknown)."
    echo
    echo "1 KB messages on 8 partitions, at least once, a commit every 100 ms everywhere; the function reads two fields. Each program ran"
    echo "alone, with a fresh group, $rounds times in turn; the clock runs from having partitions to the last commit's acknowledgement. Median (smallest-largest)."
    echo
    "$tools" table "$work/figures"
    echo
    echo "| what | median (smallest-largest) |"
    echo "|---|--:|"
    cat "$work/starts" "$work/memory"
    echo
    echo "CPU time of Lagless by thread, in the last run:"
    echo
    grep '^|' "$work/threads"
    if [ -s "$work/perf" ]; then
        printf '\nBy function, of the samples of the worker and the runner:\n\n```\n'
        cat "$work/perf"
        echo '```'
    fi
}

build_tools
install_node
trap clean_up EXIT
say "filling $topic"
"$tools" fill --brokers "$KAFKA_BROKERS" --topic "$topic" --messages "$messages"
"$tools" fill --brokers "$KAFKA_BROKERS" --topic "$idle_topic" --messages 0
measure_rounds
say "measuring starts and memory"
measure_starts >"$work/starts"
measure_memory >"$work/memory"
if [ "${BENCH_PERF:-}" = 1 ]; then measure_perf >"$work/perf"; fi
report >"$work/report"
cat "$work/report"
if [ -n "${BENCH_OUT:-}" ]; then cp "$work/report" "$BENCH_OUT"; fi
