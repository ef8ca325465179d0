//! One value, sent once, to a future that may have gone away.
//!
//! Not an executor's channel, for two reasons: the queue must see cheaply that the receiver is gone, and loom
//! builds this file. The value is handed over by waking the receiver's task directly.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::sync::{AtomicBool, Mutex, Ordering, lock};

struct Slot<V> {
    /// Set once, by the receiver's end; read by the queue without the lock.
    cancelled: AtomicBool,
    state: Mutex<State<V>>,
}

enum State<V> {
    Waiting(Option<Waker>),
    Sent(V),
    /// The value was taken, or the sender went away without sending.
    Ended,
}

/// The end that gives the value; dropping it without [`send`](Self::send) wakes the receiver with `None`.
pub struct Sender<V> {
    slot: Arc<Slot<V>>,
}

/// The end that awaits the value; dropping it tells the sender that nobody does.
pub struct Receiver<V> {
    slot: Arc<Slot<V>>,
}

/// A sender and its receiver.
pub fn reply<V>() -> (Sender<V>, Receiver<V>) {
    let slot = Arc::new(Slot {
        cancelled: AtomicBool::new(false),
        state: Mutex::new(State::Waiting(None)),
    });
    (Sender { slot: slot.clone() }, Receiver { slot })
}

impl<V> Sender<V> {
    /// Hands over the value and wakes the receiver; a value that nobody awaits is dropped.
    pub fn send(self, value: V) {
        self.end(State::Sent(value));
    }

    /// Whether the receiver is gone.
    pub fn is_cancelled(&self) -> bool {
        self.slot.cancelled.load(Ordering::SeqCst)
    }

    fn end(&self, ended: State<V>) {
        let mut state = lock(&self.slot.state);
        if let State::Waiting(waker) = &mut *state {
            let waker = waker.take();
            *state = ended;
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl<V> Drop for Sender<V> {
    fn drop(&mut self) {
        self.end(State::Ended);
    }
}

impl<V> Receiver<V> {
    /// Tells the sender that nobody awaits the value; says whether the value was still to come.
    pub fn cancel(&mut self) -> bool {
        self.slot.cancelled.store(true, Ordering::SeqCst);
        let previous = std::mem::replace(&mut *lock(&self.slot.state), State::Ended);
        matches!(previous, State::Waiting(_))
    }
}

impl<V> Future for Receiver<V> {
    /// `None` if the sender went away without sending, or the value was taken before.
    type Output = Option<V>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<V>> {
        let mut state = lock(&self.slot.state);
        match &mut *state {
            State::Waiting(waker) => {
                match waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    None => *waker = Some(context.waker().clone()),
                }
                Poll::Pending
            }
            State::Sent(_) | State::Ended => match std::mem::replace(&mut *state, State::Ended) {
                State::Sent(value) => Poll::Ready(Some(value)),
                State::Waiting(_) | State::Ended => Poll::Ready(None),
            },
        }
    }
}

impl<V> Drop for Receiver<V> {
    fn drop(&mut self) {
        self.cancel();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn poll<V>(receiver: &mut Receiver<V>) -> Poll<Option<V>> {
        Pin::new(receiver).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_value_arrives_once() {
        let (sender, mut receiver) = reply();
        assert_eq!(poll(&mut receiver), Poll::Pending);
        sender.send(7);
        assert_eq!(poll(&mut receiver), Poll::Ready(Some(7)));
        assert_eq!(poll(&mut receiver), Poll::Ready(None));
    }

    #[test]
    fn a_dropped_sender_ends_the_wait() {
        let (sender, mut receiver) = reply::<u8>();
        drop(sender);
        assert_eq!(poll(&mut receiver), Poll::Ready(None));
    }

    #[test]
    fn a_dropped_receiver_is_seen_by_the_sender() {
        let (sender, receiver) = reply();
        assert!(!sender.is_cancelled());
        drop(receiver);
        assert!(sender.is_cancelled());
        sender.send(1);
    }

    #[test]
    fn cancelling_says_whether_the_value_was_still_to_come() {
        let (sender, mut receiver) = reply::<u8>();
        assert!(receiver.cancel());
        drop(sender);
        let (sender, mut receiver) = reply();
        sender.send(1);
        assert!(!receiver.cancel());
    }
}
