//! What ONNX Runtime says, as the seam's errors.

use std::path::Path;

use crossfade_runtimes_core::{Device, RuntimeError};
use ort::ErrorCode;

use crate::NAME;

/// A failure while a session is made from the file `model`.
pub(crate) fn load<R>(error: &ort::Error<R>, model: &Path) -> RuntimeError {
    let reason = text(error, model);
    match error.code() {
        // An operator, or an operator set, that this library has no kernel for.
        ErrorCode::NotImplemented => unsupported(reason),
        _ => RuntimeError::Load { reason },
    }
}

/// A failure while a session runs.
pub(crate) fn run(error: &ort::Error) -> RuntimeError {
    let reason = text(error, Path::new(""));
    match error.code() {
        ErrorCode::InvalidArgument => RuntimeError::InvalidInput { reason },
        _ => RuntimeError::Run { reason },
    }
}

/// What a run said of a library that is opened only when an operator needs it, such as cuDNN; `None` for any other failure.
pub(crate) fn library_missing(error: &ort::Error) -> Option<String> {
    let reason = text(error, Path::new(""));
    let missing = ["cuDNN", "cuFFT"].iter().find(|name| {
        let said = [
            format!("{name} is unavailable"),
            format!("{name} is not available"),
        ];
        said.iter().any(|said| reason.contains(said))
    })?;
    Some(format!(
        "{reason}; install {missing}, or name its folder (--cuda-lib-dir, ort.cuda_lib_dirs)"
    ))
}

/// What the library said of the file `model`, without machine paths and names.
pub(crate) fn text<R>(error: &ort::Error<R>, model: &Path) -> String {
    clean(error.message(), model)
}

/// A device that cannot be used.
pub(crate) fn device(device: Device, reason: String) -> RuntimeError {
    device_named(&device.to_string(), reason)
}

/// Devices of the kind that configurations call `name`, which cannot be used.
pub(crate) fn device_named(name: &str, reason: String) -> RuntimeError {
    RuntimeError::Device {
        device: name.to_owned(),
        reason,
    }
}

/// Something that the seam or this runtime does not have.
pub(crate) fn unsupported(what: String) -> RuntimeError {
    RuntimeError::Unsupported { runtime: NAME, what }
}

/// The library cannot be used.
pub(crate) fn unavailable(reason: String) -> RuntimeError {
    RuntimeError::Unavailable {
        runtime: NAME,
        reason,
    }
}

/// Takes machine paths out of a message: the model's folder, and the source files of the library's own build.
fn clean(message: &str, model: &Path) -> String {
    // CUDA's errors end with the machine's name and the source file of the library's build.
    let message = message.split(" ; hostname=").next().unwrap_or(message);
    let mut message = message.trim().replace('\n', " ");
    let folders = [
        model.parent().map(Path::to_path_buf),
        model.parent().and_then(|p| p.canonicalize().ok()),
    ];
    for folder in folders.into_iter().flatten() {
        // A relative or root folder is too short to be told from other text.
        if folder.components().count() > 1 {
            message = message.replace(&format!("{}/", folder.display()), "");
        }
    }
    message
        .split(' ')
        .map(|word| {
            let names_source = [".cc:", ".h:", ".cpp:"]
                .iter()
                .any(|suffix| word.contains(suffix));
            match word.rfind('/') {
                Some(slash) if names_source => &word[slash + 1..],
                _ => word,
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_lose_paths_and_keep_node_names() {
        let check =
            |message, expected| assert_eq!(clean(message, Path::new("/srv/models/m/1/model.onnx")), expected);
        check(
            "Load model from /srv/models/m/1/model.onnx failed:Protobuf parsing failed.",
            "Load model from model.onnx failed:Protobuf parsing failed.",
        );
        check(
            "Exception during initialization: /build/core/framework/utils.cc:12 void onnxruntime::f()",
            "Exception during initialization: utils.cc:12 void onnxruntime::f()",
        );
        check(
            "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=node7 ; file=/build/cuda_call.cc ; line=129",
            "CUDA failure 700: an illegal memory access was encountered ; GPU=0",
        );
        check(
            "Non-zero status code while running Reshape node. Name:'/bert/Reshape_1' Status Message: x",
            "Non-zero status code while running Reshape node. Name:'/bert/Reshape_1' Status Message: x",
        );
    }
}
