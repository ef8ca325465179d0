use super::*;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32]).unwrap()
}

fn groups(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn subject() -> Subject {
    Subject {
        release_id: "fraud-7".to_owned(),
        artifact_sha256: Hash([1; 32]),
        report_sha256: Hash([2; 32]),
        config_rev: Hash([3; 32]),
    }
}

/// ann and bob are in `ml`, ann with two keys; cleo is in `risk`, dan in both, eve in no group.
fn approvers() -> Vec<Approver> {
    let approver = |name: &str, of: &[&str], seed| Approver {
        name: name.to_owned(),
        groups: groups(of),
        key: key(seed).public_key(),
    };
    vec![
        approver("ann", &["ml"], 1),
        approver("ann", &["ml"], 11),
        approver("bob", &["ml"], 2),
        approver("cleo", &["risk"], 3),
        approver("dan", &["ml", "risk"], 4),
        approver("eve", &[], 5),
    ]
}

fn verdict(rules: &Rules, seeds: &[u8]) -> Verdict {
    let author = Author {
        name: "ann".to_owned(),
        groups: groups(&["ml"]),
    };
    let approvals: Vec<_> = seeds
        .iter()
        .map(|&seed| Approval::sign(&subject(), &key(seed)))
        .collect();
    decide(rules, &approvers(), &author, &subject(), &approvals)
}

/// The matrix: which keys are enough under which rules, for a release of ann's.
#[test]
fn a_release_goes_on_when_all_rules_hold() {
    let quorum = |quorum| Rules {
        quorum,
        ..Rules::default()
    };
    let not_author = Rules {
        not_author: true,
        ..quorum(1)
    };
    let both = Rules {
        groups: groups(&["ml", "risk"]),
        ..quorum(2)
    };
    let high = Rules {
        not_author: true,
        independent_group: true,
        ..quorum(2)
    };
    for (rules, seeds, approved) in [
        (&quorum(0), &[][..], true),
        (&quorum(1), &[], false),
        (&quorum(1), &[1], true),
        (&quorum(1), &[9], false),
        (&quorum(2), &[1, 11], false),
        (&quorum(2), &[1, 2], true),
        (&not_author, &[1], false),
        (&not_author, &[11, 1], false),
        (&not_author, &[1, 2], true),
        (&both, &[1, 2], false),
        (&both, &[1, 3], true),
        (&both, &[4], false),
        (&both, &[4, 5], true),
        (&high, &[2, 3], true),
        (&high, &[1, 3], false),
        (&high, &[2, 4], false),
        (&high, &[2, 5], false),
        (&high, &[2, 2, 3], true),
        (&high, &[3, 3], false),
        (&high, &[3, 5], true),
    ] {
        let verdict = verdict(rules, seeds);
        assert_eq!(
            verdict.is_approved(),
            approved,
            "{rules:?} {seeds:?}: {verdict:?}"
        );
    }
}

#[test]
fn a_verdict_says_what_is_missing_and_what_does_not_count() {
    let rules = Rules {
        quorum: 3,
        groups: groups(&["ml", "risk", "legal"]),
        not_author: true,
        independent_group: true,
    };
    let verdict = verdict(&rules, &[1, 2, 9, 2]);
    assert_eq!(
        verdict,
        Verdict {
            approved_by: groups(&["bob"]),
            missing: 2,
            missing_groups: groups(&["legal", "risk"]),
            missing_independent: true,
            ignored: vec![
                (0, Ignored::Author),
                (2, Ignored::UnknownKey),
                (3, Ignored::Repeated)
            ],
        }
    );
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
        let rules = Rules {
            quorum: 1,
            ..Rules::default()
        };
        let author = Author {
            name: "zoe".to_owned(),
            groups: groups(&[]),
        };
        let verdict = decide(&rules, &approvers(), &author, &changed, &[approval]);
        assert_eq!(verdict.ignored, [(0, Ignored::Void)]);
        assert!(!verdict.is_approved());
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
        release_id: "a \"b\" \u{1}\n😀".to_owned(),
        ..subject()
    };
    let value = serde_json::to_value(&subject).unwrap();
    assert_eq!(
        subject.message(),
        crate::audit::canonical::canonical(&value).unwrap()
    );
}
