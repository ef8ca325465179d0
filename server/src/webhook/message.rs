//! What a receiver gets: a CloudEvent (1.0, structured mode) and its signature. Pure.

use bytes::Bytes;
use crossfade_journal::audit::Timestamp;
use ring::hmac;
use serde_json::json;

use crate::release::News;

/// The type of every message (monitoring.md §9).
const TYPE: &str = "io.crossfade.release.v1";

/// The body of a message. The same move has the same `id` each time it is sent.
pub(super) fn body(news: &News) -> Bytes {
    let micros = i64::try_from(news.at.saturating_mul(1_000_000)).unwrap_or_default();
    let time = Timestamp::from_unix_micros(micros)
        .ok()
        .map(|time| time.to_string());
    let event = json!({
        "specversion": "1.0",
        "type": TYPE,
        "source": "crossfade",
        "subject": news.model,
        "id": format!("{}:{}", news.model, news.seq.unwrap_or_default()),
        "time": time,
        "datacontenttype": "application/json",
        "data": news,
    });
    event.to_string().into()
}

/// As the header has it.
pub(super) fn signature(secret: &hmac::Key, body: &[u8]) -> String {
    let tag = hmac::sign(secret, body);
    let digits: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_rfc() {
        // RFC 4231 §4.3, test case 2.
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"Jefe");
        assert_eq!(
            signature(&key, b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
