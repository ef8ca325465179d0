//! What a server tells as it happens (server-sent events, WHATWG HTML §9.2), bit by bit as it comes.

use http_body_util::BodyExt;
use serde::Deserialize;

use super::wire::plain;
use crate::outgoing::Streaming;

/// The longest event; what is longer is no event of ours.
const MAX_EVENT: usize = 1 << 20;

/// A move of a release.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Told {
    pub(super) model: String,
    pub(super) version: u64,
    #[serde(default)]
    pub(super) release: Option<String>,
    pub(super) event: String,
    /// The state now.
    #[serde(default)]
    pub(super) to: Option<String>,
    #[serde(default)]
    pub(super) actor: String,
    #[serde(default)]
    pub(super) why: Option<String>,
    /// Seconds since 1970.
    #[serde(default)]
    pub(super) at: u64,
}

/// Events, one after the other.
pub(super) struct Events {
    streaming: Streaming,
    parser: Parser,
}

impl Events {
    pub(super) fn new(streaming: Streaming) -> Self {
        Self {
            streaming,
            parser: Parser::default(),
        }
    }

    /// The next move of a release; `None` once the server tells no more. Cancel-safe: what came is kept.
    pub(super) async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(told) = self.parser.next() {
                return Some(told);
            }
            let frame = self.streaming.response.body_mut().frame().await?.ok()?;
            if let Some(bytes) = frame.data_ref() {
                self.parser.take(bytes);
            }
        }
    }
}

/// Bytes that came and were not read yet.
#[derive(Debug, Default)]
struct Parser {
    waiting: Vec<u8>,
}

impl Parser {
    fn take(&mut self, bytes: &[u8]) {
        if self.waiting.len() + bytes.len() > MAX_EVENT {
            self.waiting.clear();
        }
        self.waiting.extend_from_slice(bytes);
    }

    /// The next event that is one of a release.
    fn next(&mut self) -> Option<Told> {
        loop {
            let end = self.waiting.windows(2).position(|pair| pair == b"\n\n")?;
            let event: Vec<u8> = self.waiting.drain(..end + 2).collect();
            if let Some(told) = read(&String::from_utf8_lossy(&event)) {
                return Some(told);
            }
        }
    }
}

fn read(event: &str) -> Option<Told> {
    let field = |name: &str| {
        let mut lines = event.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    (field("event")? == "release").then_some(())?;
    serde_json::from_value(plain(serde_json::from_str(field("data")?).ok()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str =
        "event: release\ndata: {\"model\":\"m\",\"version\":2,\"event\":\"held\",\"new\":1}\n\n";

    #[test]
    fn moves_are_read_however_they_are_cut_and_the_rest_is_passed_over() {
        let text =
            format!(": still here\n\nevent: audit\ndata: {{}}\n\n{EVENT}event: release\ndata: {{\n\n{EVENT}");
        for size in [1, 2, 7, text.len()] {
            let mut parser = Parser::default();
            let mut told = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                parser.take(piece);
                told.extend(std::iter::from_fn(|| parser.next()));
            }
            let gist: Vec<_> = told
                .iter()
                .map(|told| (told.model.as_str(), told.event.as_str()))
                .collect();
            assert_eq!(gist, [("m", "held"), ("m", "held")], "pieces of {size}");
        }
    }

    #[test]
    fn what_never_ends_does_not_fill_the_memory() {
        let mut parser = Parser::default();
        for _ in 0..100 {
            parser.take(&[b'x'; 60_000]);
        }
        assert!(parser.waiting.len() <= MAX_EVENT);
    }
}
