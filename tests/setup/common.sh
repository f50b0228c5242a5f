# Shared by the set-up scripts beside it: where tools go, how things are said, how packages are had. Sourced, never run.
#
# Each script that sources it makes one tool available and may be run at any time: it is quiet when nothing is to do, and when
# something cannot be had it says what, why and what to do about it.
# shellcheck shell=sh disable=SC2034

# Everything lands here, out of the way of the system and of git; `make clean` takes it away again.
repository=$(cd "$(dirname "$0")/../.." && pwd)
tools="${CARGO_TARGET_DIR:-$repository/target}/tools"
setup="$repository/tests/setup"

say() { printf 'setup: %s\n' "$*"; }
die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root, or fails without asking when nobody is there to type a password.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
        sudo "$@"
    else
        return 1
    fi
}

# Installs Debian packages; the package lists are fetched only when the first try fails for want of them.
apt_install() {
    have apt-get || return 1
    say "installing $* with apt-get"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null 2>&1 && return 0
    as_root apt-get update -qq || return 1
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

# Makes a Python environment of our own in $tools/venv, for tools that are distributed as wheels.
python_environment() {
    [ -x "$tools/venv/bin/pip" ] && return 0
    mkdir -p "$tools"
    # Debian's python3 has the venv module but, without python3-venv, nothing that puts pip into a new environment.
    { have python3 && python3 -m venv "$tools/venv" >/dev/null 2>&1; } ||
        { rm -rf "$tools/venv" && apt_install python3 python3-venv && python3 -m venv "$tools/venv"; }
}

# Installs what a requirements file pins, by hash: what runs in the tests is what was reviewed.
pip_install() {
    # Not bin/pip: that holds the path at which the environment was made, and works on another one when the folder was moved or copied.
    "$tools/venv/bin/python" -m pip --disable-pip-version-check --quiet install --no-deps --only-binary :all: --require-hashes \
        --requirement "$1"
}
