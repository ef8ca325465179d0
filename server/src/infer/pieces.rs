//! Requests of many rows of different lengths, cut into jobs that a batch has room for; and their answers put together.
//!
//! A list of texts is one request to its client, its record and its deadline, and as many jobs as keep one batch from
//! holding up all others, and padding from being computed.

use bytes::BytesMut;
use crossfade_batcher::{Answer, Timings};
use crossfade_runtimes_core::{ModelSignature, Shape, Tensor};

/// Padding that is computed is at most so small a part of what is not, as within batches.
const WASTE: usize = 8;

/// What a job may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Rows times the longest.
    pub(super) elements: usize,
    /// Rows.
    pub(super) rows: usize,
    /// Whether padding costs nothing.
    pub(super) skips_padding: bool,
}

/// The rows of each job, by their numbers: those of like length together, the longest first. One job of all where that has
/// room.
pub(super) fn divide(lengths: &[usize], room: Room) -> Vec<Vec<usize>> {
    let all: Vec<usize> = (0..lengths.len()).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    if room.has_for(lengths.len(), longest, lengths.iter().sum()) {
        return vec![all];
    }
    let mut by_length = all;
    by_length.sort_by_key(|&row| std::cmp::Reverse(lengths[row]));
    let mut pieces: Vec<Vec<usize>> = Vec::new();
    let (mut longest, mut own) = (0, 0);
    for row in by_length {
        let length = lengths[row];
        match pieces.last_mut() {
            Some(piece) if room.has_for(piece.len() + 1, longest, own + length) => {
                piece.push(row);
                own += length;
            }
            _ => {
                pieces.push(vec![row]);
                (longest, own) = (length, length);
            }
        }
    }
    pieces
}

impl Room {
    fn has_for(self, rows: usize, longest: usize, own: usize) -> bool {
        let all = rows.saturating_mul(longest);
        let computed = if self.skips_padding { own } else { all };
        rows <= self.rows && computed <= self.elements && (self.skips_padding || all <= own + own / WASTE)
    }
}

/// Tokens of each row by its mask, INT64 `[rows, longest]`: up to the last that counts, and at least one.
pub(super) fn lengths(mask: &Tensor) -> Vec<usize> {
    let columns = mask.shape.get(1).copied().unwrap_or(0);
    let rows = mask.data.chunks_exact((columns * 8).max(1));
    let length = |row: &[u8]| {
        let last = row.chunks_exact(8).rposition(|token| token != [0; 8]);
        last.map_or(1, |last| last + 1)
    };
    rows.map(length).collect()
}

/// Some rows of the inputs, those that have lengths cut to the longest of them.
pub(super) fn take(
    signature: &ModelSignature,
    inputs: &[Option<Tensor>],
    rows: &[usize],
    longest: usize,
) -> Vec<Option<Tensor>> {
    let of = |(spec, tensor): (&crossfade_runtimes_core::TensorSpec, &Option<Tensor>)| {
        let tensor = tensor.as_ref()?;
        let cut = spec.padding.filter(|padding| padding.dim == 1);
        let columns = tensor.shape.get(1).copied().unwrap_or(1);
        let row_bytes = tensor.data.len() / tensor.shape.rows().max(1);
        let kept = match cut {
            Some(_) => row_bytes / columns.max(1) * longest.min(columns),
            None => row_bytes,
        };
        let mut data = BytesMut::with_capacity(rows.len() * kept);
        for &row in rows {
            data.extend_from_slice(&tensor.data[row * row_bytes..row * row_bytes + kept]);
        }
        let mut shape: Vec<usize> = tensor.shape.with_rows(rows.len()).to_vec();
        if cut.is_some() {
            shape[1] = longest.min(columns);
        }
        Some(Tensor {
            datatype: tensor.datatype,
            shape: Shape::from(&shape[..]),
            data: data.freeze(),
        })
    };
    signature.inputs.iter().zip(inputs).map(of).collect()
}

/// Answers of jobs as the answer of the request: each row where it was.
///
/// Every output has as many elements in each row; the timings are those of the job that took longest.
pub(super) fn join(pieces: &[Vec<usize>], answers: Vec<Answer>) -> Answer {
    let total: usize = pieces.iter().map(Vec::len).sum();
    let took = |timings: &Timings| timings.queue + timings.gather + timings.compute + timings.scatter;
    let timings = answers.iter().map(|answer| answer.timings).max_by_key(took);
    let outputs = answers.first().map_or(0, |answer| answer.outputs.len());
    let output = |index: usize| {
        let first = &answers[0].outputs[index];
        let row_bytes = first.data.len() / first.shape.rows().max(1);
        let mut data = vec![0; total * row_bytes];
        for (rows, answer) in pieces.iter().zip(&answers) {
            let parts = answer.outputs[index].data.chunks_exact(row_bytes.max(1));
            for (&row, part) in rows.iter().zip(parts) {
                data[row * row_bytes..(row + 1) * row_bytes].copy_from_slice(part);
            }
        }
        Tensor {
            datatype: first.datatype,
            shape: first.shape.with_rows(total),
            data: data.into(),
        }
    };
    Answer {
        outputs: (0..outputs).map(output).collect(),
        timings: timings.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossfade_runtimes_core::{Datatype, Padding, ShapeSpec, TensorSpec};
    use proptest::prelude::*;

    fn int64(rows: &[&[i64]]) -> Tensor {
        Tensor {
            datatype: Datatype::Int64,
            shape: Shape::from([rows.len(), rows[0].len()]),
            data: rows
                .concat()
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect::<Vec<u8>>()
                .into(),
        }
    }

    #[test]
    fn rows_are_taken_without_the_padding_that_they_do_not_need() {
        let signature = ModelSignature {
            inputs: vec![
                TensorSpec {
                    padding: Some(Padding { dim: 1, fill: 0 }),
                    ..TensorSpec::new("ids", Datatype::Int64, ShapeSpec::from(&[-1, -1][..]))
                },
                TensorSpec::new("other", Datatype::Int64, ShapeSpec::from(&[-1, 3][..])),
            ],
            ..ModelSignature::default()
        };
        let ids = int64(&[&[1, 2, 3], &[4, 0, 0], &[5, 6, 0]]);
        let mask = int64(&[&[1, 1, 1], &[1, 0, 0], &[0, 1, 0]]);
        assert_eq!(lengths(&mask), [3, 1, 2]);
        let taken = take(&signature, &[Some(ids), Some(mask)], &[2, 1], 2);
        assert_eq!(taken[0], Some(int64(&[&[5, 6], &[4, 0]])));
        assert_eq!(taken[1], Some(int64(&[&[0, 1, 0], &[1, 0, 0]])));
    }

    #[test]
    fn answers_go_back_to_their_rows() {
        let answer = |rows: &[&[i64]]| Answer {
            outputs: vec![int64(rows)],
            timings: Timings::default(),
        };
        let joined = join(
            &[vec![2, 0], vec![1]],
            vec![answer(&[&[20, 21], &[0, 1]]), answer(&[&[10, 11]])],
        );
        assert_eq!(joined.outputs, [int64(&[&[0, 1], &[10, 11], &[20, 21]])]);
    }

    proptest! {
        #[test]
        fn every_row_is_in_one_job_that_has_room(
            lengths in prop::collection::vec(1usize..60, 1..80),
            elements in 1usize..400,
            most in 1usize..20,
            skips_padding: bool,
        ) {
            let room = Room { elements, rows: most, skips_padding };
            let pieces = divide(&lengths, room);
            let mut rows: Vec<usize> = pieces.concat();
            rows.sort_unstable();
            prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
            for piece in pieces.iter().filter(|piece| piece.len() > 1) {
                let longest = piece.iter().map(|&row| lengths[row]).max().unwrap();
                let own: usize = piece.iter().map(|&row| lengths[row]).sum();
                prop_assert!(piece.len() <= most);
                prop_assert!(own <= elements);
                prop_assert!(skips_padding || piece.len() * longest <= elements.min(own + own / WASTE));
            }
        }
    }
}
