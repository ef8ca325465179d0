//! Readers of answers that have no end: one that takes nothing any more loses its connection.
//!
//! A connection asks for the next piece of an answer once it can pass it on. So a piece after which nobody asks for another
//! waits for a reader who does not read, behind as much as the connection and the system hold.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// A reader that takes nothing for so long, while something waits for it, is gone.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Ends one connection, with everything that is open on it.
#[derive(Debug, Clone, Default)]
pub(crate) struct HangUp(Arc<Notify>);

impl HangUp {
    /// Ends it.
    fn now(&self) {
        self.0.notify_one();
    }

    /// Waits until it has to end; only the connection does. Cancel-safe.
    pub(crate) async fn told(&self) {
        self.0.notified().await;
    }
}

/// An answer without end, and since when its reader takes none of it.
pub(crate) struct Awaited<T> {
    pieces: Pin<Box<dyn Stream<Item = T> + Send>>,
    /// Since when the last piece waits; `None` once the next one is asked for.
    waits: watch::Sender<Option<Instant>>,
    _clock: AbortOnDropHandle<()>,
}

impl<T> Awaited<T> {
    /// Passes `pieces` on, and hangs up once one of them has waited for `patience`. Runs in a runtime.
    pub(crate) fn new(
        pieces: impl Stream<Item = T> + Send + 'static,
        patience: Duration,
        hang_up: HangUp,
    ) -> Self {
        let (waits, seen) = watch::channel(None);
        let clock = tokio::spawn(async move {
            if too_long(seen, patience).await {
                tracing::debug!(?patience, "a reader takes nothing; its connection is closed");
                hang_up.now();
            }
        });
        Self {
            pieces: Box::pin(pieces),
            waits,
            _clock: AbortOnDropHandle::new(clock),
        }
    }
}

impl<T> Stream for Awaited<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.waits.send_if_modified(|since| since.take().is_some());
        let piece = self.pieces.as_mut().poll_next(cx);
        if let Poll::Ready(Some(_)) = piece {
            self.waits.send_replace(Some(Instant::now()));
        }
        piece
    }
}

/// Waits until a piece has waited for `patience`; false where the answer is over first.
async fn too_long(mut seen: watch::Receiver<Option<Instant>>, patience: Duration) -> bool {
    loop {
        let since = *seen.borrow_and_update();
        let overdue = async {
            match since {
                Some(since) => tokio::time::sleep_until(since + patience).await,
                None => std::future::pending().await,
            }
        };
        // Both are cancel-safe.
        tokio::select! {
            () = overdue => return true,
            moved = seen.changed() => if moved.is_err() {
                return false;
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};

    use super::*;

    #[tokio::test]
    async fn a_piece_that_waits_ends_the_connection() {
        let hang_up = HangUp::default();
        let mut answer = Awaited::new(stream::repeat(1), Duration::ZERO, hang_up.clone());
        assert_eq!(answer.next().await, Some(1));
        hang_up.told().await;
    }

    #[tokio::test]
    async fn an_answer_that_has_nothing_to_tell_may_be_silent() {
        let (waits, seen) = watch::channel(Some(Instant::now()));
        // As a reader does that asks for the next piece.
        waits.send_replace(None);
        let silent = tokio::spawn(too_long(seen, Duration::ZERO));
        tokio::task::yield_now().await;
        drop(waits);
        assert!(!silent.await.unwrap(), "nothing waited");
    }
}
