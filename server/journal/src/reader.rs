//! The records of one file in order, each verified against the one before it.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::frame::{FRAME_HEAD_BYTES, FrameHead, Problem, Record};
use crate::hash::Head;
use crate::header::{HEADER_BYTES, Header, HeaderProblem};

/// A stream of verified records. It ends after the first error.
///
/// While a writer is at work the last record may be there in part; a reader that knows the writer's head takes no
/// more records than that.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    path: PathBuf,
    header: Header,
    head: Head,
    offset: u64,
    ended: bool,
}

/// The first bad place of a file, before it is known what it means.
#[derive(Debug)]
pub(crate) struct Bad {
    pub(crate) seq: u64,
    pub(crate) offset: u64,
    pub(crate) problem: Problem,
}

/// What stopped a reader.
#[derive(Debug)]
pub(crate) enum Stop {
    Bad(Bad),
    Io(io::Error),
}

impl Stop {
    pub(crate) fn into_error(self, path: &Path) -> Error {
        match self {
            Self::Io(source) => Error::io(path, "read", source),
            Self::Bad(Bad { seq, offset, problem }) => Error::Broken {
                path: path.to_path_buf(),
                seq,
                offset,
                problem,
            },
        }
    }
}

impl Reader<BufReader<File>> {
    /// Opens the journal at `path` for reading. It takes no lock and changes nothing.
    ///
    /// Errors: [`Error::Io`], [`Error::Header`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|error| Error::io(path, "open", error))?;
        Self::new(BufReader::with_capacity(1 << 16, file), path)
    }
}

impl<R: Read> Reader<R> {
    /// Reads a journal from `input`; errors name `path`.
    ///
    /// Errors: [`Error::Io`], [`Error::Header`].
    pub fn new(mut input: R, path: &Path) -> Result<Self, Error> {
        let mut bytes = [0; HEADER_BYTES];
        let read = fill(&mut input, &mut bytes).map_err(|error| Error::io(path, "read", error))?;
        let decoded = match read {
            HEADER_BYTES => Header::decode(&bytes),
            short => Err(HeaderProblem::Short(short)),
        };
        let header = decoded.map_err(|problem| Error::Header {
            path: path.to_path_buf(),
            problem,
        })?;
        Ok(Self {
            input,
            path: path.to_path_buf(),
            header,
            head: header.base,
            offset: HEADER_BYTES as u64,
            ended: false,
        })
    }

    /// What the file says of itself.
    pub fn header(&self) -> Header {
        self.header
    }

    /// The last record read, or what the file's first record follows.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Where the next record begins, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record; `None` at the end of the file.
    pub(crate) fn step(&mut self) -> Result<Option<Record>, Stop> {
        let mut bytes = [0; FRAME_HEAD_BYTES];
        let read = fill(&mut self.input, &mut bytes).map_err(Stop::Io)?;
        if read == 0 {
            return Ok(None);
        }
        if read < FRAME_HEAD_BYTES {
            return Err(self.bad(short(FRAME_HEAD_BYTES - read)));
        }
        let frame = FrameHead::read(&bytes).map_err(|problem| self.bad(problem))?;
        let mut payload = Vec::new();
        let read = (&mut self.input)
            .take(frame.length as u64)
            .read_to_end(&mut payload)
            .map_err(Stop::Io)?;
        if read < frame.length {
            return Err(self.bad(short(frame.length - read)));
        }
        let record = frame
            .verify(&self.head, payload, self.offset)
            .map_err(|problem| self.bad(problem))?;
        self.head = record.head();
        self.offset += (FRAME_HEAD_BYTES + frame.length) as u64;
        Ok(Some(record))
    }

    fn bad(&self, problem: Problem) -> Stop {
        Stop::Bad(Bad {
            seq: self.head.seq.saturating_add(1),
            offset: self.offset,
            problem,
        })
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let step = self.step();
        self.ended = !matches!(step, Ok(Some(_)));
        step.map_err(|stop| stop.into_error(&self.path)).transpose()
    }
}

/// What a whole file was found to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// What the file says of itself.
    pub header: Header,
    /// Its last record, or what its first record follows.
    pub head: Head,
    /// How many records it holds.
    pub records: u64,
}

/// Reads the whole journal at `path` and checks every byte of it.
///
/// A torn tail is an error here too, [`Problem::Short`] or [`Problem::Crc`] of the last record; opening the journal
/// for writing cuts it off.
///
/// Errors: [`Error::Broken`] names the first bad record; [`Error::Header`], [`Error::Io`].
/// Cost: one pass over the file, one SHA-256 and one CRC of its bytes.
pub fn verify(path: &Path) -> Result<Verified, Error> {
    Reader::open(path)?.verify()
}

/// Reads a journal from memory: for fuzzing and for copies that are not in a file.
///
/// Errors: as [`verify`], with an empty path.
pub fn read_bytes(bytes: &[u8]) -> Result<Vec<Record>, Error> {
    Reader::new(bytes, Path::new(""))?.collect()
}

impl<R: Read> Reader<R> {
    /// Reads to the end.
    ///
    /// Errors: as [`verify`].
    pub fn verify(mut self) -> Result<Verified, Error> {
        for record in &mut self {
            record?;
        }
        Ok(Verified {
            header: self.header,
            head: self.head,
            records: self.head.seq - self.header.base.seq,
        })
    }
}

/// Whether the file is the one that is meant.
pub(crate) fn check(found: &Header, expected: &Header, path: &Path) -> Result<(), Error> {
    if found.purpose != expected.purpose {
        return Err(Error::Purpose {
            path: path.to_path_buf(),
            expected: expected.purpose,
            found: found.purpose,
        });
    }
    if found.base != expected.base {
        return Err(Error::Base {
            path: path.to_path_buf(),
            expected: expected.base,
            found: found.base,
        });
    }
    Ok(())
}

/// Reads until `buffer` is full or the input ends; returns how many bytes.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn short(missing: usize) -> Problem {
    Problem::Short {
        missing: missing as u64,
    }
}

#[cfg(test)]
mod tests;
