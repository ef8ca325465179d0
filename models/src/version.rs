//! Version numbers, and which of the versions on disk a policy chooses.

/// Which versions of a model are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionPolicy {
    /// The highest `n`.
    Latest(usize),
    /// Every one.
    All,
    /// Exactly these, where they exist.
    Specific(Vec<u64>),
}

impl Default for VersionPolicy {
    /// The highest one, as Triton does.
    fn default() -> Self {
        VersionPolicy::Latest(1)
    }
}

impl VersionPolicy {
    /// The chosen ones of `available`, ascending; what is absent is not chosen.
    pub fn choose(&self, available: &[u64]) -> Vec<u64> {
        let mut chosen = available.to_vec();
        chosen.sort_unstable();
        chosen.dedup();
        match self {
            VersionPolicy::All => {}
            VersionPolicy::Latest(count) => {
                chosen.drain(..chosen.len().saturating_sub(*count));
            }
            VersionPolicy::Specific(wanted) => chosen.retain(|version| wanted.contains(version)),
        }
        chosen
    }
}

/// The version that a directory's name stands for: digits only, no leading zero, at least 1.
pub fn parse_directory(name: &str) -> Option<u64> {
    if name.starts_with('0') || !name.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    name.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_choose_among_what_exists() {
        let check = |policy: VersionPolicy, expected: &[u64]| {
            assert_eq!(policy.choose(&[3, 1, 10, 2]), expected, "{policy:?}");
        };
        check(VersionPolicy::default(), &[10]);
        check(VersionPolicy::Latest(2), &[3, 10]);
        check(VersionPolicy::Latest(9), &[1, 2, 3, 10]);
        check(VersionPolicy::All, &[1, 2, 3, 10]);
        check(VersionPolicy::Specific(vec![2, 7]), &[2]);
        assert!(VersionPolicy::Latest(1).choose(&[]).is_empty());
    }

    #[test]
    fn version_directories_are_positive_numbers_without_leading_zeros() {
        for (name, expected) in [
            ("1", Some(1)),
            ("20240101", Some(20_240_101)),
            ("0", None),
            ("01", None),
            ("-1", None),
        ] {
            assert_eq!(parse_directory(name), expected, "{name}");
        }
        for name in ["", "v1", "1.0", "+1", "１", "99999999999999999999999"] {
            assert_eq!(parse_directory(name), None, "{name}");
        }
    }
}
