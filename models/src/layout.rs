//! Where the parts of a model stand on disk (protocols.md §10.1), and the rules for names.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

use crossfade_runtimes_core::WEIGHTS;

use crate::config::{RawConfig, RuntimeChoice, pbtxt, toml};
use crate::error::{ConfigError, LayoutError};
use crate::version;

/// Largest configuration file that is read.
const MOST_CONFIG_BYTES: u64 = 4 << 20;
/// Largest label file that is read.
const MOST_LABEL_BYTES: u64 = 64 << 20;
/// Model file formats that are recognised by name and not served.
const OTHER_FORMATS: [(&str, &str); 6] = [
    ("model.plan", "TensorRT"),
    ("model.pt", "TorchScript"),
    ("model.xml", "OpenVINO"),
    ("model.py", "Python"),
    ("model.savedmodel", "TensorFlow SavedModel"),
    ("model.graphdef", "TensorFlow GraphDef"),
];
/// Directories of a model that are not versions and need no warning.
const KNOWN_DIRECTORIES: [&str; 4] = ["configs", "warmup", "golden", "validation"];

/// A model's directory in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelDirectory {
    /// The model's name.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
}

/// What a listing found, and what it passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing<T> {
    /// What was found, in order.
    pub found: Vec<T>,
    /// What was passed over and why.
    pub warnings: Vec<String>,
}

/// Checks a model name; done before any path is built from it.
pub fn check_name(name: &str) -> Result<(), LayoutError> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > 255 {
        "it is longer than 255 bytes"
    } else if name == "." || name == ".." {
        "it is a directory of the file system"
    } else if name.contains(['/', '\\']) {
        "it contains a path separator"
    } else if name.chars().any(char::is_control) {
        "it contains a control character"
    } else {
        return Ok(());
    };
    Err(LayoutError::Name {
        name: name.chars().take(80).collect(),
        reason,
    })
}

/// Whether a path is relative and stays below where it starts.
pub fn is_safe_relative(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', '\0'])
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
}

/// The models of a repository: every directory whose name does not begin with a dot.
pub fn models(repository: &Path) -> Result<Listing<ModelDirectory>, LayoutError> {
    let mut listing = Listing {
        found: Vec::new(),
        warnings: Vec::new(),
    };
    for (name, path) in directories(repository)? {
        let Some(name) = name else {
            listing
                .warnings
                .push("a directory whose name is not UTF-8 is ignored".to_owned());
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        match check_name(&name) {
            Ok(()) => listing.found.push(ModelDirectory { name, path }),
            Err(error) => listing.warnings.push(error.to_string()),
        }
    }
    listing.found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(listing)
}

/// The versions of a model that hold anything, ascending. An empty version directory is one that is being filled.
pub fn versions(model: &Path) -> Result<Listing<u64>, LayoutError> {
    let mut listing = Listing {
        found: Vec::new(),
        warnings: Vec::new(),
    };
    for (name, path) in directories(model)? {
        let name = name.unwrap_or_default();
        match version::parse_directory(&name) {
            Some(version) => {
                let filled = fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some());
                if filled {
                    listing.found.push(version);
                } else {
                    listing
                        .warnings
                        .push(format!("version directory `{name}` is empty and not loaded"));
                }
            }
            None if name.starts_with('.') || KNOWN_DIRECTORIES.contains(&name.as_str()) => {}
            None => listing.warnings.push(format!(
                "directory `{name}` is ignored: a version is a positive number without leading zeros"
            )),
        }
    }
    listing.found.sort_unstable();
    Ok(listing)
}

fn directories(path: &Path) -> Result<Vec<(Option<String>, PathBuf)>, LayoutError> {
    let failed = |error: std::io::Error| LayoutError::Directory {
        reason: error.to_string(),
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            found.push((
                path.file_name().and_then(|name| name.to_str()).map(str::to_owned),
                path,
            ));
        }
    }
    Ok(found)
}

/// The files of a model's configuration, read separately.
#[derive(Debug, Clone, Default)]
pub struct ConfigFiles {
    /// `config.pbtxt`, or `configs/<name>.pbtxt`: its name below the model directory, and what it says.
    pub pbtxt: Option<(String, RawConfig)>,
    /// What `model.toml` says.
    pub toml: Option<RawConfig>,
}

impl ConfigFiles {
    /// Reads what is there; both may be absent.
    ///
    /// * `config_name`: `configs/<config_name>.pbtxt` stands in for `config.pbtxt` where it exists
    pub fn read(model: &Path, config_name: Option<&str>) -> Result<Self, ConfigError> {
        let chosen = config_name.map(|name| format!("configs/{name}.pbtxt"));
        let mut pbtxt = None;
        for file in chosen.into_iter().chain(["config.pbtxt".to_owned()]) {
            if let Some(bytes) = read_bounded(model, &file, MOST_CONFIG_BYTES)? {
                let raw = pbtxt::read(&bytes).map_err(|error| error.in_file(&file))?;
                pbtxt = Some((file, raw));
                break;
            }
        }
        let toml = match read_text(model, "model.toml", MOST_CONFIG_BYTES)? {
            Some(text) => Some(toml::read(&text).map_err(|error| error.in_file("model.toml"))?),
            None => None,
        };
        Ok(ConfigFiles { pbtxt, toml })
    }

    /// `model.toml` over `config.pbtxt`.
    pub fn merged(self) -> RawConfig {
        let pbtxt = self.pbtxt.map(|(_, raw)| raw).unwrap_or_default();
        RawConfig::merge(self.toml.unwrap_or_default(), pbtxt)
    }
}

/// The label files that a configuration names, by name.
pub fn read_label_files(model: &Path, config: &RawConfig) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut files = BTreeMap::new();
    for name in config.label_filenames() {
        let missing = || ConfigError::Read {
            file: name.clone(),
            reason: "there is no such file in the model directory".to_owned(),
        };
        let text = read_text(model, &name, MOST_LABEL_BYTES)?.ok_or_else(missing)?;
        files.insert(name, text);
    }
    Ok(files)
}

fn read_text(model: &Path, file: &str, most: u64) -> Result<Option<String>, ConfigError> {
    let Some(bytes) = read_bounded(model, file, most)? else {
        return Ok(None);
    };
    String::from_utf8(bytes).map(Some).map_err(|_| ConfigError::Read {
        file: file.to_owned(),
        reason: "it is not UTF-8".to_owned(),
    })
}

fn read_bounded(model: &Path, file: &str, most: u64) -> Result<Option<Vec<u8>>, ConfigError> {
    let failed = |reason: String| ConfigError::Read {
        file: file.to_owned(),
        reason,
    };
    if !is_safe_relative(file) {
        return Err(failed(
            "it is not a relative path below the model directory".to_owned(),
        ));
    }
    let opened = match fs::File::open(model.join(file)) {
        Ok(opened) => opened,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error.to_string())),
    };
    let mut bytes = Vec::new();
    opened
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > most {
        return Err(failed(format!("it is larger than {most} bytes")));
    }
    Ok(Some(bytes))
}

/// The model file of a version: `filename` where the configuration names one, else what `runtime` reads: `model.onnx`
/// or `model.safetensors` (or the list of its shards), the first of them where it may be any. `model.onnx` may be a directory that holds `model.onnx`
/// and its external data.
pub fn model_file(
    directory: &Path,
    version: u64,
    filename: Option<&str>,
    runtime: RuntimeChoice,
) -> Result<PathBuf, LayoutError> {
    let candidates = match (filename, runtime) {
        (Some(name), _) => vec![name],
        (None, RuntimeChoice::Candle) => WEIGHTS.to_vec(),
        (None, _) => std::iter::once("model.onnx").chain(WEIGHTS).collect(),
    };
    let missing = |hint: String| LayoutError::NoModelFile {
        version,
        expected: candidates.join("` or `"),
        hint,
    };
    for name in &candidates {
        if !is_safe_relative(name) {
            return Err(missing(
                ": that is not a relative path below the version directory".to_owned(),
            ));
        }
        let path = directory.join(name);
        if path.is_dir() && name.ends_with(".onnx") {
            let inner = path.join("model.onnx");
            return if inner.is_file() {
                Ok(inner)
            } else {
                Err(missing(format!(
                    ": `{name}` is a directory without a `model.onnx` in it"
                )))
            };
        }
        if path.exists() {
            return Ok(path);
        }
    }
    if let Some((file, format)) = OTHER_FORMATS
        .into_iter()
        .find(|(file, _)| directory.join(file).exists())
    {
        return Err(LayoutError::Format {
            version,
            file: file.to_owned(),
            format,
        });
    }
    Err(missing(other_models(directory)))
}

fn other_models(directory: &Path) -> String {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".onnx"))
        .take(3)
        .collect();
    names.sort();
    match names.as_slice() {
        [] => String::new(),
        [name, ..] => format!("; rename `{name}`, or set `default_model_filename: \"{name}\"`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[&str]) {
        for file in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
    }

    #[test]
    fn names_that_could_leave_the_repository_are_refused() {
        for name in ["", ".", "..", "a/b", "a\\b", "a\0", "a\n", &"x".repeat(256)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["m", "résumé", "a b", "..a", &"x".repeat(255)] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn relative_paths_stay_below() {
        for (path, safe) in [
            ("a", true),
            ("a/b", true),
            ("", false),
            ("/a", false),
            ("a/../b", false),
            ("..", false),
            ("a\\b", false),
        ] {
            assert_eq!(is_safe_relative(path), safe, "{path}");
        }
    }

    #[test]
    fn a_repository_is_listed_by_the_rules() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                "b/1/model.onnx",
                "a/2/model.onnx",
                "a/10/model.onnx",
                "a/01/x",
                "a/configs/c.pbtxt",
                "README.md",
                ".git/x",
            ],
        );
        fs::create_dir(root.path().join("a/3")).unwrap();
        let listing = models(root.path()).unwrap();
        assert_eq!(
            listing
                .found
                .iter()
                .map(|model| model.name.as_str())
                .collect::<Vec<_>>(),
            ["a", "b"]
        );
        let versions = versions(&root.path().join("a")).unwrap();
        assert_eq!(versions.found, [2, 10]);
        assert_eq!(versions.warnings.len(), 2, "{:?}", versions.warnings);
        assert!(models(&root.path().join("none")).is_err());
    }

    #[test]
    fn the_model_file_is_found_or_its_absence_explained() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                "file/model.onnx",
                "dir/model.onnx/model.onnx",
                "named/x.onnx",
                "plan/model.plan",
                "none/readme",
            ],
        );
        let find =
            |directory: &str, name| model_file(&root.path().join(directory), 1, name, RuntimeChoice::Auto);
        assert_eq!(find("file", None).unwrap(), root.path().join("file/model.onnx"));
        assert_eq!(
            find("dir", None).unwrap(),
            root.path().join("dir/model.onnx/model.onnx")
        );
        assert_eq!(
            find("named", Some("x.onnx")).unwrap(),
            root.path().join("named/x.onnx")
        );
        let check = |directory, name, expected: &str| {
            let message = find(directory, name).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check("named", None, "default_model_filename: \"x.onnx\"");
        check("plan", None, "TensorRT models are not supported");
        check("none", None, "version 1 has no `model.onnx`");
        check("file", Some("../file/model.onnx"), "not a relative path");
    }

    #[test]
    fn configs_of_another_name_stand_in_and_fall_back() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("configs")).unwrap();
        fs::write(root.path().join("config.pbtxt"), "max_batch_size: 1").unwrap();
        fs::write(root.path().join("configs/h100.pbtxt"), "max_batch_size: 2").unwrap();
        fs::write(root.path().join("model.toml"), "[batching]\nmax_delay = '1ms'").unwrap();
        let read = |name| ConfigFiles::read(root.path(), name).unwrap();
        assert_eq!(read(None).pbtxt.unwrap().0, "config.pbtxt");
        assert_eq!(read(Some("h100")).pbtxt.unwrap().0, "configs/h100.pbtxt");
        assert_eq!(read(Some("other")).pbtxt.unwrap().0, "config.pbtxt");
        fs::write(root.path().join("model.toml"), "[batchin]").unwrap();
        let message = ConfigFiles::read(root.path(), None).unwrap_err().to_string();
        assert!(message.starts_with("model.toml: "), "{message}");
    }

    #[test]
    fn the_zoo_is_laid_out_by_the_rules() {
        let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("zoo");
        let listing = models(&zoo).unwrap();
        assert_eq!(listing.warnings, [""; 0]);
        assert!(listing.found.len() >= 5);
        for model in listing.found {
            let config = ConfigFiles::read(&model.path, None).unwrap().merged();
            read_label_files(&model.path, &config).unwrap();
            let versions = versions(&model.path).unwrap();
            assert_eq!(versions.warnings, [""; 0], "{}", model.name);
            for version in versions.found {
                let directory = model.path.join(version.to_string());
                assert!(
                    model_file(&directory, version, config.model_filename(), RuntimeChoice::Auto)
                        .unwrap()
                        .is_file()
                );
            }
        }
    }
}
