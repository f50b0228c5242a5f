#!/bin/sh
# Makes moto available as target/tools/bin/moto_server: an S3 server of the store's conformance suite that keeps any key, and checks less
# than others. Optional: without it its test says "not run".
set -eu
. "$(dirname "$0")/common.sh"

[ -x "$tools/bin/moto_server" ] && exit 0
mkdir -p "$tools/bin"
if [ -n "${BACKHAUL_TEST_MOTO:-}" ] && [ -x "$BACKHAUL_TEST_MOTO" ]; then
    ln -sf "$BACKHAUL_TEST_MOTO" "$tools/bin/moto_server"
    exit 0
fi

say "installing moto (33 MB, from PyPI) into $tools"
if python_environment && pip_install "$setup/moto.txt" && [ -x "$tools/venv/bin/moto_server" ]; then
    ln -sf "$tools/venv/bin/moto_server" "$tools/bin/moto_server"
else
    say "moto cannot be had here (no wheels for this Python or system, or PyPI is not reachable): its test will not run"
fi
