#!/usr/bin/env bash
# Starts and stops one real RabbitMQ node as a plain process on loopback, with an Erlang port mapper of its own.
#
#   rabbitmq.sh start DIR            start it with its data in DIR; prints amqp://guest:guest@127.0.0.1:PORT/%2f when it answers
#   rabbitmq.sh stop DIR [--kill]    stop it and wait until it is gone; --kill sends SIGKILL at once
#   rabbitmq.sh restart DIR [--kill]
#   rabbitmq.sh ctl DIR ARG..        run rabbitmqctl against it
#   rabbitmq.sh with COMMAND ARG..   run COMMAND on a fresh node that ends with it; with AMQP_URL already set, just run it
#
# COMMAND finds in its environment:
#
#   AMQP_URL                 plain, as user "guest" with the password "guest"
#   AMQPS_ADDRESS            host:port, TLS: the same login as plain, or EXTERNAL with a client certificate, whose common name
#                            is the user
#   AMQP_CERTIFICATES        a folder of certificates and keys; certificates.sh says which
#   LAGLESS_RABBITMQ_DIR     DIR
#
# Nobody has permissions in the virtual host "closed".
#
# DIR is private to one node. The first start picks free ports; a later start keeps them. In it: port, tls_port, dist_port,
# epmd_port, name, pid, epmd_pid, rabbitmq.log, certificates/, mnesia/, and the cookie. Nothing outside DIR is read or
# written.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
node=rabbitmq
cache=${LAGLESS_CACHE:-$HOME/.cache/lagless}
bin=${RABBITMQ_BIN:-/usr/lib/rabbitmq/bin}
start_seconds=60
stop_seconds=30

# shellcheck source=node.sh
. "$here/node.sh"
# shellcheck source=certificates.sh
. "$here/certificates.sh"

choose_ports() {
    local dir=$1 port tls dist epmd ports
    ports=$(free_ports 4)
    read -r port tls dist epmd <<<"$ports"
    echo "$port" >"$dir/port"
    echo "$tls" >"$dir/tls_port"
    echo "$dist" >"$dir/dist_port"
    echo "$epmd" >"$dir/epmd_port"
    echo "lagless$port@localhost" >"$dir/name"
}

# Becomes a node or a tool, with everything that it needs to know; nothing of the machine's own RabbitMQ is used.
in_node() {
    local dir=$1
    shift
    exec env -i PATH="$PATH" LANG=C.UTF-8 HOME="$dir" TMPDIR="${TMPDIR:-/tmp}" \
        ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT="$(cat "$dir/epmd_port")" \
        RABBITMQ_NODENAME="$(cat "$dir/name")" RABBITMQ_CONF_ENV_FILE="$dir/env.conf" \
        RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT="$(cat "$dir/port")" RABBITMQ_DIST_PORT="$(cat "$dir/dist_port")" \
        RABBITMQ_MNESIA_BASE="$dir/mnesia" RABBITMQ_LOG_BASE="$dir/log" RABBITMQ_PID_FILE="$dir/server.pid" \
        RABBITMQ_CONFIG_FILE="$dir/rabbitmq" RABBITMQ_ADVANCED_CONFIG_FILE="$dir/advanced" \
        RABBITMQ_ENABLED_PLUGINS_FILE="$dir/plugins" RABBITMQ_FEATURE_FLAGS_FILE="$dir/mnesia/feature_flags" \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}" \
        "$@"
}

write_settings() {
    local dir=$1
    : >"$dir/env.conf"
    echo '[rabbitmq_auth_mechanism_ssl].' >"$dir/plugins"
    cat >"$dir/rabbitmq.conf" <<SETTINGS
loopback_users = none
log.console = true
log.console.level = info
log.file = false
# Nobody's tests should stop because a machine has little room.
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.relative = 0.4
listeners.ssl.1 = 127.0.0.1:$(cat "$dir/tls_port")
ssl_options.cacertfile = $dir/certificates/ca.pem
ssl_options.certfile = $dir/certificates/server.pem
ssl_options.keyfile = $dir/certificates/server.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = false
auth_mechanisms.1 = PLAIN
auth_mechanisms.2 = AMQPLAIN
auth_mechanisms.3 = EXTERNAL
ssl_cert_login_from = common_name
load_definitions = $dir/definitions.json
SETTINGS
    cat >"$dir/definitions.json" <<'DEFINITIONS'
{
  "vhosts": [{ "name": "/" }, { "name": "closed" }],
  "users": [
    { "name": "guest", "password": "guest", "tags": "administrator" },
    { "name": "lagless-client", "password_hash": "", "tags": "" }
  ],
  "permissions": [
    { "user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*" },
    { "user": "lagless-client", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*" }
  ]
}
DEFINITIONS
}

write_cookie() {
    head -c 24 /dev/urandom | base64 | tr -dc 'A-Za-z0-9' >"$1/.erlang.cookie"
    chmod 400 "$1/.erlang.cookie"
}

# Whether the pid belongs to this node: a number may have been given to someone else since.
is_ours() {
    local dir=$1 pid=$2
    kill -0 "$pid" 2>/dev/null || return 1
    [ -r "/proc/$pid/environ" ] || return 0
    grep -qF "$dir" < <(2>/dev/null tr '\0' '\n' <"/proc/$pid/environ")
}

# A process that has ended and was not waited for yet is gone.
lives() { kill -0 "$1" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; }

is_running() { lives "$2" && is_ours "$1" "$2"; }

find_epmd() {
    command -v epmd || ls /usr/lib/erlang/erts-*/bin/epmd 2>/dev/null | head -n 1
}

start_epmd() {
    local dir=$1 epmd pid deadline=$((SECONDS + 10))
    pid=$(cat "$dir/epmd_pid" 2>/dev/null || true)
    if [ -n "$pid" ] && is_running "$dir" "$pid"; then return 0; fi
    epmd=$(find_epmd)
    [ -n "$epmd" ] || die "Erlang's epmd is missing; run 'make setup-test'"
    # Sessions of their own, so that Ctrl-C at the terminal reaches the tests first; `with` ends the node.
    LAGLESS_DIR=$dir setsid "$epmd" -address 127.0.0.1 -port "$(cat "$dir/epmd_port")" </dev/null >>"$dir/epmd.log" 2>&1 &
    echo $! >"$dir/epmd_pid"
    until is_open "$(cat "$dir/epmd_port")"; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.05
    done
}

launch() {
    local dir=$1
    start_epmd "$dir" || return 1
    in_node "$dir" setsid "$bin/rabbitmq-server" </dev/null >>"$dir/rabbitmq.log" 2>&1 &
    echo $! >"$dir/launcher_pid"
}

# The Erlang machine itself, which the launcher becomes or starts.
node_pid() {
    local dir=$1 pid
    pid=$(cat "$dir/server.pid" 2>/dev/null) && [ -n "$pid" ] && is_running "$dir" "$pid" && echo "$pid"
}

await_ready() {
    local dir=$1 from=$2 launcher deadline=$((SECONDS + start_seconds))
    launcher=$(cat "$dir/launcher_pid")
    while [ $SECONDS -lt $deadline ]; do
        if has_logged "$dir" "$from" 'Server startup complete' && is_open "$(cat "$dir/port")"; then return 0; fi
        # A child of this script: nobody else can have its number yet.
        lives "$launcher" || return 1
        sleep 0.1
    done
    return 1
}

start() {
    local dir from
    [ -x "$bin/rabbitmq-server" ] || die "RabbitMQ is missing; run 'make setup-test'"
    command -v openssl >/dev/null || die "the command openssl is needed; run 'make setup-test'"
    mkdir -p "$1"
    dir=$(cd "$1" && pwd)
    : >>"$dir/rabbitmq.log"
    if ! node_pid "$dir" >/dev/null; then
        from=$(log_size "$dir")
        if [ -e "$dir/formatted" ]; then
            { launch "$dir" && await_ready "$dir" "$from"; } || fail_start "$dir" "$start_seconds"
        else
            make_certificates "$dir/certificates" || die "openssl could not make certificates, see above"
            write_cookie "$dir"
            # Between looking for a free port and listening on it another process may take it: then others are tried.
            for attempt in 1 2 3; do
                choose_ports "$dir"
                write_settings "$dir"
                if launch "$dir" && await_ready "$dir" "$from"; then break; fi
                [ "$attempt" -lt 3 ] && has_logged "$dir" "$from" 'eaddrinuse' || fail_start "$dir" "$start_seconds"
                stop "$dir" --kill
            done
            touch "$dir/formatted"
        fi
    fi
    echo "amqp://guest:guest@127.0.0.1:$(cat "$dir/port")/%2f"
}

end_process() {
    local dir=$1 pid=$2 signal=$3 deadline=$((SECONDS + stop_seconds))
    is_running "$dir" "$pid" || return 0
    kill -s "$signal" "$pid" 2>/dev/null || true
    while is_running "$dir" "$pid"; do
        if [ $SECONDS -ge $deadline ]; then
            say "$pid did not stop within $stop_seconds s, killing it"
            kill -s KILL "$pid" 2>/dev/null || true
            deadline=$((SECONDS + stop_seconds))
        fi
        sleep 0.05
    done
}

stop() {
    local dir pid signal=TERM
    [ "${2:-}" = --kill ] && signal=KILL
    dir=$(cd "$1" && pwd)
    if pid=$(node_pid "$dir"); then end_process "$dir" "$pid" "$signal"; fi
    if pid=$(cat "$dir/launcher_pid" 2>/dev/null) && [ -n "$pid" ] && is_running "$dir" "$pid"; then
        # It leads a session: a node that has not come as far as to write its number ends with it.
        kill -s "$signal" -- "-$pid" 2>/dev/null || true
        end_process "$dir" "$pid" "$signal"
    fi
    if pid=$(cat "$dir/epmd_pid" 2>/dev/null) && [ -n "$pid" ]; then end_process "$dir" "$pid" TERM; fi
    rm -f "$dir/launcher_pid" "$dir/epmd_pid" "$dir/server.pid"
}

# --- with ---------------------------------------------------------------------------------------------------------------

bring_up() {
    local dir=$1
    AMQP_URL=$(start "$dir")
    AMQPS_ADDRESS=127.0.0.1:$(cat "$dir/tls_port")
    export AMQP_URL AMQPS_ADDRESS AMQP_CERTIFICATES=$dir/certificates LAGLESS_RABBITMQ_DIR=$dir
}

with() {
    [ -n "${AMQP_URL:-}" ] && exec "$@"
    run_with "$@"
}

verb=${1:-}
[ $# -gt 0 ] && shift
case "$verb:$#" in
    start:1) start "$1" ;;
    stop:1 | stop:2) stop "$@" ;;
    restart:1 | restart:2) stop "$@" && start "$1" ;;
    ctl:0 | ctl:1 | with:0) usage ;;
    ctl:*) dir=$(cd "$1" && pwd) && shift && in_node "$dir" "$bin/rabbitmqctl" -n "$(cat "$dir/name")" "$@" ;;
    with:*) with "$@" ;;
    *) usage ;;
esac
