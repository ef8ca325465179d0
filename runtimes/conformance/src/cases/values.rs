//! What comes out of models that run.

use bytes::Bytes;
use crossfade_runtimes_core::{Datatype, Dim, OutputSlot, Outputs, Shape, Tensor};

use crate::harness::{run, run_foretold, run_slots};
use crate::onnx::{Attribute, ModelBuilder, Value, add_constant, identity, named, nonzero};
use crate::tensors::{bytes, fp32, from_eighths, int64, sample, tensor, to_f64};
use crate::{Subject, tolerance};

/// Identity gives back the bytes it got, for each datatype the runtime has; others are refused by name.
pub fn every_datatype_passes_through_unchanged(subject: &Subject<'_>) {
    for datatype in Datatype::ALL {
        let model = identity(datatype, [named("batch"), Dim::Fixed(3)]);
        if !subject.capabilities.datatypes.contains(&datatype) {
            subject.refuses(&model, datatype.wire_name());
            continue;
        }
        let loaded = subject.load(&model);
        assert_eq!(loaded.model.signature().inputs[0].datatype, datatype);
        assert_eq!(loaded.model.signature().outputs[0].datatype, datatype);
        let mut instance = loaded.instance();
        for rows in [1, 4] {
            let x = sample(datatype, [rows, 3]);
            assert_eq!(run(&mut *instance, &[&x], 1).unwrap(), [x], "{datatype}");
        }
    }
}

/// A request's tensor may begin at any byte.
pub fn unaligned_inputs_are_read_rightly(subject: &Subject<'_>) {
    for datatype in [Datatype::Fp64, Datatype::Fp32, Datatype::Int64] {
        let loaded = subject.load(&identity(datatype, [Dim::Any, Dim::Fixed(3)]));
        let mut instance = loaded.instance();
        let x = sample(datatype, [2, 3]);
        for offset in 1..8 {
            let mut padded = vec![0; offset];
            padded.extend_from_slice(&x.data);
            let shifted = tensor(datatype, [2, 3], Bytes::from(padded).slice(offset..));
            assert_eq!(
                run(&mut *instance, &[&shifted], 1).unwrap()[0],
                x,
                "{datatype} at byte {offset}"
            );
        }
    }
}

/// BYTES are bytes: nothing is cut at a NUL, nothing must be text.
pub fn strings_keep_nul_and_invalid_utf8(subject: &Subject<'_>) {
    let model = identity(Datatype::Bytes, [Dim::Any]);
    if !subject.capabilities.datatypes.contains(&Datatype::Bytes) {
        subject.refuses(&model, "BYTES");
        return;
    }
    let loaded = subject.load(&model);
    let mut instance = loaded.instance();
    let long = vec![b'x'; 10_000];
    for x in [
        bytes([4], &[b"a\0b", &[0xFF, 0xFE, 0x00], b"", "grün".as_bytes()]),
        bytes([2], &[b"", b""]),
        bytes([1], &[&long]),
        bytes([0], &[]),
    ] {
        assert_eq!(run(&mut *instance, &[&x], 1).unwrap(), [x]);
    }
}

/// Names in the model's order; fixed, named and unnamed dimensions told apart.
pub fn the_signature_tells_names_order_and_dimensions(subject: &Subject<'_>) {
    let dims = || [named("batch"), Dim::Fixed(2), Dim::Any];
    let model = ModelBuilder::new()
        .input("second name", Datatype::Fp32, dims())
        .input("a", Datatype::Int64, [])
        .output("z", Datatype::Int64, [])
        .output("b", Datatype::Fp32, dims())
        .node("Identity", ["second name"], ["b"])
        .node("Identity", ["a"], ["z"]);
    let loaded = subject.load(&model);
    let signature = loaded.model.signature();
    let names = |specs: &[crossfade_runtimes_core::TensorSpec]| -> Vec<String> {
        specs.iter().map(|spec| spec.name.to_string()).collect()
    };
    assert_eq!(names(&signature.inputs), ["second name", "a"]);
    assert_eq!(names(&signature.outputs), ["z", "b"]);
    assert_eq!(signature.inputs[0].shape.0, dims());
    assert_eq!(signature.inputs[1].shape.fixed(), Some(Shape::scalar()));
    assert_eq!(signature.inputs[1].datatype, Datatype::Int64);
    assert_eq!(signature.outputs[0].shape.fixed(), Some(Shape::scalar()));
    assert_eq!(signature.outputs[1].shape.wire(), [-1, 2, -1]);
    assert!(
        !signature.batched,
        "whether dimension 0 is a batch is for the configuration to say"
    );
}

/// `y = x + c` whether the batch has a name, none, or a size.
pub fn named_unnamed_and_fixed_batches_run_at_every_size(subject: &Subject<'_>) {
    for (batch, sizes) in [
        (named("batch"), &[1, 2, 5, 33][..]),
        (Dim::Any, &[1, 2, 5, 33]),
        (Dim::Fixed(2), &[2]),
    ] {
        let loaded = subject.load(&add_constant(batch.clone(), &[0.5, -1.0, 100.0]));
        assert_eq!(loaded.model.signature().inputs[0].shape[0], batch);
        let mut instance = loaded.instance();
        // Down again, too: nothing may be left over from a larger run.
        for &rows in sizes.iter().chain(sizes.iter().rev()) {
            let x: Vec<f32> = (0u16..).take(rows * 3).map(f32::from).collect();
            let y: Vec<f32> = x
                .iter()
                .zip([0.5, -1.0, 100.0].iter().cycle())
                .map(|(x, c)| x + c)
                .collect();
            let result = run(&mut *instance, &[&fp32([rows, 3], &x)], 1).unwrap();
            assert_eq!(result, [fp32([rows, 3], &y)], "{rows} rows");
        }
    }
}

/// No dimensions, one element.
pub fn scalars_go_in_and_out(subject: &Subject<'_>) {
    let model = ModelBuilder::new()
        .input("x", Datatype::Fp32, [])
        .output("y", Datatype::Fp32, [])
        .initializer("c", Value::fp32([], &[2.0]))
        .node("Mul", ["x", "c"], ["y"]);
    let loaded = subject.load(&model);
    let mut instance = loaded.instance();
    assert_eq!(
        run(&mut *instance, &[&fp32([], &[21.0])], 1).unwrap(),
        [fp32([], &[42.0])]
    );
    let foretold = run_foretold(&mut *instance, &[&fp32([], &[21.0])], &[Shape::scalar()]);
    assert_eq!(foretold.unwrap(), [fp32([], &[42.0])]);
}

/// A dimension of size 0 is a size like others.
pub fn tensors_without_elements_go_in_and_out(subject: &Subject<'_>) {
    let loaded = subject.load(&add_constant(named("batch"), &[1.0, 2.0, 3.0]));
    let mut instance = loaded.instance();
    let empty = fp32([0, 3], &[]);
    let result = run(&mut *instance, &[&empty], 1);
    if !subject.capabilities.empty_tensors {
        assert!(result.is_err(), "the runtime says that it has no empty tensors");
        return;
    }
    assert_eq!(result.unwrap()[0], empty);
    let foretold = run_foretold(&mut *instance, &[&empty], &[Shape::from([0, 3])]);
    assert_eq!(foretold.unwrap(), [empty]);
    let after = run(&mut *instance, &[&fp32([1, 3], &[0.0; 3])], 1);
    assert_eq!(after.unwrap(), [fp32([1, 3], &[1.0, 2.0, 3.0])]);
}

/// NonZero: how many there are is known only afterwards.
pub fn shapes_known_only_after_the_run_are_returned(subject: &Subject<'_>) {
    if !subject.capabilities.shapes_from_values {
        subject.refuses(&nonzero(), "NonZero");
        return;
    }
    let loaded = subject.load(&nonzero());
    let mut instance = loaded.instance();
    let x = fp32([2, 3], &[0.0, 1.0, 0.0, 2.0, 0.0, 3.0]);
    assert_eq!(
        run(&mut *instance, &[&x], 1).unwrap(),
        [int64([2, 3], &[0, 1, 1, 1, 0, 2])]
    );
    let none = run(&mut *instance, &[&fp32([1, 3], &[0.0; 3])], 1).unwrap();
    assert_eq!(none, [int64([2, 0], &[])]);
}

/// Positions, not names, tie tensors to inputs and outputs.
pub fn inputs_and_outputs_keep_the_order_of_the_model(subject: &Subject<'_>) {
    let loaded = subject.load(&two_by_two());
    let mut instance = loaded.instance();
    let result = run(
        &mut *instance,
        &[&fp32([2], &[10.0, 20.0]), &fp32([2], &[1.0, 2.0])],
        2,
    )
    .unwrap();
    assert_eq!(result, [fp32([2], &[9.0, 18.0]), fp32([2], &[11.0, 22.0])]);
}

/// Only what is wanted is set, in any combination.
pub fn unwanted_outputs_are_left_out(subject: &Subject<'_>) {
    let loaded = subject.load(&two_by_two());
    let mut instance = loaded.instance();
    let inputs = [fp32([2], &[10.0, 20.0]), fp32([2], &[1.0, 2.0])];
    let (difference, sum) = (fp32([2], &[9.0, 18.0]), fp32([2], &[11.0, 22.0]));
    for (first, second) in [(true, false), (false, true), (false, false)] {
        let slots = vec![OutputSlot::new(first, None), OutputSlot::new(second, None)];
        let result = run_slots(&mut *instance, &inputs.each_ref(), Outputs::new(slots)).unwrap();
        let expected = [first.then(|| difference.clone()), second.then(|| sum.clone())];
        assert_eq!(result, expected);
    }
}

/// A model may be a constant.
pub fn models_without_inputs_run(subject: &Subject<'_>) {
    let value = Attribute::Tensor(Value::fp32([3], &[1.0, 2.0, 3.0]));
    let model = ModelBuilder::new()
        .output("y", Datatype::Fp32, [Dim::Fixed(3)])
        .node_with("Constant", [], ["y"], [("value", value)]);
    let loaded = subject.load(&model);
    assert!(loaded.model.signature().inputs.is_empty());
    let mut instance = loaded.instance();
    let expected = [fp32([3], &[1.0, 2.0, 3.0])];
    for _ in 0..2 {
        assert_eq!(run(&mut *instance, &[], 1).unwrap(), expected);
        assert_eq!(
            run_foretold(&mut *instance, &[], &[Shape::from([3])]).unwrap(),
            expected
        );
    }
}

/// Writing into the caller's memory changes no value, also where an output is an input passed on.
pub fn foretold_and_unknown_output_shapes_give_the_same_values(subject: &Subject<'_>) {
    let model = ModelBuilder::new()
        .input("x", Datatype::Fp32, [named("rows"), Dim::Fixed(2)])
        .output("same", Datatype::Fp32, [named("rows"), Dim::Fixed(2)])
        .output("double", Datatype::Fp32, [named("rows"), Dim::Fixed(2)])
        .output("half", Datatype::Fp32, [Dim::Fixed(1)])
        .initializer("two", Value::fp32([], &[2.0]))
        .initializer("half", Value::fp32([1], &[0.5]))
        .node("Identity", ["x"], ["same"])
        .node("Mul", ["x", "two"], ["double"]);
    let loaded = subject.load(&model);
    let mut instance = loaded.instance();
    for rows in [1, 3] {
        let x = sample(Datatype::Fp32, [rows, 2]);
        let unknown = run(&mut *instance, &[&x], 3).unwrap();
        let shapes = [Shape::from([rows, 2]), Shape::from([rows, 2]), Shape::from([1])];
        let foretold = run_foretold(&mut *instance, &[&x], &shapes).unwrap();
        assert_eq!(unknown, foretold);
        assert_eq!(foretold[0], x);
        assert_eq!(foretold[2], fp32([1], &[0.5]));
    }
}

/// A matrix product with 16 terms per sum, against the exact result.
pub fn sums_are_within_the_stated_tolerance(subject: &Subject<'_>) {
    for datatype in [Datatype::Fp16, Datatype::Fp32, Datatype::Fp64] {
        let (model, weights) = product(datatype);
        if !subject.capabilities.arithmetic.contains(&datatype) {
            subject.refuses(&model, datatype.wire_name());
            continue;
        }
        let loaded = subject.load(&model);
        let mut instance = loaded.instance();
        let rows: Vec<i32> = (0..5 * 16).map(|k| k % 7 - 3).collect();
        let result = run(&mut *instance, &[&eighths(datatype, [5, 16], &rows)], 1).unwrap();
        assert_eq!(result[0].shape, Shape::from([5, 4]));
        let (absolute, relative) = tolerance(datatype);
        for (at, got) in to_f64(&result[0]).into_iter().enumerate() {
            let (row, column) = (at / 4, at % 4);
            let terms = (0..16).map(|k| f64::from(rows[row * 16 + k] * weights[k * 4 + column]));
            let exact = terms.sum::<f64>() / 64.0;
            let allowed = absolute + relative * exact.abs();
            assert!(
                (got - exact).abs() <= allowed,
                "{datatype}: {got} is not {exact} ± {allowed}"
            );
        }
    }
}

/// What batching relies on: a row's result does not depend on its neighbours.
pub fn merged_rows_equal_rows_alone(subject: &Subject<'_>) {
    let (model, _) = product(Datatype::Fp32);
    let loaded = subject.load(&model);
    let mut instance = loaded.instance();
    let rows: Vec<i32> = (0..8 * 16).map(|k| k % 11 - 5).collect();
    let merged = run(&mut *instance, &[&eighths(Datatype::Fp32, [8, 16], &rows)], 1).unwrap();
    let (absolute, relative) = tolerance(Datatype::Fp32);
    for (row, merged) in rows.chunks(16).zip(to_f64(&merged[0]).chunks(4)) {
        let alone = run(&mut *instance, &[&eighths(Datatype::Fp32, [1, 16], row)], 1).unwrap();
        for (alone, merged) in to_f64(&alone[0]).iter().zip(merged) {
            assert!((alone - merged).abs() <= absolute + relative * alone.abs());
        }
    }
}

/// Instances share weights, not scratch: four threads at once get what one gets.
pub fn instances_run_in_parallel_with_identical_results(subject: &Subject<'_>) {
    let (model, _) = product(Datatype::Fp32);
    let loaded = subject.load(&model);
    let input = |seed: i32| {
        let rows: Vec<i32> = (0..6 * 16).map(|k| (k * seed) % 13 - 6).collect();
        eighths(Datatype::Fp32, [6, 16], &rows)
    };
    let mut instance = loaded.instance();
    let alone: Vec<Vec<Tensor>> = (0..4)
        .map(|seed| run(&mut *instance, &[&input(seed)], 1).unwrap())
        .collect();
    std::thread::scope(|scope| {
        for (seed, expected) in (0..4).zip(&alone) {
            let mut instance = loaded.instance();
            let x = input(seed);
            scope.spawn(move || {
                for _ in 0..50 {
                    assert_eq!(&run(&mut *instance, &[&x], 1).unwrap(), expected);
                }
            });
        }
    });
}

/// Two inputs and two outputs, named against the alphabet.
fn two_by_two() -> ModelBuilder {
    ModelBuilder::new()
        .input("y", Datatype::Fp32, [Dim::Fixed(2)])
        .input("x", Datatype::Fp32, [Dim::Fixed(2)])
        .output("difference", Datatype::Fp32, [Dim::Fixed(2)])
        .output("a sum", Datatype::Fp32, [Dim::Fixed(2)])
        .node("Add", ["x", "y"], ["a sum"])
        .node("Sub", ["y", "x"], ["difference"])
}

/// `y[rows, 4] = x[rows, 16] · w`, and `w` in eighths.
fn product(datatype: Datatype) -> (ModelBuilder, Vec<i32>) {
    let weights: Vec<i32> = (0..64).map(|k| k * 5 % 17 - 8).collect();
    let model = ModelBuilder::new()
        .input("x", datatype, [named("rows"), Dim::Fixed(16)])
        .output("y", datatype, [named("rows"), Dim::Fixed(4)])
        .initializer("w", Value::new(eighths(datatype, [16, 4], &weights)))
        .node("MatMul", ["x", "w"], ["y"]);
    (model, weights)
}

fn eighths(datatype: Datatype, shape: impl Into<Shape>, values: &[i32]) -> Tensor {
    let data: Vec<u8> = values
        .iter()
        .flat_map(|&value| from_eighths(datatype, value))
        .collect();
    tensor(datatype, shape, data)
}
