//! Compiles the protobuf schema with protox: no protoc on the machine is needed.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(["bodycam/v1/record.proto"], ["../proto"])?;
    prost_build::Config::new().compile_fds(files)?;
    println!("cargo:rerun-if-changed=../proto");
    Ok(())
}
