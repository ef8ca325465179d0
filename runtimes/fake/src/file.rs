//! The text file that is a fake model: one `key value` per line, `#` starts a comment.
//!
//! | line | meaning |
//! |---|---|
//! | `input NAME DATATYPE DIMS [optional]` | an input; DIMS like `-1,4`, names such as `N,4` for variable ones, `[]` for a scalar |
//! | `output NAME DATATYPE DIMS` | an output; output `k` is made from input `k` |
//! | `op identity`, `op add NUMBER` | how; `identity` if the line is absent |
//! | `version_tag TEXT` | outputs beyond the inputs are BYTES and hold this text, one element per row |
//! | `batched` | dimension 0 is the batch |
//! | `delay_ms NUMBER` | a run takes at least this long |
//! | `fail load`, `fail instantiate`, `fail run` | that step always fails |
//! | `fail_on VALUE`, `refuse_on VALUE`, `panic_on VALUE` | a run with an element of this value fails (`Run`), is refused (`InvalidInput`) or panics |
//! | `memory BYTES` | what the model says of its memory |

use std::str::FromStr;
use std::time::Duration;

use crossfade_runtimes_core::{
    Dim, ModelSignature, Outputs, RuntimeError, ShapeSpec, TensorSpec, TensorView,
};

use crate::model::FakeModel;
use crate::operation::{self, Operation};

/// The name of the file in a version's folder.
pub const NAME: &str = "model.fake";

/// A fake model as its file describes it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelFile {
    /// Inputs, outputs, and whether they are batched.
    pub signature: ModelSignature,
    /// How outputs are made from inputs.
    pub operation: Operation,
    /// Text of the outputs beyond the inputs.
    pub version_tag: Option<String>,
    /// How long a run takes at least.
    pub delay: Duration,
    /// The step that always fails.
    pub fail: Option<Step>,
    /// Values at which a run ends otherwise.
    pub on_value: Vec<(String, Trouble)>,
    /// What the model says of its memory.
    pub memory_bytes: u64,
}

/// A step that a file can make fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Reading the model.
    Load,
    /// Making an instance.
    Instantiate,
    /// Running it.
    Run,
}

/// What a value can do to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// `RuntimeError::Run`
    Fail,
    /// `RuntimeError::InvalidInput`
    Refuse,
    /// A panic.
    Panic,
}

/// A line that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileError {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl std::fmt::Display for FileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for FileError {}

impl FromStr for ModelFile {
    type Err = FileError;

    fn from_str(text: &str) -> Result<Self, FileError> {
        let mut file = ModelFile::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                file.read_line(line).map_err(|reason| FileError {
                    line: index + 1,
                    reason,
                })?;
            }
        }
        Ok(file)
    }
}

impl ModelFile {
    fn read_line(&mut self, line: &str) -> Result<(), String> {
        let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let value = value.trim();
        match key {
            "input" => self.signature.inputs.push(tensor(value)?),
            "output" => self.signature.outputs.push(tensor(value)?),
            "op" => self.operation = read_operation(value)?,
            "version_tag" => self.version_tag = Some(value.to_owned()),
            "batched" => self.signature.batched = true,
            "delay_ms" => self.delay = Duration::from_millis(number(value)?),
            "memory" => self.memory_bytes = number(value)?,
            "fail" => {
                self.fail = Some(match value {
                    "load" => Step::Load,
                    "instantiate" => Step::Instantiate,
                    "run" => Step::Run,
                    _ => return Err(format!("`fail {value}`: expected load, instantiate or run")),
                });
            }
            "fail_on" => self.on_value.push((value.to_owned(), Trouble::Fail)),
            "refuse_on" => self.on_value.push((value.to_owned(), Trouble::Refuse)),
            "panic_on" => self.on_value.push((value.to_owned(), Trouble::Panic)),
            _ => return Err(format!("unknown key `{key}`")),
        }
        Ok(())
    }

    /// The model; errors: `Load` if the file says so, `Unsupported` if the operation does not fit the signature.
    pub fn into_model(self) -> Result<FakeModel, RuntimeError> {
        if self.fail == Some(Step::Load) {
            return Err(RuntimeError::Load {
                reason: "the file says `fail load`".to_owned(),
            });
        }
        self.operation
            .check(&self.signature, self.version_tag.as_deref())?;
        let fails_instantiate = self.fail == Some(Step::Instantiate);
        let memory_bytes = self.memory_bytes;
        let model = FakeModel::new(self.signature.clone(), move |inputs, outputs| {
            self.run(inputs, outputs)
        });
        let model = model.with_memory(memory_bytes);
        Ok(if fails_instantiate {
            model.with_instantiate(|_| {
                Err(RuntimeError::Load {
                    reason: "the file says `fail instantiate`".to_owned(),
                })
            })
        } else {
            model
        })
    }

    fn run(&self, inputs: &[Option<TensorView<'_>>], outputs: &mut Outputs) -> Result<(), RuntimeError> {
        if !self.delay.is_zero() {
            wait(self.delay);
        }
        if self.fail == Some(Step::Run) {
            return Err(RuntimeError::Run {
                reason: "the file says `fail run`".to_owned(),
            });
        }
        for (value, trouble) in &self.on_value {
            if !inputs
                .iter()
                .flatten()
                .any(|view| operation::contains(view, value))
            {
                continue;
            }
            let reason = format!("an element is {value}");
            match trouble {
                Trouble::Fail => return Err(RuntimeError::Run { reason }),
                Trouble::Refuse => return Err(RuntimeError::InvalidInput { reason }),
                Trouble::Panic => panic!("{reason}"),
            }
        }
        self.operation
            .run(&self.signature, self.version_tag.as_deref(), inputs, outputs)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "stands for a model that computes; no test's outcome depends on it"
)]
fn wait(delay: Duration) {
    std::thread::sleep(delay);
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number"))
}

fn read_operation(text: &str) -> Result<Operation, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        ["identity"] => Ok(Operation::Identity),
        ["add", number] => number
            .parse()
            .map(Operation::Add)
            .map_err(|_| format!("`{number}` is not a number")),
        _ => Err(format!("`op {text}`: expected identity or add NUMBER")),
    }
}

/// `NAME DATATYPE DIMS [optional]`
fn tensor(text: &str) -> Result<TensorSpec, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (name, datatype, dims, optional) = match words[..] {
        [name, datatype, dims] => (name, datatype, dims, false),
        [name, datatype, dims, "optional"] => (name, datatype, dims, true),
        _ => return Err(format!("`{text}`: expected NAME DATATYPE DIMS [optional]")),
    };
    let datatype = datatype
        .parse()
        .map_err(|error: crossfade_runtimes_core::UnknownDatatype| error.to_string())?;
    let mut spec = TensorSpec::new(name, datatype, shape(dims));
    spec.optional = optional;
    Ok(spec)
}

fn shape(dims: &str) -> ShapeSpec {
    if dims == "[]" {
        return ShapeSpec::default();
    }
    let dim = |text: &str| match text.parse::<usize>() {
        Ok(size) => Dim::Fixed(size),
        Err(_) if text == "-1" => Dim::Any,
        Err(_) => Dim::Named(text.into()),
    };
    dims.split(',').map(dim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read() {
        let text = "
            # a model
            input x FP32 -1,4
            input note BYTES N optional
            output y FP32 -1,4
            op add -1.5
            version_tag blue
            batched
            delay_ms 5
            fail run
            panic_on 13
            memory 1024
        ";
        let file: ModelFile = text.parse().unwrap();
        assert_eq!(file.signature.inputs.len(), 2);
        assert!(file.signature.inputs[1].optional && file.signature.batched);
        assert_eq!(file.signature.outputs[0].shape.to_string(), "[-1,4]");
        assert_eq!(file.operation, Operation::Add(-1.5));
        assert_eq!(file.version_tag.as_deref(), Some("blue"));
        assert_eq!(file.delay, Duration::from_millis(5));
        assert_eq!(file.fail, Some(Step::Run));
        assert_eq!(file.on_value, [("13".to_owned(), Trouble::Panic)]);
        assert_eq!(file.memory_bytes, 1024);
    }

    #[test]
    fn a_wrong_line_is_named() {
        let error = "op identity\ninput x FP31 4".parse::<ModelFile>().unwrap_err();
        assert_eq!(error.line, 2);
        assert!(error.reason.contains("FP31"), "{error}");
    }

    #[test]
    fn a_scalar_has_no_dimensions() {
        assert_eq!(tensor("x INT64 []").unwrap().shape, ShapeSpec::default());
    }
}
