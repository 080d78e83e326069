# What the machine needs and how to get it; sourced by ./run and ./test.
# Debian and its like are served by apt; on others the packages are named and the rest is up to you.

POSTGRES_DIRS="/usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/local/pgsql/bin /opt/homebrew/opt/postgresql*/bin"

say() { printf '%s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# The directory of the newest installed PostgreSQL server, 14 or newer; nothing if there is none.
postgres_bin() {
    local directory version best='' best_version=13
    for directory in $POSTGRES_DIRS "$(dirname "$(command -v postgres 2>/dev/null || echo /nonexistent/postgres)")"; do
        [ -x "$directory/postgres" ] && [ -x "$directory/initdb" ] || continue
        version=$("$directory/postgres" --version | sed -n 's/.*) \([0-9]*\).*/\1/p')
        if [ "${version:-0}" -gt "$best_version" ]; then
            best=$directory best_version=$version
        fi
    done
    printf '%s' "$best"
}

# Makes sure of cargo, which apt's packages are too old for.
need_rust() {
    command -v cargo >/dev/null || { [ -r "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"; }
    command -v cargo >/dev/null || fail "Hearth is built with Rust, which is not installed: see https://rustup.rs"
}

# Installs the named Debian packages, or says that they are missing and stops.
install_packages() {
    [ $# -gt 0 ] || return 0
    local as_root=''
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || fail "Missing packages: $*
Install them and start again:  sudo apt-get install --no-install-recommends $*"
        as_root='sudo -n'
    fi
    command -v apt-get >/dev/null || fail "Missing, by Debian's names of the packages: $*
Install what your system calls these, and start again."
    say "Installing: $*"
    no_cluster "$as_root"
    export DEBIAN_FRONTEND=noninteractive
    $as_root apt-get -qq update >&2 || say "apt-get update failed; trying with the lists at hand."
    $as_root apt-get -qq install -y --no-install-recommends "$@" >&2 || fail "apt-get could not install: $*"
}

# Debian's postgresql packages make and start a cluster of their own on port 5432, which nobody here needs. Where
# they are not yet installed, their configuration is laid out beforehand to say so.
no_cluster() {
    local file=/etc/postgresql-common/createcluster.conf
    [ -e "$file" ] && return 0
    $1 mkdir -p "${file%/*}"
    printf '%s\n' '# Written by the scripts of Hearth before postgresql-common was installed.' \
        '# Hearth runs a PostgreSQL of its own; the one that Debian would start is not needed.' \
        'create_main_cluster = false' | $1 tee "$file" >/dev/null
}

# The packages that are missing to build and to run.
missing_packages() {
    command -v cc >/dev/null || printf 'gcc '
    command -v ld >/dev/null || printf 'binutils '
    [ -e /usr/include/stdlib.h ] || printf 'libc6-dev '
    command -v make >/dev/null || printf 'make '
    [ -d /etc/ssl/certs ] || printf 'ca-certificates '
    [ -n "$(postgres_bin)" ] || printf 'postgresql '
}

# Python's venv module, which Debian keeps apart.
missing_test_packages() {
    python3 -c 'import ensurepip, venv' 2>/dev/null || printf 'python3 python3-venv '
    # A browser, whose pages are clients too.
    command -v chromium chromium-browser google-chrome >/dev/null || printf 'chromium '
}
