//! Threads that tokenize, so that long texts do not hold up those that read and answer requests.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossfade_runtimes_core::Tensor;
use tokio::sync::oneshot;

use crate::error::TextError;
use crate::tokenizer::{Cut, Encoded, Row, Text, Tokenized};

/// Texts up to so many bytes together are tokenized where they are: handing them over would take as long.
const INLINE_BYTES: usize = 512;

/// Text that one thread takes at a time, about; more is shared.
const PIECE_BYTES: usize = 8 << 10;

/// Pieces that wait; more are refused.
const WAITING: usize = 4096;

/// Pieces of one request that wait at a time.
const AT_ONCE: usize = 64;

/// Some rows of a request.
struct Piece {
    text: Arc<Text>,
    rows: Vec<Row>,
    first: usize,
    cut: Cut,
    reply: oneshot::Sender<Result<Vec<Encoded>, TextError>>,
}

/// Threads named `text-k`. Dropping it joins them.
pub struct Pool {
    /// `None` while it is dropped.
    pieces: Option<SyncSender<Piece>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads` threads.
    ///
    /// Errors: the system's, if one cannot be started.
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let (pieces, waiting) = sync_channel::<Piece>(WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        let start = |index: usize| {
            let waiting = waiting.clone();
            std::thread::Builder::new()
                .name(format!("text-{index}"))
                .spawn(move || work(&waiting))
        };
        Ok(Self {
            threads: (0..threads).map(start).collect::<Result<_, _>>()?,
            pieces: Some(pieces),
        })
    }

    /// Tokenizes a request's texts; short ones here and now. Dropping the future leaves out what has not begun.
    ///
    /// Errors: `Input`; `Busy` while too much waits.
    pub async fn tokenize(
        &self,
        text: &Arc<Text>,
        texts: &Tensor,
        pair: Option<&Tensor>,
        cut: Cut,
    ) -> Result<Tokenized, TextError> {
        let bytes = texts.data.len() + pair.map_or(0, |pair| pair.data.len());
        if bytes <= INLINE_BYTES {
            return guarded(|| text.tokenize(texts, pair, cut));
        }
        let (mut replies, mut encoded) = (VecDeque::new(), Vec::new());
        // A thread that panicked drops what it had.
        let rows = |reply: Result<Result<Vec<Encoded>, TextError>, _>| reply.unwrap_or(Err(TextError::Busy));
        for (first, piece) in pieces(text.rows(texts, pair)?) {
            if replies.len() == AT_ONCE
                && let Some(reply) = replies.pop_front()
            {
                let reply: oneshot::Receiver<_> = reply;
                encoded.extend(rows(reply.await)?);
            }
            replies.push_back(self.hand_over(text.clone(), piece, first, cut)?);
        }
        for reply in replies {
            encoded.extend(rows(reply.await)?);
        }
        text.join(&encoded)
    }

    fn hand_over(
        &self,
        text: Arc<Text>,
        rows: Vec<Row>,
        first: usize,
        cut: Cut,
    ) -> Result<oneshot::Receiver<Result<Vec<Encoded>, TextError>>, TextError> {
        let (reply, receiver) = oneshot::channel();
        let piece = Piece {
            text,
            rows,
            first,
            cut,
            reply,
        };
        match self.pieces.as_ref().map(|pieces| pieces.try_send(piece)) {
            Some(Ok(())) => Ok(receiver),
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => Err(TextError::Busy),
        }
    }
}

/// Rows in pieces of about equal size, each with the number of its first.
fn pieces(rows: Vec<Row>) -> Vec<(usize, Vec<Row>)> {
    let mut pieces: Vec<(usize, Vec<Row>)> = Vec::new();
    let mut bytes = PIECE_BYTES;
    for (index, row) in rows.into_iter().enumerate() {
        if bytes >= PIECE_BYTES {
            pieces.push((index, Vec::new()));
            bytes = 0;
        }
        bytes += row.bytes();
        if let Some((_, piece)) = pieces.last_mut() {
            piece.push(row);
        }
    }
    pieces
}

fn work(waiting: &Mutex<Receiver<Piece>>) {
    loop {
        let piece = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(piece) = piece else { return };
        if piece.reply.is_closed() {
            continue;
        }
        let encode = || {
            let rows = piece.rows.iter().zip(piece.first..);
            rows.map(|(row, index)| piece.text.encode(index, row, piece.cut))
                .collect()
        };
        drop(piece.reply.send(guarded(encode)));
    }
}

/// A tokenizer that panics fails its request, not the thread.
fn guarded<T>(work: impl FnOnce() -> Result<T, TextError>) -> Result<T, TextError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(TextError::input(
            crate::TEXT,
            None,
            "the tokenizer panicked on it",
        ))
    })
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.pieces = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a tokenizing thread panicked");
            }
        }
    }
}
