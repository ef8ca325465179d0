use super::*;
use proptest::prelude::*;

fn skips(text: &str) -> Result<Range<usize>, JsonError> {
    let mut reader = Reader::new(text.as_bytes())?;
    let range = reader.skip_value()?;
    reader.finish()?;
    Ok(range)
}

#[test]
fn values_are_skipped_whole() {
    for text in [
        "1",
        " [1,{\"a\":[null,true,NaN]} ,\"]\"]",
        "{}",
        "[]",
        "-0.5e+3",
        "\"\\u00e9\\\"\"",
    ] {
        assert_eq!(skips(text).map(|range| range.end), Ok(text.len()), "{text}");
    }
}

#[test]
fn broken_documents_are_refused_where_they_break() {
    for (text, at) in [
        ("", 0),
        ("[1 2]", 3),
        ("[1,]", 3),
        ("{\"a\" 1}", 5),
        ("{\"a\":1,}", 7),
        ("{1:2}", 1),
        ("01", 0),
        ("1.", 0),
        ("-", 0),
        ("1e", 0),
        ("[1", 2),
        ("[1}", 2),
        ("{\"a\":1]", 6),
        ("\"abc", 4),
        ("\"a\u{1}\"", 2),
        ("\"\\x\"", 1),
        ("\"\\ud800\"", 1),
        ("\"\\udc00\\ud800\"", 1),
        ("1 1", 2),
        ("nul", 0),
    ] {
        assert_eq!(skips(text).map_err(|error| error.at), Err(at), "{text}");
    }
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(skips(&nested(64)).is_ok());
    assert_eq!(
        skips(&nested(65)),
        Err(JsonError {
            at: 64,
            problem: Problem::TooDeep
        })
    );
    assert!(skips(&"[".repeat(200_000)).is_err());
    assert!(skips(&"{\"a\":".repeat(200_000)).is_err());
}

#[test]
fn escapes_are_resolved() {
    let mut reader = Reader::new(br#""\"\\\/\b\f\n\r\t\u0041\ud83d\ude00""#).unwrap();
    assert_eq!(reader.string().unwrap(), "\"\\/\u{8}\u{c}\n\r\tA😀");
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
        if let Ok(mut reader) = Reader::new(&bytes) {
            drop(reader.skip_value());
        }
    }

    #[test]
    fn any_json_like_text_agrees_with_serde_json(text in "[\\[\\]{}\",:0-9eE+.\\-\\\\utrnfalsd ]{0,24}") {
        let theirs = match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(_) => true,
            // Whether a number fits is a question for whoever reads it.
            Err(error) => error.to_string().contains("out of range") && skips(&text).is_ok(),
        };
        prop_assert_eq!(skips(&text).is_ok(), theirs, "{}", text);
    }

    #[test]
    fn strings_agree_with_serde_json(text: String) {
        let document = serde_json::to_string(&text).unwrap();
        prop_assert_eq!(Reader::new(document.as_bytes()).unwrap().string().unwrap(), text);
    }
}
