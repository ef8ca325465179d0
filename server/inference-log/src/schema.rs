//! Which tensors the records of a signature have, and how they become columns.
//!
//! A record names its schema by number; the definition is a file of its own, written before the first record that needs it, so
//! that a segment can be read without the server.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crossfade_journal::storage::create_folder;
use crossfade_runtimes_core::{Datatype, ModelSignature, TensorSpec};
use serde::{Deserialize, Serialize};

/// The schema of records without tensors: what was refused before it had a model.
pub const NO_SCHEMA: u16 = 0;
/// The most elements of a row that become a column each.
const MAX_SCALARS: usize = 64;

/// The inputs and outputs of a signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schema {
    /// Whether dimension 0 of every tensor counts rows.
    pub batched: bool,
    /// In model order.
    pub inputs: Vec<Column>,
    /// In model order.
    pub outputs: Vec<Column>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// As the protocol spells it.
    pub datatype: String,
    /// Its dimensions, −1 where any size is allowed.
    pub shape: Vec<i64>,
    /// What becomes of its values before they are written; `None`: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

impl Schema {
    /// The schema of a signature.
    pub fn of(signature: &ModelSignature) -> Self {
        let columns = |specs: &[TensorSpec]| specs.iter().map(Column::of).collect();
        Self {
            batched: signature.batched,
            inputs: columns(&signature.inputs),
            outputs: columns(&signature.outputs),
        }
    }
}

impl Column {
    pub(crate) fn of(spec: &TensorSpec) -> Self {
        let size = |dim: Option<usize>| dim.map_or(-1, |size| i64::try_from(size).unwrap_or(-1));
        Self {
            name: spec.name.to_string(),
            datatype: spec.datatype.to_string(),
            shape: spec.shape.iter().map(|dim| size(dim.fixed())).collect(),
            policy: None,
        }
    }

    /// Its datatype; `None` for a name that is none.
    pub fn datatype(&self) -> Option<Datatype> {
        self.datatype.parse().ok()
    }

    /// How many elements a row has that become columns of their own: where the shape is `[−1]` or `[−1, k]` with a small `k`.
    pub fn scalars(&self) -> Option<usize> {
        let width = match self.shape.as_slice() {
            [-1] => 1,
            [-1, width] => usize::try_from(*width).ok()?,
            _ => return None,
        };
        (1..=MAX_SCALARS).contains(&width).then_some(width)
    }

    /// Whether its dimensions do not follow from the number of its elements.
    pub fn varies(&self) -> bool {
        self.shape.iter().filter(|size| **size < 0).count() > 1
    }
}

/// The schemas of a data folder.
#[derive(Debug)]
pub struct Schemas {
    folder: PathBuf,
    known: BTreeMap<u16, Schema>,
}

impl Schemas {
    /// Reads those that are there.
    ///
    /// Errors: the system's, or a file that is no schema.
    pub fn open(folder: &Path) -> io::Result<Self> {
        create_folder(folder)?;
        let mut known = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let Some(id) = stem
                .and_then(|stem| stem.parse().ok())
                .filter(|_| has_json(&path))
            else {
                continue;
            };
            let schema = serde_json::from_slice(&fs::read(&path)?).map_err(|error| {
                let message = format!("`{}` is no schema: {error}", path.display());
                io::Error::new(io::ErrorKind::InvalidData, message)
            })?;
            known.insert(id, schema);
        }
        Ok(Self {
            folder: folder.to_owned(),
            known,
        })
    }

    /// The schema of a number; [`NO_SCHEMA`] has no columns.
    pub fn get(&self, id: u16) -> Option<&Schema> {
        self.known.get(&id)
    }

    /// The number of a schema, which is on disk when this returns.
    ///
    /// Errors: the system's; too many schemas.
    pub fn number(&mut self, schema: &Schema) -> io::Result<u16> {
        if let Some((id, _)) = self.known.iter().find(|(_, known)| *known == schema) {
            return Ok(*id);
        }
        let last = self.known.keys().next_back().copied().unwrap_or(NO_SCHEMA);
        let id = last
            .checked_add(1)
            .ok_or_else(|| io::Error::other("there are 65535 schemas; no more can be told apart"))?;
        let text = serde_json::to_vec(schema).map_err(io::Error::other)?;
        let (path, new) = (self.path(id), self.folder.join(format!("{id}.new")));
        let mut file = File::create(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.folder)?.sync_all()?;
        self.known.insert(id, schema.clone());
        Ok(id)
    }

    fn path(&self, id: u16) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}

fn has_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}
