//! Choosing among runtimes that are there and runtimes that are not.

use crossfade_runtimes_core::{Model, ModelSource};

use super::*;

struct Dummy(&'static str);

impl Runtime for Dummy {
    fn name(&self) -> &'static str {
        self.0
    }

    fn platform(&self) -> &'static str {
        "dummy"
    }

    fn version(&self) -> String {
        "1".to_owned()
    }

    fn load(&self, _: &ModelSource) -> Result<Box<dyn Model>, RuntimeError> {
        Err(RuntimeError::Load {
            reason: "a dummy loads nothing".to_owned(),
        })
    }
}

fn without_library() -> Runtimes {
    Runtimes::open(&RuntimesOptions {
        ort_library: Some(PathBuf::from("nowhere/libonnxruntime.so.1")),
        intra_threads: 1,
    })
}

fn get(runtimes: &Runtimes, choice: &str, file: &str) -> Result<&'static str, RuntimeError> {
    let Ok(choice) = choice.parse::<RuntimeChoice>();
    runtimes
        .get(&choice, Path::new(file))
        .map(|runtime| runtime.name())
}

#[test]
fn asking_for_a_missing_library_tells_the_place_tried_and_what_to_do() {
    let runtimes = without_library();
    let error = get(&runtimes, "ort", "model.onnx").unwrap_err();
    assert!(matches!(error, RuntimeError::Unavailable { runtime: "ort", .. }));
    let text = error.to_string();
    assert!(text.contains("nowhere/libonnxruntime.so.1"), "{text}");
    #[cfg(feature = "ort")]
    assert!(text.contains("ort.library"), "{text}");
    // The place is what the operator's log shows, too.
    assert!(runtimes.describe().contains("nowhere/libonnxruntime.so.1"));
}

#[cfg(feature = "tract")]
#[test]
fn auto_falls_back_to_tract_where_the_file_allows_it() {
    let runtimes = without_library();
    assert_eq!(get(&runtimes, "auto", "model.onnx").unwrap(), "tract");
    assert_eq!(get(&runtimes, "tract", "model.onnx").unwrap(), "tract");
    assert!(get(&runtimes, "auto", "model.ort").is_err());
    assert!(runtimes.describe().starts_with("default tract"));
}

#[test]
fn registered_runtimes_are_found_by_name_and_never_by_auto() {
    let mut runtimes = without_library();
    let error = get(&runtimes, "fake", "model.onnx").unwrap_err();
    assert!(error.to_string().contains("no runtime `fake`"));
    runtimes.register(Arc::new(Dummy("fake")));
    assert_eq!(get(&runtimes, "fake", "model.onnx").unwrap(), "fake");
    assert_ne!(get(&runtimes, "auto", "model.onnx").ok(), Some("fake"));
    assert!(runtimes.describe().contains("fake 1"));
    assert!(
        get(&runtimes, "candle", "m")
            .unwrap_err()
            .to_string()
            .contains("fake")
    );
}

#[test]
fn without_an_explicit_path_the_executable_folder_comes_before_the_system() {
    let candidates = search::candidates(None);
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    assert_eq!(candidates.len(), 4);
    assert!(candidates[..2].iter().all(|path| path.parent() == Some(&folder)));
    assert!(
        candidates[2..]
            .iter()
            .all(|path| path.parent() == Some(Path::new("")))
    );
}

#[test]
fn the_first_library_that_opens_is_taken_and_every_failure_is_told() {
    let candidates = [PathBuf::from("a"), PathBuf::from("b"), PathBuf::from("c")];
    let open = |path: &Path| match path.to_str() {
        Some("b") => Ok("opened"),
        _ => Err(RuntimeError::Unavailable {
            runtime: "ort",
            reason: format!("{} is text", path.display()),
        }),
    };
    assert_eq!(
        search::first_that_opens(&candidates, false, open).unwrap(),
        "opened"
    );
    let error =
        search::first_that_opens(&[candidates[0].clone(), candidates[2].clone()], false, open).unwrap_err();
    assert!(error.to_string().contains("a is text; c is text"));
}
