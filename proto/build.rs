//! Compiles the .proto files without a system protoc.

use std::path::PathBuf;
use std::{env, fs};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=protos");
    // Two sets, because each listener's reflection names what it serves.
    compile("inference.proto", "descriptors.bin")?;
    compile("admin.proto", "admin.bin")
}

fn compile(proto: &str, set: &str) -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile([proto], ["protos"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join(set), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Tensor contents are slices of the request, not copies.
        .bytes(".")
        // Empty maps allocate nothing, and maps encode in one order.
        .btree_map(".")
        // The server answers ModelInfer and ModelStreamInfer in front of the generated router.
        .generate_default_stubs(true)
        .compile_fds(descriptors)?;
    Ok(())
}
