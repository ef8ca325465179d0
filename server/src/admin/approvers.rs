//! Who can agree to releases: the owners of keys, and the groups that people are in.

use std::collections::BTreeSet;

use crossfade_journal::keys::PublicKey;
use crossfade_rollout::approval::Person;

use super::Token;

/// Someone whose signatures are known.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Approver {
    /// Who; the name of a token, where it is the same person.
    pub name: String,
    /// What their signatures are checked with.
    pub key: PublicKey,
    /// The groups they are in.
    pub groups: BTreeSet<String>,
}

/// Everyone who is known by name.
#[derive(Debug, Clone, Default)]
pub struct Approvers {
    keys: Vec<Approver>,
    /// Of the holders of tokens.
    holders: Vec<Person>,
}

impl Approvers {
    /// The owners of `keys`, and the holders of `tokens`.
    pub fn new(keys: Vec<Approver>, tokens: &[Token]) -> Self {
        let holder = |token: &Token| Person {
            name: token.name.clone(),
            groups: token.groups.clone(),
        };
        Self {
            keys,
            holders: tokens.iter().map(holder).collect(),
        }
    }

    /// Whether only a signature is an approval; without known keys, the call of whoever has the role is one.
    pub fn sign(&self) -> bool {
        !self.keys.is_empty()
    }

    /// The owner of a key.
    pub fn owner(&self, key: &PublicKey) -> Option<Person> {
        let owner = self.keys.iter().find(|approver| approver.key == *key)?;
        Some(self.person(&owner.name))
    }

    /// Someone, with all groups that are known of them: a token and a key of one name are one person's.
    pub fn person(&self, name: &str) -> Person {
        let of_key = self.keys.iter().filter(|approver| approver.name == name);
        let of_token = self.holders.iter().filter(|holder| holder.name == name);
        let groups = of_key.map(|approver| &approver.groups);
        let groups = groups.chain(of_token.map(|holder| &holder.groups));
        Person {
            name: name.to_owned(),
            groups: groups.flatten().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_and_a_key_of_one_name_are_one_person() {
        let groups = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let keys = vec![Approver {
            name: "ann".to_owned(),
            key: PublicKey([1; 32]),
            groups: groups(&["risk"]),
        }];
        let token = |name: &str, of: &[&str]| Token {
            name: name.to_owned(),
            sha256: [0; 32],
            roles: Vec::new(),
            groups: groups(of),
        };
        let known = Approvers::new(keys, &[token("ann", &["ml"]), token("bob", &[])]);
        let ann = known.owner(&PublicKey([1; 32])).unwrap();
        assert_eq!((ann.name.as_str(), ann.groups), ("ann", groups(&["ml", "risk"])));
        assert_eq!(known.owner(&PublicKey([2; 32])), None);
        assert_eq!(known.person("bob").groups, groups(&[]));
        assert_eq!(known.person("crossfade").groups, groups(&[]));
        assert!(known.sign() && !Approvers::default().sign());
    }
}
