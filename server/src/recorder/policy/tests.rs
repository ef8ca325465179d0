//! What a policy takes away is nowhere; what it leaves can be used.

use crossfade_runtimes_core::{Shape, ShapeSpec};
use proptest::prelude::*;

use super::*;

fn pepper() -> Arc<Pepper> {
    let folder = tempfile::tempdir().unwrap();
    Arc::new(Pepper::open(&folder.path().join("pepper")).unwrap())
}

fn texts(texts: &[&str]) -> Tensor {
    let mut data = Vec::new();
    texts
        .iter()
        .for_each(|text| push_element(&mut data, text.as_bytes()));
    Tensor {
        datatype: Datatype::Bytes,
        shape: Shape::from([texts.len()]),
        data: data.into(),
    }
}

fn floats(numbers: &[f32]) -> Tensor {
    Tensor {
        datatype: Datatype::Fp32,
        shape: Shape::from([numbers.len()]),
        data: numbers
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect::<Vec<u8>>()
            .into(),
    }
}

fn read(tensor: &Tensor) -> Vec<f32> {
    let numbers = tensor.data.chunks_exact(4);
    numbers
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

fn applied(policy: &str, tensor: &Tensor) -> Option<Tensor> {
    policy.parse::<FieldPolicy>().unwrap().applied(tensor, &pepper())
}

#[test]
fn each_policy_does_what_it_says() {
    let names = texts(&["Ann", "Bob", "Ann"]);
    assert_eq!(applied("keep", &names), Some(names.clone()));
    assert_eq!(applied("drop", &names), None);
    assert_eq!(
        applied("truncate:2", &texts(&["Jörg", "A"])),
        Some(texts(&["J", "A"])),
        "no half characters"
    );
    assert_eq!(
        applied("mask", &texts(&["to ann@example.org"])),
        Some(texts(&["to [email]"]))
    );
    let hashed = applied("hash", &names).unwrap();
    let elements: Vec<&[u8]> = BytesElements::new(&hashed.data).map(Result::unwrap).collect();
    assert!(elements[0] == elements[2] && elements[0] != elements[1] && elements[0].len() == 16);
    assert_eq!(
        read(&applied("bucket:10", &floats(&[37.5, -0.5, 40.0])).unwrap()),
        [30.0, -10.0, 40.0]
    );
    let bytes = Tensor {
        datatype: Datatype::Uint8,
        shape: Shape::from([2]),
        data: vec![37, 255].into(),
    };
    assert_eq!(applied("bucket:100", &bytes).unwrap().data[..], [0, 200]);
}

#[test]
fn noise_has_the_scale_that_was_asked_for() {
    let many = 20_000;
    let noisy = read(&applied("noise:3", &floats(&vec![5.0; many])).unwrap());
    let count = f64::from(u32::try_from(many).unwrap());
    let mean = noisy.iter().map(|number| f64::from(*number)).sum::<f64>() / count;
    let spread = noisy
        .iter()
        .map(|number| (f64::from(*number) - 5.0).abs())
        .sum::<f64>()
        / count;
    // The mean of Laplace's |x| is the scale, its standard deviation too; the variance of x is 2·scale².
    assert!((mean - 5.0).abs() < 4.0 * 3.0 * (2.0 / count).sqrt(), "{mean}");
    assert!((spread - 3.0).abs() < 4.0 * 3.0 / count.sqrt(), "{spread}");
}

#[test]
fn what_is_no_policy_is_refused() {
    for text in [
        "",
        "keep:1",
        "Keep",
        "truncate",
        "truncate:-1",
        "bucket:0",
        "bucket:x",
        "noise:inf",
        "hash:4",
    ] {
        assert!(text.parse::<FieldPolicy>().is_err(), "{text}");
    }
    for text in [
        "keep",
        "drop",
        "hash",
        "mask",
        "truncate:8",
        "bucket:0.5",
        "noise:2",
    ] {
        assert_eq!(text.parse::<FieldPolicy>().unwrap().to_string(), text);
    }
}

#[test]
fn policies_have_to_fit_the_signature() {
    let spec = |name: &str, datatype| TensorSpec::new(name, datatype, ShapeSpec::from(&[-1][..]));
    let signature = ModelSignature {
        inputs: vec![spec("name", Datatype::Bytes), spec("age", Datatype::Fp32)],
        outputs: vec![spec("score", Datatype::Fp32)],
        ..Default::default()
    };
    let policies = |pairs: &[(&str, &str)]| {
        let fields = pairs
            .iter()
            .map(|(name, policy)| ((*name).to_owned(), policy.parse().unwrap()));
        Policies::of(&fields.collect(), &signature, &pepper())
    };
    let some = policies(&[("in.name", "hash"), ("*", "bucket:5")]).unwrap();
    assert_eq!(some.inputs, [FieldPolicy::Hash, FieldPolicy::Bucket(5.0)]);
    assert!(some.hide_inputs());
    assert_eq!(
        policies(&[("*", "mask")]).unwrap().outputs,
        [FieldPolicy::Drop],
        "what cannot be masked"
    );
    assert!(!policies(&[("out.score", "drop")]).unwrap().hide_inputs());
    for (wrong, expected) in [
        (("in.nmae", "drop"), "`in.nmae`"),
        (("score", "drop"), "`score`"),
        (("in.name", "bucket:5"), "BYTES"),
        (("in.age", "hash"), "FP32"),
    ] {
        let error = policies(&[wrong]).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

proptest! {
    /// Nothing of a text is left in what is written, but for what keeps some of it.
    #[test]
    fn secrets_are_gone(secret in "[a-z]{8,20}@[a-z]{4,9}\\.org", policy in prop::sample::select(vec!["hash", "mask", "truncate:4"])) {
        let written = applied(policy, &texts(&[&format!("from {secret} today"), &secret])).unwrap();
        let found = written.data.windows(8).any(|window| window == &secret.as_bytes()[..8]);
        prop_assert!(!found);
    }
}
