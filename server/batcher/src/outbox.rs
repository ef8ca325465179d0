//! Answers on their way to their callers; where configured, in the order in which the batches were taken.

use std::collections::BTreeMap;

use crate::error::JobError;
use crate::reply::Sender;
use crate::request::Answer;
use crate::sync::{Mutex, lock};

type Delivery = (Sender<Result<Answer, JobError>>, Result<Answer, JobError>);

/// Holds finished batches back until those taken before them are finished (`preserve_ordering`).
#[derive(Default)]
pub(crate) struct Turnstile {
    state: Mutex<Turns>,
}

#[derive(Default)]
struct Turns {
    next: u64,
    held: BTreeMap<u64, Vec<Delivery>>,
}

impl Turnstile {
    /// Sends every batch whose turn has come. Under the lock, or two threads could swap their batches.
    fn pass(&self, sequence: u64, deliveries: Vec<Delivery>) {
        let mut turns = lock(&self.state);
        turns.held.insert(sequence, deliveries);
        loop {
            let next = turns.next;
            let Some(deliveries) = turns.held.remove(&next) else {
                return;
            };
            turns.next += 1;
            send_all(deliveries);
        }
    }
}

fn send_all(deliveries: Vec<Delivery>) {
    for (sender, result) in deliveries {
        sender.send(result);
    }
}

/// The answers of one batch; they leave when it is dropped.
pub(crate) struct Outbox<'a> {
    turnstile: Option<&'a Turnstile>,
    sequence: u64,
    deliveries: Vec<Delivery>,
}

impl<'a> Outbox<'a> {
    /// For the batch with this number; without a turnstile its answers wait for nobody.
    pub(crate) fn new(turnstile: Option<&'a Turnstile>, sequence: u64) -> Self {
        Self {
            turnstile,
            sequence,
            deliveries: Vec::new(),
        }
    }

    pub(crate) fn put(&mut self, sender: Sender<Result<Answer, JobError>>, result: Result<Answer, JobError>) {
        self.deliveries.push((sender, result));
    }
}

impl Drop for Outbox<'_> {
    fn drop(&mut self) {
        let deliveries = std::mem::take(&mut self.deliveries);
        match self.turnstile {
            Some(turnstile) => turnstile.pass(self.sequence, deliveries),
            None => send_all(deliveries),
        }
    }
}
