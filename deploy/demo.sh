#!/usr/bin/env bash
# What `make demo` runs: installs redis-server where it is missing, builds the programs, and runs `backhaul demo`, which
# works in a temporary folder on free ports and removes all of it.
set -euo pipefail
cd "$(dirname "$0")/.."

tests/setup/redis.sh
cargo build --locked --package backhaul
exec "${CARGO_TARGET_DIR:-target}/debug/backhaul" demo "$@"
