//! What the headers say of content encodings (protocols.md §3).

use http::{HeaderMap, header};

use super::reply::Failure;
use crate::encoding::Encoding;

fn named(name: &str) -> Option<Encoding> {
    if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
        Some(Encoding::Gzip)
    } else if name.eq_ignore_ascii_case("deflate") {
        Some(Encoding::Deflate)
    } else {
        None
    }
}

/// How a request's body is compressed; one encoding at most.
pub(super) fn of_request(headers: &HeaderMap) -> Result<Option<Encoding>, Failure> {
    let mut found = None;
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let text = String::from_utf8_lossy(value.as_bytes());
        let names = text.split(',').map(str::trim);
        for name in names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity")) {
            match named(name) {
                Some(encoding) if found.is_none() => found = Some(encoding),
                _ => return Err(Failure::Encoding(text.chars().take(64).collect())),
            }
        }
    }
    Ok(found)
}

/// How a response is wanted: the named encoding with the highest weight, gzip first among equals. `*` names
/// none, so it asks for none.
pub(super) fn of_response(headers: &HeaderMap) -> Option<Encoding> {
    let mut best: Option<(Encoding, f32)> = None;
    for value in headers.get_all(header::ACCEPT_ENCODING) {
        for item in value.to_str().unwrap_or_default().split(',') {
            let mut parts = item.split(';').map(str::trim);
            let Some(encoding) = parts.next().and_then(named) else {
                continue;
            };
            let weight = parts
                .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
                .map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            let better = match best {
                None => weight > 0.0,
                Some((_, held)) => weight > held || (weight == held && encoding == Encoding::Gzip),
            };
            if better {
                best = Some((encoding, weight));
            }
        }
    }
    best.map(|(encoding, _)| encoding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(name: header::HeaderName, values: &[&'static str]) -> HeaderMap {
        values
            .iter()
            .map(|value| (name.clone(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn request_encodings_are_named_or_refused() {
        for (values, expected) in [
            (&[][..], Some(None)),
            (&["identity"], Some(None)),
            (&[""], Some(None)),
            (&["GZip"], Some(Some(Encoding::Gzip))),
            (&["identity, deflate"], Some(Some(Encoding::Deflate))),
            (&["br"], None),
            (&["gzip, gzip"], None),
            (&["gzip", "deflate"], None),
        ] {
            let got = of_request(&headers(header::CONTENT_ENCODING, values));
            assert_eq!(got.ok(), expected, "{values:?}");
        }
    }

    #[test]
    fn responses_are_compressed_only_when_asked() {
        for (values, expected) in [
            (&[][..], None),
            (&["*"], None),
            (&["identity, br"], None),
            (&["gzip;q=0"], None),
            (&["gzip;q=0.0, deflate"], Some(Encoding::Deflate)),
            (&["deflate, gzip"], Some(Encoding::Gzip)),
            (&["gzip, deflate"], Some(Encoding::Gzip)),
            (&["deflate;q=0.9", "gzip; q=0.5"], Some(Encoding::Deflate)),
            (&["gzip;q=x"], None),
        ] {
            assert_eq!(
                of_response(&headers(header::ACCEPT_ENCODING, values)),
                expected,
                "{values:?}"
            );
        }
    }
}
