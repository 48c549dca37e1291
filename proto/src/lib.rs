//! The wire contract of shoal: generated messages, and conversions to and from `shoal-types`.

mod confidential;
pub mod convert;
pub mod methods;
pub mod parts;

/// Generated from `shoal/v1/*.proto`: messages, gRPC clients and servers.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated code; its documentation is in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("shoal.v1");
}

/// Every service and message of [`v1`], as an encoded `google.protobuf.FileDescriptorSet`: what the
/// tests enumerate, so that no method can be added and forgotten.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
