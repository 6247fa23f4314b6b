#!/usr/bin/env bash
# Starts and stops one real Apache Kafka node (KRaft, no ZooKeeper, no containers) as a plain process on loopback.
#
#   kafka.sh jars                 fetch the server's jars through Maven, if they are missing
#   kafka.sh start DIR            start it with its data in DIR; prints 127.0.0.1:PORT once it answers
#   kafka.sh stop DIR [--kill]    stop it and wait until it is gone; --kill sends SIGKILL at once
#   kafka.sh restart DIR [--kill]
#   kafka.sh tool DIR CLASS ARG.. run a class of Kafka's command-line tools against it, for example
#                                 kafka.sh tool DIR org.apache.kafka.tools.TopicCommand --list
#   kafka.sh with COMMAND ARG..   run COMMAND with KAFKA_BROKERS and LAGLESS_KAFKA_DIR set, on a fresh node that ends with it;
#                                 with KAFKA_BROKERS already set, just run it
#
# DIR is private to one node. The first start picks free ports and formats the storage; a later start keeps both. In it:
# port, sasl_port (SASL_PLAINTEXT with PLAIN, user "lagless", password "secret"), pid, kafka.log, server.properties, data/.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$here/pom.xml")
cache=${LAGLESS_CACHE:-$HOME/.cache/lagless}
libs=$cache/kafka-$version/libs
log_options=(-Dorg.slf4j.simpleLogger.showDateTime=true "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS")
start_seconds=60
stop_seconds=30

say() { echo "kafka: $*" >&2; }
die() { say "$*"; exit 1; }

# --- jars ---------------------------------------------------------------------------------------------------------------

# The folder gets its name only when it is whole, so an interrupted download is never taken for a finished one.
fetch_jars() {
    [ -d "$libs" ] && return 0
    command -v mvn >/dev/null || die "mvn is needed to fetch Apache Kafka; run 'make setup-test'"
    say "fetching Apache Kafka $version through Maven into $libs"
    mkdir -p "$(dirname "$libs")"
    local partial
    partial=$(mktemp -d "$(dirname "$libs")/partial.XXXXXX")
    if ! mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$partial" >&2; then
        rm -rf "$partial"
        die "Maven could not fetch the jars, see above"
    fi
    # Another run may have finished first: then its folder stays.
    [ -d "$libs" ] && rm -rf "$partial" || mv -T "$partial" "$libs" 2>/dev/null || mv "$partial" "$libs"
}

# --- settings -----------------------------------------------------------------------------------------------------------

is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A port that nobody listens on, below the range from which systems give out ports for outgoing connections.
free_port() {
    local port
    for _ in $(seq 100); do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        is_open "$port" || { echo "$port"; return 0; }
    done
    die "found no free port between 20000 and 31999"
}

write_settings() {
    local dir=$1 port sasl_port controller_port
    port=$(free_port)
    while sasl_port=$(free_port); [ "$sasl_port" = "$port" ]; do :; done
    while controller_port=$(free_port); [ "$controller_port" = "$port" ] || [ "$controller_port" = "$sasl_port" ]; do :; done
    cat >"$dir/server.properties" <<SETTINGS
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller_port
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$port,SASL_PLAINTEXT://127.0.0.1:$sasl_port,CONTROLLER://127.0.0.1:$controller_port
advertised.listeners=PLAINTEXT://127.0.0.1:$port,SASL_PLAINTEXT://127.0.0.1:$sasl_port
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_lagless="secret";
log.dirs=$dir/data

# A missing topic must show as an error, not appear by itself.
auto.create.topics.enable=false
num.partitions=4
message.max.bytes=2097152

# Tests join, leave and lose consumers quickly.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000

# One node: every internal topic has one copy, and few partitions so that the start is quick.
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4

# Nothing ages away under a test, and the node stays small.
log.retention.ms=-1
log.retention.bytes=-1
offsets.retention.minutes=10080
log.index.size.max.bytes=1048576
log.cleaner.dedupe.buffer.size=4194304
num.network.threads=2
num.io.threads=4
background.threads=2
SETTINGS
    echo "$port" >"$dir/port"
    echo "$sasl_port" >"$dir/sasl_port"
}

format_storage() {
    local dir=$1 id
    # A cluster id is 16 bytes in URL-safe base64 without padding.
    id=$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n')
    # A leading dash would be read as an option.
    java -Xmx128m -XX:TieredStopAtLevel=1 "${log_options[@]}" -cp "$libs/*" kafka.tools.StorageTool \
        format -t "a${id:1}" -c "$dir/server.properties" >>"$dir/kafka.log" 2>&1
}

# --- the process --------------------------------------------------------------------------------------------------------

# Whether the pid belongs to this node: a number may have been given to someone else since.
is_ours() {
    local dir=$1 pid=$2
    kill -0 "$pid" 2>/dev/null || return 1
    if [ -r "/proc/$pid/cmdline" ]; then
        grep -qF "$dir/server.properties" < <(tr '\0' ' ' <"/proc/$pid/cmdline")
    else
        grep -qF "$dir/server.properties" < <(ps -p "$pid" -o command=)
    fi
}

running_pid() {
    local dir=$1 pid
    pid=$(cat "$dir/pid" 2>/dev/null) && [ -n "$pid" ] && is_ours "$dir" "$pid" && echo "$pid"
}

launch() {
    local dir=$1 detach=nohup
    # Its own session, so that Ctrl-C at the terminal reaches the tests first; `with` ends the node.
    if command -v setsid >/dev/null; then detach=setsid; fi
    # shellcheck disable=SC2086 # KAFKA_JVM_OPTIONS is a list of words
    "$detach" java -Xms256m -Xmx512m -XX:+UseSerialGC ${KAFKA_JVM_OPTIONS:-} "${log_options[@]}" \
        -cp "$libs/*" kafka.Kafka "$dir/server.properties" </dev/null >>"$dir/kafka.log" 2>&1 &
    echo $! >"$dir/pid"
}

# Whether the part of the log that this start has written holds a text.
has_logged() { grep -q "$3" < <(tail -c "+$(($2 + 1))" "$1/kafka.log"); }

# Waits for the node's own word that it is up, then for its port.
await_ready() {
    local dir=$1 log_from=$2 pid deadline=$((SECONDS + start_seconds))
    pid=$(cat "$dir/pid")
    while [ $SECONDS -lt $deadline ]; do
        kill -0 "$pid" 2>/dev/null || return 1
        if has_logged "$dir" "$log_from" 'Kafka Server started' && is_open "$(cat "$dir/port")"; then
            return 0
        fi
        sleep 0.1
    done
    return 1
}

log_size() { wc -c <"$1/kafka.log"; }

fail_start() {
    say "did not come up within $start_seconds s; the end of $1/kafka.log:"
    tail -n 40 "$1/kafka.log" >&2
    stop "$1" --kill
    exit 1
}

# Between looking for a free port and listening on it another process may take it: then a new node tries others.
start_new() {
    local dir=$1 from
    for _ in 1 2 3 4 5; do
        rm -rf "$dir/data"
        write_settings "$dir"
        : >>"$dir/kafka.log"
        from=$(log_size "$dir")
        format_storage "$dir" || fail_start "$dir"
        launch "$dir"
        await_ready "$dir" "$from" && { touch "$dir/formatted"; return 0; }
        has_logged "$dir" "$from" 'Address already in use' || fail_start "$dir"
        stop "$dir" --kill
    done
    fail_start "$dir"
}

start() {
    local dir from
    command -v java >/dev/null || die "java 17 or newer is needed; run 'make setup-test'"
    fetch_jars
    mkdir -p "$1"
    dir=$(cd "$1" && pwd)
    if ! running_pid "$dir" >/dev/null; then
        if [ -e "$dir/formatted" ]; then
            from=$(log_size "$dir")
            launch "$dir"
            await_ready "$dir" "$from" || fail_start "$dir"
        else
            start_new "$dir"
        fi
    fi
    echo "127.0.0.1:$(cat "$dir/port")"
}

stop() {
    local dir pid signal=TERM deadline
    [ "${2:-}" = --kill ] && signal=KILL
    dir=$(cd "$1" && pwd)
    pid=$(running_pid "$dir") || { rm -f "$dir/pid"; return 0; }
    kill -s "$signal" "$pid"
    deadline=$((SECONDS + stop_seconds))
    while is_ours "$dir" "$pid"; do
        if [ $SECONDS -ge $deadline ]; then
            say "$pid did not stop within $stop_seconds s, killing it"
            kill -s KILL "$pid"
            deadline=$((SECONDS + stop_seconds))
        fi
        sleep 0.1
    done
    rm -f "$dir/pid"
}

tool() {
    local dir=$1 class=$2
    shift 2
    java -Xmx256m -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$libs/*" \
        "$class" --bootstrap-server "127.0.0.1:$(cat "$dir/port")" "$@"
}

# --- with ---------------------------------------------------------------------------------------------------------------

with_dir=
with_child=

# Keeps the log of a run that failed, then leaves nothing behind.
end_with() {
    local status=$?
    trap - EXIT INT TERM HUP
    stop "$with_dir" || say "could not stop the node in $with_dir"
    if [ "$status" -ne 0 ] && [ -s "$with_dir/kafka.log" ]; then
        cp "$with_dir/kafka.log" "$cache/kafka-failed.log" && say "the server's log is kept in $cache/kafka-failed.log"
    fi
    rm -rf "$with_dir"
    exit "$status"
}

interrupt_with() {
    # The command has a process group of its own, so this reaches what it started as well.
    [ -n "$with_child" ] && kill -s TERM -- "-$with_child" 2>/dev/null
    exit "$1"
}

with() {
    [ -n "${KAFKA_BROKERS:-}" ] && exec "$@"
    with_dir=$(mktemp -d "${TMPDIR:-/tmp}/lagless-kafka.XXXXXX")
    trap end_with EXIT
    trap 'interrupt_with 130' INT
    trap 'interrupt_with 143' TERM
    trap 'interrupt_with 129' HUP
    fetch_jars
    say "starting Apache Kafka $version in $with_dir"
    local started=$SECONDS
    KAFKA_BROKERS=$(start "$with_dir")
    export KAFKA_BROKERS LAGLESS_KAFKA_DIR=$with_dir
    say "ready on $KAFKA_BROKERS after $((SECONDS - started)) s"
    # In the background, so that a signal is acted on at once and not when the command ends.
    set -m
    "$@" </dev/null &
    with_child=$!
    set +m
    local status=0
    wait "$with_child" || status=$?
    with_child=
    exit "$status"
}

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" >&2; exit 2; }

verb=${1:-}
[ $# -gt 0 ] && shift
case "$verb:$#" in
    jars:0) fetch_jars ;;
    start:1) start "$1" ;;
    stop:1 | stop:2) stop "$@" ;;
    restart:1 | restart:2) stop "$@" && start "$1" ;;
    tool:0 | tool:1 | with:0) usage ;;
    tool:*) tool "$@" ;;
    with:*) with "$@" ;;
    *) usage ;;
esac
