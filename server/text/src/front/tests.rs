//! A model that gives its tokens back as vectors, with a tokenizer in front: what an export by ONNX Runtime looks like.

use std::path::PathBuf;

use crossfade_runtimes_core::push_element;

use super::*;
use crate::pool::Pool;

/// `last_hidden_state[r][c] = [id, type]`; needs all three inputs.
struct Export;

impl Runtime for Export {
    fn name(&self) -> &'static str {
        "export"
    }

    fn platform(&self) -> &'static str {
        "export"
    }

    fn version(&self) -> String {
        "1".to_owned()
    }

    fn load(&self, _: &ModelSource) -> Result<Box<dyn Model>, RuntimeError> {
        let tokens = |name: &str| TensorSpec::new(name, Datatype::Int64, ShapeSpec::from(&[-1, -1][..]));
        let hidden = TensorSpec::new(
            "last_hidden_state",
            Datatype::Fp32,
            ShapeSpec::from(&[-1, -1, 2][..]),
        );
        Ok(Box::new(ExportModel(ModelSignature {
            inputs: TOKENS.map(tokens).to_vec(),
            outputs: vec![hidden],
            ..ModelSignature::default()
        })))
    }
}

struct ExportModel(ModelSignature);

impl Model for ExportModel {
    fn signature(&self) -> &ModelSignature {
        &self.0
    }

    fn instantiate(&self, _: &InstanceOptions) -> Result<Box<dyn Instance>, RuntimeError> {
        Ok(Box::new(ExportModel(self.0.clone())))
    }
}

#[expect(clippy::cast_precision_loss, reason = "small numbers of tokens")]
impl Instance for ExportModel {
    fn run(&mut self, inputs: &[Option<TensorView<'_>>], outputs: &mut Outputs) -> Result<(), RuntimeError> {
        let [Some(ids), Some(_), Some(types)] = inputs else {
            return Err(RuntimeError::Run {
                reason: "an input is missing".to_owned(),
            });
        };
        let number = |view: &TensorView<'_>, k: usize| {
            i64::from_le_bytes(view.data[8 * k..8 * k + 8].try_into().unwrap()) as f32
        };
        let count = ids.shape[0] * ids.shape[1];
        let numbers = (0..count).flat_map(|k| [number(ids, k), number(types, k)]);
        let data: Vec<u8> = numbers.flat_map(|x| x.to_le_bytes()).collect();
        outputs.put(
            0,
            Datatype::Fp32,
            [ids.shape[0], ids.shape[1], 2].into(),
            data.into(),
        );
        Ok(())
    }
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../runtimes/candle/tests/models/bert"
    ))
}

fn front(settings: Settings) -> Front {
    let read = Folder::read(&folder(), &settings).unwrap().unwrap();
    Front::new(Arc::new(Export), &folder(), read, settings).unwrap()
}

fn texts(texts: &[&str]) -> Tensor {
    let mut data = Vec::new();
    texts
        .iter()
        .for_each(|text| push_element(&mut data, text.as_bytes()));
    Tensor {
        datatype: Datatype::Bytes,
        shape: [texts.len(), 1].into(),
        data: data.into(),
    }
}

fn int64(rows: &[&[i64]]) -> Tensor {
    Tensor {
        datatype: Datatype::Int64,
        shape: [rows.len(), rows[0].len()].into(),
        data: rows
            .concat()
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect::<Vec<u8>>()
            .into(),
    }
}

fn run(front: &Front, inputs: &[Option<Tensor>]) -> Result<Vec<f32>, RuntimeError> {
    let model = front.load(&ModelSource::default()).unwrap();
    let mut instance = model.instantiate(&InstanceOptions::default()).unwrap();
    let views: Vec<_> = inputs
        .iter()
        .map(|tensor| tensor.as_ref().map(Tensor::view))
        .collect();
    let mut outputs = Outputs::all(1);
    instance.run(&views, &mut outputs)?;
    let tensor = outputs.into_tensors().remove(0).unwrap();
    let numbers = tensor.data.chunks_exact(4);
    Ok(numbers
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect())
}

#[test]
fn an_export_takes_text_and_is_pooled_by_us() {
    let front = front(Settings::default());
    let signature = front.load(&ModelSource::default()).unwrap().signature().clone();
    let names: Vec<&str> = signature.inputs.iter().map(|spec| &*spec.name).collect();
    assert_eq!(names, ["text", "input_ids", "attention_mask", "token_type_ids"]);
    assert!(signature.inputs.iter().all(|spec| spec.optional));
    assert!(
        signature.inputs[1..].iter().all(|spec| spec.padding.is_some()),
        "lengths may differ"
    );
    assert_eq!(&*signature.outputs[0].name, "embeddings");
    // [CLS] the cat [SEP] and [CLS] sea [SEP], whose padding does not count.
    let answer = run(&front, &[Some(texts(&["the cat", "sea"])), None, None, None]).unwrap();
    assert_eq!(
        answer,
        [(2.0 + 5.0 + 6.0 + 3.0) / 4.0, 0.0, (2.0 + 21.0 + 3.0) / 3.0, 0.0]
    );
    // Tokens alone all count, and are of the first type.
    let answer = run(&front, &[None, Some(int64(&[&[4, 8]])), None, None]).unwrap();
    assert_eq!(answer, [6.0, 0.0]);
    let both = run(&front, &[Some(texts(&["a"])), Some(int64(&[&[4]])), None, None]).unwrap_err();
    assert!(both.to_string().contains("either"), "{both}");
    assert!(run(&front, &[None, None, None, None]).is_err());
}

#[test]
fn without_pooling_the_tokens_vectors_go_out() {
    let front = front(Settings {
        pooling: Some(None),
        ..Settings::default()
    });
    let signature = front.load(&ModelSource::default()).unwrap().signature().clone();
    assert_eq!(&*signature.outputs[0].name, "last_hidden_state");
    assert!(signature.outputs[0].padding.is_some());
    let answer = run(&front, &[Some(texts(&["cat"])), None, None, None]).unwrap();
    assert_eq!(answer, [2.0, 0.0, 6.0, 0.0, 3.0, 0.0]);
}

#[test]
fn a_model_that_takes_no_tokens_is_left_as_it_is() {
    let own = ModelSignature {
        inputs: vec![TensorSpec::new(
            "pixels",
            Datatype::Fp32,
            ShapeSpec::from(&[-1, 3][..]),
        )],
        ..ModelSignature::default()
    };
    assert!(Plan::of(&own, 0, None).is_none());
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(future)
}

#[test]
fn a_stage_puts_the_same_tokens_in_place_here_and_on_other_threads() {
    let front = front(Settings::default());
    let signature = front.load(&ModelSource::default()).unwrap().signature().clone();
    let stage = Stage::of(&signature, front.text()).unwrap();
    let pool = Pool::start(2).unwrap();
    // Far more than is done on the spot, and than one thread takes at once.
    let long: Vec<String> = (0..900).map(|k| vec!["cat"; 1 + k % 30].join(" ")).collect();
    let all = texts(&long.iter().map(String::as_str).collect::<Vec<_>>());
    let inputs = vec![Some(all.clone()), None, None, None];
    let staged = wait(stage.tokens(&pool, inputs, Cut::Refuse)).unwrap();
    assert_eq!(staged.cut, None);
    let (placed, tokens) = (staged.inputs, staged.tokens);
    let here = front.text().tokenize(&all, None, Cut::Refuse).unwrap();
    assert_eq!(tokens, here.tokens);
    assert_eq!(placed, [None, Some(here.ids), Some(here.mask), Some(here.types)]);
    assert_eq!(stage.mask(&placed).unwrap().shape[0], 900);
}

#[test]
fn texts_that_are_too_long_name_their_row_and_are_cut_at_either_end() {
    let front = front(Settings::default());
    let text = front.text();
    let long = format!("{} {}", vec!["cat"; 40].join(" "), vec!["dog"; 40].join(" "));
    let two = texts(&["cat", &long]);
    let refused = text.tokenize(&two, None, Cut::Refuse).unwrap_err().to_string();
    assert!(
        refused.contains("row 1") && refused.contains("34 tokens"),
        "{refused}"
    );
    let ids = |cut| {
        let ids = text.tokenize(&texts(&[&long]), None, cut).unwrap().ids;
        assert_eq!(ids.shape[1], 34);
        ids.data[8..16].to_vec()
    };
    assert_eq!(ids(Cut::Right), 6i64.to_le_bytes(), "cats come first");
    assert_eq!(ids(Cut::Left), 7i64.to_le_bytes(), "dogs come last");
    let pool = Pool::start(1).unwrap();
    let refused = wait(pool.tokenize(text, &texts(&[&long, &long, &long]), None, Cut::Refuse)).unwrap_err();
    assert!(refused.to_string().contains("row 0"), "{refused}");
}

#[test]
fn a_request_of_many_short_texts_and_a_long_one_does_not_fill_the_memory() {
    let front = front(Settings::default());
    let long = vec!["cat"; 32].join(" ");
    let mut many = vec!["a"; (1 << 22) / 34];
    many.push(&long);
    let refused = front
        .text()
        .tokenize(&texts(&many), None, Cut::Refuse)
        .unwrap_err();
    assert!(refused.to_string().contains("send fewer"), "{refused}");
}

#[test]
fn a_pool_that_is_gone_or_full_refuses() {
    let front = front(Settings::default());
    let pool = Pool::start(0).unwrap();
    // No thread takes anything, and the receiving end is gone.
    let many = texts(&vec!["the cat sat on the mat and the dog"; 50]);
    let refused = wait(pool.tokenize(front.text(), &many, None, Cut::Refuse)).unwrap_err();
    assert_eq!(refused, TextError::Busy);
}
