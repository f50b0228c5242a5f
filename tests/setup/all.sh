#!/bin/sh
# Makes available what the tests need beyond the Rust toolchain and a C compiler.
set -eu
here=$(dirname "$0")
for tool in redis seaweedfs redis8 moto promtool kubernetes cargo-deny; do
    "$here/$tool.sh"
done
