//! Errors of the statistics: arguments that no formula is defined for.

/// An argument that has no meaning; no number is given for it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StatisticsError {
    /// A number outside the range it must lie in.
    #[error("{what}: expected {expected}, got {got}")]
    Range {
        /// What the number is.
        what: &'static str,
        /// The range.
        expected: &'static str,
        /// The number.
        got: f64,
    },
    /// Two lists that belong together and differ in length.
    #[error("{what}: {left} on one side and {right} on the other")]
    Lengths {
        /// What the lists hold.
        what: &'static str,
        /// Length of the first.
        left: usize,
        /// Length of the second.
        right: usize,
    },
    /// Fewer observations than the statistic needs.
    #[error("{what}: at least {needed} needed, got {got}")]
    TooFew {
        /// What is counted.
        what: &'static str,
        /// How many are needed.
        needed: usize,
        /// How many there are.
        got: usize,
    },
    /// NaN or an infinity among the observations.
    #[error("{what}: number {index} is not finite")]
    NotFinite {
        /// What the observations are.
        what: &'static str,
        /// Position of the first one.
        index: usize,
    },
}

impl StatisticsError {
    /// Checks that two lists are of one length, at least `needed`.
    pub(crate) fn check_lengths(
        what: &'static str,
        left: usize,
        right: usize,
        needed: usize,
    ) -> Result<(), Self> {
        if left != right {
            return Err(StatisticsError::Lengths { what, left, right });
        }
        if left < needed {
            return Err(StatisticsError::TooFew {
                what,
                needed,
                got: left,
            });
        }
        Ok(())
    }

    /// Checks that every number is finite.
    pub(crate) fn check_finite(what: &'static str, values: &[f64]) -> Result<(), Self> {
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(StatisticsError::NotFinite { what, index }),
            None => Ok(()),
        }
    }

    /// Checks that `alpha` is a level: between 0 and 1, both excluded.
    pub(crate) fn check_level(what: &'static str, alpha: f64) -> Result<(), Self> {
        if alpha > 0.0 && alpha < 1.0 {
            return Ok(());
        }
        Err(StatisticsError::Range {
            what,
            expected: "more than 0 and less than 1",
            got: alpha,
        })
    }
}
