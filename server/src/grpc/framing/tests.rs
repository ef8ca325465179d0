//! Unary framing over bodies that come in any pieces.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Write as _;
use std::task::{Context, Poll};

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http_body::Frame;
use proptest::prelude::*;
use tonic::Code;

use super::*;
use crate::scope::Outcome;

/// A body of given frames; after them it ends, or says nothing more.
struct Frames {
    frames: VecDeque<Bytes>,
    silent: bool,
    bounds: Bounds,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.frames.pop_front() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None if self.silent => Poll::Pending,
            None => Poll::Ready(None),
        }
    }
}

const BOUNDS: Bounds = Bounds {
    max_bytes: 1000,
    idle: Duration::from_secs(3600),
    deadline: None,
};

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let mut frame = prefix(false, u32::try_from(message.len()).unwrap()).to_vec();
    frame[0] = flag;
    frame.extend_from_slice(message);
    frame
}

fn body(frames: Vec<Bytes>, silent: bool, bounds: Bounds) -> Frames {
    Frames {
        frames: frames.into(),
        silent,
        bounds,
    }
}

/// Reads the one message of a unary request.
async fn read(body: Frames, encoding: Option<Encoding>) -> Result<Bytes, Failure> {
    let bounds = body.bounds;
    let mut messages = Messages::new(body, bounds, encoding);
    let announced = messages.announced().await?;
    let message = messages.message(announced, &Arriving::new(10_000)).await?;
    messages.end().await?;
    message.decompress(|_| Ok(()))
}

/// Reads messages to the end of a stream, or to the first that is broken.
async fn read_all(body: Frames, encoding: Option<Encoding>) -> (Vec<Bytes>, Result<(), Failure>) {
    let bounds = body.bounds;
    let mut messages = Messages::new(body, bounds, encoding);
    let arriving = Arriving::new(10_000);
    let mut all = Vec::new();
    let end = async {
        while messages.another().await? {
            let announced = messages.announced().await?;
            all.push(
                messages
                    .message(announced, &arriving)
                    .await?
                    .decompress(|_| Ok(()))?,
            );
        }
        Ok(())
    };
    let end = end.await;
    (all, end)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.unwrap().block_on(future)
}

fn check(frames: Vec<Vec<u8>>, encoding: Option<Encoding>, expected: Result<&[u8], (Code, &str)>) {
    let frames = frames.into_iter().map(Bytes::from).collect();
    match (block_on(read(body(frames, false, BOUNDS), encoding)), expected) {
        (Ok(message), Ok(expected)) => assert_eq!(&message[..], expected),
        (Err(failure), Err((code, message))) => {
            assert_eq!(failure.outcome(), Outcome::Refused(Status::InvalidInput));
            let status = failure.status();
            assert_eq!(status.code(), code);
            assert!(status.message().contains(message), "{}", status.message());
        }
        (got, expected) => panic!("expected {expected:?}, got {got:?}"),
    }
}

#[test]
fn a_message_in_one_frame_is_not_copied() {
    let frame = Bytes::from(framed(0, b"hello"));
    let message = block_on(read(body(vec![frame.clone()], false, BOUNDS), None)).unwrap();
    assert_eq!(message.as_ptr(), frame[PREFIX..].as_ptr());
}

#[test]
fn broken_framing_is_the_clients_mistake() {
    let invalid = |message| Err((Code::InvalidArgument, message));
    check(vec![], None, invalid("before its prefix was complete"));
    check(vec![vec![0, 0]], None, invalid("before its prefix was complete"));
    check(
        vec![framed(0, b"hello")[..7].to_vec()],
        None,
        invalid("before its message was complete"),
    );
    check(
        vec![framed(0, b"a"), framed(0, b"b")],
        None,
        invalid("goes on after its one message"),
    );
    check(
        vec![[framed(0, b"a"), vec![0]].concat()],
        None,
        invalid("goes on after its one message"),
    );
    check(vec![framed(2, b"a")], None, invalid("compression flag 2"));
    check(vec![framed(1, b"a")], None, invalid("there is no grpc-encoding"));
    check(
        vec![framed(1, b"a")],
        Some(Encoding::Gzip),
        invalid("not a valid gzip stream"),
    );
    check(
        vec![framed(1, b"a")],
        Some(Encoding::Deflate),
        invalid("not a valid deflate stream"),
    );
    check(vec![framed(0, b"")], None, Ok(b""));
}

#[test]
fn a_stream_may_have_any_number_of_messages() {
    for messages in [&[][..], &["one"], &["one", "", "three"]] {
        let stream: Vec<u8> = messages
            .iter()
            .flat_map(|message| framed(0, message.as_bytes()))
            .collect();
        for piece in [1, 2, 7, 1000] {
            let frames = stream.chunks(piece).map(Bytes::copy_from_slice).collect();
            let (read, end) = block_on(read_all(body(frames, false, BOUNDS), None));
            assert_eq!(read, messages);
            assert_eq!(end, Ok(()));
        }
    }
}

#[test]
fn a_stream_ends_with_the_first_message_that_is_broken() {
    let frames = vec![
        framed(0, b"whole").into(),
        Bytes::from_static(&[0, 0, 0, 0, 9, 1]),
    ];
    let (read, end) = block_on(read_all(body(frames, false, BOUNDS), None));
    assert_eq!(read, ["whole"]);
    assert_eq!(end.unwrap_err().outcome(), Outcome::Refused(Status::InvalidInput));
}

#[test]
fn a_client_may_be_silent_between_messages_but_not_inside_one() {
    let impatient = Bounds {
        idle: Duration::ZERO,
        ..BOUNDS
    };
    let inside = vec![Bytes::from_static(&[0, 0, 0, 0, 9, 1])];
    let (_, end) = block_on(read_all(body(inside, true, impatient), None));
    assert_eq!(
        end.unwrap_err().outcome(),
        Outcome::Refused(Status::DeadlineExceeded)
    );
    let between = body(vec![framed(0, b"a").into()], true, impatient);
    let mut reading = std::pin::pin!(read_all(between, None));
    let mut cx = Context::from_waker(std::task::Waker::noop());
    block_on(async {
        assert!(reading.as_mut().poll(&mut cx).is_pending());
    });
}

#[test]
fn too_large_is_refused_before_it_is_read() {
    let large = Err((Code::ResourceExhausted, "at most 1000"));
    check(vec![prefix(false, 1001).to_vec()], None, large);
    check(vec![framed(0, &[1; 1000])], None, Ok(&[1; 1000]));
}

#[test]
fn decompression_stops_at_the_limit() {
    let gzip = |len| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&vec![0; len]).unwrap();
        encoder.finish().unwrap()
    };
    let deflate = |len| {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&vec![0; len]).unwrap();
        encoder.finish().unwrap()
    };
    check(vec![framed(1, &gzip(1000))], Some(Encoding::Gzip), Ok(&[0; 1000]));
    check(
        vec![framed(1, &deflate(1000))],
        Some(Encoding::Deflate),
        Ok(&[0; 1000]),
    );
    let large = Err((Code::ResourceExhausted, "at most 1000"));
    check(vec![framed(1, &gzip(100_000))], Some(Encoding::Gzip), large);
    check(vec![framed(1, &deflate(100_000))], Some(Encoding::Deflate), large);
    check(vec![framed(0, b"plain")], Some(Encoding::Gzip), Ok(b"plain"));
}

#[test]
fn a_silent_client_runs_into_the_bounds() {
    let passed = Bounds {
        deadline: Some(Instant::now()),
        ..BOUNDS
    };
    let impatient = Bounds {
        idle: Duration::ZERO,
        ..BOUNDS
    };
    for bounds in [passed, impatient] {
        for frames in [vec![], vec![Bytes::from_static(&[0, 0, 0, 0, 9, 1])]] {
            let failure = block_on(read(body(frames, true, bounds), None)).unwrap_err();
            assert_eq!(failure.outcome(), Outcome::Refused(Status::DeadlineExceeded));
        }
    }
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs = pairs.iter().map(|&(name, value)| {
        let value = http::HeaderValue::from_static(value);
        (HeaderName::from_static(name), value)
    });
    pairs.collect()
}

#[test]
fn answers_are_compressed_only_as_the_request_was() {
    let check = |pairs: &[_], expected| {
        let mut headers = headers(pairs);
        let request = of_request(&headers).unwrap();
        assert_eq!(of_response(&headers, request), expected, "{headers:?}");
        narrow(&mut headers);
        let left = headers
            .get("grpc-accept-encoding")
            .map(|value| value.to_str().unwrap());
        assert_eq!(left, expected.map(Encoding::name));
    };
    let all = ("grpc-accept-encoding", "identity, deflate, gzip");
    check(&[all], None);
    check(&[all, ("grpc-encoding", "identity")], None);
    check(&[all, ("grpc-encoding", "gzip")], Some(Encoding::Gzip));
    check(&[all, ("grpc-encoding", "deflate")], Some(Encoding::Deflate));
    check(&[("grpc-encoding", "gzip")], None);
    check(
        &[("grpc-accept-encoding", "deflate"), ("grpc-encoding", "gzip")],
        None,
    );
    let refusal = of_request(&headers(&[("grpc-encoding", "snappy")])).unwrap_err();
    assert_eq!(refusal.status, Status::Unsupported);
}

proptest! {
    #[test]
    fn pieces_of_any_size_make_the_same_message(message in prop::collection::vec(any::<u8>(), 0..200), cut in 1usize..20) {
        let frames = framed(0, &message).chunks(cut).map(Bytes::copy_from_slice).collect();
        let read = block_on(read(body(frames, false, BOUNDS), None));
        prop_assert_eq!(read.unwrap(), message);
    }

    #[test]
    fn any_frames_are_read_without_a_panic(frames: Vec<Vec<u8>>, gzip: bool) {
        let total: usize = frames.iter().map(Vec::len).sum();
        let frames = frames.into_iter().map(Bytes::from).collect();
        let encoding = gzip.then_some(Encoding::Gzip);
        if let Ok(message) = block_on(read(body(frames, false, BOUNDS), encoding)) {
            prop_assert!(message.len() <= BOUNDS.max_bytes && (gzip || message.len() + PREFIX == total));
        }
    }
}
