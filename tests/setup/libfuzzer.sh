#!/bin/sh
# Makes libFuzzer available, as the compiler-rt of the system's packages has it: $tools/lib/libfuzzer.a.
set -eu
# shellcheck source=tests/setup/common.sh
. "$(dirname "$0")/common.sh"

library="$tools/lib/libfuzzer.a"
[ -e "$library" ] && exit 0
find_library() {
    find /usr/lib -name "libclang_rt.fuzzer-$(uname -m).a" 2>/dev/null | sort -V | tail -n 1
}
found=$(find_library)
if [ -z "$found" ]; then
    for package in libclang-rt-19-dev libclang-rt-18-dev libclang-rt-16-dev libclang-rt-14-dev; do
        apt_install "$package" && break
    done
    found=$(find_library)
fi
[ -n "$found" ] || die "no libFuzzer: install compiler-rt's development package (libclang-rt-dev), or do without \`make fuzz\`"
have c++ || apt_install g++ || die "libFuzzer is linked with libstdc++: install g++"
mkdir -p "$tools/lib"
ln -sf "$found" "$library"
say "libFuzzer: $found"
