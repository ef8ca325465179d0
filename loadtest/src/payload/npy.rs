//! Tensors from `.npy` files: format versions 1 to 3, C order, little-endian (NEP 1).

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::tensor::{Datatype, Tensor, push_element};

/// The array in the file, with an empty name.
///
/// Errors: if it is not an `.npy` file or holds what the protocol has no datatype for.
pub fn read(path: &Path) -> Result<Tensor> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    parse(&bytes).with_context(|| format!("{}: cannot be used", path.display()))
}

/// The array in the bytes of a file, with an empty name.
///
/// Errors: as [`read`].
pub fn parse(file: &[u8]) -> Result<Tensor> {
    let version = file.strip_prefix(b"\x93NUMPY").context("not an .npy file")?;
    let (length, rest) = match version {
        [1, _, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        _ => bail!("an .npy format that is not known"),
    };
    let (header, data) = rest.split_at_checked(length).context("the file is cut short")?;
    let header = std::str::from_utf8(header).context("its header is not text")?;
    if value(header, "fortran_order")?.starts_with("True") {
        bail!("it is in Fortran order; save it with np.ascontiguousarray");
    }
    let shape = value(header, "shape")?.trim_start_matches('(');
    let shape = shape.split_once(')').context("its header has no shape")?.0;
    let shape: Vec<u64> = shape
        .split(',')
        .map(str::trim)
        .filter(|dim| !dim.is_empty())
        .map(|dim| dim.parse().with_context(|| format!("`{dim}` is no dimension")))
        .collect::<Result<_>>()?;
    let descr = value(header, "descr")?.trim_start_matches('\'');
    let descr = descr
        .split_once('\'')
        .context("its header has no descr, or a structured one")?
        .0;
    let (datatype, string_bytes) = datatype(descr)?;
    let mut tensor = Tensor {
        name: String::new(),
        datatype,
        shape,
        bytes: Vec::new(),
    };
    let elements = tensor.elements().context("its shape is too large")?;
    let width = datatype.width().unwrap_or(string_bytes);
    if elements.checked_mul(width as u64) != Some(data.len() as u64) {
        bail!(
            "{} bytes of data do not fit shape {:?} of {descr}",
            data.len(),
            tensor.shape
        );
    }
    if datatype == Datatype::Bytes {
        for element in data.chunks_exact(width.max(1)) {
            let end = element.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            push_element(&mut tensor.bytes, &element[..end])?;
        }
    } else {
        tensor.bytes = data.to_vec();
    }
    Ok(tensor)
}

/// What follows `'key':` in the header's dictionary.
fn value<'a>(header: &'a str, key: &str) -> Result<&'a str> {
    let (_, rest) = header
        .split_once(&format!("'{key}':"))
        .with_context(|| format!("its header has no `{key}`"))?;
    Ok(rest.trim_start())
}

/// The datatype of a `descr`, and the width of its strings.
fn datatype(descr: &str) -> Result<(Datatype, usize)> {
    let kind = descr
        .strip_prefix(['<', '|'])
        .with_context(|| format!("`{descr}` is not little-endian; save it with astype"))?;
    if let Some(width) = kind.strip_prefix('S') {
        return Ok((Datatype::Bytes, width.parse().context("a string of no width")?));
    }
    let datatype = match kind {
        "b1" => Datatype::Bool,
        "u1" => Datatype::Uint8,
        "u2" => Datatype::Uint16,
        "u4" => Datatype::Uint32,
        "u8" => Datatype::Uint64,
        "i1" => Datatype::Int8,
        "i2" => Datatype::Int16,
        "i4" => Datatype::Int32,
        "i8" => Datatype::Int64,
        "f2" => Datatype::Fp16,
        "f4" => Datatype::Fp32,
        "f8" => Datatype::Fp64,
        _ => bail!("`{descr}` has no datatype in the protocol; strings are saved with dtype S"),
    };
    Ok((datatype, 0))
}
