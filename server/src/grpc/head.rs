//! What the head of a call says: its deadline, the client's id, and whether errors end a stream.

use std::time::Duration;

use http::HeaderMap;

use super::reply::REQUEST_ID;
use crate::status::Refusal;

/// The call's `grpc-timeout`.
///
/// Errors: `InvalidInput` if it is not at most eight digits and a unit.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Refusal> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let parsed = value.to_str().ok().and_then(parse_timeout);
    parsed.map(Some).ok_or_else(|| {
        Refusal::invalid("grpc-timeout must be one to eight digits and a unit of H, M, S, m, u or n")
    })
}

/// The grammar of gRPC's HTTP/2 protocol description, "Timeout".
fn parse_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(value * 3600)),
        'M' => Some(Duration::from_secs(value * 60)),
        'S' => Some(Duration::from_secs(value)),
        'm' => Some(Duration::from_millis(value)),
        'u' => Some(Duration::from_micros(value)),
        'n' => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// The `x-request-id` that the client sent.
pub(super) fn client_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(REQUEST_ID)?.to_str().ok()
}

/// Whether the failure of one request shall end the stream (Triton's `triton_grpc_error`).
pub(super) fn errors_end_the_stream(headers: &HeaderMap) -> bool {
    headers
        .get("triton_grpc_error")
        .is_some_and(|value| value.as_bytes() == b"true")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<Duration>) {
        assert_eq!(parse_timeout(text), expected, "{text:?}");
    }

    #[test]
    fn timeouts_are_digits_and_a_unit() {
        check("1H", Some(Duration::from_secs(3600)));
        check("2M", Some(Duration::from_secs(120)));
        check("99999999S", Some(Duration::from_secs(99_999_999)));
        check("250m", Some(Duration::from_millis(250)));
        check("0u", Some(Duration::ZERO));
        check("7n", Some(Duration::from_nanos(7)));
        for broken in ["", "S", "1", "1s", "-1S", "+1S", "123456789S", "1 S", "1é", "é"] {
            check(broken, None);
        }
    }
}
