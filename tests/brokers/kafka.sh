#!/usr/bin/env bash
# Starts and stops one real Apache Kafka node (KRaft, no ZooKeeper, no containers) as a plain process on loopback.
#
#   kafka.sh jars                 fetch the server's jars through Maven, if they are missing
#   kafka.sh start DIR            start it with its data in DIR; prints 127.0.0.1:PORT once it answers
#   kafka.sh stop DIR [--kill]    stop it and wait until it is gone; --kill sends SIGKILL at once
#   kafka.sh restart DIR [--kill]
#   kafka.sh tool DIR CLASS ARG.. run a class of Kafka's command-line tools against it, for example
#                                 kafka.sh tool DIR org.apache.kafka.tools.TopicCommand --list
#   kafka.sh with COMMAND ARG..   run COMMAND on a fresh node that ends with it; with KAFKA_BROKERS already set, just run it
#
# COMMAND finds in its environment:
#
#   KAFKA_BROKERS                 host:port, plain
#   KAFKA_SASL_SSL_BROKERS        host:port, TLS with a login: SCRAM-SHA-512 or PLAIN as "lagless" with the password "secret",
#                                 or OAUTHBEARER with a token of issuer and audience "lagless-tests"
#   KAFKA_SSL_BROKERS             host:port, TLS with a client certificate and no other login
#   KAFKA_CERTIFICATES            a folder of certificates and keys; certificates.sh says which
#   LAGLESS_KAFKA_DIR             DIR
#
# DIR is private to one node. The first start picks free ports and formats the storage; a later start keeps both. In it:
# port, sasl_port (SASL_PLAINTEXT with PLAIN, the same user), sasl_ssl_port, ssl_port, pid, kafka.log, server.properties,
# certificates/, data/.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$here/pom.xml")
node=kafka
cache=${LAGLESS_CACHE:-$HOME/.cache/lagless}
libs=$cache/kafka-$version/libs
log_options=(-Dorg.slf4j.simpleLogger.showDateTime=true "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS")
start_seconds=60
stop_seconds=30

# shellcheck source=node.sh
. "$here/node.sh"
# shellcheck source=certificates.sh
. "$here/certificates.sh"

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

write_settings() {
    local dir=$1 certificates=$1/certificates port sasl_port sasl_ssl_port ssl_port controller_port ports
    ports=$(free_ports 5)
    read -r port sasl_port sasl_ssl_port ssl_port controller_port <<<"$ports"
    # A keystore is a key and its certificates in one file.
    cat "$certificates/server.key" "$certificates/server.pem" >"$certificates/server-keystore.pem"
    cat >"$dir/server.properties" <<SETTINGS
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller_port
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$port,SASL_PLAINTEXT://127.0.0.1:$sasl_port,SASL_SSL://127.0.0.1:$sasl_ssl_port,\
SSL://127.0.0.1:$ssl_port,CONTROLLER://127.0.0.1:$controller_port
advertised.listeners=PLAINTEXT://127.0.0.1:$port,SASL_PLAINTEXT://127.0.0.1:$sasl_port,\
SASL_SSL://127.0.0.1:$sasl_ssl_port,SSL://127.0.0.1:$ssl_port
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
inter.broker.listener.name=PLAINTEXT
ssl.keystore.type=PEM
ssl.keystore.location=$certificates/server-keystore.pem
ssl.truststore.type=PEM
ssl.truststore.location=$certificates/ca.pem
listener.name.ssl.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_lagless="secret";
listener.name.sasl_ssl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512,OAUTHBEARER
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_lagless="secret";
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
listener.name.sasl_ssl.oauthbearer.sasl.server.callback.handler.class=\
org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler
# A connection lives no longer than its token, unless the client shows another one in time.
listener.name.sasl_ssl.oauthbearer.connections.max.reauth.ms=3600000
# For the whole node. The default validator of a broker looks into tokens, and does not verify their signatures.
sasl.oauthbearer.jwt.validator.class=org.apache.kafka.common.security.oauthbearer.BrokerJwtValidator
sasl.oauthbearer.jwks.endpoint.url=file://$certificates/jwks.json
sasl.oauthbearer.expected.issuer=lagless-tests
sasl.oauthbearer.expected.audience=lagless-tests
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
    echo "$sasl_ssl_port" >"$dir/sasl_ssl_port"
    echo "$ssl_port" >"$dir/ssl_port"
}

format_storage() {
    local dir=$1 id
    # A cluster id is 16 bytes in URL-safe base64 without padding.
    id=$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n')
    # A leading dash would be read as an option.
    java -Xmx128m -XX:TieredStopAtLevel=1 "${log_options[@]}" -cp "$libs/*" kafka.tools.StorageTool \
        format -t "a${id:1}" -c "$dir/server.properties" \
        --add-scram 'SCRAM-SHA-512=[name=lagless,password=secret]' >>"$dir/kafka.log" 2>&1
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

# Clients of the listener with passwords find the node where KAFKA_ADVERTISED_SASL (host:port, a proxy) says.
advertise() {
    [ -z "${KAFKA_ADVERTISED_SASL:-}" ] ||
        sed -i "/^advertised/s#SASL_PLAINTEXT://[^,]*#SASL_PLAINTEXT://$KAFKA_ADVERTISED_SASL#" "$1/server.properties"
}

launch() {
    local dir=$1 detach=nohup
    advertise "$dir"
    # Its own session, so that Ctrl-C at the terminal reaches the tests first; `with` ends the node.
    if command -v setsid >/dev/null; then detach=setsid; fi
    # shellcheck disable=SC2086 # KAFKA_JVM_OPTIONS is a list of words
    "$detach" java -Xms256m -Xmx512m -XX:+UseSerialGC ${KAFKA_JVM_OPTIONS:-} "${log_options[@]}" \
        "-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://$dir/certificates/jwks.json" \
        -cp "$libs/*" kafka.Kafka "$dir/server.properties" </dev/null >>"$dir/kafka.log" 2>&1 &
    echo $! >"$dir/pid"
}

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

# Between looking for a free port and listening on it another process may take it: then a new node tries others.
start_new() {
    local dir=$1 from
    make_certificates "$dir/certificates" || die "openssl could not make certificates, see above"
    for _ in 1 2 3 4 5; do
        rm -rf "$dir/data"
        write_settings "$dir"
        : >>"$dir/kafka.log"
        from=$(log_size "$dir")
        format_storage "$dir" || fail_start "$dir" "$start_seconds"
        launch "$dir"
        await_ready "$dir" "$from" && { touch "$dir/formatted"; return 0; }
        has_logged "$dir" "$from" 'Address already in use' || fail_start "$dir" "$start_seconds"
        stop "$dir" --kill
    done
    fail_start "$dir" "$start_seconds"
}

start() {
    local dir from
    command -v java >/dev/null || die "java 17 or newer is needed; run 'make setup-test'"
    command -v openssl >/dev/null || die "the command openssl is needed; run 'make setup-test'"
    fetch_jars
    mkdir -p "$1"
    dir=$(cd "$1" && pwd)
    if ! running_pid "$dir" >/dev/null; then
        if [ -e "$dir/formatted" ]; then
            from=$(log_size "$dir")
            launch "$dir"
            await_ready "$dir" "$from" || fail_start "$dir" "$start_seconds"
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

bring_up() {
    local dir=$1
    KAFKA_BROKERS=$(start "$dir")
    KAFKA_SASL_SSL_BROKERS=127.0.0.1:$(cat "$dir/sasl_ssl_port")
    KAFKA_SSL_BROKERS=127.0.0.1:$(cat "$dir/ssl_port")
    export KAFKA_BROKERS KAFKA_SASL_SSL_BROKERS KAFKA_SSL_BROKERS KAFKA_CERTIFICATES=$dir/certificates LAGLESS_KAFKA_DIR=$dir
}

with() {
    [ -n "${KAFKA_BROKERS:-}" ] && exec "$@"
    fetch_jars
    run_with "$@"
}

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
