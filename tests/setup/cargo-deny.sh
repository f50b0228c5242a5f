#!/bin/sh
# Makes cargo-deny available as target/tools/bin/cargo-deny: it checks licences, sources and banned crates.
#
# Built from crates.io because nobody distributes a current one for the systems we build on. An unoptimised build without
# default features takes 40 s of two cores instead of several minutes, and a check takes 1.3 s with either.
set -eu
. "$(dirname "$0")/common.sh"

version=0.20.2
[ -x "$tools/bin/cargo-deny" ] && [ "$("$tools/bin/cargo-deny" --version)" = "cargo-deny $version" ] && exit 0

say "building cargo-deny $version (about 40 s on two cores)"
# A target folder of its own: the workspace's must not be filled, locked or rebuilt by it.
build="$tools/cargo-deny-build"
CARGO_TARGET_DIR="$build" cargo install cargo-deny --version "$version" --locked --debug --no-default-features --force \
    --root "$tools" --config profile.dev.debug=false --quiet ||
    die "cargo-deny could not be built; it needs crates.io, a C compiler and 1 GB of disk"
rm -rf "$build"
