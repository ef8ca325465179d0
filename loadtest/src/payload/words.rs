//! Words: texts of a given length, as far as a tester without the model's tokenizer can make them.

use crate::rng::Rng;

/// Everyday words; each is one token of the usual English vocabularies.
const WORDS: [&str; 32] = [
    "the", "cat", "dog", "house", "river", "stone", "light", "water", "music", "paper", "city", "garden",
    "window", "winter", "letter", "market", "bridge", "forest", "school", "doctor", "summer", "street",
    "family", "number", "world", "green", "table", "morning", "story", "teacher", "island", "question",
];

/// A text of `count` words.
pub(super) fn text(count: u64, rng: &mut Rng) -> String {
    let mut text = String::new();
    for _ in 0..count {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(WORDS[rng.index(WORDS.len())]);
    }
    text
}
