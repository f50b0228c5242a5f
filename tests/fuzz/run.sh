#!/bin/sh
# What `make fuzz` runs: each target for some time with coverage, from the corpus on, and then the inputs that are worth keeping.
#
# FUZZ_TARGETS names some of them, FUZZ_SECONDS says how long each is run (120), FUZZ_KEEP=1 puts what was found to be new and small into
# the corpus. What makes a target panic is left in target/fuzz/<target>-crash-*, and is the first test of what mends it.
set -eu
cd "$(dirname "$0")/../.."
target_dir="${CARGO_TARGET_DIR:-$PWD/target}"
export BACKHAUL_LIBFUZZER="$target_dir/tools/lib/libfuzzer.a"
export RUSTC_WORKSPACE_WRAPPER="$PWD/tests/fuzz/instrument.sh"
cargo build --workspace --locked --example fuzz
unset RUSTC_WORKSPACE_WRAPPER
fuzz="$target_dir/debug/examples/fuzz"
work="$target_dir/fuzz"
mkdir -p "$work"
cp "$fuzz" "$work/fuzz"
seconds="${FUZZ_SECONDS:-120}"
# As large as what is read in production, but for bodies, of which more of the same says nothing new.
most_bytes=4096
status=0
for name in ${FUZZ_TARGETS:-$(ls tests/fuzz/corpus)}; do
    export BACKHAUL_FUZZ_TARGET="$name"
    found="$work/$name"
    kept="tests/fuzz/corpus/$name"
    mkdir -p "$found"
    echo "fuzz: $name for $seconds s"
    "$work/fuzz" -max_total_time="$seconds" -max_len="$most_bytes" -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 -verbosity=1 \
        -artifact_prefix="$work/$name-" "$found" "$kept" >"$work/$name.log" 2>&1 || {
        status=1
        echo "fuzz: $name has found something: $work/$name.log" >&2
    }
    grep -E '^(#[0-9]+.*DONE|stat::number_of_executed_units|stat::new_units_added|stat::peak_rss_mb)' "$work/$name.log" || true
    if [ -n "${FUZZ_KEEP:-}" ]; then
        # What covers the same is kept once, and only if it is small.
        rm -rf "$work/$name.merged"
        mkdir -p "$work/$name.merged"
        find "$found" -type f -size -2k -print0 | xargs -0r cp -t "$work/$name.merged" --no-clobber
        "$work/fuzz" -merge=1 -max_len=2048 "$kept" "$work/$name.merged" >"$work/$name-merge.log" 2>&1 || status=1
    fi
done
exit $status
