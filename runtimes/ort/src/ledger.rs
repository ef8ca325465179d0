//! What the instances of a model hold on devices: each writes its own account, scrapes read them while instances run.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crossfade_runtimes_core::{Device, DeviceUse};

/// The accounts of a model's instances.
#[derive(Default)]
pub(crate) struct Ledger {
    accounts: Mutex<Vec<Weak<Account>>>,
}

/// What one instance holds, for as long as it lives.
pub(crate) struct Account {
    device: Device,
    served_by: String,
    /// `Relaxed`: a figure of its own, written by the instance and read by scrapes.
    bytes: AtomicU64,
}

impl Account {
    /// Notes what the instance holds now.
    pub(crate) fn set(&self, bytes: u64) {
        self.bytes.store(bytes, Relaxed);
    }
}

impl Ledger {
    /// An account for an instance on `device`, of which `served_by` tells what runs there.
    pub(crate) fn open(&self, device: Device, served_by: String) -> Arc<Account> {
        let account = Arc::new(Account {
            device,
            served_by,
            bytes: AtomicU64::new(0),
        });
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.retain(|account| account.strong_count() > 0);
        accounts.push(Arc::downgrade(&account));
        account
    }

    /// By device, in the order in which instances were made.
    pub(crate) fn uses(&self) -> Vec<DeviceUse> {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut uses: Vec<DeviceUse> = Vec::new();
        for account in accounts.iter().filter_map(Weak::upgrade) {
            let bytes = account.bytes.load(Relaxed);
            match uses.iter_mut().find(|known| known.device == account.device) {
                Some(known) => {
                    known.instances += 1;
                    known.bytes += bytes;
                }
                None => uses.push(DeviceUse {
                    device: account.device,
                    instances: 1,
                    bytes,
                    served_by: account.served_by.clone(),
                }),
            }
        }
        uses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_of_a_device_add_up_and_go_with_their_instances() {
        let ledger = Ledger::default();
        let open = |index, bytes| {
            let account = ledger.open(Device::Cuda(index), "CUDA".to_owned());
            account.set(bytes);
            account
        };
        let (first, second, third) = (open(0, 5), open(1, 7), open(0, 1));
        let seen = || -> Vec<(Device, usize, u64)> {
            let uses = ledger.uses();
            uses.iter().map(|u| (u.device, u.instances, u.bytes)).collect()
        };
        assert_eq!(seen(), [(Device::Cuda(0), 2, 6), (Device::Cuda(1), 1, 7)]);
        drop((first, second));
        assert_eq!(seen(), [(Device::Cuda(0), 1, 1)]);
        drop(third);
        assert!(seen().is_empty());
    }
}
