//! Builds `entropy.c` into the tests of this package, before the C library, so that its `getrandom` is the one that is called.

fn main() {
    println!("cargo::rerun-if-changed=entropy.c");
    for object in cc::Build::new().file("entropy.c").compile_intermediates() {
        println!("cargo::rustc-link-arg-tests={}", object.display());
    }
}
