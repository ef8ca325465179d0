//! What goes wrong with text.

/// A failure, by what a caller can do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A file of the folder cannot be used.
    #[error("{file}: {reason}")]
    File {
        /// Its name.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A parameter makes no sense.
    #[error("parameter `{key}`: {reason}")]
    Setting {
        /// The parameter.
        key: String,
        /// What is accepted.
        reason: String,
    },
    /// A request's text cannot be tokenized.
    #[error("input `{input}`{}: {reason}", row.map_or(String::new(), |row| format!(", row {row}")))]
    Input {
        /// The input.
        input: &'static str,
        /// Its row, where it is one's.
        row: Option<usize>,
        /// What is wrong, and what is accepted.
        reason: String,
    },
    /// More text waits for the tokenizing threads than may.
    #[error("too much text waits to be tokenized; send again later")]
    Busy,
}

impl TextError {
    pub(crate) fn input(
        input: &'static str,
        row: impl Into<Option<usize>>,
        reason: impl Into<String>,
    ) -> Self {
        Self::Input {
            input,
            row: row.into(),
            reason: reason.into(),
        }
    }
}
