//! House rules that no compiler checks, each as a test whose message says why the rule is there.
//!
//! A rule is a function from one file to its problems. Beside each test over the repository stands one over a bad sample, because a
//! check that cannot fail is worse than none. Rules about what clippy can see belong in `.clippy.toml`, rules about dependencies
//! in `.deny.toml`.

mod imports;
mod layout;
mod lua;
mod manifests;
mod monitoring;
mod policies;
mod promql;
mod prose;
mod proto;
mod rust_text;
mod tree;
