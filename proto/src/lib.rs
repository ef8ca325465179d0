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

/// Package `crossfade.admin.v1`: messages, service and client of the admin interface.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::large_futures,
    reason = "generated code"
)]
pub mod admin {
    tonic::include_proto!("crossfade.admin.v1");
}

/// The admin interface's .proto file as a `FileDescriptorSet`.
pub const ADMIN_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/admin.bin"));

/// The protocol's .proto files as a `FileDescriptorSet`, for reflection and for JSON.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
