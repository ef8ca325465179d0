//! A file in memory that fails on demand, and that forgets on a loss of power what was not synced.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::Storage;

/// What will go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// After so many more bytes the disk is full.
    Full(usize),
    /// Every write takes so many bytes at most.
    Short(usize),
    /// Every other call is interrupted first.
    Interrupted,
    /// The next sync fails, and, as on Linux, what it should have written counts as clean from then on.
    Sync,
    /// Cutting the file fails.
    Truncate,
}

#[derive(Debug, Default)]
struct State {
    seen: Vec<u8>,
    durable: Vec<u8>,
    dirty: Vec<bool>,
    durable_size: usize,
    fault: Option<Fault>,
    calls: usize,
    syncs: usize,
}

/// The disk; clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct FaultyDisk(Arc<Mutex<State>>);

impl FaultyDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds the disk")
    }

    pub(crate) fn with(bytes: &[u8]) -> Self {
        let disk = Self::default();
        *disk.state() = State {
            seen: bytes.to_vec(),
            durable: bytes.to_vec(),
            dirty: vec![false; bytes.len()],
            durable_size: bytes.len(),
            ..State::default()
        };
        disk
    }

    pub(crate) fn set(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state().seen.clone()
    }

    pub(crate) fn syncs(&self) -> usize {
        self.state().syncs
    }

    /// What is there after the power was off.
    pub(crate) fn lose_power(&self) {
        let mut state = self.state();
        let size = state.durable_size;
        state.durable.resize(size, 0);
        state.seen = state.durable.clone();
        state.dirty = vec![false; size];
    }
}

impl Storage for FaultyDisk {
    fn size(&mut self) -> io::Result<u64> {
        Ok(self.state().seen.len() as u64)
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.state();
        let start = usize::try_from(offset).expect("small").min(state.seen.len());
        let taken = buffer.len().min(state.seen.len() - start);
        buffer[..taken].copy_from_slice(&state.seen[start..start + taken]);
        Ok(taken)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state();
        state.calls += 1;
        let taken = match state.fault {
            Some(Fault::Full(0)) => return Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::Full(left)) => {
                let taken = left.min(bytes.len());
                state.fault = Some(Fault::Full(left - taken));
                taken
            }
            Some(Fault::Interrupted) if state.calls % 2 == 1 => {
                return Err(io::ErrorKind::Interrupted.into());
            }
            Some(Fault::Short(most)) => most.min(bytes.len()),
            _ => bytes.len(),
        };
        let start = usize::try_from(offset).expect("small");
        let end = state.seen.len().max(start + taken);
        state.seen.resize(end, 0);
        state.dirty.resize(end, false);
        state.seen[start..start + taken].copy_from_slice(&bytes[..taken]);
        state.dirty[start..start + taken].fill(true);
        Ok(taken)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.state();
        let state = &mut *state;
        state.syncs += 1;
        if state.fault == Some(Fault::Sync) {
            state.fault = None;
            state.dirty.fill(false);
            return Err(io::Error::other("injected"));
        }
        state.durable_size = state.seen.len();
        state.durable.resize(state.durable_size, 0);
        for (at, dirty) in state.dirty.iter_mut().enumerate() {
            if std::mem::take(dirty) {
                state.durable[at] = state.seen[at];
            }
        }
        Ok(())
    }

    fn truncate(&mut self, size: u64) -> io::Result<()> {
        let mut state = self.state();
        if state.fault == Some(Fault::Truncate) {
            return Err(io::Error::other("injected"));
        }
        let size = usize::try_from(size).expect("small");
        state.seen.truncate(size);
        state.dirty.truncate(size);
        Ok(())
    }
}
