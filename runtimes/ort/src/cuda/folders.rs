//! The folders in which the libraries of CUDA and cuDNN are looked for.

use std::path::{Path, PathBuf};

/// Where NVIDIA's wheels keep libraries, below `site-packages` and below `site-packages/nvidia`.
const OF_WHEELS: [&str; 4] = ["nvidia/cu13/lib", "nvidia/cudnn/lib", "cu13/lib", "cudnn/lib"];

/// Every folder that is there, in order: the given ones, that of ONNX Runtime's library, and those of wheels installed
/// beside its own.
///
/// Errors: a given folder that is none.
pub(super) fn of(given: &[PathBuf], library: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for folder in given {
        if !folder.is_dir() {
            return Err(format!(
                "{} is no folder; correct it (--cuda-lib-dir, ort.cuda_lib_dirs)",
                folder.display()
            ));
        }
        add(&mut found, folder);
    }
    // The name that was given may be a link to the file in its package.
    let real = library.canonicalize().ok();
    for library in [Some(library), real.as_deref()].into_iter().flatten() {
        let Some(folder) = library.parent().filter(|folder| folder.is_absolute()) else {
            continue;
        };
        add(&mut found, folder);
        // site-packages/onnxruntime/capi/libonnxruntime.so
        if let Some(packages) = folder.ancestors().nth(2) {
            add_wheels(&mut found, packages);
        }
    }
    Ok(found)
}

fn add(found: &mut Vec<PathBuf>, folder: &Path) {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    if !found.contains(&folder) {
        found.push(folder.clone());
    }
    add_wheels(found, &folder);
}

fn add_wheels(found: &mut Vec<PathBuf>, packages: &Path) {
    for below in OF_WHEELS {
        let folder = packages.join(below);
        if folder.is_dir() && !found.contains(&folder) {
            found.push(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn wheels_beside_that_of_the_library_are_found_without_being_named() {
        let packages = tempfile::tempdir().unwrap();
        let packages = packages.path().canonicalize().unwrap();
        for folder in ["onnxruntime/capi", "nvidia/cu13/lib", "nvidia/cudnn/lib"] {
            fs::create_dir_all(packages.join(folder)).unwrap();
        }
        let library = packages.join("onnxruntime/capi/libonnxruntime.so.1.31.1");
        fs::write(&library, b"").unwrap();
        let expected = ["onnxruntime/capi", "nvidia/cu13/lib", "nvidia/cudnn/lib"];
        let expected = expected.map(|folder| packages.join(folder));
        assert_eq!(of(&[], &library).unwrap(), expected);

        // A link elsewhere, as beside an executable, leads there too.
        let elsewhere = tempfile::tempdir().unwrap();
        let link = elsewhere
            .path()
            .canonicalize()
            .unwrap()
            .join("libonnxruntime.so.1");
        std::os::unix::fs::symlink(&library, &link).unwrap();
        let found = of(&[], &link).unwrap();
        assert!(expected.iter().all(|folder| found.contains(folder)), "{found:?}");
    }

    #[test]
    fn given_folders_come_first_and_may_be_those_of_all_wheels() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for folder in ["cuda", "nvidia/cu13/lib", "nvidia/cudnn/lib"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let bare = Path::new("libonnxruntime.so.1");
        let found = of(&[root.join("cuda"), root.join("nvidia")], bare).unwrap();
        let expected = ["cuda", "nvidia", "nvidia/cu13/lib", "nvidia/cudnn/lib"];
        assert_eq!(found, expected.map(|folder| root.join(folder)));

        let error = of(&[root.join("nowhere")], bare).unwrap_err();
        assert!(
            error.contains("nowhere") && error.contains("--cuda-lib-dir"),
            "{error}"
        );
    }
}
