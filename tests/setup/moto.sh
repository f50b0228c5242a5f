#!/bin/sh
# Makes moto available as target/tools/bin/moto_server: an S3 server of the store's conformance suite that keeps any key, and checks less
# than others, and the one server here with queues of S3's events.
set -eu
. "$(dirname "$0")/common.sh"

[ -x "$tools/bin/moto_server" ] && exit 0
mkdir -p "$tools/bin"
if [ -n "${BACKHAUL_TEST_MOTO:-}" ] && [ -x "$BACKHAUL_TEST_MOTO" ]; then
    ln -sf "$BACKHAUL_TEST_MOTO" "$tools/bin/moto_server"
    exit 0
fi

say "installing moto (33 MB, from PyPI) into $tools"
python_environment && pip_install "$setup/moto.txt" && [ -x "$tools/venv/bin/moto_server" ] ||
    die "moto could not be installed; it needs python3 3.11 to 3.14 with venv, Linux on x86-64, and a reachable PyPI"
ln -sf "$tools/venv/bin/moto_server" "$tools/bin/moto_server"
