//! What a restart finds again.

use super::*;

const KNOWN: Known = Known {
    way: Way::Single,
    shared: 126.0,
    single: 169.5,
    served: true,
    at: 1_795_000_000,
};

fn artifact(path: &Path, cores: usize, how: &str) -> Artifact {
    Artifact::of(path, cores, how.to_owned()).unwrap()
}

#[test]
fn a_restart_knows_what_was_found_of_the_same_file_run_alike() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.onnx");
    std::fs::write(&model, "one").unwrap();
    let at = folder.path().join("data/state/calibration.json");
    let found = artifact(&model, 2, "ort 1.31.1 cpu");
    let store = Store::open(at.clone());
    store.put(found.clone(), KNOWN);
    store.save();

    let again = Store::open(at);
    assert_eq!(again.get(&found), Some(KNOWN));
    assert_eq!(again.get(&artifact(&model, 4, "ort 1.31.1 cpu")), None);
    assert_eq!(again.get(&artifact(&model, 2, "ort 1.32.0 cpu")), None);
    std::fs::write(&model, "other weights").unwrap();
    assert!(!found.is_current());
    let changed = artifact(&model, 2, "ort 1.31.1 cpu");
    assert_eq!(again.get(&changed), None);

    again.put(changed.clone(), KNOWN);
    assert_eq!(again.get(&changed), Some(KNOWN));
    assert_eq!(again.get(&found), None, "the file as it was is forgotten");
}

#[test]
fn a_new_version_begins_in_the_way_of_the_last_one() {
    let folder = tempfile::tempdir().unwrap();
    let version = |model: &str, number: &str| {
        let path = folder.path().join(model).join(number);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("model.onnx"), number).unwrap();
        path.join("model.onnx")
    };
    let (first, second, third, other) = (
        version("m", "1"),
        version("m", "2"),
        version("m", "3"),
        version("n", "1"),
    );
    let store = Store::default();
    let shared = Known {
        way: Way::Shared,
        at: KNOWN.at - 1,
        ..KNOWN
    };
    store.put(artifact(&first, 2, "ort"), KNOWN);
    store.put(artifact(&second, 2, "ort"), shared);
    store.put(
        artifact(&other, 2, "ort"),
        Known {
            at: KNOWN.at + 1,
            ..shared
        },
    );
    let kin = |cores, how| store.way_of_kin(&artifact(&third, cores, how));
    assert_eq!(
        kin(2, "ort"),
        Some(Way::Single),
        "what was measured last, of this model"
    );
    assert_eq!((kin(4, "ort"), kin(2, "tract")), (None, None), "run otherwise");
}

#[test]
fn a_file_that_is_not_ours_is_as_good_as_none() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.onnx");
    std::fs::write(&model, "one").unwrap();
    let at = folder.path().join("calibration.json");
    let found = artifact(&model, 2, "ort");
    for content in ["", "{}", "[{\"path\": 3}]", "[{\"way\": \"third\"}]"] {
        std::fs::write(&at, content).unwrap();
        let store = Store::open(at.clone());
        assert_eq!(store.get(&found), None, "{content}");
        store.put(found.clone(), KNOWN);
        store.save();
        assert_eq!(Store::open(at.clone()).get(&found), Some(KNOWN), "{content}");
    }
}

#[test]
fn where_nothing_can_be_written_it_is_known_until_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.onnx");
    std::fs::write(&model, "one").unwrap();
    // A file stands where the folder would be.
    let store = Store::open(model.join("calibration.json"));
    let found = artifact(&model, 2, "ort");
    store.put(found.clone(), KNOWN);
    store.save();
    assert_eq!(store.get(&found), Some(KNOWN));
}
