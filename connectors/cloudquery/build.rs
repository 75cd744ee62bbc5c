//! Compiles the protocol's definitions; no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["plugin.proto", "discovery.proto", "discovery_v0.proto"];
    for file in files {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
