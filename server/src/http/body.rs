//! Request bodies: read whole, bounded in size, in pauses and in sum.

use std::error::Error;
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;

use super::reply::Failure;
use crate::arriving::Arriving;
use crate::status::{Refusal, Status};

/// How long a refused client may go on sending.
const LINGER: Duration = Duration::from_secs(2);

/// What a body may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes, as sent.
    pub(super) max_bytes: usize,
    /// The longest pause.
    pub(super) idle: Duration,
    /// When nobody waits for it any more.
    pub(super) deadline: Option<Instant>,
}

/// Reads a body to its end.
///
/// A body that came in one piece is not copied.
///
/// Errors: `TooLarge` (by the announced length already), `Stalled`, `DeadlineExceeded`, `Overloaded`, `InvalidInput`
/// for a body that breaks the protocol, `Cancelled` if the client went away.
pub(super) async fn read<B>(mut body: B, bounds: Bounds, arriving: &Arriving) -> Result<Bytes, Failure>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
{
    let too_large = Failure::TooLarge {
        max: bounds.max_bytes,
    };
    // The most there can be: as announced, else as much as is allowed.
    let announced = body
        .size_hint()
        .exact()
        .map_or(bounds.max_bytes, |bytes| bytes.try_into().unwrap_or(usize::MAX));
    if announced > bounds.max_bytes {
        return Err(too_large);
    }
    let Some(first) = next(&mut body, bounds).await? else {
        return Ok(Bytes::new());
    };
    if first.len() > bounds.max_bytes {
        return Err(too_large);
    }
    if body.is_end_stream() {
        return Ok(first);
    }
    let Some(second) = next(&mut body, bounds).await? else {
        return Ok(first);
    };
    let mut whole = arriving.buffer(announced);
    let mut piece = Some(first);
    let mut following = Some(second);
    while let Some(bytes) = piece {
        if whole.len() + bytes.len() > bounds.max_bytes {
            return Err(too_large);
        }
        whole.push(&bytes)?;
        piece = match following.take() {
            Some(bytes) => Some(bytes),
            None if body.is_end_stream() => None,
            None => next(&mut body, bounds).await?,
        };
    }
    Ok(whole.freeze())
}

/// Reads on and throws away, for as long as [`LINGER`], so that a client that is still sending gets to read why it was
/// refused: closing with bytes unread resets the connection.
///
/// Not for a client that waits for `100 Continue`, which reading would send it.
pub(super) async fn discard<B>(mut body: B)
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.is_end_stream() {
        return;
    }
    let all = async { while let Some(Ok(_)) = body.frame().await {} };
    // Whether it ended or the time did, the connection goes the way it must.
    let _ended = tokio::time::timeout(LINGER, all).await.is_ok();
}

/// The next piece of data; trailers are passed over.
async fn next<B>(body: &mut B, bounds: Bounds) -> Result<Option<Bytes>, Failure>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
{
    loop {
        let pause_ends = Instant::now() + bounds.idle;
        let until = bounds
            .deadline
            .map_or(pause_ends, |deadline| deadline.min(pause_ends));
        let frame = match tokio::time::timeout_at(until.into(), body.frame()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(broken(error.into()).into()),
            Err(_) if until < pause_ends => {
                let message = "the deadline passed before the request's body had arrived";
                return Err(Refusal::new(Status::DeadlineExceeded, message).into());
            }
            Err(_) => return Err(Failure::Stalled { idle: bounds.idle }),
        };
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
}

/// What breaks a body: bad chunk framing is the client's mistake, anything else its departure.
fn broken(error: Box<dyn Error + Send + Sync>) -> Refusal {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&*error);
    while let Some(error) = cause {
        if let Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) =
            error.downcast_ref::<io::Error>().map(io::Error::kind)
        {
            return Refusal::invalid(format!("malformed request body: {error}"));
        }
        cause = error.source();
    }
    Refusal::new(
        Status::Cancelled,
        "the client went away inside the request's body",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};
    use tokio_stream::StreamExt;

    const BOUNDS: Bounds = Bounds {
        max_bytes: 10,
        idle: Duration::from_secs(1),
        deadline: None,
    };

    fn pieces(pieces: &[&'static str]) -> impl Body<Data = Bytes, Error = io::Error> + Unpin {
        let frames: Vec<_> = pieces
            .iter()
            .map(|piece| Ok(Frame::data(Bytes::from(*piece))))
            .collect();
        StreamBody::new(tokio_stream::iter(frames))
    }

    #[tokio::test]
    async fn bodies_are_joined_and_bounded() {
        let arriving = Arriving::new(100);
        assert_eq!(
            read(Full::new(Bytes::from("abc")), BOUNDS, &arriving)
                .await
                .unwrap(),
            "abc"
        );
        assert_eq!(read(pieces(&[]), BOUNDS, &arriving).await.unwrap(), "");
        assert_eq!(
            read(pieces(&["ab", "", "cd", "e"]), BOUNDS, &arriving)
                .await
                .unwrap(),
            "abcde"
        );
        for too_large in [&["01234567890"][..], &["0123456789", "0"], &["0", "0123456789"]] {
            let failure = read(pieces(too_large), BOUNDS, &arriving).await.unwrap_err();
            assert!(matches!(failure, Failure::TooLarge { max: 10 }), "{too_large:?}");
        }
        let announced = read(Full::new(Bytes::from("01234567890")), BOUNDS, &arriving).await;
        assert!(matches!(announced, Err(Failure::TooLarge { .. })));
    }

    #[tokio::test]
    async fn a_silent_client_is_given_up() {
        let arriving = Arriving::new(100);
        let silent = || {
            let first = tokio_stream::iter([Ok::<_, io::Error>(Frame::data(Bytes::from("a")))]);
            StreamBody::new(first.chain(tokio_stream::pending()))
        };
        let impatient = Bounds {
            idle: Duration::ZERO,
            ..BOUNDS
        };
        let failure = read(silent(), impatient, &arriving).await.unwrap_err();
        assert!(matches!(failure, Failure::Stalled { .. }), "{failure:?}");
        let deadline = Some(Instant::now() - Duration::from_millis(1));
        let failure = read(silent(), Bounds { deadline, ..BOUNDS }, &arriving)
            .await
            .unwrap_err();
        assert!(matches!(
            failure,
            Failure::Refused(Refusal {
                status: Status::DeadlineExceeded,
                ..
            })
        ));
    }
}
