//! Replays what fuzzing has kept, and some hundred inputs of each kind that are made of it in the same way each time: what was found once stays
//! mended, without a fuzzer.

#[path = "../targets/mod.rs"]
mod targets;

use std::{fs, io, path::Path};

use targets::TARGETS;

/// Inputs that are made of the corpus, for each target.
const MADE: usize = 1_000;
/// Longest of them.
const MOST_BYTES: usize = 4096;
/// Bytes of all inputs together that are kept in the repository.
const MOST_CORPUS_BYTES: usize = 300 * 1024;

/// What the corpus has for a target, in the order of its names.
fn inputs(name: &str) -> io::Result<Vec<Vec<u8>>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name))? {
        files.push(entry?.path());
    }
    files.sort();
    files.iter().map(fs::read).collect()
}

/// Changes an input in a few places.
fn mutate(rng: &mut fastrand::Rng, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..rng.usize(1..6) {
        let at = rng.usize(..=input.len());
        match rng.u8(..7) {
            0 => input.insert(at, rng.u8(..)),
            1 if at < input.len() => {
                input.remove(at);
            }
            2 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
            3 if at < input.len() => {
                input[at] =
                    *rng.choice(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'\\', b'%', b'/', b'\n']).unwrap_or(&0)
            }
            4 => input.truncate(at),
            5 if !other.is_empty() => {
                let from = rng.usize(..other.len());
                let to = rng.usize(from..=other.len());
                input.splice(at..at, other[from..to].iter().copied());
            }
            _ => {
                let to = rng.usize(at..=input.len());
                let again = input[at..to].to_vec();
                input.splice(at..at, again);
            }
        }
        input.truncate(MOST_BYTES);
    }
}

#[test]
fn every_input_of_the_corpus_keeps_the_promises() {
    let mut bytes = 0;
    for (name, target) in TARGETS {
        let inputs = inputs(name).unwrap_or_else(|error| panic!("the corpus of {name}: {error}"));
        assert!(!inputs.is_empty(), "the corpus of {name} is empty");
        for input in inputs {
            bytes += input.len();
            target(&input);
        }
    }
    assert!(bytes <= MOST_CORPUS_BYTES, "{bytes} bytes: keep fewer, or smaller ones");
}

#[test]
fn inputs_made_of_the_corpus_keep_the_promises() {
    for (name, target) in TARGETS {
        let inputs = inputs(name).unwrap_or_else(|error| panic!("the corpus of {name}: {error}"));
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..MADE {
            let mut input = inputs[rng.usize(..inputs.len())].clone();
            let other = &inputs[rng.usize(..inputs.len())];
            mutate(&mut rng, &mut input, other);
            target(&input);
        }
    }
}

#[test]
fn a_target_is_found_by_its_name() {
    assert!(TARGETS.iter().all(|(name, _)| targets::target(name).is_some()));
    assert!(targets::target("others").is_none());
}
