//! Who agreed to a release, and whether that is enough (rollout.md §9).
//!
//! The server checks signatures and tokens; here only what was signed, and by whom, is weighed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::policy::Approval;
use crate::state::Approvable;

/// What is agreed to; a change of any part makes earlier approvals void.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// The release.
    pub release_id: String,
    /// The step that may follow.
    pub before: Approvable,
    /// Digest of the artifact, hexadecimal.
    pub artifact_sha256: String,
    /// Digest of the gates' report, hexadecimal.
    pub report_sha256: String,
    /// Digest of the effective configuration, hexadecimal.
    pub config_rev: String,
}

/// Someone with the groups they are in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// Name of the key or token.
    pub name: String,
    /// The groups.
    #[serde(default)]
    pub groups: BTreeSet<String>,
}

/// An approval whose signature was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Given {
    /// By whom.
    pub by: Person,
    /// To what.
    pub subject: Subject,
}

/// Why an approval does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// What was agreed to has changed.
    Void,
    /// It is the author's own.
    Author,
    /// None of the approver's groups may.
    Group,
    /// The approver shares a group with the author, or is in none.
    NotIndependent,
}

/// How a release stands with its approvers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Whose approval counts; each name once.
    pub counted: BTreeSet<String>,
    /// Whose does not, and why.
    pub refused: BTreeMap<String, Refusal>,
    /// How many are needed.
    pub quorum: u32,
}

impl Standing {
    /// Whether the quorum is there.
    pub fn is_reached(&self) -> bool {
        self.counted.len() as u64 >= u64::from(self.quorum)
    }
}

/// Weighs the approvals of a release.
///
/// * `author`: who started it
/// * `given`: in any order; a later valid one of the same name takes the place of a refused one
pub fn weigh(rules: &Approval, author: &Person, subject: &Subject, given: &[Given]) -> Standing {
    let mut standing = Standing {
        counted: BTreeSet::new(),
        refused: BTreeMap::new(),
        quorum: rules.quorum,
    };
    for approval in given {
        let name = approval.by.name.clone();
        match refusal(rules, author, subject, approval) {
            None => {
                standing.refused.remove(&name);
                standing.counted.insert(name);
            }
            Some(why) if !standing.counted.contains(&name) => {
                standing.refused.insert(name, why);
            }
            Some(_) => {}
        }
    }
    standing
}

fn refusal(rules: &Approval, author: &Person, subject: &Subject, given: &Given) -> Option<Refusal> {
    let by = &given.by;
    if given.subject != *subject {
        return Some(Refusal::Void);
    }
    if rules.not_author && by.name == author.name {
        return Some(Refusal::Author);
    }
    if !rules.groups.is_empty() && rules.groups.is_disjoint(&by.groups) {
        return Some(Refusal::Group);
    }
    // Who is in no group cannot be shown to be in another one.
    if rules.independent && (by.groups.is_empty() || !by.groups.is_disjoint(&author.groups)) {
        return Some(Refusal::NotIndependent);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject {
            release_id: "r1".into(),
            before: Approvable::Promoting,
            artifact_sha256: "a".into(),
            report_sha256: "b".into(),
            config_rev: "c".into(),
        }
    }

    fn person(name: &str, groups: &[&str]) -> Person {
        Person {
            name: name.into(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
        }
    }

    fn given(name: &str, groups: &[&str]) -> Given {
        Given {
            by: person(name, groups),
            subject: subject(),
        }
    }

    /// The matrix of rules and approvers (rollout.md §11.8).
    #[test]
    fn approvals_count_by_the_rules() {
        let check = |not_author, independent, groups: &[&str], given: &[Given], expected: &[&str]| {
            let rules = Approval {
                quorum: 2,
                not_author,
                independent,
                groups: groups.iter().map(|&group| group.to_owned()).collect(),
                ..Approval::default()
            };
            let standing = weigh(&rules, &person("ann", &["ml"]), &subject(), given);
            let counted: Vec<_> = standing.counted.iter().map(String::as_str).collect();
            assert_eq!(counted, expected, "{standing:?}");
            assert_eq!(standing.is_reached(), expected.len() >= 2);
        };
        let (ann, bob, eve) = (
            given("ann", &["ml"]),
            given("bob", &["ml"]),
            given("eve", &["risk"]),
        );
        let all = [ann.clone(), bob.clone(), eve.clone()];
        check(false, false, &[], &all, &["ann", "bob", "eve"]);
        check(true, false, &[], &all, &["bob", "eve"]);
        check(true, true, &[], &all, &["eve"]);
        check(true, true, &[], &[given("zoe", &[])], &[]);
        check(false, false, &["risk"], &all, &["eve"]);
        check(true, false, &["ml"], &all, &["bob"]);
        check(false, false, &[], &[bob.clone(), bob.clone(), bob], &["bob"]);
        check(false, false, &[], &[], &[]);
    }

    #[test]
    fn a_change_of_any_part_voids() {
        let rules = Approval {
            quorum: 1,
            ..Approval::default()
        };
        let changes: [fn(&mut Subject); 4] = [
            |subject| subject.release_id.push('x'),
            |subject| subject.artifact_sha256.push('x'),
            |subject| subject.report_sha256.push('x'),
            |subject| subject.config_rev.push('x'),
        ];
        for change in changes {
            let mut now = subject();
            change(&mut now);
            let old = given("bob", &[]);
            let standing = weigh(&rules, &person("ann", &[]), &now, std::slice::from_ref(&old));
            assert_eq!(standing.refused.get("bob"), Some(&Refusal::Void));
            assert!(!standing.is_reached());
            let new = Given {
                subject: now.clone(),
                ..old.clone()
            };
            for order in [[old.clone(), new.clone()], [new, old]] {
                let standing = weigh(&rules, &person("ann", &[]), &now, &order);
                assert!(
                    standing.is_reached() && standing.refused.is_empty(),
                    "{standing:?}"
                );
            }
        }
    }
}
