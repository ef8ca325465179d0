//! Small models of every architecture, with made-up weights, against answers of ONNX Runtime for an export of the same
//! (`models/train/encoders.py tiny`).

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is how they tell what went wrong"
)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::Device as Computing;
use crossfade_runtimes_candle::CandleRuntime;
use crossfade_runtimes_core::{
    Datatype, InstanceOptions, Model, ModelSource, Outputs, Runtime, RuntimeError, Shape, Tensor,
};
use serde::Deserialize;

const NAMES: [&str; 7] = [
    "bert",
    "bert_tanh",
    "bert_classifier",
    "roberta",
    "xlmr_ranker",
    "distilbert",
    "distilbert_classifier",
];

#[derive(Deserialize)]
struct Case {
    inputs: std::collections::BTreeMap<String, Vec<Vec<i64>>>,
    output: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/models")
        .join(name)
}

fn load(name: &str, parameters: &[(&str, &str)]) -> Result<Box<dyn Model>, RuntimeError> {
    load_from(&folder(name), parameters)
}

fn load_from(folder: &Path, parameters: &[(&str, &str)]) -> Result<Box<dyn Model>, RuntimeError> {
    load_file(&folder.join("model.safetensors"), parameters)
}

fn load_file(file: &Path, parameters: &[(&str, &str)]) -> Result<Box<dyn Model>, RuntimeError> {
    let parameters = parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    CandleRuntime::new(2)?.load(&ModelSource {
        path: file.to_owned(),
        parameters: parameters.collect(),
        ..ModelSource::default()
    })
}

fn cases(name: &str) -> Vec<Case> {
    let text = std::fs::read_to_string(folder(name).join("golden.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn int64(rows: &[Vec<i64>]) -> Tensor {
    Tensor {
        datatype: Datatype::Int64,
        shape: Shape::from([rows.len(), rows[0].len()]),
        data: rows
            .iter()
            .flatten()
            .flat_map(|x| x.to_le_bytes())
            .collect::<Vec<u8>>()
            .into(),
    }
}

fn run(model: &dyn Model, inputs: &[Option<Tensor>]) -> Result<Tensor, RuntimeError> {
    let mut instance = model.instantiate(&InstanceOptions::default())?;
    let views: Vec<_> = inputs
        .iter()
        .map(|tensor| tensor.as_ref().map(Tensor::view))
        .collect();
    let mut outputs = Outputs::all(1);
    instance.run(&views, &mut outputs)?;
    Ok(outputs.into_tensors().remove(0).unwrap())
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    let chunks = tensor.data.chunks_exact(4);
    chunks
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

fn furthest(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let differences = got.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

/// Runs every case; the largest difference of any number.
fn difference(name: &str, parameters: &[(&str, &str)]) -> f32 {
    let model = load(name, parameters).unwrap();
    let signature = model.signature();
    let mut largest = 0.0f32;
    for case in cases(name) {
        assert_eq!(*signature.outputs[0].name, *case.output);
        let inputs: Vec<_> = signature
            .inputs
            .iter()
            .map(|spec| case.inputs.get(&*spec.name).map(|rows| int64(rows)))
            .collect();
        let answer = run(&*model, &inputs).unwrap();
        assert_eq!(answer.shape, Shape::from(&case.shape[..]));
        largest = largest.max(furthest(&floats(&answer), &case.values));
    }
    largest
}

#[test]
fn every_architecture_answers_as_onnx_runtime_does() {
    for name in NAMES {
        for threads in ["1", "2"] {
            let difference = difference(name, &[("intra_op_thread_count", threads)]);
            assert!(difference < 1e-5, "{name}: {difference:e}");
        }
    }
}

/// How many threads a run has changes while it runs, and no number with it.
#[test]
fn runs_at_once_change_no_bit() {
    let model = &*load("bert", &[("pooling", "none")]).unwrap();
    let ids: Vec<_> = [(1, 1), (1, 2), (1, 17), (1, 31), (3, 11), (2, 24), (40, 30)]
        .into_iter()
        .map(|(rows, length)| int64(&vec![(0..length).map(|k| 4 + k % 40).collect::<Vec<i64>>(); rows]))
        .collect();
    let answers = || -> Vec<Vec<u32>> {
        let bits = |tensor: Tensor| floats(&tensor).into_iter().map(f32::to_bits).collect();
        ids.iter()
            .map(|ids| bits(run(model, &[Some(ids.clone()), None, None]).unwrap()))
            .collect()
    };
    let alone = answers();
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..3).map(|_| scope.spawn(answers)).collect();
        for other in others {
            assert!(other.join().unwrap() == alone);
        }
    });
}

/// Numbers up to 3, rounded to 2^-11 and 2^-8 of themselves about 16 times on their way through two layers.
#[test]
fn half_precision_is_as_near_as_its_bits_allow() {
    for name in NAMES {
        let (half, brain) = (
            difference(name, &[("dtype", "fp16")]),
            difference(name, &[("dtype", "bf16")]),
        );
        assert!(half < 16.0 * 3.0 / 2048.0, "{name}: {half:e}");
        assert!(brain < 16.0 * 3.0 / 256.0, "{name}: {brain:e}");
        assert!(
            half > 0.0 && brain > half,
            "{name}: it computes in other precision: {half:e} {brain:e}"
        );
    }
}

#[test]
fn pooled_vectors_are_those_of_the_tokens() {
    let case = &cases("bert")[2];
    let width = case.shape[2];
    for (pooling, index) in [("cls", 0), ("mean", 1), ("max", 2)] {
        let model = load("bert", &[("pooling", pooling), ("normalize", "0")]).unwrap();
        assert_eq!(&*model.signature().outputs[0].name, "embeddings");
        let names = ["input_ids", "attention_mask", "token_type_ids"];
        let inputs = names.map(|name| Some(int64(&case.inputs[name])));
        let answer = floats(&run(&*model, &inputs).unwrap());
        for (row, got) in answer.chunks_exact(width).enumerate() {
            let length = case.inputs["attention_mask"][row]
                .iter()
                .filter(|&&one| one == 1)
                .count();
            let start = row * case.shape[1] * width;
            let vectors = case.values[start..start + length * width].chunks_exact(width);
            for (k, got) in got.iter().enumerate() {
                let column = vectors.clone().map(|vector| vector[k]);
                #[expect(clippy::cast_precision_loss, reason = "a handful of tokens")]
                let expected = match index {
                    0 => vectors.clone().next().unwrap()[k],
                    1 => column.sum::<f32>() / length as f32,
                    _ => column.fold(f32::MIN, f32::max),
                };
                assert!((got - expected).abs() < 1e-5, "{pooling}: {got} {expected}");
            }
        }
    }
}

/// The rows of a batch are computed as they are alone, wherever padding is.
#[test]
fn padding_and_company_change_nothing() {
    let model = load("bert", &[("pooling", "mean")]).unwrap();
    let alone = floats(&run(&*model, &[Some(int64(&[vec![5, 6, 7]])), None, None]).unwrap());
    let ids = int64(&[vec![5, 6, 7, 9, 9], vec![8; 5], vec![0; 5]]);
    let mask = int64(&[vec![1, 1, 1, 0, 0], vec![1; 5], vec![0; 5]]);
    let together = floats(&run(&*model, &[Some(ids), Some(mask), None]).unwrap());
    assert!(furthest(&together[..alone.len()], &alone) < 1e-6);
    assert_eq!(
        together[2 * alone.len()..],
        vec![0.0; alone.len()],
        "a row without tokens"
    );
}

#[test]
fn batches_without_tokens_are_answered_with_nothing_or_zeros() {
    let empty = |rows: usize, columns: usize| Tensor {
        datatype: Datatype::Int64,
        shape: Shape::from([rows, columns]),
        data: vec![0; rows * columns * 8].into(),
    };
    for (name, parameters, width) in [
        ("bert", vec![("pooling", "mean"), ("normalize", "1")], 24),
        ("bert", vec![("pooling", "max"), ("dtype", "fp16")], 24),
        ("bert_classifier", vec![], 3),
        ("xlmr_ranker", vec![("intra_op_thread_count", "1")], 1),
    ] {
        let model = load(name, &parameters).unwrap();
        for (rows, columns) in [(0, 0), (0, 4), (2, 0), (1, 3)] {
            let mut inputs = vec![Some(empty(rows, columns)), Some(empty(rows, columns))];
            inputs.resize(model.signature().inputs.len(), None);
            let answer = run(&*model, &inputs).unwrap();
            assert_eq!(
                answer.shape,
                Shape::from([rows, width]),
                "{name} {rows} {columns}"
            );
        }
    }
}

#[test]
fn what_does_not_fit_the_model_is_the_callers_mistake() {
    let model = load("bert", &[]).unwrap();
    let refused = |ids: Vec<i64>, mask: Option<Vec<i64>>, types: Option<Vec<i64>>| {
        let inputs = [
            Some(int64(&[ids])),
            mask.map(|m| int64(&[m])),
            types.map(|t| int64(&[t])),
        ];
        match run(&*model, &inputs) {
            Err(RuntimeError::InvalidInput { reason }) => reason,
            other => panic!("{other:?}"),
        }
    };
    assert!(refused(vec![50], None, None).contains("`input_ids`, row 0: 50 is not within 0 to 49"));
    assert!(refused(vec![-1], None, None).contains("-1"));
    assert!(refused(vec![1], None, Some(vec![2])).contains("`token_type_ids`"));
    assert!(refused(vec![1, 2], Some(vec![1]), None).contains("attention_mask"));
    assert!(refused(vec![1; 35], None, None).contains("at most 34"));
    let many = vec![vec![1; 34]; (1 << 18) / 34 + 1];
    let too_many = run(&*model, &[Some(int64(&many)), None, None])
        .unwrap_err()
        .to_string();
    assert!(too_many.contains("send fewer rows"), "{too_many}");
    assert!(matches!(
        run(&*model, &[None, None, None]),
        Err(RuntimeError::InvalidInput { .. })
    ));
    // RoBERTa's positions begin behind the padding token's.
    let roberta = load("roberta", &[]).unwrap();
    assert!(run(&*roberta, &[Some(int64(&[vec![5; 32]])), None, None]).is_ok());
    assert!(run(&*roberta, &[Some(int64(&[vec![5; 33]])), None, None]).is_err());
}

#[test]
fn weights_in_several_files_are_the_same_model() {
    let made = tempfile::tempdir().unwrap();
    std::fs::copy(
        folder("bert").join("config.json"),
        made.path().join("config.json"),
    )
    .unwrap();
    let whole =
        candle_core::safetensors::load(folder("bert").join("model.safetensors"), &Computing::Cpu).unwrap();
    let mut shards = [HashMap::new(), HashMap::new()];
    let mut listed = serde_json::Map::new();
    for (place, (name, tensor)) in whole.into_iter().enumerate() {
        listed.insert(name.clone(), shard(place % 2).into());
        shards[place % 2].insert(name, tensor);
    }
    for (place, tensors) in shards.iter().enumerate() {
        candle_core::safetensors::save(tensors, made.path().join(shard(place))).unwrap();
    }
    let index = made.path().join("model.safetensors.index.json");
    std::fs::write(&index, serde_json::json!({ "weight_map": listed }).to_string()).unwrap();
    let divided = load_file(&index, &[]).unwrap();
    let model = load("bert", &[]).unwrap();
    let inputs = [Some(int64(&[vec![2, 7, 11, 3]])), None, None];
    let (one, other) = (run(&*model, &inputs).unwrap(), run(&*divided, &inputs).unwrap());
    assert_eq!(floats(&one), floats(&other));
    std::fs::remove_file(made.path().join(shard(1))).unwrap();
    let refused = load_file(&index, &[]).err().unwrap().to_string();
    assert!(refused.contains(&shard(1)), "{refused}");
}

fn shard(place: usize) -> String {
    format!("model-0000{}-of-00002.safetensors", place + 1)
}

#[test]
fn broken_folders_are_refused_with_what_is_wrong() {
    let made = tempfile::tempdir().unwrap();
    let copy = |file: &str| std::fs::copy(folder("bert").join(file), made.path().join(file)).unwrap();
    let refusal = || load_from(made.path(), &[]).err().unwrap().to_string();
    assert!(refusal().contains("there is no file"));
    copy("model.safetensors");
    assert!(refusal().contains("config.json"), "{}", refusal());
    copy("config.json");
    let card = std::fs::read_to_string(made.path().join("config.json")).unwrap();
    std::fs::write(
        made.path().join("config.json"),
        card.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"),
    )
    .unwrap();
    assert!(
        refusal().contains("`encoder.layer.2.attention.self.query.weight`"),
        "{}",
        refusal()
    );
    std::fs::write(
        made.path().join("config.json"),
        card.replace("\"vocab_size\": 50", "\"vocab_size\": 51"),
    )
    .unwrap();
    assert!(
        refusal().contains("[50, 24]") && refusal().contains("[51, 24]"),
        "{}",
        refusal()
    );
    std::fs::write(made.path().join("config.json"), &card).unwrap();
    std::fs::write(made.path().join("model.safetensors"), b"no weights").unwrap();
    let refused = refusal();
    assert!(
        refused.contains("no safetensors: path: \"model.safetensors\""),
        "{refused}"
    );
    assert!(!refused.contains(&made.path().display().to_string()), "{refused}");
    let pooled = load("bert_classifier", &[("pooling", "mean")]).err().unwrap();
    assert!(pooled.to_string().contains("classifies"));
}

#[test]
fn a_gpu_is_refused_by_a_build_without_one() {
    let model = load("bert", &[]).unwrap();
    let options = InstanceOptions {
        device: crossfade_runtimes_core::Device::Cuda(0),
    };
    let refused = model.instantiate(&options).err().unwrap().to_string();
    assert!(refused.contains("cargo xtask build --cuda"), "{refused}");
}
