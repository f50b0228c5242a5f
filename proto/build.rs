//! Generates the Rust code of `backhaul.v1` and of KEDA's `externalscaler` with protox, so that no protoc is needed, and leaves the
//! descriptor set beside it for server reflection. Must not touch the source tree.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=backhaul");
    println!("cargo::rerun-if-changed=externalscaler");
    let descriptors = protox::compile(
        [
            "backhaul/v1/types.proto",
            "backhaul/v1/backup.proto",
            "backhaul/v1/events.proto",
            "backhaul/v1/prefix.proto",
            "backhaul/v1/rules.proto",
            "backhaul/v1/worker.proto",
            "externalscaler/externalscaler.proto",
        ],
        ["."],
    )?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("backhaul.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // The generated constructor `connect` would collide with the rpc `Connect`; clients are made with `new(channel)`.
        .build_transport(false)
        // Token and receipt fields are compared and cloned on hot paths; `Bytes` makes that cheap.
        .bytes(".backhaul.v1")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}
