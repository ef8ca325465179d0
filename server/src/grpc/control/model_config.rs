//! ModelConfig as JSON to its message, by the descriptors instead of field by field.

use std::sync::LazyLock;

use crossfade_proto::{FILE_DESCRIPTOR_SET, inference as pb};
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor};

use crate::status::{Refusal, Status};

static DESCRIPTOR: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET)
        .expect("the descriptors were made when this program was built")
        .get_message_by_name("inference.ModelConfig")
        .expect("model_config.proto defines it")
});

/// The message with the content of `config`; what the message has no field for is left out.
///
/// Errors: `Internal` if a value does not have its field's type.
pub(super) fn from_json(config: serde_json::Value) -> Result<pb::ModelConfig, Refusal> {
    let refuse = |error: String| {
        let message = format!("the model's configuration does not fit its message: {error}");
        Refusal::new(Status::Internal, message)
    };
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    DynamicMessage::deserialize_with_options(DESCRIPTOR.clone(), config, &options)
        .map_err(|error| refuse(error.to_string()))?
        .transcode_to()
        .map_err(|error| refuse(error.to_string()))
}
