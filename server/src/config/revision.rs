//! `config_rev`: a configuration as one number, the sha256 of its canonical JSON (RFC 8785).

use crossfade_journal::Hash;
use crossfade_journal::audit::canonical::canonical;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Integers above this are not exact as doubles, which canonical JSON asks for.
const EXACT: u64 = 1 << 53;

/// sha256 of the canonical JSON of `value`; integers that no double holds are written as strings.
///
/// Errors: what has no JSON: a path that is no text, a number that is not finite.
pub(crate) fn of(value: &impl Serialize) -> Result<Hash, String> {
    let mut value = serde_json::to_value(value).map_err(|error| error.to_string())?;
    spell_large(&mut value);
    let text = canonical(&value).map_err(|error| error.to_string())?;
    Ok(Hash(Sha256::digest(text).into()))
}

fn spell_large(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let large = number.as_u64().is_some_and(|number| number > EXACT)
                || number
                    .as_i64()
                    .is_some_and(|number| number.unsigned_abs() > EXACT);
            if large {
                *value = number.to_string().into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(spell_large),
        Value::Object(members) => members.values_mut().for_each(spell_large),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `printf '{"a":1,"b":[2,"x"]}' | sha256sum`
    const SMALL: &str = "454597f51f0e5988dd7d0864f82e826d91fd43ed815a21bb06cd7181e8547a2f";

    #[test]
    fn the_order_of_keys_makes_no_difference_and_every_value_does() {
        let rev = |value: Value| of(&value).unwrap();
        let one = rev(json!({ "b": [2, "x"], "a": 1 }));
        assert_eq!(one.to_string(), SMALL);
        assert_eq!(one, rev(json!({ "a": 1, "b": [2, "x"] })));
        assert_ne!(one, rev(json!({ "a": 1, "b": [2, "y"] })));
        assert_ne!(rev(json!(u64::MAX)), rev(json!(u64::MAX - 1)));
    }
}
