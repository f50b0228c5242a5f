#!/bin/sh
# Makes rclone available: what `make bench-transfer` measures copies beside. Optional: without it the benchmark leaves that row out and
# says so.
set -eu
. "$(dirname "$0")/common.sh"

have rclone && exit 0
apt_install rclone || true
have rclone || say "rclone is missing and could not be installed: it will not be measured"
