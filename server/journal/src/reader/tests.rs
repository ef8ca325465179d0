use super::*;
use crate::frame;
use crate::header::Purpose;

/// Gives one byte per call, and interrupts every other one.
struct Slow<'a>(&'a [u8], bool);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let most = buffer.len().min(1);
        self.0.read(&mut buffer[..most])
    }
}

/// Fails after its bytes.
struct Failing<'a>(&'a [u8]);

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer) {
            Ok(0) => Err(io::Error::other("injected")),
            read => read,
        }
    }
}

fn journal() -> Vec<u8> {
    let base = Head::EMPTY;
    let mut bytes = Header {
        purpose: Purpose::Audit,
        base,
    }
    .encode()
    .to_vec();
    let head = frame::encode(&base, b"one", &mut bytes);
    frame::encode(&head, b"two", &mut bytes);
    bytes
}

#[test]
fn records_come_in_order_with_their_places() {
    let bytes = journal();
    let records: Vec<_> = Reader::new(Slow(&bytes, false), Path::new("x"))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(records, read_bytes(&bytes).unwrap());
    assert_eq!(records[0].payload, b"one");
    assert_eq!((records[0].seq, records[0].offset), (1, 72));
    assert_eq!((records[1].seq, records[1].offset), (2, 72 + 84 + 3));
    assert_eq!(records[1].prev, records[0].hash);
}

#[test]
fn a_reader_ends_after_its_first_error() {
    let mut bytes = journal();
    bytes[80] ^= 1;
    let mut reader = Reader::new(&bytes[..], Path::new("x")).unwrap();
    assert!(matches!(reader.next(), Some(Err(Error::Broken { seq: 1, .. }))));
    assert!(reader.next().is_none());
}

#[test]
fn an_error_of_the_system_is_not_taken_for_damage() {
    let bytes = journal();
    for length in [72, 100, bytes.len() - 1, bytes.len()] {
        let last = Reader::new(Failing(&bytes[..length]), Path::new("x"))
            .unwrap()
            .last();
        assert!(
            matches!(last, Some(Err(Error::Io { .. }))),
            "after {length} bytes"
        );
    }
    assert!(matches!(
        Reader::new(Failing(&bytes[..20]), Path::new("x")),
        Err(Error::Io { .. })
    ));
}

#[test]
fn a_broken_record_is_named_with_its_place_and_what_to_do() {
    let mut bytes = journal();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let error = Reader::new(&bytes[..], Path::new("a.log"))
        .unwrap()
        .verify()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "`a.log`: record 2 at byte 159: crc: the bytes are not those that were written; nothing was cut off: \
         restore the file from a copy, or move it away and keep it as evidence"
    );
}
