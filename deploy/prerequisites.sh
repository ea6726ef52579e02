#!/usr/bin/env bash
# Makes sure that what the build, the demonstration and the tests need is there: as root on Debian it installs
# what is missing, otherwise it prints the one line that does.
#
#   deploy/prerequisites.sh [PROGRAM…]    and these programs besides
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

declare -A PACKAGE=(
    [cc]=build-essential [c++]=g++ [make]=make [git]=git [curl]=curl [tmux]=tmux [python3]=python3 [pkg-config]=pkg-config
    [openssl]=openssl [psql]=postgresql-client [kill]=procps [unshare]=util-linux [mount]=mount
)
declare -A ON_REQUEST=([pgbouncer]=pgbouncer [chrt]=util-linux [kcat]=kcat [java]=default-jre-headless [mvn]=maven)
missing=()
# Not `command -v`: a builtin of this shell (kill) is no program that a test can start.
for program in "$@"; do
    type -P "$program" >/dev/null || missing+=("${ON_REQUEST[$program]}")
done
for program in "${!PACKAGE[@]}"; do
    type -P "$program" >/dev/null || missing+=("${PACKAGE[$program]}")
done
compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null || missing+=(postgresql)
compgen -G "/usr/lib/postgresql/*/bin/pgbench" >/dev/null || missing+=(postgresql)
compgen -G "/usr/lib/llvm-*/lib/libclang*.so*" >/dev/null || compgen -G "/usr/lib/*/libclang*.so*" >/dev/null || missing+=(libclang-dev)
compgen -G "/usr/lib/llvm-*/lib/clang/*/include/stddef.h" >/dev/null || missing+=(libclang-dev)
pkg-config --exists openssl 2>/dev/null || missing+=(libssl-dev)
python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
command -v cargo >/dev/null 2>&1 || { echo "a Rust toolchain is missing: install Rust 1.95 or newer by rustup, see https://rustup.rs (that of Debian 12 is too old)" >&2; exit 1; }

[ ${#missing[@]} -eq 0 ] && exit 0
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
if [ "$(id -u)" -ne 0 ]; then
    install="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    if command -v sudo >/dev/null 2>&1; then line="sudo sh -c '$install'"; else line="su -c '$install'"; fi
    echo "missing: ${missing[*]}; install with:  $line" >&2
    exit 1
fi
command -v apt-get >/dev/null 2>&1 || { echo "missing: ${missing[*]}; this is not Debian, install the like of these packages" >&2; exit 1; }
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# Debian starts a cluster of its own when PostgreSQL is installed; nobody here needs it.
mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] || echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2> >(grep -v '^debconf: delaying' >&2)
