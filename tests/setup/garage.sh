#!/bin/sh
# Makes Garage available as target/tools/bin/garage: an S3 server that nobody here wrote, with byte order and any key, and without
# conditional writes, tags, versions and locks.
#
# Not among what all.sh installs: nobody distributes a binary of it through a package registry, and building one takes about ten minutes
# of two cores. Only `make stores` needs it.
set -eu
# shellcheck source=tests/setup/common.sh
. "$(dirname "$0")/common.sh"

version=2.5.0
is_wanted() { [ -x "$1" ] && "$1" --version 2>/dev/null | grep -q "[ :v]$version\\b"; }
is_wanted "$tools/bin/garage" && exit 0
mkdir -p "$tools/bin"
if is_wanted "${BACKHAUL_TEST_GARAGE:-}"; then
    ln -sf "$BACKHAUL_TEST_GARAGE" "$tools/bin/garage"
    exit 0
fi

say "building Garage $version (about ten minutes on two cores, 2 GB of disk until it is done)"
# A target folder of its own: the workspace's must not be filled, locked or rebuilt by it. Less optimised than it ships, which nobody
# notices in a test; not a debug build, whose assertions make another program of it.
build="$tools/garage-build"
rm -f "$tools/bin/garage"
CARGO_TARGET_DIR="$build" cargo install garage --version "$version" --locked --no-default-features \
    --features bundled-libs,lmdb,sqlite --force --root "$tools" --config profile.release.opt-level=1 \
    --config 'profile.release.strip="symbols"' --quiet ||
    die "Garage could not be built; it needs crates.io, a C compiler, make and 2 GB of disk"
rm -rf "$build"
is_wanted "$tools/bin/garage" || die "what was built is not Garage $version"
