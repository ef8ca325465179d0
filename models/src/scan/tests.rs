//! Tests of the comparison of scans.

use proptest::prelude::*;

use super::*;

fn snapshots() -> impl Strategy<Value = Snapshot> {
    let model =
        (0..2u64, proptest::collection::btree_map(1..4u64, 0..2u64, 0..3)).prop_map(|(config, versions)| {
            ModelSnapshot {
                directories: vec![],
                config: Fingerprint(config),
                versions: versions
                    .into_iter()
                    .map(|(version, print)| (version, Fingerprint(print)))
                    .collect(),
            }
        });
    proptest::collection::btree_map("[ab]", model, 0..3).prop_map(|models| Snapshot { models })
}

proptest! {
    #[test]
    fn two_equal_scans_are_applied_whole(mut applied in snapshots(), scan in snapshots()) {
        let changes = diff(&applied, &scan, &scan);
        applied.apply(&changes, &scan);
        prop_assert_eq!(&applied, &scan);
        prop_assert!(diff(&applied, &scan, &scan).is_empty());
    }

    #[test]
    fn only_what_both_scans_agree_on_changes(applied in snapshots(), previous in snapshots(), latest in snapshots()) {
        for change in diff(&applied, &previous, &latest) {
            let (before, now) = (previous.models.get(change.model()), latest.models.get(change.model()));
            match &change {
                Change::ModelAdded(_) => prop_assert_eq!(before, now),
                Change::ModelRemoved(_) => prop_assert!(before.is_none() && now.is_none()),
                Change::ConfigChanged(_) => prop_assert_eq!(before.map(|m| m.config), now.map(|m| m.config)),
                Change::VersionAdded(_, v) | Change::VersionRemoved(_, v) | Change::VersionChanged(_, v) => {
                    prop_assert_eq!(before.map(|m| m.versions.get(v)), now.map(|m| m.versions.get(v)));
                }
            }
        }
    }

    #[test]
    fn what_is_applied_already_is_no_change(applied in snapshots(), previous in snapshots()) {
        prop_assert!(diff(&applied, &previous, &applied).is_empty());
    }
}

#[test]
fn fingerprints_notice_size_and_name() {
    let root = tempfile::tempdir().unwrap();
    let version = root.path().join("m/1/model.onnx");
    fs::create_dir_all(&version).unwrap();
    let empty = Snapshot::take([root.path()]).unwrap();
    assert_eq!(
        empty.models["m"].versions.len(),
        1,
        "a directory named model.onnx is content"
    );
    fs::write(version.join("model.onnx"), "a").unwrap();
    let one = Snapshot::take([root.path()]).unwrap();
    assert_ne!(empty, one);
    fs::write(version.join("model.onnx"), "ab").unwrap();
    let two = Snapshot::take([root.path()]).unwrap();
    assert_eq!(
        diff(&one, &two, &two),
        [Change::VersionChanged("m".to_owned(), 1)]
    );
    assert!(diff(&one, &one, &two).is_empty());
    fs::write(root.path().join("m/config.pbtxt"), "x").unwrap();
    let three = Snapshot::take([root.path()]).unwrap();
    assert_eq!(
        diff(&two, &three, &three),
        [Change::ConfigChanged("m".to_owned())]
    );
}
