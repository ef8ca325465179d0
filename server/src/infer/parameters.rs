//! The reserved request parameters (protocols.md §1); all others are the user's own and ignored here.

use std::collections::BTreeMap;
use std::time::Duration;

use crossfade_text::Cut;

use super::Parameter;
use crate::status::Refusal;

/// What the reserved parameters ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reserved {
    /// `timeout`: microseconds after arrival; absent or 0 = none.
    pub(super) timeout: Option<Duration>,
    /// `priority`: 0 = the model's default.
    pub(super) priority: u32,
}

impl Reserved {
    /// Reads them. Errors: a wrong type or a negative number, naming the parameter.
    pub(super) fn read(parameters: &BTreeMap<String, Parameter>) -> Result<Self, Refusal> {
        let timeout = unsigned(parameters, "timeout")?
            .filter(|micros| *micros > 0)
            .map(Duration::from_micros);
        let priority = unsigned(parameters, "priority")?.unwrap_or(0);
        // A priority beyond u32 is beyond every model's levels, whose check gives the message.
        Ok(Self {
            timeout,
            priority: u32::try_from(priority).unwrap_or(u32::MAX),
        })
    }
}

/// What `truncate` and `truncation_direction` say of texts that are too long, to a model that takes text; `None`: nothing.
pub(super) fn cut(parameters: &BTreeMap<String, Parameter>) -> Result<Option<Cut>, Refusal> {
    let side = match parameters.get("truncation_direction") {
        None => Some(Cut::Right),
        Some(Parameter::String(side)) => Cut::by_side(side),
        Some(_) => None,
    };
    let side =
        side.ok_or_else(|| Refusal::invalid("parameter `truncation_direction`: expected `right` or `left`"))?;
    match parameters.get("truncate") {
        None => Ok(None),
        Some(Parameter::Bool(true)) => Ok(Some(side)),
        Some(Parameter::Bool(false)) => Ok(Some(Cut::Refuse)),
        Some(_) => Err(Refusal::invalid("parameter `truncate`: expected true or false")),
    }
}

fn unsigned(parameters: &BTreeMap<String, Parameter>, key: &str) -> Result<Option<u64>, Refusal> {
    match parameters.get(key) {
        None => Ok(None),
        Some(Parameter::Uint(value)) => Ok(Some(*value)),
        Some(Parameter::Int(value)) => match u64::try_from(*value) {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Refusal::invalid(format!(
                "parameter `{key}`: expected a number ≥ 0, got {value}"
            ))),
        },
        Some(Parameter::Bool(_) | Parameter::Double(_) | Parameter::String(_)) => Err(Refusal::invalid(
            format!("parameter `{key}`: expected an integer"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, value: Parameter, expected: Option<Reserved>) {
        let parameters = BTreeMap::from([(key.to_owned(), value)]);
        assert_eq!(Reserved::read(&parameters).ok(), expected);
    }

    #[test]
    fn both_integer_types_are_read_and_nothing_else() {
        let timeout = |micros| {
            Some(Reserved {
                timeout: Some(Duration::from_micros(micros)),
                priority: 0,
            })
        };
        check("timeout", Parameter::Int(5), timeout(5));
        check("timeout", Parameter::Uint(5), timeout(5));
        check("timeout", Parameter::Uint(0), Some(Reserved::default()));
        check("timeout", Parameter::Int(-1), None);
        check("timeout", Parameter::Double(5.0), None);
        check("timeout", Parameter::String("5".into()), None);
        check(
            "priority",
            Parameter::Uint(2),
            Some(Reserved {
                timeout: None,
                priority: 2,
            }),
        );
        check("priority", Parameter::Int(-2), None);
        check("own", Parameter::Bool(true), Some(Reserved::default()));
    }
}
