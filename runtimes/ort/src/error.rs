//! What ONNX Runtime says, as the seam's errors.

use std::path::Path;

use crossfade_runtimes_core::RuntimeError;
use ort::ErrorCode;

use crate::NAME;

/// A failure while a session is made from the file `model`.
pub(crate) fn load<R>(error: &ort::Error<R>, model: &Path) -> RuntimeError {
    let reason = clean(error.message(), model);
    match error.code() {
        // An operator, or an operator set, that this library has no kernel for.
        ErrorCode::NotImplemented => unsupported(reason),
        _ => RuntimeError::Load { reason },
    }
}

/// A failure while a session runs.
pub(crate) fn run(error: &ort::Error) -> RuntimeError {
    let reason = clean(error.message(), Path::new(""));
    match error.code() {
        ErrorCode::InvalidArgument => RuntimeError::InvalidInput { reason },
        _ => RuntimeError::Run { reason },
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
            "Non-zero status code while running Reshape node. Name:'/bert/Reshape_1' Status Message: x",
            "Non-zero status code while running Reshape node. Name:'/bert/Reshape_1' Status Message: x",
        );
    }
}
