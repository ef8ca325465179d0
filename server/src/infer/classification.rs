//! Triton's classification extension: the top n elements of an output as `value:index[:label]`.

use bytes::Bytes;
use crossfade_runtimes_core::{Datatype, Shape, Tensor, push_element};

use crate::status::Refusal;

/// The `n` largest elements of each row, highest first: BYTES, `[rows, n]` for a batching model, else `[n]`.
///
/// Errors: InvalidInput for an output that has no order (BYTES, BOOL, FP16, BF16).
pub(super) fn top(
    name: &str,
    tensor: &Tensor,
    n: usize,
    batched: bool,
    labels: &[String],
) -> Result<Tensor, Refusal> {
    let values = values(tensor).ok_or_else(|| {
        let datatype = tensor.datatype;
        Refusal::invalid(format!(
            "output `{name}`: classification needs a numeric output, this one is {datatype}"
        ))
    })?;
    let rows = if batched { tensor.shape.rows() } else { 1 };
    let width = values.len().checked_div(rows).unwrap_or(0);
    let n = n.min(width);
    let mut data = Vec::new();
    for row in 0..rows {
        let row = &values[row * width..(row + 1) * width];
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|&a, &b| row[b].order.total_cmp(&row[a].order).then(a.cmp(&b)));
        for &index in &order[..n] {
            let text = match labels.get(index) {
                Some(label) => format!("{}:{index}:{label}", row[index].text()),
                None => format!("{}:{index}", row[index].text()),
            };
            push_element(&mut data, text.as_bytes());
        }
    }
    let shape = if batched {
        Shape::from([rows, n])
    } else {
        Shape::from([n])
    };
    Ok(Tensor {
        datatype: Datatype::Bytes,
        shape,
        data: Bytes::from(data),
    })
}

/// One element: how it sorts, and how it reads.
struct Value {
    order: f64,
    integer: Option<i128>,
}

impl Value {
    /// Triton's form: integers as they are, floats with six decimals.
    fn text(&self) -> String {
        match self.integer {
            Some(integer) => integer.to_string(),
            None => format!("{:.6}", self.order),
        }
    }
}

fn values(tensor: &Tensor) -> Option<Vec<Value>> {
    macro_rules! read {
        ($number:ty, $value:expr) => {
            tensor
                .data
                .chunks_exact(size_of::<$number>())
                .map(|bytes| <$number>::from_le_bytes(bytes.try_into().expect("chunks of the number's size")))
                .map($value)
                .collect()
        };
    }
    macro_rules! integers {
        ($number:ty) => {
            read!($number, |v| Value {
                order: v as f64,
                integer: Some(i128::from(v))
            })
        };
    }
    Some(match tensor.datatype {
        Datatype::Uint8 => integers!(u8),
        Datatype::Uint16 => integers!(u16),
        Datatype::Uint32 => integers!(u32),
        Datatype::Uint64 => integers!(u64),
        Datatype::Int8 => integers!(i8),
        Datatype::Int16 => integers!(i16),
        Datatype::Int32 => integers!(i32),
        Datatype::Int64 => integers!(i64),
        Datatype::Fp32 => read!(f32, |v| Value {
            order: f64::from(v),
            integer: None
        }),
        Datatype::Fp64 => read!(f64, |v| Value {
            order: v,
            integer: None
        }),
        Datatype::Bool | Datatype::Bytes | Datatype::Fp16 | Datatype::Bf16 => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossfade_runtimes_core::BytesElements;

    #[test]
    fn the_highest_come_first_with_their_labels() {
        let values: Vec<u8> = [0.1f32, 0.7, 0.2, 3.0, 1.0, 2.0]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let tensor = Tensor {
            datatype: Datatype::Fp32,
            shape: [2, 3].into(),
            data: values.into(),
        };
        let labels = ["a".to_owned(), "b".to_owned()];
        let top = |n, batched| {
            let top = super::top("y", &tensor, n, batched, &labels).unwrap();
            let texts: Vec<_> = BytesElements::new(&top.data)
                .map(|text| String::from_utf8(text.unwrap().to_vec()).unwrap())
                .collect();
            (top.shape, texts)
        };
        let (shape, texts) = top(2, true);
        assert_eq!(shape, Shape::from([2, 2]));
        assert_eq!(
            texts,
            ["0.700000:1:b", "0.200000:2", "3.000000:0:a", "2.000000:2"]
        );
        let (shape, texts) = top(1, false);
        assert_eq!((shape, texts), (Shape::from([1]), vec!["3.000000:3".to_owned()]));
        assert_eq!(top(99, true).0, Shape::from([2, 3]));
    }
}
