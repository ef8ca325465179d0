//! Bytes of request bodies that are still arriving, bounded over all connections.
//!
//! They belong to requests that hold no permit yet, so the permits' sum does not see them: a client that is slow or
//! silent holds its socket and the bytes it has sent, and nothing else.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};

use crate::status::{Refusal, Status};

/// What is committed at once on the word of a client that announces a large body.
const FIRST: usize = 1 << 20;

/// The sum. `Relaxed`: the counter guards no other memory.
#[derive(Debug)]
pub(crate) struct Arriving {
    bytes: AtomicUsize,
    max: usize,
}

impl Arriving {
    /// At most `max` bytes together.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            max,
        }
    }

    /// Counts `bytes` of a body that is whole and not admitted yet, until what is returned is dropped.
    ///
    /// Errors: `Overloaded` when all bodies together hold too much.
    pub(crate) fn hold(&self, bytes: usize) -> Result<ArrivingBuffer<'_>, Refusal> {
        let mut held = self.buffer(bytes);
        held.count(bytes)?;
        Ok(held)
    }

    /// A buffer for one body, which will have at most `most` bytes.
    pub(crate) fn buffer(&self, most: usize) -> ArrivingBuffer<'_> {
        ArrivingBuffer {
            arriving: self,
            counted: 0,
            most,
            bytes: BytesMut::new(),
        }
    }
}

/// One body while it arrives; counted in [`Arriving`] until it is whole or dropped.
pub(crate) struct ArrivingBuffer<'a> {
    arriving: &'a Arriving,
    counted: usize,
    most: usize,
    bytes: BytesMut,
}

impl ArrivingBuffer<'_> {
    /// Bytes that are there.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends a piece. Room is made as bytes arrive, not as they are announced: twice what is there, but not past
    /// the most there can be, which means few moves, and no room for bytes that never come.
    ///
    /// Errors: `Overloaded` when all bodies together hold too much.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        let len = self.bytes.len() + piece.len();
        if len > self.counted {
            let room = (2 * len).max(FIRST).min(self.most.max(len));
            self.count(room - self.counted)?;
            self.bytes.reserve(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    /// The whole body.
    pub(crate) fn freeze(mut self) -> Bytes {
        std::mem::take(&mut self.bytes).freeze()
    }

    fn count(&mut self, more: usize) -> Result<(), Refusal> {
        self.counted += more;
        let all = self.arriving.bytes.fetch_add(more, Relaxed) + more;
        // A lone body may exceed the sum, since the size limit of one request bounds it.
        if all > self.arriving.max && all > self.counted {
            let max = self.arriving.max;
            let message = format!("request bodies that are arriving hold more than {max} bytes; retry later");
            return Err(Refusal::new(Status::Overloaded, message));
        }
        Ok(())
    }
}

impl Drop for ArrivingBuffer<'_> {
    fn drop(&mut self) {
        self.arriving.bytes.fetch_sub(self.counted, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_together_are_bounded_but_one_alone_is_not() {
        let arriving = Arriving::new(6);
        let mut lone = arriving.buffer(10);
        lone.push(b"0123").unwrap();
        lone.push(b"456789").unwrap();
        let mut second = arriving.buffer(10);
        assert_eq!(second.push(b"0").unwrap_err().status, Status::Overloaded);
        drop(second);
        assert_eq!(lone.freeze(), "0123456789");
        assert_eq!(arriving.bytes.load(Relaxed), 0);
    }

    #[test]
    fn room_is_made_as_bytes_arrive() {
        let arriving = Arriving::new(usize::MAX);
        let mut buffer = arriving.buffer(100 << 20);
        buffer.push(b"x").unwrap();
        assert_eq!(arriving.bytes.load(Relaxed), FIRST);
        buffer.push(&vec![0; FIRST]).unwrap();
        assert_eq!(arriving.bytes.load(Relaxed), 2 * (FIRST + 1));
        let mut small = arriving.buffer(3);
        small.push(b"x").unwrap();
        assert_eq!(arriving.bytes.load(Relaxed), 2 * (FIRST + 1) + 3);
    }
}
