use super::*;
use crate::Dim;
use bytes::Bytes;

fn signature() -> ModelSignature {
    ModelSignature {
        inputs: vec![
            TensorSpec::new("a", Datatype::Fp32, ShapeSpec::from(&[-1, 2][..])),
            TensorSpec {
                optional: true,
                ..TensorSpec::new("b", Datatype::Bytes, ShapeSpec::from(&[-1, 1][..]))
            },
            TensorSpec {
                optional: true,
                ..TensorSpec::new("c", Datatype::Bool, ShapeSpec::from(&[-1][..]))
            },
        ],
        outputs: vec![
            TensorSpec::new("y", Datatype::Fp32, ShapeSpec::from(&[-1][..])),
            TensorSpec::new("z", Datatype::Fp32, ShapeSpec::from(&[-1][..])),
        ],
        batched: true,
        max_rows: Some(4),
        ..Default::default()
    }
}

fn tensor(datatype: Datatype, shape: &[usize], data: &[u8]) -> Tensor {
    Tensor {
        datatype,
        shape: shape.into(),
        data: Bytes::copy_from_slice(data),
    }
}

#[track_caller]
fn check(tensors: Vec<(&str, Tensor)>, expected: Result<usize, &str>) {
    let got = signature()
        .check(tensors)
        .map(|(_, rows)| rows)
        .map_err(|error| error.to_string());
    assert_eq!(got, expected.map_err(str::to_owned));
}

#[test]
fn a_request_that_fits_is_put_into_model_order() {
    let b = tensor(Datatype::Bytes, &[2, 1], &[1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let a = tensor(Datatype::Fp32, &[2, 2], &[0; 16]);
    let (ordered, rows) = signature()
        .check(vec![("b", b.clone()), ("a", a.clone())])
        .unwrap();
    assert_eq!((ordered, rows), (vec![Some(a), Some(b), None], 2));
}

#[test]
fn every_mistake_is_named() {
    let a = |shape: &[usize], len| ("a", tensor(Datatype::Fp32, shape, &vec![0; len]));
    check(vec![a(&[1, 2], 8)], Ok(1));
    check(vec![a(&[0, 2], 0)], Ok(0));
    check(vec![], Err("input `a` is missing"));
    check(
        vec![a(&[1, 2], 8), a(&[1, 2], 8)],
        Err("input `a` is given twice"),
    );
    check(
        vec![("q", tensor(Datatype::Fp32, &[1], &[0; 4]))],
        Err("unexpected input `q`; the model has `a`, `b`, `c`"),
    );
    check(
        vec![("a", tensor(Datatype::Fp64, &[1, 2], &[0; 16]))],
        Err("input `a`: expected datatype FP32, got FP64"),
    );
    check(
        vec![a(&[1, 3], 12)],
        Err("input `a`: expected shape [-1,2], got [1,3]"),
    );
    check(vec![a(&[2], 8)], Err("input `a`: expected shape [-1,2], got [2]"));
    check(
        vec![a(&[1, 2], 7)],
        Err("input `a`: shape [1,2] of FP32 needs 8 bytes, got 7"),
    );
    check(
        vec![a(&[usize::MAX, 2], 8)],
        Err("input `a`: shape [18446744073709551615,2] has too many elements"),
    );
    check(
        vec![a(&[5, 2], 40)],
        Err("the request has 5 rows, but the model takes at most 4 (max_batch_size)"),
    );
    check(
        vec![a(&[1, 2], 8), ("c", tensor(Datatype::Bool, &[2], &[0, 1]))],
        Err("input `c` has 2 rows, but input `a` has 1; all inputs share dimension 0"),
    );
    check(
        vec![a(&[1, 2], 8), ("c", tensor(Datatype::Bool, &[1], &[2]))],
        Err("input `c`: element 0 of a BOOL tensor is neither 0 nor 1"),
    );
    check(
        vec![
            a(&[1, 2], 8),
            ("b", tensor(Datatype::Bytes, &[1, 1], &[9, 0, 0, 0])),
        ],
        Err("input `b`: element 0 runs past the end of the data (4 bytes left)"),
    );
}

#[test]
fn outputs_resolve_in_requested_order_once() {
    let signature = signature();
    assert_eq!(signature.resolve_outputs(None::<[&str; 0]>), Ok(vec![0, 1]));
    assert_eq!(signature.resolve_outputs(Some(["z", "y", "z"])), Ok(vec![1, 0]));
    assert!(signature.resolve_outputs(Some(["x"])).is_err());
}

#[test]
fn reshape_maps_variable_dimensions_in_order() {
    let spec = TensorSpec {
        reshape: Some(ShapeSpec(vec![Dim::Any, Dim::Fixed(2), Dim::Fixed(3), Dim::Any])),
        ..TensorSpec::new(
            "x",
            Datatype::Fp32,
            ShapeSpec(vec![Dim::Any, Dim::Any, Dim::Fixed(6)]),
        )
    };
    let client = Shape::from([4, 5, 6]);
    let model = spec.model_shape(&client).unwrap();
    assert_eq!(model, Shape::from([4, 2, 3, 5]));
    assert_eq!(spec.client_shape(&model), Some(client));
    let scalar = TensorSpec {
        reshape: Some(ShapeSpec::default()),
        ..TensorSpec::new("x", Datatype::Fp32, ShapeSpec::from(&[1][..]))
    };
    assert_eq!(scalar.model_shape(&Shape::from([1])), Some(Shape::scalar()));
    assert_eq!(scalar.client_shape(&Shape::scalar()), Some(Shape::from([1])));
}
