//! Tests of the explanations.

use crossfade_runtimes_core::{Datatype, Dim, ShapeSpec, TensorSpec};

use super::*;

/// Every model is `x: FP32 [N,3]` → `y: FP32 [N]`, but a file that says `bad` cannot be opened.
fn probe(request: &ProbeRequest<'_>) -> Result<Probed, String> {
    if fs::read_to_string(request.model_file).unwrap() == "bad" {
        return Err("cannot load the model: it is cut off".to_owned());
    }
    let tensor = |name: &str, dims| TensorSpec::new(name, Datatype::Fp32, ShapeSpec(dims));
    let signature = ModelSignature {
        inputs: vec![tensor("x", vec![Dim::Any, Dim::Fixed(3)])],
        outputs: vec![tensor("y", vec![Dim::Any])],
        ..ModelSignature::default()
    };
    Ok(Probed {
        signature,
        runtime: "tract".to_owned(),
    })
}

#[track_caller]
fn check_findings(files: &[(&str, &str)], expected: &[&str]) {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let findings = check(&[root.path().to_owned()], &CheckOptions::default(), &probe);
    let shown: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert_eq!(shown.len(), expected.len(), "{shown:#?}");
    for (finding, expected) in shown.iter().zip(expected) {
        for part in expected.split(" … ") {
            assert!(finding.contains(part), "{finding}");
        }
    }
}

#[test]
fn a_good_repository_has_no_findings() {
    check_findings(
        &[
            ("a/1/model.onnx", ""),
            ("b/1/model.onnx/model.onnx", ""),
            (
                "b/config.pbtxt",
                "input { name: 'x' dims: 3 } output { name: 'y' dims: [] label_filename: 'l.txt' }",
            ),
            ("b/l.txt", "cat"),
            ("b/model.toml", "labels.stable = 1"),
            ("README.md", ""),
        ],
        &[],
    );
}

#[test]
fn layout_mistakes_are_explained() {
    check_findings(&[], &["warning: … there is no model in it"]);
    check_findings(
        &[
            ("loose.onnx", ""),
            ("a/model.onnx", ""),
            ("b/01/model.onnx", ""),
            ("c/1/net.onnx", ""),
        ],
        &[
            "warning: … move it to loose/1/model.onnx",
            "error: a: … move `model.onnx` to 1/model.onnx",
            "warning: b: directory `01` is ignored",
            "error: b: the model has no version directory",
            "error: c: version 1 has no `model.onnx` or `model.safetensors` or `model.safetensors.index.json`; rename `net.onnx`",
        ],
    );
    let missing = check(
        &[PathBuf::from("/nowhere/at/all")],
        &CheckOptions::default(),
        &probe,
    );
    assert_eq!(missing[0].severity, Severity::Error);
}

#[test]
fn configuration_mistakes_name_file_and_remedy() {
    check_findings(
        &[
            ("a/1/model.onnx", ""),
            ("a/config.pbtxt", "max_batch_sise: 1"),
            ("b/1/model.onnx", ""),
            (
                "b/config.pbtxt",
                "max_batch_size: 4 input { name: 'x' dims: [-1, 3] }",
            ),
            ("c/1/model.onnx", "bad"),
            ("d/1/model.onnx", ""),
            (
                "d/config.pbtxt",
                "max_batch_size: 4 optimization { eager_batching: true }",
            ),
            (
                "d/model.toml",
                "batching.max_rows = 8\nlabels.stable = 3\nwarmup.data = 'x.raw'",
            ),
            ("e/1/model.onnx", ""),
            ("e/config.pbtx", ""),
            ("f/1/model.onnx", ""),
            ("f/config.pbtxt", "platform: 'tensorrt_plan'"),
        ],
        &[
            "error: a: config.pbtxt: line 1, column 1: unknown field `max_batch_sise` … did you mean `max_batch_size`?",
            "error: b: version 1: input `x`: the configuration says dims [-1,3], the model file says [3] … write `dims: [3]`",
            "error: c: 1/model.onnx: cannot load the model: it is cut off",
            "warning: d: config.pbtxt: `max_batch_size` is also set in model.toml",
            "warning: d: model.toml: label `stable` points at version 3",
            "warning: d: `optimization.eager_batching` only tunes",
            "error: d: warmup/x.raw: … not there",
            "warning: e: config.pbtx: this file is not read; did you mean `config.pbtxt`?",
            "error: f: `platform: tensorrt_plan` is not supported",
        ],
    );
}
