//! What operators read is what the programs do: the tables of settings and metrics in `deploy/docs` are made from the code, and
//! these tests fail where a table is not what the code would make.
//!
//! `BACKHAUL_WRITE_DOCS=1 cargo test -p backhaul docs::` writes them anew; what stands outside the tables is written by hand.

mod metrics;
mod settings;

use std::{fs, path::Path};

/// Compares what stands between `begin:` and `end:` of `name` in a document with `table`, or writes it there when asked to.
#[track_caller]
fn check(document: &str, name: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(document);
    let text = fs::read_to_string(&path).unwrap();
    let (begin, end) = (format!("<!-- begin:{name} -->\n"), format!("<!-- end:{name} -->\n"));
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{document} has no {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{document} has no {end}"));
    let wanted = format!("{before}{begin}\n{table}\n{end}{after}");
    if std::env::var_os("BACKHAUL_WRITE_DOCS").is_some() {
        fs::write(&path, wanted).unwrap();
    } else {
        assert!(
            text == wanted,
            "{document} does not say what the code does about {name}; write it anew with\n\
             BACKHAUL_WRITE_DOCS=1 cargo test -p backhaul docs::\n{table}"
        );
    }
}

/// A cell of a Markdown table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
