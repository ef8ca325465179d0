//! Every interleaving of the queue and the reply, by loom's model checker.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p crossfade-batcher --test loom --release`
#![cfg(loom)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicIsize as StdAtomicIsize, AtomicUsize as StdAtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crossfade_batcher::policy::{Limits, ShapeKey, Waiting};
use crossfade_batcher::queue::{Batch, Finished, Item, Pushed, Queue, QueueSettings, Taken};
use crossfade_batcher::reply::{Receiver, Sender, reply};
use crossfade_batcher::{JobError, QueuePolicy, SubmitError};
use loom::sync::Arc;
use loom::thread;

/// An item that is its own reply.
struct Request(Sender<Result<usize, JobError>>);

impl Item for Request {
    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    fn refuse(self, reason: JobError) {
        self.0.send(Err(reason));
    }
}

fn settings(instances: usize, max_cost: usize, max_requests: usize) -> QueueSettings {
    QueueSettings {
        limits: Limits {
            max_cost,
            max_rows: usize::MAX,
            pads: false,
            preferred: Vec::new(),
            max_delay: Duration::ZERO,
            in_order: false,
        },
        merges: max_cost > 1,
        levels: vec![QueuePolicy::default()],
        max_requests,
        instances,
        learns: false,
        lend_within: None,
    }
}

fn push(queue: &Queue<Request>, now: Instant) -> Result<Receiver<Result<usize, JobError>>, SubmitError> {
    push_and_run(queue, now, &StdAtomicIsize::new(1), false)
}

/// As [`push`], where `free` instances may be lent; one that is `breaks` after its run.
fn push_and_run(
    queue: &Queue<Request>,
    now: Instant,
    free: &StdAtomicIsize,
    breaks: bool,
) -> Result<Receiver<Result<usize, JobError>>, SubmitError> {
    let (sender, receiver) = reply();
    let waiting = Waiting {
        cost: 1,
        length: 1,
        key: ShapeKey::default(),
        alone: false,
        queued: now,
        deadline: None,
    };
    match queue.push(Request(sender), waiting, 0, now)? {
        Pushed::Queued => {}
        // The caller has an instance, and answers itself.
        Pushed::Lent(batch) => {
            let left = free.fetch_sub(1, Ordering::SeqCst);
            assert!(left > 0, "lent, and no instance is free");
            batch.items.into_iter().for_each(|item| item.0.send(Ok(0)));
            if !breaks {
                free.fetch_add(1, Ordering::SeqCst);
            }
            queue.give_back(finished(), breaks);
        }
    }
    Ok(receiver)
}

/// What an instance reports of a run that took no time.
fn finished() -> Finished {
    Finished {
        cost: 1,
        duration: Duration::ZERO,
        ok: true,
    }
}

/// The next batch.
fn take(queue: &Queue<Request>, previous: Option<Finished>, now: Instant) -> Option<Batch<Request>> {
    queue.take(previous, &|| now).map(|taken| match taken {
        Taken::Batch(batch) => batch,
        Taken::Repair => panic!("no instance broke"),
    })
}

/// An instance thread: answers everything with the size of its batch, and says how much it ran.
fn serve(queue: &Queue<Request>, now: Instant) -> usize {
    let mut served = 0;
    while let Some(batch) = take(queue, None, now) {
        let size = batch.items.len();
        assert!(size > 0);
        served += size;
        batch.items.into_iter().for_each(|item| item.0.send(Ok(size)));
    }
    served
}

struct Count(StdAtomicUsize);

impl Wake for Count {
    fn wake(self: StdArc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll<V>(receiver: &mut Receiver<V>, waker: &Waker) -> Poll<Option<V>> {
    Pin::new(receiver).poll(&mut Context::from_waker(waker))
}

#[track_caller]
fn answered(mut receiver: Receiver<Result<usize, JobError>>) -> usize {
    match poll(&mut receiver, Waker::noop()) {
        Poll::Ready(Some(Ok(size))) => size,
        other => panic!(
            "expected an answer, got {:?}",
            other.map(|answer| answer.map(|a| a.is_ok()))
        ),
    }
}

/// No request is lost, and no instance sleeps through one: otherwise loom reports a deadlock.
#[test]
fn pushed_items_are_answered_before_a_closed_queue_ends() {
    loom::model(|| {
        let now = Instant::now();
        let queue = Arc::new(Queue::new(settings(1, 4, 8)));
        let instance = thread::spawn({
            let queue = queue.clone();
            move || serve(&queue, now)
        });
        let producer = thread::spawn({
            let queue = queue.clone();
            move || push(&queue, now).unwrap()
        });
        let second = push(&queue, now).unwrap();
        let first = producer.join().unwrap();
        queue.close();
        assert_eq!(instance.join().unwrap(), 2);
        assert!(answered(first) <= 2 && answered(second) <= 2);
        assert_eq!(queue.depth(), 0);
    });
}

/// One push wakes one instance; what it leaves behind wakes the other. With three threads and a close, every
/// interleaving would take hours: at most two preemptions each.
#[test]
fn two_instances_share_the_work() {
    for max_cost in [1, 4] {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(move || {
            let now = Instant::now();
            let queue = Arc::new(Queue::new(settings(2, max_cost, 8)));
            let instances: Vec<_> = (0..2)
                .map(|_| {
                    let queue = queue.clone();
                    thread::spawn(move || serve(&queue, now))
                })
                .collect();
            let receivers = [push(&queue, now).unwrap(), push(&queue, now).unwrap()];
            queue.close();
            let served: usize = instances
                .into_iter()
                .map(|instance| instance.join().unwrap())
                .sum();
            assert_eq!(served, 2);
            receivers
                .into_iter()
                .for_each(|receiver| assert!(answered(receiver) <= max_cost));
        });
    }
}

/// An idle instance is woken without a close that would wake everyone.
#[test]
fn an_idle_instance_hears_of_a_push() {
    loom::model(|| {
        let now = Instant::now();
        let queue = Arc::new(Queue::new(settings(2, 1, 8)));
        let instances: Vec<_> = (0..2)
            .map(|_| {
                let queue = queue.clone();
                thread::spawn(move || take(&queue, None, now).map(|batch| batch.items.len()))
            })
            .collect();
        let receivers = [push(&queue, now), push(&queue, now)];
        for instance in instances {
            assert_eq!(instance.join().unwrap(), Some(1));
        }
        drop(receivers);
    });
}

/// The instance that waits for its batch to fill is woken when it is full, without the time passing.
#[test]
fn a_leader_hears_that_its_batch_is_full() {
    loom::model(|| {
        let now = Instant::now();
        let mut settings = settings(1, 2, 8);
        settings.limits.max_delay = Duration::from_secs(60);
        let queue = Arc::new(Queue::new(settings));
        let instance = thread::spawn({
            let queue = queue.clone();
            move || take(&queue, None, now).map(|batch| batch.items.len())
        });
        let receivers = [push(&queue, now), push(&queue, now)];
        assert_eq!(instance.join().unwrap(), Some(2));
        drop(receivers);
    });
}

/// A queue that lends its instances, because their runs are known to be short.
struct Lending {
    queue: Queue<Request>,
    /// Instances that nobody has.
    free: StdAtomicIsize,
    now: Instant,
}

impl Lending {
    fn new(instances: usize) -> Arc<Self> {
        let now = Instant::now();
        let mut settings = settings(instances, 4, 8);
        settings.lend_within = Some(Duration::from_micros(50));
        let queue = Queue::new(settings);
        for _ in 0..4 {
            let _awaited = push(&queue, now).unwrap();
            take(&queue, None, now).unwrap();
            queue.finish(finished());
        }
        let free = StdAtomicIsize::new(isize::try_from(instances).unwrap());
        Arc::new(Self { queue, free, now })
    }

    fn push(&self, breaks: bool) -> Result<Receiver<Result<usize, JobError>>, SubmitError> {
        push_and_run(&self.queue, self.now, &self.free, breaks)
    }

    /// An instance thread that answers with 1, and replaces its instance when told, if it `repairs`.
    fn serve(&self, repairs: bool) {
        let mut previous = None;
        while let Some(taken) = self.queue.take(previous.take(), &|| self.now) {
            match taken {
                Taken::Batch(batch) => {
                    // May go below zero: a thread that a close wakes waits, with its batch, for the instance that is lent.
                    self.free.fetch_sub(1, Ordering::SeqCst);
                    batch.items.into_iter().for_each(|item| item.0.send(Ok(1)));
                    self.free.fetch_add(1, Ordering::SeqCst);
                    previous = Some(finished());
                }
                Taken::Repair if repairs => _ = self.free.fetch_add(1, Ordering::SeqCst),
                Taken::Repair => return,
            }
        }
    }
}

/// While an instance is lent its thread sleeps, and nothing that is pushed meanwhile is forgotten when it is given back:
/// both are answered without a close that would wake everyone.
#[test]
fn what_is_pushed_beside_a_loan_is_answered() {
    loom::model(|| beside_a_loan(false));
}

/// The thread of an instance that broke while it was lent hears of it and replaces it, and then answers what was
/// pushed beside the loan; without a close that would wake everyone.
#[test]
fn an_instance_that_breaks_while_it_is_lent_is_replaced() {
    loom::model(|| beside_a_loan(true));
}

fn beside_a_loan(breaks: bool) {
    let lending = Lending::new(1);
    let instance = thread::spawn({
        let lending = lending.clone();
        move || lending.serve(true)
    });
    let producer = thread::spawn({
        let lending = lending.clone();
        move || wait(lending.push(breaks).unwrap())
    });
    wait(lending.push(breaks).unwrap());
    producer.join().unwrap();
    lending.queue.close();
    instance.join().unwrap();
    assert_eq!(lending.queue.depth(), 0);
}

/// A close beside a loan that breaks: what was accepted is answered, and the thread ends.
#[test]
fn a_loan_that_breaks_beside_a_close_loses_nothing() {
    loom::model(|| {
        let lending = Lending::new(1);
        let instance = thread::spawn({
            let lending = lending.clone();
            move || lending.serve(true)
        });
        let producer = thread::spawn({
            let lending = lending.clone();
            move || lending.push(true)
        });
        let ours = lending.push(true).unwrap();
        lending.queue.close();
        match producer.join().unwrap() {
            Ok(accepted) => wait(accepted),
            Err(refused) => assert_eq!(refused, SubmitError::Closed),
        }
        wait(ours);
        instance.join().unwrap();
        assert_eq!(lending.queue.depth(), 0);
    });
}

/// While one instance is replaced, however long that takes, another answers what is pushed.
#[test]
fn what_is_pushed_beside_a_repair_is_for_another_instance() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let lending = Lending::new(2);
        let instances: Vec<_> = (0..2)
            .map(|_| {
                let lending = lending.clone();
                thread::spawn(move || lending.serve(false))
            })
            .collect();
        wait(lending.push(true).unwrap());
        wait(lending.push(false).unwrap());
        lending.queue.close();
        for instance in instances {
            instance.join().unwrap();
        }
    });
}

/// Blocks until the answer is there.
fn wait(mut receiver: Receiver<Result<usize, JobError>>) {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: StdArc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(StdArc::new(Unpark(thread::current())));
    while poll(&mut receiver, &waker).is_pending() {
        thread::park();
    }
}

/// A push that races with close is either refused or served.
#[test]
fn a_push_beside_a_close_is_refused_or_served() {
    loom::model(|| {
        let now = Instant::now();
        let queue = Arc::new(Queue::new(settings(1, 4, 8)));
        let producer = thread::spawn({
            let queue = queue.clone();
            move || push(&queue, now)
        });
        let instance = thread::spawn({
            let queue = queue.clone();
            move || serve(&queue, now)
        });
        queue.close();
        let served = instance.join().unwrap();
        match producer.join().unwrap() {
            Ok(receiver) => {
                assert_eq!(served, 1);
                assert_eq!(answered(receiver), 1);
            }
            Err(refused) => {
                assert_eq!(refused, SubmitError::Closed);
                assert_eq!(served, 0);
            }
        }
    });
}

/// A cancelled item is either removed or was already taken; it is never left behind.
#[test]
fn a_cancelled_item_is_not_left_behind() {
    loom::model(|| {
        let now = Instant::now();
        let queue = Arc::new(Queue::new(settings(1, 4, 8)));
        let mut receiver = push(&queue, now).unwrap();
        let instance = thread::spawn({
            let queue = queue.clone();
            move || take(&queue, None, now).map(|batch| batch.items.len())
        });
        if receiver.cancel() {
            queue.note_cancelled();
        }
        let kept = push(&queue, now).unwrap();
        let taken = instance.join().unwrap();
        // One take: the first alone, the second alone, or both.
        assert!(matches!(taken, Some(1 | 2)));
        queue.close();
        while let Some(batch) = take(&queue, None, now) {
            drop(batch);
        }
        assert_eq!(queue.depth(), 0);
        drop(kept);
    });
}

/// Whichever comes first, the receiver sees the value or is woken for it.
#[test]
fn a_reply_is_seen_or_wakes() {
    loom::model(|| {
        let (sender, mut receiver) = reply();
        let count = StdArc::new(Count(StdAtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let answering = thread::spawn(move || sender.send(7));
        let first = poll(&mut receiver, &waker);
        answering.join().unwrap();
        match first {
            Poll::Ready(value) => assert_eq!(value, Some(7)),
            Poll::Pending => {
                assert_eq!(count.0.load(Ordering::SeqCst), 1, "woken once");
                assert_eq!(poll(&mut receiver, &waker), Poll::Ready(Some(7)));
            }
        }
    });
}

/// A receiver that goes away while it is answered leaves nothing behind.
#[test]
fn a_reply_beside_a_cancel_is_dropped() {
    loom::model(|| {
        let (sender, receiver) = reply();
        let value = StdArc::new(());
        let answering = thread::spawn({
            let value = value.clone();
            move || sender.send(value)
        });
        drop(receiver);
        answering.join().unwrap();
        assert_eq!(StdArc::strong_count(&value), 1);
    });
}
