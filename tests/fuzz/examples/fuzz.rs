//! Runs one target: `fuzz TARGET FILE...` gives it files, one after the other, such as one that made it panic. Built by `make fuzz`, it is
//! libFuzzer around the target that `BACKHAUL_FUZZ_TARGET` names.
#![cfg_attr(fuzzing, no_main)]

#[path = "../targets/mod.rs"]
mod targets;

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    let mut args = std::env::args().skip(1);
    let Some(target) = args.next().and_then(|name| targets::target(&name)) else {
        let names: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
        complain(&format!("usage: fuzz TARGET FILE..., of {}", names.join(", ")));
        return std::process::ExitCode::from(64);
    };
    for path in args {
        match std::fs::read(&path) {
            Ok(input) => target(&input),
            Err(error) => {
                complain(&format!("{path}: {error}"));
                return std::process::ExitCode::FAILURE;
            }
        }
    }
    std::process::ExitCode::SUCCESS
}

#[cfg(not(fuzzing))]
fn complain(what: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr().lock(), "fuzz: {what}").ok();
}

/// What libFuzzer calls for each input.
#[cfg(fuzzing)]
#[unsafe(no_mangle)]
extern "C" fn LLVMFuzzerTestOneInput(data: *const u8, length: usize) -> i32 {
    use std::sync::OnceLock;
    static TARGET: OnceLock<targets::Target> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        // A panic is a finding, whoever catches it: libFuzzer is told by the end of the process.
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            told(panic);
            std::process::abort();
        }));
        let name = std::env::var_os("BACKHAUL_FUZZ_TARGET").unwrap_or_default();
        name.to_str().and_then(targets::target).expect("BACKHAUL_FUZZ_TARGET names a target")
    });
    // libFuzzer promises that many bytes there, for as long as this call.
    let input = if length == 0 { &[][..] } else { unsafe { std::slice::from_raw_parts(data, length) } };
    target(input);
    0
}
