#!/bin/sh
# Makes BullMQ available in target/tools/bullmq: what `make bench-queue` measures Backhaul beside. Optional: without node and npm the
# benchmark leaves that column empty and says so.
set -eu
. "$(dirname "$0")/common.sh"

wanted="$repository/tests/bench/bullmq/package-lock.json"
if ! have node || ! have npm; then
    say "BullMQ needs node and npm (Debian: apt-get install nodejs npm): it will not be measured"
    exit 0
fi
home="$tools/bullmq"
cmp -s "$wanted" "$home/.installed" && exit 0

say "installing BullMQ (from npm) into $tools"
rm -rf "$home"
mkdir -p "$home"
cp "${wanted%-lock.json}.json" "$wanted" "$home/"
# Not `npm ci`: it refuses a lock file without the optional native modules of every other platform. What the lock names is pinned by
# hash all the same. No install script is run.
if npm install --prefix "$home" --ignore-scripts --no-audit --no-fund --silent; then
    cp "$wanted" "$home/.installed"
else
    rm -rf "$home"
    say "BullMQ cannot be had here (npm is not reachable): it will not be measured"
fi
