//! A new version put into a model repository: copied under a name that nobody reads, then renamed in one step.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crossfade_models::layout;

use crate::scope::RequestId;

/// Where a single file goes, unless its own name says which runtime reads it.
const FILE: &str = "model.onnx";

/// Puts a folder, or a single file, into a model's folder as its next version, which is returned.
///
/// * `known`: a version that there was at least, even if its files are gone
///
/// Nobody sees the version before all of it is on disk. Errors: what the system says; what was copied is removed.
pub(super) fn put(source: &Path, model: &Path, known: u64) -> io::Result<u64> {
    if !model.is_dir() {
        let message = format!("`{}` is no model's folder", model.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    let there = layout::versions(model).map_err(io::Error::other)?;
    let next = there
        .found
        .last()
        .copied()
        .unwrap_or(0)
        .max(known)
        .saturating_add(1);
    // Scans pass over names that begin with a dot.
    let coming = model.join(format!(".coming-{}", RequestId::new()));
    // Of another process's copy nothing is removed.
    fs::create_dir(&coming)?;
    let put = copy(source, &coming).and_then(|()| settle(&coming, model, next));
    if put.is_err() {
        let _gone = fs::remove_dir_all(&coming).is_ok();
    }
    put
}

/// Gives the copy its number: the next one that is free.
fn settle(coming: &Path, model: &Path, next: u64) -> io::Result<u64> {
    for version in next..next.saturating_add(100) {
        let target = model.join(version.to_string());
        if target.exists() {
            continue;
        }
        match fs::rename(coming, &target) {
            Ok(()) => {
                File::open(model)?.sync_all()?;
                return Ok(version);
            }
            // Someone else took it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(
        "a hundred versions were put there at the same time",
    ))
}

fn copy(source: &Path, target: &Path) -> io::Result<()> {
    if source.is_dir() {
        return copy_folder(source, target);
    }
    let named = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.starts_with("model."));
    let name = source.file_name().filter(|name| named(name));
    copy_file(source, &target.join(name.unwrap_or(FILE.as_ref())))
}

fn copy_folder(source: &Path, target: &Path) -> io::Result<()> {
    let mut empty = true;
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        let to: PathBuf = target.join(entry.file_name());
        // Follows links, as loading does.
        if fs::metadata(entry.path())?.is_dir() {
            fs::create_dir(&to)?;
            copy_folder(&entry.path(), &to)?;
        } else {
            copy_file(&entry.path(), &to)?;
        }
        empty = false;
    }
    if empty {
        return Err(io::Error::other(format!("`{}` is empty", source.display())));
    }
    File::open(target)?.sync_all()
}

fn copy_file(source: &Path, target: &Path) -> io::Result<()> {
    fs::copy(source, target)?;
    File::open(target)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_next_number_holds_a_whole_copy_and_nothing_is_left_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let (model, source) = (root.path().join("m"), root.path().join("new"));
        fs::create_dir_all(source.join("variables")).unwrap();
        fs::write(source.join("model.onnx"), "weights").unwrap();
        fs::write(source.join("variables/a"), "a").unwrap();
        fs::create_dir_all(model.join("golden")).unwrap();
        fs::create_dir(model.join("2")).unwrap();
        fs::write(model.join("2/model.onnx"), "old").unwrap();
        assert_eq!(put(&source, &model, 0).unwrap(), 3);
        assert_eq!(put(&source, &model, 7).unwrap(), 8, "a number is not used again");
        assert_eq!(put(&source.join("model.onnx"), &model, 0).unwrap(), 9);
        assert_eq!(names(&model), ["2", "3", "8", "9", "golden"]);
        assert_eq!(fs::read(model.join("3/variables/a")).unwrap(), b"a");
        assert_eq!(names(&model.join("9")), ["model.onnx"]);
        let other = root.path().join("weights.bin");
        fs::write(&other, "weights").unwrap();
        assert_eq!(put(&other, &model, 0).unwrap(), 10);
        assert_eq!(names(&model.join("10")), ["model.onnx"]);
    }

    #[test]
    fn what_cannot_be_copied_leaves_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        let (model, source) = (root.path().join("m"), root.path().join("new"));
        fs::create_dir(&source).unwrap();
        assert!(put(&source, &model, 0).is_err(), "there is no such model");
        fs::create_dir(&model).unwrap();
        let error = put(&source, &model, 0).unwrap_err();
        assert!(error.to_string().contains("empty"), "{error}");
        std::os::unix::fs::symlink("nowhere", source.join("model.onnx")).unwrap();
        assert!(put(&source, &model, 0).is_err());
        assert_eq!(names(&model), [""; 0]);
    }
}
