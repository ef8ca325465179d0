//! One inference as it lies in a segment.
//!
//! ```text
//! format u8 | which of the optional fields are there u32 | the fields, in the order of [`Record`] | tensors
//! ```
//!
//! Numbers are little-endian; a text is its length as u16 and its bytes. Tensors come last: of each its side, column, dimensions
//! and length, then the bytes of all, so that a writer hands over those bytes where they are and copies them once.

use crate::header::field;

/// The format of what [`Record::encode`] writes.
const FORMAT: u8 = 1;
/// The stages of a request whose times are kept, in the order of [`Record::times_us`].
pub const STAGES: [&str; 7] = [
    "decode", "queue", "gather", "compute", "scatter", "encode", "total",
];
/// The longest text that is kept; longer ones are cut.
const MAX_TEXT: usize = 4096;
/// The most dimensions of a tensor.
const MAX_DIMS: usize = 64;

/// What happened to one request.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Record<'a> {
    /// UUIDv7, the server's own.
    pub request_id: [u8; 16],
    /// When its head was read, microseconds since 1970.
    pub ts_us: i64,
    /// The same by a clock that never goes back, nanoseconds since the server started.
    pub ts_mono_ns: i64,
    /// How it ended: `ok`, or a row of the status table.
    pub outcome: &'a str,
    /// The code that its client got, in its protocol.
    pub status_code: u16,
    /// How it came.
    pub protocol: &'a str,
    /// What its version was then: `stable`, `canary`, `shadow`.
    pub stage: &'a str,
    /// Rows of the request; 0 where they are not known.
    pub rows: u32,
    /// How long each of [`STAGES`] took, where it was reached.
    pub times_us: [Option<u32>; STAGES.len()],
    /// The batch that it ran in.
    pub batch: Option<Batch>,
    /// The probability with which it is here at all.
    pub sampling_p: f32,
    /// XXH3-128 of its inputs.
    pub in_digest: Option<[u8; 16]>,
    /// W3C trace.
    pub trace_id: Option<[u8; 16]>,
    /// The request that it is a copy of.
    pub shadow_of: Option<[u8; 16]>,
    /// The draw of its routing key.
    pub route_key_hash: Option<u64>,
    /// Why this version.
    pub route_reason: Option<&'a str>,
    /// The release that was active.
    pub release_id: Option<&'a str>,
    /// What its client calls it.
    pub client_request_id: Option<&'a str>,
    /// What its client was told; no payload.
    pub error: Option<&'a str>,
    /// Who asked.
    pub caller: Option<&'a str>,
    /// Whom it is about: a keyed digest of an id, never the id.
    pub subject_key: Option<[u8; 16]>,
    /// Where it is once more, with tensors that are too large for a segment.
    pub blob_ref: Option<&'a str>,
    /// The side on which texts that were too long were cut, if any was: `right` or `left`.
    pub truncated: Option<&'a str>,
    /// What answered it.
    pub origin: Origin<'a>,
    /// What was sent and answered, where it is kept.
    pub tensors: Vec<LoggedTensor<'a>>,
}

/// What answers: the same for all requests of a loaded version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Origin<'a> {
    /// Its model, or what the client called it; empty where that was never read.
    pub model: &'a str,
    /// Its version, the same way.
    pub version: &'a str,
    /// Digest of the files that ran.
    pub artifact_sha256: Option<[u8; 32]>,
    /// Of the configuration in force.
    pub config_rev: Option<[u8; 32]>,
    /// Such as `ort`.
    pub runtime: Option<&'a str>,
    /// Such as `cpu`.
    pub device: Option<&'a str>,
}

/// The batch that a request ran in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// The same for all requests of the batch, and for no others of the process.
    pub id: u64,
    /// Rows of all of them.
    pub rows: u16,
    /// Its place among them.
    pub index: u16,
}

/// On which side of the model a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Sent.
    Input,
    /// Answered.
    Output,
}

/// A tensor of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedTensor<'a> {
    /// On which side.
    pub side: Side,
    /// Its place among the inputs or outputs of the record's schema.
    pub column: u16,
    /// Its dimensions.
    pub shape: Vec<u64>,
    /// Row-major, little-endian; BYTES with a length of four bytes before each element.
    pub bytes: &'a [u8],
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordProblem {
    /// A format that this release does not know.
    #[error("record of format {0}, and this release reads format {FORMAT}; use the release that wrote it")]
    Format(u8),
    /// They end before the record does, or go on behind it.
    #[error("the record is shorter or longer than it says")]
    Length,
    /// A text is not UTF-8, or a number stands for nothing.
    #[error("`{0}` of the record is not one")]
    Value(&'static str),
}

impl Record<'_> {
    /// Writes all but the bytes of the tensors to the end of `head`; they follow, in order.
    pub fn encode(&self, head: &mut Vec<u8>) {
        head.push(FORMAT);
        let present = self.present();
        head.extend(present.to_le_bytes());
        head.extend(self.request_id);
        head.extend(self.ts_us.to_le_bytes());
        head.extend(self.ts_mono_ns.to_le_bytes());
        head.extend(self.status_code.to_le_bytes());
        head.extend(self.rows.to_le_bytes());
        head.extend(self.sampling_p.to_le_bytes());
        for time in self.times_us.into_iter().flatten() {
            head.extend(time.to_le_bytes());
        }
        if let Some(Batch { id, rows, index }) = self.batch {
            head.extend(id.to_le_bytes());
            head.extend(rows.to_le_bytes());
            head.extend(index.to_le_bytes());
        }
        for id in [self.in_digest, self.trace_id, self.shadow_of]
            .into_iter()
            .flatten()
        {
            head.extend(id);
        }
        head.extend(self.route_key_hash.into_iter().flat_map(u64::to_le_bytes));
        let digests = [self.origin.artifact_sha256, self.origin.config_rev];
        head.extend(digests.into_iter().flatten().flatten());
        for text in [
            self.outcome,
            self.protocol,
            self.stage,
            self.origin.model,
            self.origin.version,
        ] {
            put(head, text);
        }
        for text in self.texts().into_iter().flatten() {
            put(head, text);
        }
        head.extend(self.subject_key.into_iter().flatten());
        let later = [self.blob_ref, self.truncated];
        later.into_iter().flatten().for_each(|text| put(head, text));
        let count = u16::try_from(self.tensors.len()).unwrap_or(u16::MAX);
        head.extend(count.to_le_bytes());
        for tensor in self.tensors.iter().take(count.into()) {
            head.push(u8::from(tensor.side == Side::Output));
            head.extend(tensor.column.to_le_bytes());
            let dims = &tensor.shape[..tensor.shape.len().min(MAX_DIMS)];
            head.extend(u8::try_from(dims.len()).unwrap_or_default().to_le_bytes());
            head.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
            let bytes = u32::try_from(tensor.bytes.len()).unwrap_or(u32::MAX);
            head.extend(bytes.to_le_bytes());
        }
    }

    /// One bit per optional field, in the order in which they are written.
    fn present(&self) -> u32 {
        let times = self.times_us.iter().map(Option::is_some);
        let rest = [
            self.batch.is_some(),
            self.in_digest.is_some(),
            self.trace_id.is_some(),
            self.shadow_of.is_some(),
            self.route_key_hash.is_some(),
            self.origin.artifact_sha256.is_some(),
            self.origin.config_rev.is_some(),
        ];
        let texts = self.texts();
        let texts = texts.iter().map(Option::is_some);
        // What came later is at the end: older records have none of it.
        let later = [
            self.subject_key.is_some(),
            self.blob_ref.is_some(),
            self.truncated.is_some(),
        ];
        let all = times.chain(rest).chain(texts).chain(later);
        all.enumerate().map(|(place, is)| u32::from(is) << place).sum()
    }

    fn texts(&self) -> [Option<&str>; 7] {
        [
            self.route_reason,
            self.release_id,
            self.client_request_id,
            self.error,
            self.caller,
            self.origin.runtime,
            self.origin.device,
        ]
    }
}

impl<'a> Record<'a> {
    /// Reads a payload.
    ///
    /// Errors: [`RecordProblem`]; never panics.
    pub fn decode(payload: &'a [u8]) -> Result<Self, RecordProblem> {
        let mut from = Reader(payload);
        let [format] = from.array()?;
        if format != FORMAT {
            return Err(RecordProblem::Format(format));
        }
        let mut present = u32::from_le_bytes(from.array()?);
        let mut is = || {
            let first = present & 1 == 1;
            present >>= 1;
            first
        };
        let mut record = Record {
            request_id: from.array()?,
            ts_us: i64::from_le_bytes(from.array()?),
            ts_mono_ns: i64::from_le_bytes(from.array()?),
            status_code: u16::from_le_bytes(from.array()?),
            rows: u32::from_le_bytes(from.array()?),
            sampling_p: f32::from_le_bytes(from.array()?),
            ..Record::default()
        };
        for time in &mut record.times_us {
            *time = from.maybe(is())?.map(u32::from_le_bytes);
        }
        record.batch = from.maybe::<12>(is())?.map(|bytes| Batch {
            id: u64::from_le_bytes(field(&bytes, 0)),
            rows: u16::from_le_bytes(field(&bytes, 8)),
            index: u16::from_le_bytes(field(&bytes, 10)),
        });
        record.in_digest = from.maybe(is())?;
        record.trace_id = from.maybe(is())?;
        record.shadow_of = from.maybe(is())?;
        record.route_key_hash = from.maybe(is())?.map(u64::from_le_bytes);
        record.origin.artifact_sha256 = from.maybe(is())?;
        record.origin.config_rev = from.maybe(is())?;
        record.outcome = from.text("outcome")?;
        record.protocol = from.text("protocol")?;
        record.stage = from.text("stage")?;
        record.origin.model = from.text("model")?;
        record.origin.version = from.text("version")?;
        let mut text = |name| if is() { from.text(name).map(Some) } else { Ok(None) };
        record.route_reason = text("route_reason")?;
        record.release_id = text("release_id")?;
        record.client_request_id = text("client_request_id")?;
        record.error = text("error")?;
        record.caller = text("caller")?;
        record.origin.runtime = text("runtime")?;
        record.origin.device = text("device")?;
        record.subject_key = from.maybe(is())?;
        let mut text = |name| if is() { from.text(name).map(Some) } else { Ok(None) };
        record.blob_ref = text("blob_ref")?;
        record.truncated = text("truncated")?;
        record.tensors = from.tensors()?;
        if from.0.is_empty() {
            Ok(record)
        } else {
            Err(RecordProblem::Length)
        }
    }
}

/// A text, cut between two characters if it is too long.
fn put(head: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(MAX_TEXT)];
    let length = u16::try_from(text.len()).unwrap_or_default();
    head.extend(length.to_le_bytes());
    head.extend(text.as_bytes());
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], RecordProblem> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(RecordProblem::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordProblem> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| RecordProblem::Length)
    }

    fn maybe<const N: usize>(&mut self, is: bool) -> Result<Option<[u8; N]>, RecordProblem> {
        is.then(|| self.array()).transpose()
    }

    fn text(&mut self, name: &'static str) -> Result<&'a str, RecordProblem> {
        let length = u16::from_le_bytes(self.array()?);
        let bytes = self.take(length.into())?;
        std::str::from_utf8(bytes).map_err(|_| RecordProblem::Value(name))
    }

    fn tensors(&mut self) -> Result<Vec<LoggedTensor<'a>>, RecordProblem> {
        let count = u16::from_le_bytes(self.array()?);
        let mut heads = Vec::new();
        for _ in 0..count {
            let [side] = self.array()?;
            let side = match side {
                0 => Side::Input,
                1 => Side::Output,
                _ => return Err(RecordProblem::Value("side")),
            };
            let column = u16::from_le_bytes(self.array()?);
            let [dims] = self.array()?;
            let shape: Result<Vec<u64>, _> =
                (0..dims).map(|_| self.array().map(u64::from_le_bytes)).collect();
            let bytes = u32::from_le_bytes(self.array()?);
            heads.push((side, column, shape?, bytes));
        }
        let tensors = heads.into_iter().map(|(side, column, shape, bytes)| {
            let bytes = usize::try_from(bytes).map_err(|_| RecordProblem::Length)?;
            Ok(LoggedTensor {
                side,
                column,
                shape,
                bytes: self.take(bytes)?,
            })
        });
        tensors.collect()
    }
}

#[cfg(test)]
mod tests;
