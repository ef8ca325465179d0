//! Answers to heads that are no HTTP: the library writes them by itself, bare; here they get the body that every
//! refusal has.

use http::{StatusCode, header};

use super::reply::REQUEST_ID;
use crate::scope::RequestId;

/// What the library's own answers have in their head and none of ours has: a refusal without a body.
const BARE: [&str; 2] = ["\r\nconnection: close\r\n", "\r\ncontent-length: 0\r\n"];

/// The library's own heads have about a hundred bytes.
const LONGEST: usize = 256;

/// The answer to send in place of `written`, if that is one of the library's own.
pub(super) fn explained(written: &[u8]) -> Option<Vec<u8>> {
    let code = written.strip_prefix(b"HTTP/1.1 4")?.get(..2)?;
    // A head alone, and a short one: never a part of a body.
    if written.len() > LONGEST || !written.ends_with(b"\r\n\r\n") {
        return None;
    }
    let head = std::str::from_utf8(written).ok()?;
    if !BARE.iter().all(|line| head.contains(line)) {
        return None;
    }
    let code = StatusCode::from_bytes(&[b"4", code].concat()).ok()?;
    let message = match code {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            "the request's head has too many or too long header fields"
        }
        StatusCode::URI_TOO_LONG => "the request's path is too long",
        _ => "malformed request head: it is no HTTP/1.1, or its header fields contradict each other",
    };
    let body = format!(r#"{{"error":"{message}"}}"#);
    let answer = format!(
        "HTTP/1.1 {code}\r\n{}: application/json\r\n{}: {}\r\n{REQUEST_ID}: {}\r\n{}: close\r\n\r\n{body}",
        header::CONTENT_TYPE,
        header::CONTENT_LENGTH,
        body.len(),
        RequestId::new(),
        header::CONNECTION,
    );
    Some(answer.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_librarys_own_answers_are_replaced() {
        let bare = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let answer = String::from_utf8(explained(bare.as_bytes()).unwrap()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        assert!(
            answer.contains("x-request-id: ") && answer.contains("malformed request head"),
            "{answer}"
        );
        for ours in [
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 9\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 4",
            "",
        ] {
            assert_eq!(explained(ours.as_bytes()), None, "{ours}");
        }
    }
}
