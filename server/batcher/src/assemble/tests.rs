//! Gather and scatter, from single cases to the round trip of any batch.

use bytes::Bytes;
use crossfade_runtimes_core::{AlignedBuffer, Datatype, push_element};
use proptest::prelude::*;

use super::*;

fn spec(name: &str, datatype: Datatype, dims: &[i64]) -> TensorSpec {
    TensorSpec::new(name, datatype, ShapeSpec::from(dims))
}

fn batched(inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> ModelSignature {
    ModelSignature {
        inputs,
        outputs,
        batched: true,
        ..ModelSignature::default()
    }
}

fn bytes_tensor(shape: impl Into<Shape>, elements: &[&str]) -> Tensor {
    let mut data = Vec::new();
    elements
        .iter()
        .for_each(|element| push_element(&mut data, element.as_bytes()));
    Tensor {
        datatype: Datatype::Bytes,
        shape: shape.into(),
        data: data.into(),
    }
}

fn uint8(shape: impl Into<Shape>, data: &[u8]) -> Tensor {
    Tensor {
        datatype: Datatype::Uint8,
        shape: shape.into(),
        data: Bytes::copy_from_slice(data),
    }
}

fn member<'a>(inputs: &'a [Option<Tensor>], outputs: &'a [usize]) -> Member<'a> {
    let rows = inputs
        .iter()
        .flatten()
        .next()
        .map_or(1, |tensor| tensor.shape.rows());
    Member {
        inputs,
        outputs,
        rows,
    }
}

fn filled_up(name: &str, datatype: Datatype, dims: &[i64], fill: i64) -> TensorSpec {
    TensorSpec {
        padding: Some(crossfade_runtimes_core::Padding { dim: 1, fill }),
        ..spec(name, datatype, dims)
    }
}

#[test]
fn shorter_rows_are_filled_up_and_their_outputs_cut() {
    let signature = batched(
        vec![filled_up("ids", Datatype::Int16, &[-1, -1], -2)],
        vec![
            filled_up("each", Datatype::Uint8, &[-1, -1, 2], 0),
            spec("all", Datatype::Uint8, &[-1, 1]),
        ],
    );
    let int16 = |shape: [usize; 2], values: &[i16]| Tensor {
        datatype: Datatype::Int16,
        shape: shape.into(),
        data: values
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect::<Vec<u8>>()
            .into(),
    };
    let first = [Some(int16([2, 1], &[7, 8]))];
    let second = [Some(int16([1, 3], &[1, 2, 3]))];
    let members = [member(&first, &[0, 1]), member(&second, &[0])];
    let mut gather = Gather::new(&signature);
    gather.gather(&signature, &members, 3).unwrap();
    let views = gather.views(&signature);
    let view = views[0].unwrap();
    assert_eq!(view.shape, [3, 3]);
    assert_eq!(view.data, &*int16([3, 3], &[7, -2, -2, 8, -2, -2, 1, 2, 3]).data);

    let computed = |length: usize, data: &[u8]| {
        let mut outputs = expect_outputs(&signature, &members, 3);
        outputs.put(
            0,
            Datatype::Uint8,
            [3, length, 2].into(),
            Bytes::copy_from_slice(data),
        );
        outputs.put(1, Datatype::Uint8, [3, 1].into(), Bytes::from_static(&[1, 2, 3]));
        scatter(&signature, outputs, &members, 3)
    };
    let answers = computed(3, &(0..18).collect::<Vec<u8>>()).unwrap();
    assert_eq!(
        answers[0],
        [uint8([2, 1, 2], &[0, 1, 6, 7]), uint8([2, 1], &[1, 2])]
    );
    assert_eq!(answers[1], [uint8([1, 3, 2], &[12, 13, 14, 15, 16, 17])]);
    let wrong = computed(2, &[0; 12]).unwrap_err().to_string();
    assert!(
        wrong.contains("`each`") && wrong.contains("for inputs of 3"),
        "{wrong}"
    );
}

#[test]
fn one_aligned_request_is_not_copied() {
    let signature = batched(vec![spec("x", Datatype::Uint8, &[-1, 2])], vec![]);
    let data = Bytes::from_owner(AlignedBuffer::from(&[0u8, 1, 2, 3, 4][..]));
    let tensor = |data: Bytes| Tensor {
        datatype: Datatype::Uint8,
        shape: Shape::from([2, 2]),
        data,
    };
    let mut gather = Gather::new(&signature);
    let aligned = [Some(tensor(data.slice(..4)))];
    gather.gather(&signature, &[member(&aligned, &[])], 2).unwrap();
    assert_eq!(gather.views(&signature)[0].unwrap().data.as_ptr(), data.as_ptr());

    let unaligned = [Some(tensor(data.slice(1..)))];
    gather.gather(&signature, &[member(&unaligned, &[])], 2).unwrap();
    let views = gather.views(&signature);
    assert_eq!(views[0].unwrap().data, [1, 2, 3, 4]);
    assert_eq!(views[0].unwrap().data.as_ptr().addr() % 64, 0);
}

#[test]
fn a_smaller_batch_after_a_larger_one_has_only_its_own_bytes() {
    let signature = batched(vec![spec("x", Datatype::Uint8, &[-1])], vec![]);
    let mut gather = Gather::new(&signature);
    for rows in [3usize, 1, 2] {
        let requests: Vec<_> = (0..2).map(|k| [Some(uint8([rows], &vec![k; rows]))]).collect();
        let members: Vec<_> = requests.iter().map(|inputs| member(inputs, &[])).collect();
        gather.gather(&signature, &members, 2 * rows).unwrap();
        let view = gather.views(&signature)[0].unwrap();
        assert_eq!(view.shape, [2 * rows]);
        assert_eq!(view.data, [vec![0; rows], vec![1; rows]].concat());
    }
}

#[test]
fn an_input_that_was_left_out_is_absent() {
    let signature = batched(
        vec![
            spec("x", Datatype::Uint8, &[-1]),
            spec("note", Datatype::Bytes, &[-1]),
        ],
        vec![],
    );
    let inputs = [Some(uint8([1], &[7])), None];
    let mut gather = Gather::new(&signature);
    gather
        .gather(&signature, &[member(&inputs, &[]), member(&inputs, &[])], 2)
        .unwrap();
    let views = gather.views(&signature);
    assert_eq!(views[0].unwrap().data, [7, 7]);
    assert!(views[1].is_none());
}

#[test]
fn reshape_is_applied_on_the_way_in_and_out() {
    let mut input = spec("x", Datatype::Uint8, &[-1, 1]);
    input.reshape = Some(ShapeSpec::from(&[-1][..]));
    let mut output = spec("y", Datatype::Uint8, &[-1, 2, 1]);
    output.reshape = Some(ShapeSpec::from(&[-1, 2][..]));
    let signature = batched(vec![input], vec![output]);
    let requests = [[Some(uint8([1, 1], &[1]))], [Some(uint8([2, 1], &[2, 3]))]];
    let members: Vec<_> = requests.iter().map(|inputs| member(inputs, &[0])).collect();
    let mut gather = Gather::new(&signature);
    gather.gather(&signature, &members, 3).unwrap();
    assert_eq!(gather.views(&signature)[0].unwrap().shape, [3]);

    let mut outputs = expect_outputs(&signature, &members, 3);
    assert_eq!(outputs.expected(0), Some(&Shape::from([3, 2])));
    outputs
        .buffer(0, Datatype::Uint8, Shape::from([3, 2]))
        .copy_from_slice(&[1, 1, 2, 2, 3, 3]);
    let answers = scatter(&signature, outputs, &members, 3).unwrap();
    assert_eq!(answers[0], [uint8([1, 2, 1], &[1, 1])]);
    assert_eq!(answers[1], [uint8([2, 2, 1], &[2, 2, 3, 3])]);
}

#[test]
fn expected_shapes_are_told_where_they_are_fixed() {
    let outputs = vec![
        spec("fixed", Datatype::Fp32, &[-1, 3]),
        spec("open", Datatype::Fp32, &[-1, -1]),
        spec("unwanted", Datatype::Fp32, &[-1]),
    ];
    let mut signature = batched(vec![], outputs);
    let members = [Member {
        inputs: &[],
        outputs: &[0, 1],
        rows: 5,
    }];
    let slots = expect_outputs(&signature, &members, 5);
    assert_eq!(slots.expected(0), Some(&Shape::from([5, 3])));
    assert_eq!(slots.expected(1), None);
    assert!(slots.wanted(1) && !slots.wanted(2));

    signature.batched = false;
    signature.outputs = vec![
        spec("fixed", Datatype::Fp32, &[2, 3]),
        spec("open", Datatype::Fp32, &[-1, 3]),
        spec("scalar", Datatype::Fp32, &[]),
    ];
    let slots = expect_outputs(&signature, &members, 1);
    assert_eq!(slots.expected(0), Some(&Shape::from([2, 3])));
    assert_eq!(slots.expected(1), None);
    assert_eq!(slots.expected(2), Some(&Shape::scalar()));
}

#[test]
fn each_member_gets_its_own_outputs_in_its_own_order() {
    let outputs = vec![
        spec("a", Datatype::Uint8, &[-1]),
        spec("b", Datatype::Uint8, &[-1]),
    ];
    let signature = batched(vec![spec("x", Datatype::Uint8, &[-1])], outputs);
    let inputs = [Some(uint8([1], &[0]))];
    let members = [member(&inputs, &[1, 0]), member(&inputs, &[1])];
    let mut outputs = expect_outputs(&signature, &members, 2);
    outputs.put(0, Datatype::Uint8, Shape::from([2]), Bytes::from_static(&[1, 2]));
    outputs.put(1, Datatype::Uint8, Shape::from([2]), Bytes::from_static(&[3, 4]));
    let answers = scatter(&signature, outputs, &members, 2).unwrap();
    assert_eq!(answers[0], [uint8([1], &[3]), uint8([1], &[1])]);
    assert_eq!(answers[1], [uint8([1], &[4])]);
}

/// Scatters one output, declared `BYTES or UINT8 [-1,2]`, over two members of one row each.
#[track_caller]
fn check_wrong(datatype: Datatype, put: impl FnOnce(&mut Outputs), reason: &str) {
    let signature = batched(
        vec![spec("x", Datatype::Uint8, &[-1])],
        vec![spec("y", datatype, &[-1, 2])],
    );
    let inputs = [Some(uint8([1], &[0]))];
    let members = [member(&inputs, &[0]), member(&inputs, &[0])];
    let mut outputs = expect_outputs(&signature, &members, 2);
    put(&mut outputs);
    let error = scatter(&signature, outputs, &members, 2).expect_err("the output is wrong");
    assert!(matches!(error, RuntimeError::Output { .. }), "{error}");
    assert!(error.to_string().contains(reason), "{error}");
}

#[test]
fn an_output_unlike_its_signature_fails_every_member() {
    use Datatype::{Bytes as Text, Int8, Uint8};
    let data = Bytes::from_static;
    check_wrong(Uint8, |_| {}, "computed nothing");
    check_wrong(
        Uint8,
        |out| out.put(0, Int8, [2, 2].into(), data(&[0; 4])),
        "INT8",
    );
    check_wrong(
        Uint8,
        |out| out.put(0, Uint8, [2, 3].into(), data(&[0; 6])),
        "[2,3]",
    );
    check_wrong(Uint8, |out| out.put(0, Uint8, [2].into(), data(&[0; 2])), "[2]");
    check_wrong(
        Uint8,
        |out| out.put(0, Uint8, [3, 2].into(), data(&[0; 6])),
        "for 2 rows",
    );
    check_wrong(
        Uint8,
        |out| out.put(0, Uint8, [2, 2].into(), data(&[0; 5])),
        "in 5 bytes",
    );
    check_wrong(
        Text,
        |out| out.put(0, Text, [2, 2].into(), data(&[0; 12])),
        "too few",
    );
    check_wrong(
        Text,
        |out| out.put(0, Text, [2, 2].into(), data(&[0; 20])),
        "more elements",
    );
    check_wrong(
        Text,
        |out| out.put(0, Text, [2, 2].into(), data(&[9; 5])),
        "past the end",
    );
}

#[test]
fn a_single_request_may_get_an_output_of_any_rows() {
    let mut signature = batched(vec![], vec![spec("y", Datatype::Bytes, &[-1])]);
    signature.batched = false;
    let members = [Member {
        inputs: &[],
        outputs: &[0],
        rows: 1,
    }];
    let expected = bytes_tensor([3], &["", "a", "bc"]);
    let mut outputs = expect_outputs(&signature, &members, 1);
    outputs.put(0, Datatype::Bytes, Shape::from([3]), expected.data.clone());
    assert_eq!(scatter(&signature, outputs, &members, 1).unwrap(), [[expected]]);
}

proptest! {
    /// Whatever goes in comes back to its own request, through one batch.
    #[test]
    fn an_identity_batch_gives_every_request_its_own(
        requests in prop::collection::vec(prop::collection::vec(("[a-z]{0,5}", any::<[u16; 3]>()), 1..4), 1..6),
    ) {
        let specs = || vec![spec("text", Datatype::Bytes, &[-1]), spec("numbers", Datatype::Uint16, &[-1, 3])];
        let signature = batched(specs(), specs());
        let inputs: Vec<[Option<Tensor>; 2]> = requests
            .iter()
            .map(|rows| {
                let texts: Vec<&str> = rows.iter().map(|(text, _)| text.as_str()).collect();
                let numbers = Tensor {
                    datatype: Datatype::Uint16,
                    shape: Shape::from([rows.len(), 3]),
                    data: rows.iter().flat_map(|(_, numbers)| numbers.map(u16::to_le_bytes)).flatten().collect(),
                };
                [Some(bytes_tensor([rows.len()], &texts)), Some(numbers)]
            })
            .collect();
        let members: Vec<_> = inputs.iter().map(|inputs| member(inputs, &[0, 1])).collect();
        let rows = requests.iter().map(Vec::len).sum();
        let mut gather = Gather::new(&signature);
        gather.gather(&signature, &members, rows).unwrap();
        let mut outputs = expect_outputs(&signature, &members, rows);
        for (index, view) in gather.views(&signature).into_iter().enumerate() {
            let view = view.unwrap();
            prop_assert_eq!(view.shape[0], rows);
            outputs.put(index, view.datatype, Shape::from(view.shape), Bytes::copy_from_slice(view.data));
        }
        let answers = scatter(&signature, outputs, &members, rows).unwrap();
        for (answer, inputs) in answers.into_iter().zip(inputs) {
            prop_assert_eq!(answer.into_iter().map(Some).collect::<Vec<_>>(), inputs.to_vec());
        }
    }
}
