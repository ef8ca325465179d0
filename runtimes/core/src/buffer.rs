//! Memory that every runtime may read as any datatype.

use bytemuck::{Pod, Zeroable};

/// A cache line: the alignment that covers every datatype and every vector instruction in use.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

const LINE: usize = size_of::<Line>();

/// A growable byte buffer whose start is aligned to 64 bytes.
///
/// Growing keeps what is there; `clear` keeps the capacity. `Bytes::from_owner` turns it into shared bytes
/// without a copy.
#[derive(Default)]
pub struct AlignedBuffer {
    lines: Vec<Line>,
    len: usize,
}

impl AlignedBuffer {
    /// An empty buffer; allocates nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A buffer of `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        let mut buffer = Self::new();
        buffer.resize(len);
        buffer
    }

    /// An empty buffer with room for `len` bytes.
    pub fn with_capacity(len: usize) -> Self {
        Self {
            lines: Vec::with_capacity(len.div_ceil(LINE)),
            len: 0,
        }
    }

    /// Sets the length; new bytes are zero.
    pub fn resize(&mut self, len: usize) {
        let old = self.len;
        self.lines.resize(len.div_ceil(LINE), Line::zeroed());
        self.len = len;
        if len < old {
            // Keeps the invariant that bytes past `len` are zero, so that growing again yields zeros.
            let all: &mut [u8] = bytemuck::cast_slice_mut(&mut self.lines);
            all[len..].fill(0);
        }
    }

    /// Appends `bytes`.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let start = self.len;
        let end = start + bytes.len();
        if end > self.lines.len() * LINE {
            self.lines.resize(end.div_ceil(LINE), Line::zeroed());
        }
        self.len = end;
        self.as_mut_slice()[start..].copy_from_slice(bytes);
    }

    /// Sets the length to 0 and keeps the capacity.
    pub fn clear(&mut self) {
        self.lines.clear();
        self.len = 0;
    }

    /// Bytes in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte is in use.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes allocated.
    pub fn capacity(&self) -> usize {
        self.lines.capacity() * LINE
    }

    /// The bytes in use.
    pub fn as_slice(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    /// The bytes in use, writable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl From<&[u8]> for AlignedBuffer {
    fn from(bytes: &[u8]) -> Self {
        let mut buffer = Self::with_capacity(bytes.len());
        buffer.extend_from_slice(bytes);
        buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_keep_content_and_alignment() {
        let mut buffer = AlignedBuffer::new();
        let mut expected = Vec::new();
        for k in 0..200u8 {
            let piece = vec![k; usize::from(k)];
            buffer.extend_from_slice(&piece);
            expected.extend_from_slice(&piece);
        }
        assert_eq!(buffer.as_slice(), expected);
        assert_eq!(buffer.as_slice().as_ptr().addr() % 64, 0);
    }

    #[test]
    fn growing_after_shrinking_yields_zeros() {
        let mut buffer = AlignedBuffer::from(&[7u8; 100][..]);
        buffer.resize(10);
        buffer.resize(100);
        assert_eq!(&buffer.as_slice()[..10], &[7; 10]);
        assert_eq!(&buffer.as_slice()[10..], &[0; 90]);
    }
}
