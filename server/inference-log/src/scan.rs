//! Reading a segment: one that was closed, or what a killed process left of it.

use std::borrow::Cow;

use crate::error::KeyError;
use crate::frame::{ALIGNMENT, ENCRYPTED, FRAME_HEAD_BYTES, FrameHead, Kind, MAGIC, framed, parse};
use crate::header::{HEADER_BYTES, Header, HeaderProblem};
use crate::keys::Keys;

/// Bytes of a frame's length, which follows its magic.
const LENGTH_BYTES: usize = 4;

/// What a segment holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan<'a> {
    /// What it says of itself.
    pub header: Header,
    /// Its records, in the order of their numbers.
    pub frames: Vec<Frame<'a>>,
    /// Records that were begun and never finished: nobody was told that they are there.
    pub holes: Vec<Hole>,
    /// Bytes up to the end of the last record.
    pub end: usize,
    /// Where records begin that are whole, and what fills them up is not what was written.
    pub filled: Vec<usize>,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its number in the segment, counted from 0.
    pub seq: u64,
    /// What it is.
    pub kind: Kind,
    /// As it was appended.
    pub flags: u8,
    /// How the payload is read.
    pub schema: u16,
    /// What was appended, or, where [`is_encrypted`](Self::is_encrypted), what became of it.
    pub payload: Cow<'a, [u8]>,
    /// Where it begins in the file, bytes.
    pub offset: usize,
}

impl Frame<'_> {
    /// Whether the payload is not readable.
    pub fn is_encrypted(&self) -> bool {
        self.flags & ENCRYPTED != 0
    }
}

impl Scan<'_> {
    /// Decrypts what is encrypted. Returns where records begin that are not what was sealed, although their checksum is right: of those
    /// nothing is left.
    ///
    /// Errors: the key is missing.
    pub fn decrypt(&mut self, keys: &Keys) -> Result<Vec<usize>, KeyError> {
        let mut forged = Vec::new();
        let is_encrypted = !self.header.key.is_nil();
        let inferences = self
            .frames
            .iter_mut()
            .filter(|frame| frame.kind == Kind::Inference);
        // Whoever has no key may still write a record as it is, and its checksum.
        for frame in inferences.filter(|frame| frame.is_encrypted() != is_encrypted) {
            forged.push(frame.offset);
            frame.payload = Cow::Owned(Vec::new());
            frame.flags &= !ENCRYPTED;
        }
        if !self.frames.iter().any(Frame::is_encrypted) {
            return Ok(forged);
        }
        let Some(key) = keys.find(self.header.key)? else {
            return Ok(forged);
        };
        let cipher = key.segment(&self.header.encode());
        for frame in self.frames.iter_mut().filter(|frame| frame.is_encrypted()) {
            let head = FrameHead {
                kind: frame.kind,
                flags: frame.flags,
                schema: frame.schema,
                seq: frame.seq,
            };
            let payload = cipher.open(head, &frame.payload);
            if payload.is_none() {
                forged.push(frame.offset);
            }
            frame.payload = Cow::Owned(payload.unwrap_or_default());
            frame.flags &= !ENCRYPTED;
        }
        Ok(forged)
    }
}

/// A stretch without a record where there was one to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// Where it begins, bytes.
    pub offset: usize,
    /// The number of the first record that is missing.
    pub seq: u64,
    /// How many are missing; `None` at the end, where nothing follows that would tell.
    pub records: Option<u64>,
    /// A record begins there that says it is whole, and is not: it was changed, or torn by a loss of power.
    pub is_changed: bool,
}

/// Reads all of a segment.
///
/// A record that is damaged is a hole, like one that was never finished: the checksum tells the one as little as the other. Behind
/// a hole it goes on at the next record whose checksum and number are right.
///
/// Errors: [`HeaderProblem`].
pub fn scan(bytes: &[u8]) -> Result<Scan<'_>, HeaderProblem> {
    let header = Header::decode(bytes)?;
    let mut found = Scan {
        frames: Vec::new(),
        holes: Vec::new(),
        filled: Vec::new(),
        end: HEADER_BYTES,
        header,
    };
    let (mut at, mut seq) = (HEADER_BYTES, 0);
    let mut hole = None;
    while at + FRAME_HEAD_BYTES <= bytes.len() {
        match parse(&bytes[at..], found.header.id).filter(|(head, _)| (seq..u64::MAX).contains(&head.seq)) {
            Some((head, payload)) => {
                if head.seq > seq || hole.is_some() {
                    let offset = hole.take().unwrap_or(at);
                    found.holes.push(Hole {
                        offset,
                        seq,
                        records: Some(head.seq - seq),
                        is_changed: is_changed(&bytes[offset..]),
                    });
                }
                found.frames.push(Frame {
                    seq: head.seq,
                    kind: head.kind,
                    flags: head.flags,
                    schema: head.schema,
                    payload: Cow::Borrowed(payload),
                    offset: at,
                });
                let (end, next) = (at + FRAME_HEAD_BYTES + payload.len(), at + framed(payload.len()));
                let filling = bytes.get(end..next).unwrap_or_default();
                if filling.iter().any(|byte| *byte != 0) {
                    found.filled.push(at);
                }
                seq = head.seq + 1;
                at = next;
                found.end = at;
            }
            None => {
                // Nothing but zeros from here on is the end of the segment.
                match bytes[at..].iter().position(|byte| *byte != 0) {
                    None => break,
                    Some(0) => {
                        hole.get_or_insert(at);
                        at += ALIGNMENT;
                    }
                    Some(zeros) => {
                        // A range that was taken and not written yet is zeros too.
                        hole.get_or_insert(at);
                        at += (zeros / ALIGNMENT * ALIGNMENT).max(ALIGNMENT);
                    }
                }
            }
        }
    }
    if let Some(offset) = hole {
        found.holes.push(Hole {
            offset,
            seq,
            records: None,
            is_changed: is_changed(&bytes[offset..]),
        });
    }
    Ok(found)
}

/// Whether what begins here was never a record that is being written: of such a one the length is zero until all of it is there.
fn is_changed(bytes: &[u8]) -> bool {
    let Some((magic, rest)) = bytes.split_at_checked(MAGIC.len()) else {
        return false;
    };
    let has_length = rest.iter().take(LENGTH_BYTES).any(|byte| *byte != 0);
    has_length || magic != MAGIC && magic.iter().any(|byte| *byte != 0)
}

#[cfg(test)]
mod tests;
