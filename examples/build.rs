//! Makes the client and server of `greeter.proto` for the example `tonic_client`, without `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=greeter.proto");
    #[cfg(feature = "tonic")]
    tonic_prost_build::configure().compile_fds(protox::compile(["greeter.proto"], ["."])?)?;
    Ok(())
}
