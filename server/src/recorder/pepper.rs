//! The secret behind keyed digests: without it nobody can tell whose they are, and with it only by trying.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

/// Bytes of it.
const BYTES: usize = 32;

/// The secret.
pub(crate) struct Pepper(hmac::Key);

impl std::fmt::Debug for Pepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pepper")
    }
}

/// Where it lies in a data folder, unless another file is named.
pub(crate) fn pepper_in(data_dir: &Path) -> PathBuf {
    data_dir.join("state").join("pepper")
}

impl Pepper {
    /// Reads a file of 32 bytes or more, which only its owner should be able to read.
    ///
    /// Errors: the system's; a file that is too short.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let bytes = fs::read(path)?;
        if bytes.len() < BYTES {
            let message = format!("a pepper has {BYTES} bytes or more, and this has {}", bytes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// Reads it, or makes one.
    ///
    /// Errors: as [`read`](Self::read).
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if !path.exists() {
            let mut bytes = [0; BYTES];
            let random = SystemRandom::new().fill(&mut bytes);
            random.map_err(|_| io::Error::other("the system gives no random bytes"))?;
            let new = path.with_extension("new");
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&new, path)?;
        }
        Self::read(path)
    }

    /// The digest of something for a purpose, of which the digests for other purposes say nothing.
    pub(crate) fn digest(&self, purpose: &[u8], what: &[u8]) -> [u8; 16] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(purpose);
        context.update(&[0]);
        context.update(what);
        let tag = context.sign();
        let mut digest = [0; 16];
        digest
            .iter_mut()
            .zip(tag.as_ref())
            .for_each(|(to, from)| *to = *from);
        digest
    }

    /// Whom a record is about, by the id that the client gave.
    pub(crate) fn subject(&self, id: &[u8]) -> [u8; 16] {
        self.digest(b"subject", id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pepper_is_made_once_and_kept_from_others() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pepper");
        let first = Pepper::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Pepper::open(&path).unwrap();
        assert_eq!(first.subject(b"ann"), again.subject(b"ann"));
        assert_ne!(first.subject(b"ann"), first.digest(b"field", b"ann"));
        assert_ne!(first.subject(b"ann"), first.subject(b"bob"));
        fs::remove_file(&path).unwrap();
        let other = Pepper::open(&path).unwrap();
        assert_ne!(first.subject(b"ann"), other.subject(b"ann"));
        fs::write(&path, "short").unwrap();
        assert!(Pepper::open(&path).unwrap_err().to_string().contains("32 bytes"));
    }
}
