use super::*;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32]).unwrap()
}

fn subject() -> Subject {
    Subject {
        release_id: "fraud-7".to_owned(),
        before: "canary".to_owned(),
        artifact_sha256: Hash([1; 32]),
        report_sha256: Hash([2; 32]),
        config_rev: Hash([3; 32]),
    }
}

#[test]
fn a_change_of_anything_that_was_approved_voids_the_approval() {
    let approval = Approval::sign(&subject(), &key(2));
    assert!(approval.verifies(&subject()));
    let other = Hash([9; 32]);
    for changed in [
        Subject {
            release_id: "fraud-8".to_owned(),
            ..subject()
        },
        Subject {
            before: "promoting".to_owned(),
            ..subject()
        },
        Subject {
            artifact_sha256: other,
            ..subject()
        },
        Subject {
            report_sha256: other,
            ..subject()
        },
        Subject {
            config_rev: other,
            ..subject()
        },
    ] {
        assert!(!approval.verifies(&changed));
    }
}

#[test]
fn a_forged_approval_does_not_hold() {
    let mut approval = Approval::sign(&subject(), &key(2));
    approval.key = key(3).public_key();
    assert!(!approval.verifies(&subject()));
    let mut approval = Approval::sign(&subject(), &key(2));
    approval.signature.0[0] ^= 1;
    assert!(!approval.verifies(&subject()));
}

#[test]
fn what_is_signed_is_canonical_json() {
    let subject = Subject {
        before: "c \"d\" \u{2}".to_owned(),
        release_id: "a \"b\" \u{1}\n😀".to_owned(),
        ..subject()
    };
    let value = serde_json::to_value(&subject).unwrap();
    assert_eq!(
        subject.message(),
        crate::audit::canonical::canonical(&value).unwrap()
    );
}
