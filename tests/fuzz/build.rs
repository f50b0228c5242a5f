//! Says that `cfg(fuzzing)` is no mistake: `make fuzz` sets it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(fuzzing)");
}
