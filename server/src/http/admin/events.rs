//! `GET /crossfade/v1/events`: each record of the audit, and each move of a release, as a server-sent event once it is
//! on disk.
//!
//! Nothing waits for a reader: one that is slow loses the oldest events and is told how many, and one that reads nothing
//! any more loses its connection (`listener/reader`). The audit has them all.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossfade_journal::audit::AuditRecord;
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::release::News;

/// Readers at once.
pub(in crate::http) const READERS: usize = 64;
/// A comment is sent after so long, so that what stands between does not take the connection for dead.
const SILENCE: Duration = Duration::from_secs(15);

/// The events, until `stopping`; `place` is held for as long.
pub(super) fn stream(
    records: Receiver<AuditRecord>,
    moves: Receiver<Arc<News>>,
    place: OwnedSemaphorePermit,
    stopping: CancellationToken,
) -> impl Stream<Item = Bytes> + Send {
    unfold(
        (records, moves, place, stopping),
        |(mut records, mut moves, place, stopping)| async move {
            // All are cancel-safe: what was not received yet stays in the channel. In this order, a call comes before
            // the move that it led to.
            let event = tokio::select! {
                biased;
                () = stopping.cancelled() => return None,
                record = records.recv() => told(record, "records", written)?,
                news = moves.recv() => told(news, "moves", |news| moved(&news))?,
                () = tokio::time::sleep(SILENCE) => ": still here\n\n".to_owned(),
            };
            Some((event.into(), (records, moves, place, stopping)))
        },
    )
}

/// What is sent for what was received; `None` at the end.
fn told<T>(received: Result<T, RecvError>, what: &str, write: impl Fn(T) -> String) -> Option<String> {
    match received {
        Ok(event) => Some(write(event)),
        Err(RecvError::Lagged(lost)) => Some(format!("event: lost\ndata: {{\"{what}\":{lost}}}\n\n")),
        Err(RecvError::Closed) => None,
    }
}

fn moved(news: &News) -> String {
    let data = serde_json::to_string(news).unwrap_or_default();
    format!("event: release\ndata: {data}\n\n")
}

fn written(record: AuditRecord) -> String {
    match record.line() {
        Ok(line) => format!("id: {}\nevent: audit\ndata: {line}\n\n", record.seq),
        // It was written, so it has a spelling.
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::pin;
    use std::sync::Arc;

    use crossfade_journal::audit::{Event, Timestamp};
    use crossfade_journal::{Hash, Head};
    use futures_util::StreamExt;
    use http::{Request, Response};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use serde_json::Value;
    use tokio::io::AsyncWriteExt;
    use tokio::sync::{Semaphore, broadcast};

    use super::super::super::reply::ReplyBody;
    use super::*;
    use crate::listener::reader::{Awaited, HangUp};

    /// The record of this number; its hash is not looked at here.
    fn record(seq: u64) -> AuditRecord {
        let before = Head {
            seq: seq - 1,
            hash: Hash::ZERO,
        };
        let event = Event {
            ts: Timestamp::from_unix_micros(0).unwrap(),
            actor: "local".to_owned(),
            role: String::new(),
            action: "model.load".to_owned(),
            object: "model/a".to_owned(),
            before: Value::Null,
            after: Value::Null,
            reason: String::new(),
            evidence: Vec::new(),
            config_rev: Hash::ZERO,
        };
        AuditRecord::following(&before, event).unwrap().0
    }

    #[tokio::test]
    async fn a_slow_reader_loses_the_oldest_and_is_told_how_many() {
        let sender = broadcast::Sender::new(2);
        let places = Arc::new(Semaphore::new(1));
        let place = places.clone().try_acquire_owned().unwrap();
        let stopping = CancellationToken::new();
        let moves = broadcast::Sender::new(2);
        let mut events = pin!(stream(
            sender.subscribe(),
            moves.subscribe(),
            place,
            stopping.clone()
        ));
        for seq in 1..=5 {
            sender.send(record(seq)).unwrap();
        }
        let mut next = async || {
            events
                .next()
                .await
                .map(|event| String::from_utf8(event.into()).unwrap())
        };
        assert_eq!(
            next().await.as_deref(),
            Some("event: lost\ndata: {\"records\":3}\n\n")
        );
        for seq in [4, 5] {
            let event = next().await.unwrap();
            let expected = format!("id: {seq}\nevent: audit\ndata: {{\"action\":\"model.load\"");
            assert!(event.starts_with(&expected) && event.ends_with("\n\n"), "{event}");
        }
        assert_eq!(places.available_permits(), 0);
        stopping.cancel();
        assert_eq!(next().await, None);
        assert_eq!(places.available_permits(), 1, "the place is free again");
    }

    #[tokio::test]
    async fn a_reader_that_never_reads_loses_its_connection_and_its_place() {
        /// More bytes than the pipe and the library hold between them.
        const RECORDS: u64 = 2048;
        let sender = broadcast::Sender::new(2048);
        let moves = broadcast::Sender::new(1);
        let places = Arc::new(Semaphore::new(1));
        let hang_up = HangUp::default();
        let service = service_fn(|_request: Request<Incoming>| {
            let place = places.clone().try_acquire_owned().unwrap();
            let events = stream(
                sender.subscribe(),
                moves.subscribe(),
                place,
                CancellationToken::new(),
            );
            (1..=RECORDS).for_each(|seq| assert!(sender.send(record(seq)).is_ok()));
            let events = Awaited::new(events, Duration::from_millis(10), hang_up.clone());
            async { Ok::<_, Infallible>(Response::new(ReplyBody::live(events))) }
        });
        let (mut client, server) = tokio::io::duplex(64);
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
            .await
            .unwrap();
        let connection = http1::Builder::new().serve_connection(TokioIo::new(server), service);
        tokio::select! {
            served = connection => panic!("the connection ended by itself: {served:?}"),
            () = hang_up.told() => {}
        }
        assert_eq!(places.available_permits(), 1, "its end gives the place back");
    }
}
