//! `GET /crossfade/v1/log/stream`: each record of the inference log as a line of JSON, once it is written.
//!
//! No request waits for a reader: records are read back from the segments' files. A reader that is slow gets them later, and
//! those whose files retention has removed meanwhile never; one that reads nothing any more loses its connection
//! (`listener/reader`).

use std::time::{Duration, Instant};

use bytes::Bytes;
use crossfade_inference_log::{Follower, LogError, Selection, write_lines};
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// An empty line is sent after so long, so that what stands between does not take the connection for dead.
const SILENCE: Duration = Duration::from_secs(15);

/// The records, until `stopping`; `place` is held for as long.
pub(super) fn stream(
    follower: Follower,
    wanted: Selection,
    place: OwnedSemaphorePermit,
    stopping: CancellationToken,
) -> impl Stream<Item = Bytes> + Send {
    unfold(
        (follower, wanted, place, stopping),
        |(mut follower, mut wanted, place, stopping)| async move {
            let began = Instant::now();
            loop {
                // Files are read on a thread that may wait.
                let read = tokio::task::spawn_blocking(move || {
                    let lines = lines(&mut follower, &wanted);
                    (follower, wanted, lines)
                });
                let lines;
                (follower, wanted, lines) = read.await.ok()?;
                match lines {
                    Ok(lines) if !lines.is_empty() => {
                        return Some((lines.into(), (follower, wanted, place, stopping)));
                    }
                    Ok(_) if began.elapsed() >= SILENCE => {
                        return Some((Bytes::from_static(b"\n"), (follower, wanted, place, stopping)));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::error!(%error, "the inference log cannot be followed");
                        return None;
                    }
                }
                tokio::select! {
                    () = stopping.cancelled() => return None,
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        },
    )
}

fn lines(follower: &mut Follower, wanted: &Selection) -> Result<Vec<u8>, LogError> {
    let mut lines = Vec::new();
    for table in follower.poll()? {
        let table = wanted.of(&table)?;
        if table.num_rows() > 0 {
            write_lines(&table, &mut lines)?;
        }
    }
    Ok(lines)
}
