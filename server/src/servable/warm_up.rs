//! Warm-up: configured requests that run on every instance before the version may answer.

use std::path::Path;

use bytes::Bytes;
use crossfade_models::config::{Warmup, WarmupData, WarmupInput};
use crossfade_runtimes_core::{Instance, ModelSignature, Outputs, Shape, Tensor, TensorView};

use super::sample::{self, Fill};

/// The largest warm-up file.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Runs every configured sample on `instance`.
///
/// * `directory`: the model's, whose `warmup/` holds the data files
///
/// Errors: which sample failed, and why; the load fails with it.
pub(super) fn run(
    signature: &ModelSignature,
    samples: &[Warmup],
    directory: &Path,
    instance: &mut dyn Instance,
) -> Result<(), String> {
    for sample in samples {
        let failed = |reason: String| format!("warm-up `{}`: {reason}", sample.name);
        let inputs = inputs(signature, sample, directory).map_err(failed)?;
        let views: Vec<Option<TensorView<'_>>> = inputs
            .iter()
            .map(|tensor| tensor.as_ref().map(Tensor::view))
            .collect();
        for _ in 0..sample.count {
            let mut outputs = Outputs::all(signature.outputs.len());
            instance
                .run(&views, &mut outputs)
                .map_err(|error| failed(error.to_string()))?;
        }
    }
    Ok(())
}

/// The sample's tensors in model order, in the shapes that the model wants.
fn inputs(
    signature: &ModelSignature,
    sample: &Warmup,
    directory: &Path,
) -> Result<Vec<Option<Tensor>>, String> {
    let given = sample
        .inputs
        .iter()
        .map(|input| Ok((&*input.name, tensor(signature, sample, input, directory)?)));
    let given = given.collect::<Result<Vec<_>, String>>()?;
    let (ordered, _) = signature.check(given).map_err(|error| error.to_string())?;
    let mut inputs = Vec::with_capacity(ordered.len());
    for (tensor, spec) in ordered.into_iter().zip(&signature.inputs) {
        let Some(mut tensor) = tensor else {
            inputs.push(None);
            continue;
        };
        tensor.shape = spec.model_shape(&tensor.shape).ok_or_else(|| {
            format!(
                "input `{}`: shape {} does not fit the reshape",
                spec.name, tensor.shape
            )
        })?;
        inputs.push(Some(tensor));
    }
    Ok(inputs)
}

fn tensor(
    signature: &ModelSignature,
    sample: &Warmup,
    input: &WarmupInput,
    directory: &Path,
) -> Result<Tensor, String> {
    let rows = usize::try_from(sample.rows.max(1)).map_err(|_| "too many rows".to_owned())?;
    let batch = signature.batched.then_some(rows);
    let shape: Shape = batch.into_iter().chain(input.dims.iter().copied()).collect();
    match &input.data {
        WarmupData::Zero => Ok(sample::filled(input.datatype, shape, Fill::Zero)),
        WarmupData::Random => Ok(sample::filled(input.datatype, shape, Fill::Random(1))),
        WarmupData::File(file) => {
            let row = read(&directory.join("warmup").join(file), file)?;
            let copies = if signature.batched { rows } else { 1 };
            Ok(Tensor {
                datatype: input.datatype,
                shape,
                data: Bytes::from(row.repeat(copies)),
            })
        }
    }
}

fn read(path: &Path, shown: &str) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("cannot read warmup/{shown}: {error}");
    let bytes = std::fs::metadata(path).map_err(cannot)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(format!(
            "warmup/{shown} has {bytes} bytes; at most {MAX_FILE_BYTES} are read"
        ));
    }
    std::fs::read(path).map_err(cannot)
}
