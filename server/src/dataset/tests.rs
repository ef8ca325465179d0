use std::sync::Arc;

use arrow_array::builder::{Float32Builder, ListBuilder};
use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray,
    UInt8Array,
};
use bytes::Bytes;
use crossfade_runtimes_core::{Datatype, Dim, Shape, ShapeSpec, TensorSpec};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;

use super::*;

/// A Parquet file of these columns.
fn parquet(columns: Vec<(&str, ArrayRef)>, compression: Compression) -> Bytes {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_max_row_group_row_count(Some(50))
        .build();
    let mut file = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    file.into()
}

fn lists(rows: &[Vec<f32>]) -> ArrayRef {
    let mut builder = ListBuilder::new(Float32Builder::new());
    for row in rows {
        builder.append_value(row.iter().copied().map(Some));
    }
    Arc::new(builder.finish())
}

fn spec(name: &str, datatype: Datatype, dims: &[i64]) -> TensorSpec {
    TensorSpec::new(name, datatype, ShapeSpec::from(dims))
}

fn signature(inputs: Vec<TensorSpec>) -> ModelSignature {
    ModelSignature {
        outputs: inputs
            .iter()
            .map(|spec| TensorSpec {
                name: "y".into(),
                ..spec.clone()
            })
            .collect(),
        inputs,
        batched: true,
        max_rows: None,
        ..Default::default()
    }
}

fn read(file: Bytes, signature: &ModelSignature, want: Want) -> Result<Vec<Case>, String> {
    let reading = Reading {
        signature,
        version: 1,
        want,
    };
    let table = Table::open(Path::new("val.parquet"), file, reading).map_err(|error| error.to_string())?;
    table
        .map(|case| case.map_err(|error| error.to_string()))
        .collect()
}

fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor {
        datatype: Datatype::Fp32,
        shape: Shape::from(shape),
        data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

#[test]
fn a_row_is_a_request_of_one_row() {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(StringArray::from(vec!["a", "b"]))),
        ("in.x", lists(&[vec![1.0, 2.0], vec![3.0, 4.0]])),
        ("out.y", lists(&[vec![5.0, 6.0], vec![7.0, 8.0]])),
        ("label", Arc::new(Int64Array::from(vec![1, 0]))),
    ];
    let signature = signature(vec![spec("x", Datatype::Fp32, &[-1, 2])]);
    let file = parquet(columns, Compression::SNAPPY);
    let cases = read(file.clone(), &signature, Want::Outputs).unwrap();
    assert_eq!(cases.len(), 2);
    let expected = Case {
        name: "row 2".into(),
        inputs: vec![("x".into(), floats(&[1, 2], &[3.0, 4.0]))],
        outputs: vec![("y".into(), floats(&[1, 2], &[7.0, 8.0]))],
        labels: vec![],
    };
    assert_eq!(cases[1], expected);
    let cases = read(file, &signature, Want::Labels).unwrap();
    assert_eq!(
        (&cases[0].labels, cases[0].outputs.len()),
        (&vec![Label::Integer(1)], 0)
    );
}

#[test]
fn scalars_texts_and_flat_lists_fit_their_shapes() {
    let check = |column: ArrayRef, spec: TensorSpec, shape: &[usize], bytes: &[u8]| {
        let signature = signature(vec![spec]);
        let file = parquet(vec![("in.x", column)], Compression::ZSTD(ZstdLevel::default()));
        let cases = read(file, &signature, Want::Inputs).unwrap();
        let tensor = &cases[0].inputs[0].1;
        assert_eq!((&tensor.shape[..], &tensor.data[..]), (shape, bytes));
    };
    let one = 1.0_f32.to_le_bytes();
    check(
        Arc::new(Float32Array::from(vec![1.0])),
        spec("x", Datatype::Fp32, &[-1]),
        &[1],
        &one,
    );
    check(
        Arc::new(Float32Array::from(vec![1.0])),
        spec("x", Datatype::Fp32, &[-1, 1]),
        &[1, 1],
        &one,
    );
    check(
        Arc::new(Float64Array::from(vec![1.0])),
        spec("x", Datatype::Fp32, &[-1]),
        &[1],
        &one,
    );
    check(
        Arc::new(UInt8Array::from(vec![7])),
        spec("x", Datatype::Int64, &[-1]),
        &[1],
        &7_i64.to_le_bytes(),
    );
    check(
        Arc::new(BooleanArray::from(vec![true])),
        spec("x", Datatype::Bool, &[-1]),
        &[1],
        &[1],
    );
    let text = b"\x02\0\0\0hi";
    check(
        Arc::new(StringArray::from(vec!["hi"])),
        spec("x", Datatype::Bytes, &[-1, 1]),
        &[1, 1],
        text,
    );
    let four: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let flat = || lists(&[vec![1.0, 2.0, 3.0, 4.0]]);
    check(flat(), spec("x", Datatype::Fp32, &[-1, 2, 2]), &[1, 2, 2], &four);
    check(flat(), spec("x", Datatype::Fp32, &[-1, -1, 2]), &[1, 2, 2], &four);
    check(flat(), spec("x", Datatype::Fp32, &[-1, -1]), &[1, 4], &four);
}

#[test]
fn lists_of_lists_are_two_dimensions() {
    let mut builder = ListBuilder::new(ListBuilder::new(Float32Builder::new()));
    for row in [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]] {
        for list in row {
            builder.values().append_value(list.map(Some));
        }
        builder.append(true);
    }
    let signature = signature(vec![spec("x", Datatype::Fp32, &[-1, -1, -1])]);
    let file = parquet(
        vec![("in.x", Arc::new(builder.finish()))],
        Compression::UNCOMPRESSED,
    );
    let cases = read(file, &signature, Want::Inputs).unwrap();
    assert_eq!(cases[1].inputs[0].1, floats(&[1, 2, 2], &[5.0, 6.0, 7.0, 8.0]));
}

/// Optional inputs may be left out row by row.
#[test]
fn a_null_is_left_out_where_the_input_is_optional() {
    let mut optional = spec("x", Datatype::Fp32, &[-1]);
    optional.optional = true;
    let file = parquet(
        vec![("in.x", Arc::new(Float32Array::from(vec![Some(1.0), None])))],
        Compression::SNAPPY,
    );
    let cases = read(file, &signature(vec![optional]), Want::Inputs).unwrap();
    assert_eq!((cases[0].inputs.len(), cases[1].inputs.len()), (1, 0));
}

#[test]
fn what_is_wrong_is_named_by_file_column_and_row() {
    let float = || spec("x", Datatype::Fp32, &[-1, 2]);
    let check = |columns: Vec<(&str, ArrayRef)>, spec: TensorSpec, want: Want, expected: &str| {
        let file = parquet(columns, Compression::SNAPPY);
        let error = read(file, &signature(vec![spec]), want).unwrap_err();
        assert!(
            error.starts_with("`val.parquet`") && error.contains(expected),
            "{error}"
        );
    };
    let good = || ("in.x", lists(&[vec![1.0, 2.0]]));
    check(
        vec![("in.z", lists(&[vec![1.0]]))],
        float(),
        Want::Inputs,
        "column `in.z`: the model has no input `z`",
    );
    check(
        vec![("x", lists(&[vec![1.0]]))],
        float(),
        Want::Inputs,
        "column `in.x`: it is missing",
    );
    check(
        vec![good()],
        float(),
        Want::Labels,
        "column `label`: it is missing",
    );
    check(
        vec![good()],
        float(),
        Want::Outputs,
        "column `out.*`: there is none",
    );
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
    check(
        vec![("in.x", texts)],
        float(),
        Want::Inputs,
        "column `in.x`: expected FP32, got Utf8",
    );
    let dates: ArrayRef = Arc::new(Date32Array::from(vec![1]));
    check(
        vec![good(), ("label", dates)],
        float(),
        Want::Labels,
        "column `label`: expected integers",
    );
    let short = lists(&[vec![1.0, 2.0], vec![1.0]]);
    let problem = "column `in.x`, row 2: expected shape [-1,2] for one row, got [1]";
    check(vec![("in.x", short)], float(), Want::Inputs, problem);
    let null: ArrayRef = Arc::new(Float32Array::from(vec![Some(1.0), None]));
    let scalar = spec("x", Datatype::Fp32, &[-1]);
    check(
        vec![("in.x", null)],
        scalar,
        Want::Inputs,
        "column `in.x`, row 2: expected a value, got null",
    );
    let large: ArrayRef = Arc::new(Int64Array::from(vec![1, 300]));
    let byte = spec("x", Datatype::Uint8, &[-1]);
    check(
        vec![("in.x", large)],
        byte,
        Want::Inputs,
        "column `in.x`, row 2: 300 is no UINT8",
    );
    let no_file = read(
        Bytes::from_static(b"a,b\n1,2\n"),
        &signature(vec![float()]),
        Want::Inputs,
    );
    assert!(no_file.unwrap_err().contains("it cannot be read as Parquet"));
}

#[test]
fn a_folder_of_pairs_has_names_and_labels() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let inputs = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[2,1],"data":[1,2]}]}"#;
    write("a.request.json", inputs);
    write("a.labels.json", r#"["cat", 3]"#);
    let signature = signature(vec![spec("x", Datatype::Fp32, &[-1, 1])]);
    let cases = |want| {
        let reading = Reading {
            signature: &signature,
            version: 1,
            want,
        };
        let cases = open(folder.path(), reading).map_err(|error| error.to_string())?;
        cases
            .map(|case| case.map_err(|error| error.to_string()))
            .collect::<Result<Vec<Case>, String>>()
    };
    let labelled = cases(Want::Labels).unwrap();
    assert_eq!(labelled[0].name, "a.request.json");
    assert_eq!(labelled[0].labels, [Label::Text("cat".into()), Label::Integer(3)]);
    assert!(cases(Want::Outputs).unwrap_err().contains("its answer"));
    write("a.labels.json", "[1, null]");
    let error = cases(Want::Labels).unwrap_err();
    assert!(
        error.contains("a.labels.json") && error.contains("row 2"),
        "{error}"
    );
    let missing = Reading {
        signature: &signature,
        version: 1,
        want: Want::Inputs,
    };
    assert!(open(&folder.path().join("none"), missing).is_err());
}

/// A spec whose dimensions after the first are these.
fn dims_of(dims: &[usize]) -> ShapeSpec {
    ShapeSpec(
        std::iter::once(Dim::Any)
            .chain(dims.iter().map(|size| Dim::Fixed(*size)))
            .collect(),
    )
}

/// Files of the fuzz target `parquet`: whole, compressed in each way, and without what it needs.
#[test]
#[ignore = "writes the corpus; run it when the reader's columns change"]
fn the_corpus_of_the_fuzz_target_is_written() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/parquet");
    std::fs::create_dir_all(folder).unwrap();
    let write = |name: &str, columns, compression| {
        std::fs::write(format!("{folder}/{name}"), parquet(columns, compression)).unwrap();
    };
    let columns = || -> Vec<(&str, ArrayRef)> {
        vec![
            ("in.x", lists(&[vec![1.0, 2.0], vec![3.0, 4.0]])),
            ("in.t", Arc::new(StringArray::from(vec!["a", "bc"]))),
            ("label", Arc::new(Int64Array::from(vec![0, 1]))),
        ]
    };
    write("plain", columns(), Compression::UNCOMPRESSED);
    write("snappy", columns(), Compression::SNAPPY);
    write("zstd", columns(), Compression::ZSTD(ZstdLevel::default()));
    write(
        "short",
        vec![("in.x", lists(&[vec![1.0]]))],
        Compression::UNCOMPRESSED,
    );
    let nulls: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
    let mut with_null = columns();
    with_null[1].1 = nulls;
    write("null", with_null, Compression::SNAPPY);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What was written is read, over several row groups and batches.
    #[test]
    fn what_was_written_is_read(
        (width, rows) in (1_usize..5).prop_flat_map(|width| {
            let row = proptest::collection::vec(-1e6_f32..1e6, width);
            (Just(width), proptest::collection::vec((row, any::<i64>(), "[a-z]{0,5}", any::<bool>()), 0..150))
        })
    ) {
        let values: Vec<Vec<f32>> = rows.iter().map(|row| row.0.clone()).collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("label", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)))),
            ("in.t", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.2)))),
            ("in.x", lists(&values)),
            ("in.b", Arc::new(BooleanArray::from_iter(rows.iter().map(|row| Some(row.3))))),
        ];
        let mut x = spec("x", Datatype::Fp32, &[-1]);
        x.shape = dims_of(&[width]);
        let inputs = vec![x, spec("t", Datatype::Bytes, &[-1]), spec("b", Datatype::Bool, &[-1])];
        let signature = signature(inputs);
        let cases = read(parquet(columns, Compression::SNAPPY), &signature, Want::Labels).unwrap();
        prop_assert_eq!(cases.len(), rows.len());
        for (case, (values, label, text, yes)) in cases.iter().zip(&rows) {
            prop_assert_eq!(&case.labels, &[Label::Integer(*label)]);
            let tensor = |name: &str| &case.inputs.iter().find(|input| input.0 == name).unwrap().1;
            prop_assert_eq!(tensor("x"), &floats(&[1, width], values));
            let length = u32::try_from(text.len()).unwrap().to_le_bytes();
            prop_assert_eq!(&tensor("t").data[..], &[&length[..], text.as_bytes()].concat()[..]);
            prop_assert_eq!(&tensor("b").data[..], &[u8::from(*yes)][..]);
            prop_assert!(signature.check(case.inputs.clone()).is_ok());
        }
    }

    /// A file with a byte changed, or cut off, is read or refused.
    #[test]
    fn a_damaged_file_is_read_or_refused(at in 0.0_f64..1.0, byte in any::<u8>(), cut in any::<bool>()) {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("in.x", lists(&[vec![1.0, 2.0], vec![3.0, 4.0]])),
            ("label", Arc::new(StringArray::from(vec!["a", "b"]))),
        ];
        let mut file = parquet(columns, Compression::SNAPPY).to_vec();
        #[expect(clippy::cast_possible_truncation, reason = "a position in a small file")]
        let at = (at * file.len() as f64) as usize;
        file[at] = byte;
        if cut {
            file.truncate(at);
        }
        let signature = signature(vec![spec("x", Datatype::Fp32, &[-1, 2])]);
        let read = read(file.into(), &signature, Want::Labels);
        prop_assert!(read.is_err() || read.unwrap().len() <= 64);
    }
}
