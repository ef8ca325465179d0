//! The keys of a log that is encrypted.
//!
//! ```text
//! wrapping key, which lies elsewhere ─ wraps → data keys, `state/keys/ID` ─┬ HKDF, the segment's header → key of a segment
//!                                                                          └ HKDF                      → key of Parquet files
//! ```
//!
//! A data key is made at each start and each day. To rotate the wrapping key, data keys are wrapped again and nothing else is written.
//! A data key goes with the last file that it opens; what was copied of those files elsewhere opens to nobody then.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossfade_journal::snapshot;
use crossfade_journal::storage::create_folder;
use parquet::encryption::decrypt::{FileDecryptionProperties, KeyRetriever};
use parquet::encryption::encrypt::FileEncryptionProperties;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::cipher::Cipher;
use crate::error::KeyError;

/// Bytes of every key.
pub const KEY_BYTES: usize = 32;
/// Bytes by which a wrapping key is told.
const NAME_BYTES: usize = 16;
/// A wrapped data key: the name of what wraps it, a nonce, the key, and its tag.
const WRAPPED_BYTES: usize = NAME_BYTES + NONCE_LEN + KEY_BYTES + 16;
/// For what keys are derived.
const FOR_SEGMENTS: &[u8] = b"crossfade segment";
const FOR_FILES: &[u8] = b"crossfade parquet";

/// What data keys are wrapped with.
#[derive(Clone, PartialEq, Eq)]
pub struct WrappingKey([u8; KEY_BYTES]);

impl std::fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WrappingKey({})", self.name())
    }
}

impl WrappingKey {
    /// A key of these bytes, which nobody can guess.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// By what it is told from others, hexadecimal; says nothing of the key.
    pub fn name(&self) -> String {
        hex(&self.name_bytes())
    }

    fn name_bytes(&self) -> [u8; NAME_BYTES] {
        let digest = Sha256::new()
            .chain_update(b"crossfade wrapping key")
            .chain_update(self.0)
            .finalize();
        let mut name = [0; NAME_BYTES];
        name.copy_from_slice(&digest[..NAME_BYTES]);
        name
    }

    fn cipher(&self) -> LessSafeKey {
        aead(&self.0)
    }

    fn wrap(&self, key: &DataKey) -> Result<Vec<u8>, KeyError> {
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut secret = key.secret;
        let aad = Aad::from(key.id.as_bytes());
        let tag = self
            .cipher()
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut secret)
            .map_err(|_| KeyError::Random)?;
        Ok([&self.name_bytes()[..], &nonce, &secret, tag.as_ref()].concat())
    }

    fn unwrap(&self, id: Uuid, nonce: [u8; NONCE_LEN], sealed: &[u8]) -> Option<DataKey> {
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let secret = self
            .cipher()
            .open_in_place(nonce, Aad::from(id.as_bytes()), &mut sealed)
            .ok()?;
        let secret = <&[u8] as TryInto<[u8; KEY_BYTES]>>::try_into(secret).ok()?;
        Some(DataKey { id, secret })
    }
}

/// What keys of segments and files are derived from.
pub struct DataKey {
    id: Uuid,
    secret: [u8; KEY_BYTES],
}

impl DataKey {
    fn new() -> Result<Self, KeyError> {
        let (id, secret) = (Uuid::now_v7(), random()?);
        Ok(Self { id, secret })
    }

    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    /// What the records of a segment are encrypted with.
    ///
    /// * `header`: what the segment says of itself, its id among it: no two segments have one key
    pub(crate) fn segment(&self, header: &[u8]) -> Cipher {
        Cipher::new(&self.derived(&[FOR_SEGMENTS, header]))
    }

    /// The key of Parquet files; their nonces are random.
    fn file(&self) -> [u8; KEY_BYTES] {
        self.derived(&[FOR_FILES])
    }

    /// How a Parquet file is encrypted, all of it: pages, footer and statistics.
    pub(crate) fn properties(&self) -> Result<Arc<FileEncryptionProperties>, parquet::errors::ParquetError> {
        FileEncryptionProperties::builder(self.file().to_vec())
            .with_footer_key_metadata(self.id.as_bytes().to_vec())
            .build()
    }

    fn derived(&self, info: &[&[u8]]) -> [u8; KEY_BYTES] {
        let mut derived = [0; KEY_BYTES];
        let salt = Salt::new(HKDF_SHA256, self.id.as_bytes());
        let key = salt.extract(&self.secret);
        key.expand(info, HKDF_SHA256)
            .and_then(|key| key.fill(&mut derived))
            .expect("32 bytes are what one round of it gives");
        derived
    }
}

/// The keys of a data folder, or none: then nothing is encrypted, and nothing that is can be read.
#[derive(Clone, Default)]
pub struct Keys {
    known: Option<Arc<Known>>,
    /// Nothing is encrypted any more.
    only_reads: bool,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.known.is_some() { "Keys" } else { "no keys" })
    }
}

struct Known {
    folder: PathBuf,
    /// The first wraps; the others only open what was wrapped before.
    wrapping: Vec<WrappingKey>,
    data: Mutex<BTreeMap<Uuid, Arc<DataKey>>>,
    /// What is written with, and since which day.
    current: Mutex<Option<(u64, Arc<DataKey>)>>,
}

impl Keys {
    /// No keys.
    pub fn none() -> Self {
        Self::default()
    }

    /// The keys of a data folder, by the keys that wrap them: the first wraps what comes, the others only open what was.
    ///
    /// Errors: a data key that none of them opens, and the system's.
    pub fn open(data_dir: &Path, wrapping: Vec<WrappingKey>) -> Result<Self, KeyError> {
        if wrapping.is_empty() {
            return Ok(Self::none());
        }
        let keys = Known {
            folder: keys_in(data_dir),
            wrapping,
            data: Mutex::default(),
            current: Mutex::default(),
        };
        for id in wrapped_in(data_dir)? {
            keys.find(id)?;
        }
        Ok(Self {
            known: Some(Arc::new(keys)),
            only_reads: false,
        })
    }

    /// The same keys, with which nothing is encrypted.
    pub fn reading(self) -> Self {
        Self {
            only_reads: true,
            ..self
        }
    }

    /// Whether there are any.
    pub fn is_none(&self) -> bool {
        self.known.is_none()
    }

    /// Wraps every data key again that is not wrapped with the first of the wrapping keys; returns how many those were.
    ///
    /// Errors: the system's.
    pub fn wrap_again(&self) -> Result<usize, KeyError> {
        let Some(known) = &self.known else { return Ok(0) };
        let mut count = 0;
        let own = known.wrapping.first().map(WrappingKey::name_bytes);
        for id in ids_in(&known.folder)? {
            let wrapped = known.wrapped(id)?;
            if Some(&wrapped[..NAME_BYTES]) != own.as_ref().map(|name| &name[..]) {
                known.write(&*known.find(id)?)?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// What is written with on a day; makes one where there is none yet. `None` where what comes is not encrypted.
    ///
    /// Errors: the system's.
    pub(crate) fn current(&self, day: u64) -> Result<Option<Arc<DataKey>>, KeyError> {
        match self.only_reads {
            true => Ok(None),
            false => self.again(day),
        }
    }

    /// What is written with that was encrypted before: it stays so, whatever becomes of what comes. `None` where there are no keys.
    ///
    /// Errors: the system's.
    pub(crate) fn again(&self, day: u64) -> Result<Option<Arc<DataKey>>, KeyError> {
        let Some(known) = &self.known else { return Ok(None) };
        let mut current = lock(&known.current);
        if let Some((since, key)) = &*current
            && *since >= day
        {
            return Ok(Some(key.clone()));
        }
        let key = Arc::new(DataKey::new()?);
        if let Err(error) = known.write(&key) {
            // Else one would be left for each try.
            let _gone = fs::remove_file(known.path(key.id).with_extension("new")).is_ok();
            return Err(error);
        }
        lock(&known.data).insert(key.id, key.clone());
        *current = Some((day, key.clone()));
        Ok(Some(key))
    }

    /// A data key by its id; `None` for zeros, which stand for none.
    ///
    /// Errors: it is not there, or nothing opens it.
    pub(crate) fn find(&self, id: Uuid) -> Result<Option<Arc<DataKey>>, KeyError> {
        match &self.known {
            _ if id.is_nil() => Ok(None),
            None => Err(KeyError::None(id)),
            Some(known) => known.find(id).map(Some),
        }
    }

    /// The keys of Parquet files, by the ids that such files have as the metadata of their key.
    pub fn of_files(&self) -> Vec<(Uuid, [u8; KEY_BYTES])> {
        let Some(known) = &self.known else {
            return Vec::new();
        };
        let data = lock(&known.data);
        data.values().map(|key| (key.id, key.file())).collect()
    }

    /// How Parquet files are read, encrypted ones with others.
    pub(crate) fn properties(
        &self,
    ) -> Result<Option<Arc<FileDecryptionProperties>>, parquet::errors::ParquetError> {
        let Some(known) = &self.known else { return Ok(None) };
        FileDecryptionProperties::with_key_retriever(known.clone())
            .build()
            .map(Some)
    }

    /// Removes data keys that open nothing any more; returns how many.
    ///
    /// * `is_used`: whether a file or segment needs it
    /// * `before`: none that were made later, seconds since 1970: what they open may not be there yet
    ///
    /// Errors: the system's.
    pub(crate) fn forget(&self, is_used: impl Fn(Uuid) -> bool, before: u64) -> Result<usize, KeyError> {
        let Some(known) = &self.known else { return Ok(0) };
        let mut count = 0;
        for id in ids_in(&known.folder)? {
            let made = id.get_timestamp().map_or(0, |time| time.to_unix().0);
            if made < before && !is_used(id) {
                let path = known.path(id);
                snapshot::remove(&path).map_err(|error| KeyError::File(path, error.to_string()))?;
                lock(&known.data).remove(&id);
                count += 1;
            }
        }
        Ok(count)
    }
}

impl Known {
    fn path(&self, id: Uuid) -> PathBuf {
        self.folder.join(id.to_string())
    }

    fn find(&self, id: Uuid) -> Result<Arc<DataKey>, KeyError> {
        if let Some(key) = lock(&self.data).get(&id) {
            return Ok(key.clone());
        }
        let wrapped = self.wrapped(id)?;
        let (name, rest) = wrapped.split_at(NAME_BYTES);
        let (nonce, sealed) = rest.split_at(NONCE_LEN);
        let mut wrapping = self.wrapping.iter();
        let Some(by) = wrapping.find(|key| key.name_bytes() == name) else {
            return Err(KeyError::Wrapped {
                path: self.path(id),
                by: hex(name),
                known: self.wrapping.iter().map(WrappingKey::name).collect(),
            });
        };
        let nonce = nonce.try_into().unwrap_or_default();
        let damaged = || KeyError::File(self.path(id), "it is not what was written".to_owned());
        let key = Arc::new(by.unwrap(id, nonce, sealed).ok_or_else(damaged)?);
        lock(&self.data).insert(id, key.clone());
        Ok(key)
    }

    /// The bytes of a data key's file, as many as there have to be.
    fn wrapped(&self, id: Uuid) -> Result<Vec<u8>, KeyError> {
        let path = self.path(id);
        match snapshot::read(&path) {
            Ok(Some(bytes)) if bytes.len() == WRAPPED_BYTES => Ok(bytes),
            Ok(Some(_)) => Err(KeyError::File(path, "it is no key".to_owned())),
            Ok(None) => Err(KeyError::Gone(id)),
            Err(error) => Err(KeyError::File(path, error.to_string())),
        }
    }

    fn write(&self, key: &DataKey) -> Result<(), KeyError> {
        let path = self.path(key.id);
        create_folder(&self.folder)
            .map_err(|error| KeyError::File(self.folder.clone(), error.to_string()))?;
        let first = self.wrapping.first().ok_or(KeyError::None(key.id))?;
        snapshot::replace(&path, &first.wrap(key)?).map_err(|error| KeyError::File(path, error.to_string()))
    }
}

impl KeyRetriever for Known {
    fn retrieve_key(&self, metadata: &[u8]) -> parquet::errors::Result<Vec<u8>> {
        let id = Uuid::from_slice(metadata).unwrap_or_default();
        let key = self.find(id);
        key.map(|key| key.file().to_vec())
            .map_err(|error| parquet::errors::ParquetError::External(error.into()))
    }
}

/// Where the wrapped data keys of a data folder are.
pub(crate) fn keys_in(data_dir: &Path) -> PathBuf {
    data_dir.join("state").join("keys")
}

/// The data keys of a data folder.
///
/// Errors: the system's.
pub fn wrapped_in(data_dir: &Path) -> Result<Vec<Uuid>, KeyError> {
    ids_in(&keys_in(data_dir))
}

fn ids_in(folder: &Path) -> Result<Vec<Uuid>, KeyError> {
    let read = || -> io::Result<Vec<Uuid>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            ids.extend(name.to_str().and_then(|name| Uuid::parse_str(name).ok()));
        }
        Ok(ids)
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        ids => ids.map_err(|error| KeyError::File(folder.to_owned(), error.to_string())),
    }
}

pub(crate) fn aead(key: &[u8; KEY_BYTES]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("a key of AES-256 has 32 bytes"))
}

fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map(|()| bytes).map_err(|_| KeyError::Random)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
