//! Choosing among runtimes that are there and runtimes that are not.

use crossfade_runtimes_core::{Model, ModelSource};

use super::*;

struct Dummy(&'static str);

impl Runtime for Dummy {
    fn name(&self) -> &'static str {
        self.0
    }

    fn platform(&self) -> &'static str {
        "dummy"
    }

    fn version(&self) -> String {
        "1".to_owned()
    }

    fn load(&self, _: &ModelSource) -> Result<Box<dyn Model>, RuntimeError> {
        Err(RuntimeError::Load {
            reason: "a dummy loads nothing".to_owned(),
        })
    }
}

fn without_library() -> Runtimes {
    Runtimes::open(&RuntimesOptions {
        ort_library: Some(PathBuf::from("nowhere/libonnxruntime.so.1")),
        intra_threads: 1,
        cuda_lib_dirs: Vec::new(),
    })
}

fn get(runtimes: &Runtimes, choice: &str, file: &str) -> Result<&'static str, RuntimeError> {
    let Ok(choice) = choice.parse::<RuntimeChoice>();
    runtimes
        .get(&choice, Path::new(file))
        .map(|runtime| runtime.name())
}

#[test]
fn asking_for_a_missing_library_tells_the_place_tried_and_what_to_do() {
    let runtimes = without_library();
    let error = get(&runtimes, "ort", "model.onnx").unwrap_err();
    assert!(matches!(error, RuntimeError::Unavailable { runtime: "ort", .. }));
    let text = error.to_string();
    assert!(text.contains("nowhere/libonnxruntime.so.1"), "{text}");
    assert!(text.contains("ort.library"), "{text}");
    // The place is what the operator's log shows, too.
    assert!(runtimes.describe().contains("nowhere/libonnxruntime.so.1"));
}

#[test]
fn auto_takes_what_reads_the_file_and_falls_back_to_tract() {
    let runtimes = without_library();
    assert_eq!(get(&runtimes, "auto", "model.onnx").unwrap(), "tract");
    assert_eq!(get(&runtimes, "tract", "model.onnx").unwrap(), "tract");
    assert!(get(&runtimes, "auto", "model.ort").is_err());
    assert_eq!(get(&runtimes, "auto", "model.safetensors").unwrap(), "candle");
    assert_eq!(
        get(&runtimes, "auto", "model.safetensors.index.json").unwrap(),
        "candle"
    );
    assert_eq!(get(&runtimes, "candle", "model.onnx").unwrap(), "candle");
    assert!(runtimes.describe().starts_with("default tract"));
}

#[test]
fn auto_reads_weights_rather_than_their_export_where_onnx_runtime_is_missing() {
    let runtimes = without_library();
    let folder = tempfile::tempdir().unwrap();
    let (export, weights) = (
        folder.path().join("model.onnx"),
        folder.path().join("model.safetensors"),
    );
    let preferred = |choice: RuntimeChoice| runtimes.preferred(&choice, export.clone());
    assert_eq!(preferred(RuntimeChoice::Auto), export);
    std::fs::write(&weights, "").unwrap();
    assert_eq!(preferred(RuntimeChoice::Auto), weights);
    assert_eq!(preferred(RuntimeChoice::Tract), export);
}

#[test]
fn registered_runtimes_are_found_by_name_and_never_by_auto() {
    let mut runtimes = without_library();
    let error = get(&runtimes, "fake", "model.onnx").unwrap_err();
    assert!(error.to_string().contains("no runtime `fake`"));
    runtimes.register(Arc::new(Dummy("fake")));
    assert_eq!(get(&runtimes, "fake", "model.onnx").unwrap(), "fake");
    assert_ne!(get(&runtimes, "auto", "model.onnx").ok(), Some("fake"));
    assert!(runtimes.describe().contains("fake 1"));
    assert!(
        get(&runtimes, "vllm", "m")
            .unwrap_err()
            .to_string()
            .contains("fake")
    );
}
