//! Generates the gRPC code from proto/, without a system protoc.

use std::{env, error::Error, path::PathBuf};

const FILES: [&str; 6] = [
    "vljepa/v1/answer_service.proto",
    "vljepa/v1/embedding_service.proto",
    "vljepa/v1/job_service.proto",
    "vljepa/v1/media_service.proto",
    "vljepa/v1/model_service.proto",
    "vljepa/v1/watch_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    // Reflection answers from these very bytes.
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    let mut config = tonic_prost_build::Config::new();
    // The codec looks messages up by their names.
    config.enable_type_names();
    tonic_prost_build::configure()
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .codec_path("crate::service::codec::Bounded")
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    Ok(())
}
