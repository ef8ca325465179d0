//! A page of a list of releases: how many, and where it begins.

use std::num::NonZeroUsize;

use crate::status::Refusal;

/// Releases in one answer, unless told otherwise.
const RELEASES: usize = 50;
/// At most.
const MAX_RELEASES: usize = 1000;

/// Which releases of a model are told, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// At most so many.
    pub(crate) limit: usize,
    /// Those that were begun before this one; else from the latest on.
    pub(crate) before: Option<String>,
}

impl Page {
    /// A page of `limit` releases, within bounds, by default 50.
    pub fn new(limit: Option<NonZeroUsize>, before: Option<String>) -> Self {
        Self {
            limit: limit.map_or(RELEASES, NonZeroUsize::get).min(MAX_RELEASES),
            before,
        }
    }

    /// Reads `limit=N` and `before=ID` of a query.
    ///
    /// Errors: `InvalidInput` for anything else, and for a limit that is none.
    pub fn read(query: &str) -> Result<Self, Refusal> {
        let (mut limit, mut before) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("limit", text)) => limit = Some(text.parse().map_err(|_| wrong(pair))?),
                Some(("before", id)) if !id.is_empty() => before = Some(id.to_owned()),
                _ => return Err(wrong(pair)),
            }
        }
        Ok(Self::new(limit, before))
    }
}

fn wrong(pair: &str) -> Refusal {
    let pair: String = pair.chars().take(64).collect();
    Refusal::invalid(format!(
        "`{pair}`: releases take limit=N, at least 1, and before=ID"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_bounded_whatever_is_asked_for() {
        for (asked, expected) in [(0, RELEASES), (1, 1), (1000, 1000), (usize::MAX, 1000)] {
            assert_eq!(Page::new(NonZeroUsize::new(asked), None).limit, expected);
        }
    }

    #[test]
    fn a_query_says_where_a_page_begins_and_how_long_it_is() {
        for (query, limit, before) in [
            ("", RELEASES, None),
            ("limit=2", 2, None),
            ("before=r1&limit=2000", MAX_RELEASES, Some("r1")),
        ] {
            let expected = Page {
                limit,
                before: before.map(str::to_owned),
            };
            assert_eq!(Page::read(query), Ok(expected), "{query}");
        }
        for query in ["limit=0", "limit=", "limit=-1", "limit", "before=", "after=r1"] {
            let refusal = Page::read(query).unwrap_err();
            assert!(refusal.message.contains(query), "{refusal}");
        }
    }
}
