# Everything a user or a developer runs, by name. `make help` lists it; the work is done by .ci/ and tests/brokers/.

# Jars, tools and compiled dependencies are kept here, outside the checkout, and used again by the next one.
export LAGLESS_CACHE ?= $(HOME)/.cache/lagless
export CARGO_TARGET_DIR ?= $(LAGLESS_CACHE)/target

# How long `make demo` runs; 0 means until Ctrl-C.
DEMO_SECONDS ?= 20

# Which scenarios `make soak` runs: all, or for example crashes, churn::kafka, network. Its table goes to SOAK_OUT.
SCENARIO ?=
SOAK_OUT ?= $(CARGO_TARGET_DIR)/soak.md

# Every target uses the whole machine, and two package managers at once would wait for each other's locks.
.NOTPARALLEL:
.PHONY: help setup setup-test setup-check demo test check bench soak first-build-note

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## install what the build needs and is missing (packages through apt, V8)
	@.ci/setup.sh build

setup-test: setup ## also what the tests need (Java, Maven, Apache Kafka, RabbitMQ, openssl)
	@.ci/setup.sh test

setup-check: setup ## also what the checks need (cargo-deny)
	@.ci/setup.sh check

demo: setup first-build-note ## build, then run the whole way on an embedded broker for DEMO_SECONDS (20; 0 = until Ctrl-C)
	@cargo build --locked --workspace
	@exec "$(CARGO_TARGET_DIR)/debug/lagless" demo --seconds $(DEMO_SECONDS)

test: setup-test first-build-note ## run every test against a real Apache Kafka and RabbitMQ (or those in KAFKA_BROKERS and AMQP_URL)
	cargo test --locked --workspace --no-run
	tests/brokers/rabbitmq.sh with tests/brokers/kafka.sh with cargo test --locked --workspace --no-fail-fast

check: setup-check first-build-note ## formatting, lints, documentation, licences and sources of dependencies
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
	@# Advisories are left out: their database lies outside the package registry and may be out of reach.
	"$(LAGLESS_CACHE)/tools/bin/cargo-deny" --locked check licenses bans sources

bench: setup-test ## measure against a real Apache Kafka and RabbitMQ in the release profile; prints the README's figures
	@test -e "$(CARGO_TARGET_DIR)/release/lagless" || echo "bench: the first release build takes 20 to 30 minutes on 2 cores"
	cargo build --locked --workspace --release
	tests/brokers/kafka.sh with tests/bench/kafka.sh
	tests/brokers/rabbitmq.sh with tests/bench/amqp.sh

soak: setup-test ## long runs of the release build under crashes, outages and poison; SCENARIO=crashes runs one; prints a table
	@test -e "$(CARGO_TARGET_DIR)/release/lagless" || echo "soak: the first release build takes 20 to 30 minutes on 2 cores"
	cargo build --locked --workspace --release
	cargo test --locked --test it --no-run
	@test -n "$(SCENARIO)" || rm -f "$(SOAK_OUT)"
	SOAK=1 SOAK_OUT="$(SOAK_OUT)" LAGLESS_BIN="$(CARGO_TARGET_DIR)/release/lagless" \
		tests/brokers/rabbitmq.sh with tests/brokers/kafka.sh with \
		cargo test --locked --test it soak::$(SCENARIO) -- --test-threads=1 --nocapture; \
		status=$$?; cat "$(SOAK_OUT)"; exit $$status

first-build-note:
	@ls "$(CARGO_TARGET_DIR)"/debug/deps/libdeno_runtime-*.rlib >/dev/null 2>&1 || \
		echo "build: the first build compiles V8's bindings and Deno's runtime: about 15 to 20 minutes on 2 cores, later ones take seconds"
