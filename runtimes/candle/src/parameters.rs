//! The `parameters` of a model's configuration that this runtime understands.

use candle_core::DType;
use crossfade_runtimes_core::{ModelSource, RuntimeError};

use crate::THREADS;

const KNOWN: &str = "dtype, pooling, normalize and intra_op_thread_count";

/// What becomes of an encoder's vectors, one per token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// The first token's.
    Cls,
    /// Their mean.
    Mean,
    /// The largest of each element.
    Max,
    /// They go out as they are, padding as zeros.
    None,
}

/// How a model is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parameters {
    /// What it computes in; `None`: FP32 on a CPU, on a GPU what the file holds.
    pub(crate) dtype: Option<DType>,
    /// Of encoders.
    pub(crate) pooling: Pooling,
    /// Whether pooled vectors have length 1.
    pub(crate) normalize: bool,
    /// Threads of a run; `None`: those that all models share.
    pub(crate) threads: Option<usize>,
}

impl Parameters {
    /// Reads a source's parameters.
    ///
    /// Errors: `Parameter` for an unknown key or value, naming what is accepted.
    pub(crate) fn read(source: &ModelSource) -> Result<Self, RuntimeError> {
        let mut read = Self {
            dtype: None,
            pooling: Pooling::None,
            normalize: false,
            threads: None,
        };
        for (key, value) in &source.parameters {
            let value = value.trim();
            match key.as_str() {
                "dtype" => read.dtype = dtype(key, value)?,
                "pooling" => {
                    read.pooling = match value {
                        "cls" => Pooling::Cls,
                        "mean" => Pooling::Mean,
                        "max" => Pooling::Max,
                        "none" => Pooling::None,
                        _ => return Err(wrong(key, value, "cls, mean, max and none")),
                    }
                }
                "normalize" => {
                    read.normalize = match value {
                        "0" | "false" => false,
                        "1" | "true" => true,
                        _ => return Err(wrong(key, value, "0 and 1")),
                    }
                }
                THREADS => {
                    let threads = value.parse().ok().filter(|threads| (1..=1024).contains(threads));
                    read.threads = Some(threads.ok_or_else(|| wrong(key, value, "1 to 1024"))?);
                }
                _ => {
                    return Err(RuntimeError::Parameter {
                        key: key.clone(),
                        reason: format!("unknown to runtime `candle`, which has {KNOWN}"),
                    });
                }
            }
        }
        Ok(read)
    }
}

fn dtype(key: &str, value: &str) -> Result<Option<DType>, RuntimeError> {
    Ok(Some(match value {
        "auto" => return Ok(None),
        "float32" | "fp32" => DType::F32,
        "float16" | "fp16" => DType::F16,
        "bfloat16" | "bf16" => DType::BF16,
        _ => return Err(wrong(key, value, "auto, float32, float16 and bfloat16")),
    }))
}

fn wrong(key: &str, value: &str, accepted: &str) -> RuntimeError {
    RuntimeError::Parameter {
        key: key.to_owned(),
        reason: format!("`{value}` given; {accepted} are accepted"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Parameters, String> {
        let parameters = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let source = ModelSource {
            parameters: parameters.collect(),
            ..ModelSource::default()
        };
        Parameters::read(&source).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_given_is_read() {
        let read = read(&[
            ("dtype", "bf16"),
            ("pooling", "mean"),
            ("normalize", "1"),
            (THREADS, "2"),
        ]);
        assert_eq!(
            read.unwrap(),
            Parameters {
                dtype: Some(DType::BF16),
                pooling: Pooling::Mean,
                normalize: true,
                threads: Some(2),
            }
        );
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for (key, value, named) in [
            ("dtype", "int8", "float16"),
            ("pooling", "median", "mean"),
            ("normalize", "yes", "0 and 1"),
            (THREADS, "0", "1 to 1024"),
            ("enable_mem_arena", "0", "unknown to runtime `candle`"),
        ] {
            let error = read(&[(key, value)]).unwrap_err();
            assert!(error.contains(key) && error.contains(named), "{error}");
        }
    }
}
