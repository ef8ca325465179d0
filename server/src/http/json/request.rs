//! An inference request's JSON: one pass, keys in any order, tensors read where they stand.
//!
//! A key given twice: the last one counts, in objects of every level.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use crossfade_runtimes_core::{Datatype, Shape};

use super::reader::{JsonError, Reader, Scalar};
use super::tensor;
use crate::infer::{Parameter, RequestedOutput};
use crate::status::{Refusal, Status};

/// What the JSON of a request says; binary tensors are still to come.
#[derive(Debug, Default)]
pub(crate) struct Document {
    /// `id`
    pub(crate) id: Option<String>,
    /// `parameters`
    pub(crate) parameters: BTreeMap<String, Parameter>,
    /// `inputs`, in order.
    pub(crate) inputs: Vec<Input>,
    /// `outputs`; an empty list asks for all, as on gRPC.
    pub(crate) outputs: Option<Vec<RequestedOutput>>,
}

/// One entry of `inputs`.
#[derive(Debug)]
pub(crate) struct Input {
    /// `name`
    pub(crate) name: String,
    /// `datatype`
    pub(crate) datatype: Datatype,
    /// `shape`
    pub(crate) shape: Shape,
    /// Where the elements are.
    pub(crate) data: Data,
}

/// Where the elements of an input are.
#[derive(Debug)]
pub(crate) enum Data {
    /// They were in the JSON.
    Json(Bytes),
    /// They follow the JSON: this many bytes.
    Binary(usize),
}

/// Reads a whole document. Errors: `InvalidInput`; `Unsupported` for shared memory.
pub(crate) fn read(document: &[u8]) -> Result<Document, Refusal> {
    let mut reader = Reader::new(document)?;
    let mut request = Document::default();
    let mut inputs = None;
    reader.open(b'{', "an object")?;
    let mut first = true;
    while let Some(key) = reader.next_key(&mut first)? {
        if reader.take_null() {
            continue;
        }
        match &*key {
            "id" => request.id = Some(text(&mut reader, "`id`")?.into_owned()),
            "parameters" => request.parameters = parameters(&mut reader)?,
            "inputs" => inputs = Some(list(&mut reader, "`inputs`", input)?),
            "outputs" => request.outputs = Some(list(&mut reader, "`outputs`", output)?),
            _ => {
                reader.skip_value()?;
            }
        }
    }
    reader.finish()?;
    request.inputs = inputs.ok_or_else(|| Refusal::invalid("`inputs` is missing"))?;
    request.outputs = request.outputs.filter(|outputs| !outputs.is_empty());
    Ok(request)
}

impl From<JsonError> for Refusal {
    fn from(error: JsonError) -> Self {
        Refusal::invalid(format!("malformed JSON {error}"))
    }
}

/// A string, or a refusal that names `what` should have been one.
fn text<'a>(reader: &mut Reader<'a>, what: &str) -> Result<Cow<'a, str>, Refusal> {
    if reader.peek() == Some(b'"') {
        Ok(reader.string()?)
    } else {
        Err(Refusal::invalid(format!("{what} must be a string")))
    }
}

fn list<'a, T>(
    reader: &mut Reader<'a>,
    what: &str,
    mut entry: impl FnMut(&mut Reader<'a>) -> Result<T, Refusal>,
) -> Result<Vec<T>, Refusal> {
    if reader.peek() != Some(b'[') {
        return Err(Refusal::invalid(format!("{what} must be an array")));
    }
    reader.open(b'[', "an array")?;
    let mut entries = Vec::new();
    let mut first = true;
    while reader.next_element(&mut first)? {
        entries.push(entry(reader)?);
    }
    Ok(entries)
}

/// Reads `parameters`; `null` values are as good as absent.
fn parameters(reader: &mut Reader<'_>) -> Result<BTreeMap<String, Parameter>, Refusal> {
    if reader.peek() != Some(b'{') {
        return Err(Refusal::invalid("`parameters` must be an object"));
    }
    reader.open(b'{', "an object")?;
    let mut parameters = BTreeMap::new();
    let mut first = true;
    while let Some(key) = reader.next_key(&mut first)? {
        if reader.take_null() {
            parameters.remove(&*key);
            continue;
        }
        let value = match reader.peek() {
            Some(b'"') => Parameter::String(reader.string()?.into_owned()),
            Some(b'{' | b'[') => {
                return Err(Refusal::invalid(format!(
                    "parameter `{}` must be a string, number or bool",
                    clip(&key)
                )));
            }
            _ => match reader.scalar()? {
                Scalar::Bool(value) => Parameter::Bool(value),
                Scalar::NonFinite(value) => Parameter::Double(value),
                Scalar::Number(number) => number_parameter(number),
            },
        };
        parameters.insert(key.into_owned(), value);
    }
    Ok(parameters)
}

/// An integer where the text is one and 64 bits hold it, else a double.
fn number_parameter(number: &str) -> Parameter {
    if let Ok(value) = number.parse() {
        Parameter::Int(value)
    } else if let Ok(value) = number.parse() {
        Parameter::Uint(value)
    } else {
        Parameter::Double(
            number
                .parse()
                .expect("what JSON calls a number, Rust reads as one"),
        )
    }
}

/// A client's text, short enough for an error message.
pub(crate) fn clip(text: &str) -> String {
    text.chars().take(128).collect()
}

/// `data` of an input while its other keys may still be to come.
enum Pending {
    /// Not seen, or `null`.
    Absent,
    /// Starts at this offset; `datatype` or `shape` was not known there, or came again later.
    At(usize),
    /// Read; it starts at this offset.
    Read(usize, Vec<u8>),
}

impl Pending {
    /// What was read under another datatype or shape must be read again.
    fn outdated(self) -> Self {
        match self {
            Pending::Read(at, _) => Pending::At(at),
            pending => pending,
        }
    }
}

fn input(reader: &mut Reader<'_>) -> Result<Input, Refusal> {
    let mut name: Option<String> = None;
    let mut datatype: Option<Datatype> = None;
    let mut dims: Option<Shape> = None;
    let mut pending = Pending::Absent;
    let mut options = BTreeMap::new();
    reader.open(b'{', "an object")?;
    let mut first = true;
    while let Some(key) = reader.next_key(&mut first)? {
        if reader.take_null() {
            continue;
        }
        match &*key {
            "name" => name = Some(text(reader, "`name` of an input")?.into_owned()),
            "datatype" => {
                let named = text(reader, "`datatype` of an input")?;
                let known = named.parse();
                datatype = Some(known.map_err(|error| invalid(name.as_deref(), error))?);
                pending = pending.outdated();
            }
            "shape" => {
                dims = Some(shape(reader, name.as_deref())?);
                pending = pending.outdated();
            }
            "parameters" => options = parameters(reader)?,
            "data" => {
                reader.peek();
                let at = reader.at();
                pending = match (datatype, &dims) {
                    (Some(datatype), Some(shape)) => {
                        let data = tensor::read(reader, datatype, shape);
                        Pending::Read(at, data.map_err(|error| invalid(name.as_deref(), error))?)
                    }
                    _ => Pending::At(reader.skip_value()?.start),
                };
            }
            _ => {
                reader.skip_value()?;
            }
        }
    }
    let name = name.ok_or_else(|| Refusal::invalid("an input has no `name`"))?;
    let missing = |what: &str| invalid(Some(&name), format_args!("`{what}` is missing"));
    let datatype = datatype.ok_or_else(|| missing("datatype"))?;
    let shape = dims.ok_or_else(|| missing("shape"))?;
    let data = match pending {
        Pending::Absent => None,
        Pending::Read(_, data) => Some(data),
        Pending::At(at) => {
            let data = tensor::read(&mut reader.resumed(at), datatype, &shape);
            Some(data.map_err(|error| invalid(Some(&name), error))?)
        }
    };
    let data = match (data, binary_size(&name, &options)?) {
        (Some(data), None) => Data::Json(data.into()),
        (None, Some(size)) => Data::Binary(size),
        (Some(_), Some(_)) => {
            let both = "both `data` and `binary_data_size` are given; give one";
            return Err(invalid(Some(&name), both));
        }
        (None, None) => {
            let neither = "neither `data` nor `binary_data_size` is given";
            return Err(invalid(Some(&name), neither));
        }
    };
    Ok(Input {
        name,
        datatype,
        shape,
        data,
    })
}

fn invalid(input: Option<&str>, problem: impl std::fmt::Display) -> Refusal {
    match input {
        Some(name) => Refusal::invalid(format!("input `{}`: {problem}", clip(name))),
        None => Refusal::invalid(format!("an input: {problem}")),
    }
}

fn shape(reader: &mut Reader<'_>, input: Option<&str>) -> Result<Shape, Refusal> {
    let what = "`shape` must be an array of integers that are not negative";
    if reader.peek() != Some(b'[') {
        return Err(invalid(input, what));
    }
    reader.open(b'[', "an array")?;
    let mut dims = Vec::with_capacity(6);
    let mut first = true;
    while reader.next_element(&mut first)? {
        let dim = match reader.peek() {
            Some(b'-' | b'0'..=b'9') => match reader.scalar()? {
                Scalar::Number(number) => number.parse().ok(),
                _ => None,
            },
            _ => None,
        };
        dims.push(dim.ok_or_else(|| invalid(input, what))?);
    }
    Ok(Shape::from(&dims[..]))
}

/// The input's `binary_data_size`, if given. Errors: `Unsupported` for shared memory.
fn binary_size(name: &str, options: &BTreeMap<String, Parameter>) -> Result<Option<usize>, Refusal> {
    refuse_shared_memory("input", name, options)?;
    let size = match options.get("binary_data_size") {
        None => return Ok(None),
        Some(Parameter::Int(size)) => usize::try_from(*size).ok(),
        Some(Parameter::Uint(size)) => usize::try_from(*size).ok(),
        Some(_) => None,
    };
    let what = "`binary_data_size` must be an integer that is not negative";
    size.map(Some).ok_or_else(|| invalid(Some(name), what))
}

fn refuse_shared_memory(
    kind: &str,
    name: &str,
    options: &BTreeMap<String, Parameter>,
) -> Result<(), Refusal> {
    match options.keys().find(|key| key.starts_with("shared_memory_")) {
        None => Ok(()),
        Some(key) => Err(Refusal::new(
            Status::Unsupported,
            format!(
                "{kind} `{}`: `{}`: shared memory is not offered",
                clip(name),
                clip(key)
            ),
        )),
    }
}

const CLASSES: &str = "`classification` must be an integer that is not negative";

fn output(reader: &mut Reader<'_>) -> Result<RequestedOutput, Refusal> {
    let mut name: Option<String> = None;
    let mut options = BTreeMap::new();
    reader.open(b'{', "an object")?;
    let mut first = true;
    while let Some(key) = reader.next_key(&mut first)? {
        if reader.take_null() {
            continue;
        }
        match &*key {
            "name" => name = Some(text(reader, "`name` of an output")?.into_owned()),
            "parameters" => options = parameters(reader)?,
            _ => {
                reader.skip_value()?;
            }
        }
    }
    let name = name.ok_or_else(|| Refusal::invalid("a requested output has no `name`"))?;
    refuse_shared_memory("output", &name, &options)?;
    let wrong = |what: &str| Refusal::invalid(format!("output `{}`: {what}", clip(&name)));
    let binary = match options.get("binary_data") {
        None => None,
        Some(Parameter::Bool(binary)) => Some(*binary),
        Some(_) => return Err(wrong("`binary_data` must be true or false")),
    };
    let classification = match options.get("classification") {
        None => 0,
        Some(Parameter::Int(classes)) => usize::try_from(*classes).map_err(|_| wrong(CLASSES))?,
        Some(_) => return Err(wrong(CLASSES)),
    };
    Ok(RequestedOutput {
        name,
        classification,
        binary,
    })
}

#[cfg(test)]
mod tests;
