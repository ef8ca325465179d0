//! Wire types of the Open Inference Protocol and Triton's extensions, generated from our own .proto files.
//!
//! Nothing below the server's front ends uses them. `bytes` fields are `Bytes`: slices of the message they
//! were decoded from.

/// Package `inference`: messages, service and client.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::large_futures,
    reason = "generated code"
)]
pub mod inference {
    tonic::include_proto!("inference");
}

/// Every .proto file as a `FileDescriptorSet`, for reflection and for JSON.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
