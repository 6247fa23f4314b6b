#!/usr/bin/env bash
# Measures Lagless, a plain rdkafka loop and two Node clients side by side on the Kafka in KAFKA_BROKERS, then starts and
# memory, and prints Markdown. `make bench` builds and calls it; leave the machine alone meanwhile. Linux only.
#
#   BENCH_MESSAGES   messages in the topic (500000)
#
# and what instruments.sh names.
set -euo pipefail

: "${KAFKA_BROKERS:?is not set; run this through tests/brokers/kafka.sh with}"
messages=${BENCH_MESSAGES:-500000}
# shellcheck source=tests/bench/instruments.sh
source "$(dirname "${BASH_SOURCE[0]}")/instruments.sh"

# --- one run of each program --------------------------------------------------------------------------------------------

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

# --- the report ---------------------------------------------------------------------------------------------------------

report() {
    provenance "BENCH_MESSAGES=$messages" Kafka
    echo
    echo "1 KB messages on 8 partitions, at least once, a commit every 100 ms everywhere; the function reads two fields. Each program ran"
    echo "alone, with a fresh group, $rounds times in turn; the clock runs from having partitions to the last commit's acknowledgement. Median (smallest-largest)."
    echo
    "$tools" table kafka "$work/figures"
    echo
    echo "| what | median (smallest-largest) |"
    echo "|---|--:|"
    cat "$work/starts" "$work/memory"
    where_time_goes
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
if [ "${BENCH_PERF:-}" = 1 ]; then measure_perf run_lagless "$topic-perf" >"$work/perf"; fi
report >"$work/report"
publish
