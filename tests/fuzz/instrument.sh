#!/bin/sh
# The compiler for `make fuzz`: cargo calls it (RUSTC_WORKSPACE_WRAPPER) for the packages of this workspace, which get the counters that
# libFuzzer steers by. Dependencies stay as the ordinary build made them. Only stable options: no nightly compiler, no sanitizer.
set -eu
rustc=$1
shift
name=
previous=
for argument in "$@"; do
    [ "$previous" = --crate-name ] && name=$argument
    previous=$argument
done
case "$name" in
backhaul_*)
    set -- "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Copt-level=1
    ;;
fuzz)
    # libFuzzer calls one function of ours, which only unsafe code can be: no other build has it.
    set -- "$@" --cfg fuzzing --cap-lints warn -Clink-arg="$BACKHAUL_LIBFUZZER" -Clink-arg=-lstdc++
    ;;
esac
exec "$rustc" "$@"
