#!/usr/bin/env bash
# Installs what is missing on this machine and says what, before it does. Says nothing when there is nothing to do.
#
#   setup.sh build    what the build needs: system packages, the prebuilt V8 library
#   setup.sh test     what the tests need besides: Java and Maven, Apache Kafka's jars, RabbitMQ, openssl
#   setup.sh check    what `make check` needs besides: cargo-deny
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${LAGLESS_CACHE:-$HOME/.cache/lagless}
java_needed=17
cargo_deny=0.20.2

say() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

# Whether version $1 is $2 or newer, both as MAJOR.MINOR.
at_least() {
    local have_major=${1%%.*} need_major=${2%%.*} have_minor=${1#*.} need_minor=${2#*.}
    have_minor=${have_minor%%.*}
    [ "$have_major" -gt "$need_major" ] || { [ "$have_major" -eq "$need_major" ] && [ "$have_minor" -ge "$need_minor" ]; }
}

# --- system packages ----------------------------------------------------------------------------------------------------

# Development files of a library that pkg-config knows.
has_library() { has pkg-config && pkg-config --exists "$1"; }

# bindgen loads libclang when the build runs; it comes with the headers it needs in a -dev package.
has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    compgen -G '/usr/lib/llvm-*/lib/libclang.so' >/dev/null || compgen -G '/usr/lib*/libclang.so' >/dev/null ||
        compgen -G '/usr/lib/*/libclang.so' >/dev/null || compgen -G '/Library/Developer/CommandLineTools/usr/lib/libclang.dylib' >/dev/null ||
        compgen -G '/Applications/Xcode.app/Contents/Developer/Toolchains/*/usr/lib/libclang.dylib' >/dev/null
}

# The main number of the Java found first in PATH, 0 without one.
java_version() {
    local line
    line=$(java -version 2>&1 | head -n 1) || line=
    line=${line#*\"}
    line=${line%%[.\"]*}
    case $line in '' | *[!0-9]*) echo 0 ;; *) echo "$line" ;; esac
}

# Prints the Debian names of what is missing; they tell other systems' users what to look for as well.
missing_for_build() {
    has cmake || echo cmake
    has make || echo make
    { has c++ || has g++; } || echo g++
    has pkg-config || echo pkg-config
    has_library libssl || echo libssl-dev
    has_library zlib || echo zlib1g-dev
    has_library libcurl || echo libcurl4-openssl-dev
    has_library libzstd || echo libzstd-dev
    has_libclang || echo libclang-dev
}

missing_for_test() {
    [ "$(java_version)" -ge "$java_needed" ] || echo default-jre-headless
    has mvn || echo maven
    has openssl || echo openssl
    # Its package begins a service where there is an init system; the tests start nodes of their own and leave it alone.
    { [ -n "${AMQP_URL:-}" ] || [ -x "${RABBITMQ_BIN:-/usr/lib/rabbitmq/bin}/rabbitmq-server" ]; } || echo rabbitmq-server
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; elif has sudo; then sudo "$@"; else return 1; fi
}

# Takes the name of a function that prints what is missing, installs that, and looks again.
install_missing() {
    local look=$1 missing
    missing=$($look | xargs)
    [ -n "$missing" ] || return 0
    has apt-get || die "these are missing: $missing (Debian's names); install them, then run this again"
    as_root true || die "these packages are missing: $missing; as root, run: apt-get install $missing"
    say "installing through apt: $missing"
    as_root apt-get update -q=2
    # shellcheck disable=SC2086 # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q=2 -o Dpkg::Use-Pty=0 -y --no-install-recommends $missing
    missing=$($look | xargs)
    case $missing in
        '') ;;
        *default-jre-headless*) die "the system's Java is older than $java_needed; install Java $java_needed or newer and put it first in PATH" ;;
        *) die "still missing after the installation: $missing" ;;
    esac
}

# --- Rust ---------------------------------------------------------------------------------------------------------------

check_rust() {
    local needed have
    { has cargo && has rustc; } || die "a Rust toolchain is needed; see https://rustup.rs"
    needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
    have=$(cd "$root" && rustc --version | cut -d ' ' -f 2)
    at_least "$have" "$needed" || die "Rust $needed or newer is needed, this is $have; with rustup: rustup update stable"
}

# --- V8 -----------------------------------------------------------------------------------------------------------------

v8_version=150.4.0
v8_archive=librusty_v8_simdutf_release_x86_64-unknown-linux-gnu.a.gz
# Built against this glibc; an older one may lack what it calls.
v8_glibc=2.36

# Linux on x86-64 with a glibc that is new enough; elsewhere crate v8 downloads its own library.
v8_fits() {
    local glibc
    [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || return 1
    glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || return 1
    at_least "${glibc#glibc }" "$v8_glibc"
}

sha256() { if has sha256sum; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d ' ' -f 1; }

# Puts the library where the build script of crate v8 looks before it downloads: a file named after the URL.
place_v8() {
    local url home placed source=$root/third_party/v8/$v8_archive locked expected
    v8_fits || return 0
    locked=$(sed -n '/^name = "v8"$/{n;s/^version = "\(.*\)"/\1/p;}' "$root/Cargo.lock")
    [ "$locked" = "$v8_version" ] || die "third_party/v8 holds the library of crate v8 $v8_version, but Cargo.lock names $locked"
    url=https://github.com/denoland/rusty_v8/releases/download/v$v8_version/$v8_archive
    home=${CARGO_HOME:-$HOME/.cargo}/.rusty_v8
    placed=$home/${url//[^A-Za-z0-9]/_}
    cmp -s "$source" "$placed" && return 0
    expected=$(cut -d ' ' -f 1 "$root/third_party/v8/SHA256SUMS")
    [ "$(sha256 "$source")" = "$expected" ] || die "$source does not have the checksum in SHA256SUMS; is the checkout whole?"
    say "placing the prebuilt V8 library in $home"
    mkdir -p "$home"
    # Renamed when whole: a build that starts now must not read half of it.
    cp "$source" "$placed.$$"
    mv -f "$placed.$$" "$placed"
}

# --- tools --------------------------------------------------------------------------------------------------------------

install_cargo_deny() {
    [ "$("$cache/tools/bin/cargo-deny" --version 2>/dev/null)" = "cargo-deny $cargo_deny" ] && return 0
    say "installing cargo-deny $cargo_deny into $cache/tools (compiles for some minutes)"
    # Its own throw-away target folder: it shares nothing with the project's.
    env -u CARGO_TARGET_DIR cargo install --quiet --locked --root "$cache/tools" "cargo-deny@$cargo_deny"
}

case "${1:-}" in
    build)
        check_rust
        install_missing missing_for_build
        place_v8
        ;;
    test)
        install_missing missing_for_test
        "$root/tests/brokers/kafka.sh" jars
        ;;
    check)
        { cargo fmt --version && cargo clippy --version; } >/dev/null 2>&1 ||
            die "rustfmt and clippy are needed; with rustup: rustup component add rustfmt clippy"
        install_cargo_deny
        ;;
    *)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
esac
