//! A request as the inference log has it, to be asked again.

use arrow_array::cast::AsArray;
use arrow_array::types::{UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use crossfade_inference_log::{Restored, Side, restored};
use crossfade_runtimes_core::{BytesElements, ModelSignature, Shape, Tensor, TensorSpec};
use crossfade_text::Cut;

use crate::recorder::Kept;

/// A row of the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Logged<'a> {
    pub(super) table: &'a RecordBatch,
    pub(super) row: usize,
}

impl<'a> Logged<'a> {
    /// Every row of a table.
    pub(super) fn all(table: &'a RecordBatch) -> impl DoubleEndedIterator<Item = Self> {
        (0..table.num_rows()).map(move |row| Self { table, row })
    }

    /// A column of text; `None` where there is nothing.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        let column = self.table.column_by_name(name)?.as_string_opt::<i32>()?;
        column.is_valid(self.row).then(|| column.value(self.row))
    }

    /// A column of bytes.
    pub(super) fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        let column = self.table.column_by_name(name)?;
        let is_there = column.is_valid(self.row);
        let column = column.as_fixed_size_binary_opt()?;
        is_there.then(|| column.value(self.row))
    }

    /// Rows of the request; 0 where they are not known.
    pub(super) fn rows(&self) -> usize {
        let column = self.table.column_by_name("n_rows");
        let column = column.and_then(|column| column.as_primitive_opt::<UInt32Type>());
        column.map_or(0, |column| column.value(self.row) as usize)
    }

    /// Its batch: the id, the rows of all its requests, and its place among them.
    pub(super) fn batch(&self) -> Option<(u64, usize, u16)> {
        let short = |name: &str| self.table.column_by_name(name)?.as_primitive_opt::<UInt16Type>();
        let ids = self
            .table
            .column_by_name("batch_id")?
            .as_primitive_opt::<UInt64Type>()?;
        let valid = ids.is_valid(self.row);
        let (sizes, places) = (short("batch_size")?, short("batch_index")?);
        valid.then(|| {
            (
                ids.value(self.row),
                sizes.value(self.row).into(),
                places.value(self.row),
            )
        })
    }

    /// What was left out of its texts, where any was too long.
    pub(super) fn cut(&self) -> Option<Cut> {
        Cut::by_side(self.text("truncated")?)
    }

    /// What was sent, in the order of the signature; `None` where an optional input was left out.
    ///
    /// Errors: what is not there, or is no longer what was sent.
    pub(super) fn inputs(&self, signature: &ModelSignature) -> Result<Vec<Option<Tensor>>, String> {
        let mut inputs = Vec::new();
        for spec in &signature.inputs {
            inputs.push(match self.tensor(Side::Input, spec)? {
                None if !spec.optional => {
                    return Err(format!(
                        "input `{}` is not in the log, only its digest: it was larger than log.payload.max_bytes, or is kept no more",
                        spec.name
                    ));
                }
                tensor => tensor,
            });
        }
        let mut kept = Kept::default();
        kept.asked(&inputs, self.rows());
        match (self.bytes("in_digest"), kept.digest()) {
            (Some(then), Some(now)) if then != now => Err(
                "the inputs in the log are not those that were sent: their digest is another one".to_owned(),
            ),
            _ => Ok(inputs),
        }
    }

    /// What was answered: the outputs that are in the log, with their places in the signature.
    ///
    /// Errors: an output of another kind.
    pub(super) fn outputs(&self, signature: &ModelSignature) -> Result<Vec<(usize, Tensor)>, String> {
        let mut outputs = Vec::new();
        for (place, spec) in signature.outputs.iter().enumerate() {
            if let Some(tensor) = self.tensor(Side::Output, spec)? {
                outputs.push((place, tensor));
            }
        }
        Ok(outputs)
    }

    fn tensor(&self, side: Side, spec: &TensorSpec) -> Result<Option<Tensor>, String> {
        match restored(self.table, self.row, side, spec) {
            Restored::Tensor(tensor) => Ok(Some(tensor)),
            Restored::Missing => Ok(None),
            Restored::Redacted(policy) => Err(format!(
                "`{}` is not in the log as it was: log.fields made it `{policy}`",
                spec.name
            )),
            Restored::Other => Err(format!(
                "`{}` was of another datatype or shape than the version has it now",
                spec.name
            )),
        }
    }
}

/// Requests as one: the inputs of all, one behind the other along dimension 0. `None` where they do not fit together.
pub(super) fn together(members: &[Vec<Option<Tensor>>]) -> Option<Vec<Option<Tensor>>> {
    let (first, rest) = members.split_first()?;
    let mut all = first.clone();
    for inputs in rest {
        for (to, from) in all.iter_mut().zip(inputs) {
            match (to, from) {
                (Some(to), Some(from)) if to.shape.get(1..) == from.shape.get(1..) => {
                    let mut sizes: Vec<usize> = to.shape.iter().copied().collect();
                    *sizes.first_mut()? += from.shape.first()?;
                    to.shape = Shape::from(&*sizes);
                    to.data = [&to.data[..], &from.data[..]].concat().into();
                }
                (None, None) => {}
                _ => return None,
            }
        }
    }
    Some(all)
}

/// Some rows of a tensor.
pub(super) fn part(tensor: &Tensor, from: usize, rows: usize) -> Option<Tensor> {
    let all = *tensor.shape.first()?;
    let per_row: usize = tensor.shape.iter().skip(1).product();
    let (begin, end) = (from * per_row, (from + rows) * per_row);
    let bytes = match tensor.datatype.width() {
        Some(width) => begin * width..end * width,
        None => {
            let ends = BytesElements::new(&tensor.data).scan(0, |at, element| {
                *at += 4 + element.ok()?.len();
                Some(*at)
            });
            let ends: Vec<usize> = std::iter::once(0).chain(ends).collect();
            *ends.get(begin)?..*ends.get(end)?
        }
    };
    let sizes: Vec<usize> = std::iter::once(rows)
        .chain(tensor.shape.iter().skip(1).copied())
        .collect();
    (from + rows <= all && bytes.end <= tensor.data.len()).then(|| Tensor {
        datatype: tensor.datatype,
        shape: Shape::from(&*sizes),
        data: tensor.data.slice(bytes),
    })
}

#[cfg(test)]
mod tests {
    use crossfade_runtimes_core::{Datatype, push_element};
    use proptest::prelude::*;

    use super::*;

    fn tensor(datatype: Datatype, rows: usize, first: u8) -> Tensor {
        let mut data = Vec::new();
        for element in (first..).take(rows * 2) {
            match datatype.width() {
                Some(width) => data.extend(std::iter::repeat_n(element, width)),
                None => push_element(&mut data, &vec![element; usize::from(element % 5)]),
            }
        }
        Tensor {
            datatype,
            shape: Shape::from([rows, 2]),
            data: data.into(),
        }
    }

    proptest! {
        #[test]
        fn what_is_put_together_comes_apart_again(rows in prop::collection::vec(1_usize..4, 1..5), bytes: bool) {
            let datatype = if bytes { Datatype::Bytes } else { Datatype::Int32 };
            let members: Vec<_> = (0..).zip(&rows).map(|(first, rows)| vec![Some(tensor(datatype, *rows, first)), None]).collect();
            let all = together(&members).unwrap();
            let mut from = 0;
            for (member, rows) in members.iter().zip(rows) {
                prop_assert_eq!(part(all[0].as_ref().unwrap(), from, rows), member[0].clone());
                from += rows;
            }
            prop_assert!(part(all[0].as_ref().unwrap(), from, 1).is_none());
        }
    }

    #[test]
    fn what_does_not_fit_is_not_put_together() {
        let wide = Tensor {
            shape: Shape::from([1, 4]),
            ..tensor(Datatype::Int32, 2, 0)
        };
        let one = vec![Some(tensor(Datatype::Int32, 1, 0))];
        assert_eq!(together(&[one.clone(), vec![Some(wide)]]), None);
        assert_eq!(together(&[one, vec![None]]), None);
    }
}
