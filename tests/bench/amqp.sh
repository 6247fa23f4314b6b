#!/usr/bin/env bash
# Measures Lagless, a plain lapin loop and two Node clients side by side on queues of the RabbitMQ in AMQP_URL, and prints
# Markdown. `make bench` builds and calls it; leave the machine alone meanwhile. Linux only.
#
#   BENCH_QUEUE_MESSAGES   messages in the queue, which is filled anew for each run (200000)
#   BENCH_QUEUE_TYPES      what to measure ("classic quorum")
#
# and what instruments.sh names.
set -euo pipefail

: "${AMQP_URL:?is not set; run this through tests/brokers/rabbitmq.sh with}"
messages=${BENCH_QUEUE_MESSAGES:-200000}
types=${BENCH_QUEUE_TYPES:-classic quorum}
# shellcheck source=tests/bench/instruments.sh
source "$(dirname "${BASH_SOURCE[0]}")/instruments.sh"
queue=bench-$$

clean_up() {
    "$tools" queue-drop --url "$AMQP_URL" --queue "$queue" >/dev/null 2>&1 || true
    rm -rf "$work"
}

fill() { "$tools" queue-fill --url "$AMQP_URL" --queue "$queue" --messages "$messages" --type "$1"; }

run_count() { "$tools" queue-count --url "$AMQP_URL" --queue "$queue" --messages "$messages"; }

run_lagless() {
    "$tools" queue-worker --threads --url "$AMQP_URL" --queue "$queue" --messages "$messages" \
        -- "$lagless" run -c "$here/queue.toml" --log error \
        --set "source.rabbit.url=$AMQP_URL" --set "service.bench.trigger.order.queue=$queue" \
        2> >(tee "$work/threads" | grep -v '^|' >&2 || true)
}

run_node() { BENCH_QUEUE=$queue BENCH_COUNT=$messages NODE_NO_WARNINGS=1 "$node" "$node_home/$1.mjs"; }

run_amqplib() { run_node amqplib; }
run_rabbitmq-client() { run_node rabbitmq-client; }

# Each program finds a full queue.
measure_rounds() {
    local round program figures
    mkdir -p "$work/figures-$1"
    for round in $(seq "$rounds"); do
        for program in count lagless amqplib rabbitmq-client; do
            fill "$1"
            figures=$("run_$program") || die "$program has failed in round $round"
            say "$1, round $round, $program: $figures"
            echo "$figures" >>"$work/figures-$1/$program"
        done
    done
}

report() {
    local type
    provenance "BENCH_QUEUE_MESSAGES=$messages" RabbitMQ
    echo
    echo "1 KB messages in a queue, prefetch 1,000, at least once; the function reads two fields. Each program ran alone on a queue filled"
    echo "anew, $rounds times in turn; the clock runs from the consumer's start to the last acknowledgement. Median (smallest-largest)."
    for type in $types; do
        printf '\nA %s queue:\n\n' "$type"
        "$tools" table amqp "$work/figures-$type"
    done
    where_time_goes
}

build_tools
install_node
trap clean_up EXIT
for type in $types; do measure_rounds "$type"; done
if [ "${BENCH_PERF:-}" = 1 ]; then
    fill "$type"
    measure_perf run_lagless >"$work/perf"
fi
report >"$work/report"
publish
