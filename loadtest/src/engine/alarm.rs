//! An alarm that rings on time: the runtime's own timers are good to a millisecond, the kernel's to some fifty
//! microseconds.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A kernel timer that tasks of one runtime can wait for.
#[derive(Debug)]
pub(super) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// A timer on the current runtime.
    ///
    /// Errors: if the process has no file descriptor left.
    pub(super) fn new() -> io::Result<Self> {
        let timer = rustix::time::timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        #[expect(
            deprecated,
            reason = "what takes its place is unsafe; an owned descriptor keeps the rules it states"
        )]
        let alarm = AsyncFd::with_interest(timer, Interest::READABLE)?;
        Ok(Self(alarm))
    }

    /// Waits until `due`; at once if that is past.
    ///
    /// Errors: what the kernel says, which is nothing for a timer that exists.
    pub(super) async fn wait(&self, due: Instant) -> io::Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let time = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            },
        };
        rustix::time::timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &time)?;
        loop {
            let mut ready = self.0.readable().await?;
            let mut rings = [0_u8; 8];
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut rings)?));
            if let Ok(read) = read {
                return read.map(|_| ());
            }
        }
    }
}
