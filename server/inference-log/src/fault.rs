//! A disk that fails, and a power that is lost, for tests. Without the feature `faults` there is neither.

use std::io;
use std::path::Path;

#[cfg(feature = "faults")]
pub use layer::FaultyDisk;

/// Has a file on disk, by `sync`.
///
/// Errors: those of `sync`.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(crate) fn synced(_path: &Path, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    sync()
}

/// Has a file on disk, by `sync`, unless it is on a disk that fails.
///
/// Errors: those of `sync`, and of that disk.
#[cfg(feature = "faults")]
pub(crate) fn synced(path: &Path, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    match layer::disk_of(path) {
        Some(disk) => disk.synced(path, sync),
        None => sync(),
    }
}

#[cfg(feature = "faults")]
mod layer {
    use std::collections::BTreeMap;
    use std::fs;
    use std::io;
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex, PoisonError, Weak};

    /// Pages of a file reach a disk in any order, each whole.
    const PAGE: usize = 4096;

    static DISKS: Mutex<Vec<(PathBuf, Weak<FaultyDisk>)>> = Mutex::new(Vec::new());

    /// The disk of a folder, which fails when it is told to, and knows what it would have after a loss of power.
    #[derive(Debug, Default)]
    pub struct FaultyDisk {
        state: Mutex<State>,
    }

    #[derive(Debug, Default)]
    struct State {
        /// Syncs that fail next.
        failing: u32,
        /// What files had when they were synced last.
        synced: BTreeMap<PathBuf, Vec<u8>>,
    }

    impl FaultyDisk {
        /// Everything below a folder is on such a disk from now on.
        pub fn under(folder: &Path) -> Arc<Self> {
            let disk = Arc::new(Self::default());
            let mut disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
            disks.push((folder.to_owned(), Arc::downgrade(&disk)));
            disk
        }

        /// The next syncs fail.
        pub fn fail(&self, syncs: u32) {
            self.state().failing = syncs;
        }

        /// Writes what would be there if the power were lost now: of each file that was ever synced, the pages of that moment or those
        /// that are there now, as `keeps` says for each page.
        ///
        /// Errors: the system's.
        pub fn lose_power(&self, to: &Path, mut keeps: impl FnMut() -> bool) -> io::Result<()> {
            let state = self.state();
            for (path, synced) in &state.synced {
                let mut bytes = synced.clone();
                let now = fs::read(path).unwrap_or_default();
                for (page, new) in bytes.chunks_mut(PAGE).zip(now.chunks(PAGE)) {
                    if page.len() == new.len() && keeps() {
                        page.copy_from_slice(new);
                    }
                }
                fs::write(to.join(path.file_name().unwrap_or_default()), bytes)?;
            }
            Ok(())
        }

        pub(super) fn synced(&self, path: &Path, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
            let mut state = self.state();
            if state.failing > 0 {
                state.failing -= 1;
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
            }
            // Before: what is written while it syncs may be left out.
            let bytes = fs::read(path)?;
            sync()?;
            state.synced.insert(path.to_owned(), bytes);
            Ok(())
        }

        fn state(&self) -> std::sync::MutexGuard<'_, State> {
            self.state.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    pub(super) fn disk_of(path: &Path) -> Option<Arc<FaultyDisk>> {
        let disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut own = disks.iter().filter(|(folder, _)| path.starts_with(folder));
        own.find_map(|(_, disk)| disk.upgrade())
    }
}
