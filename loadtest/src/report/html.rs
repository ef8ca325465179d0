//! HTML text: everything from outside is escaped here, and every tag is closed, so that the page is also XML.

use std::fmt::{self, Write as _};

/// Text from outside, safe between tags and in quoted attributes.
///
/// Characters that XML does not allow (most control characters) become U+FFFD.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'a>(pub(super) &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => out.write_str("&amp;")?,
                '<' => out.write_str("&lt;")?,
                '>' => out.write_str("&gt;")?,
                '"' => out.write_str("&quot;")?,
                '\'' => out.write_str("&#39;")?,
                '\n' | '\t' | '\r' => out.write_char(character)?,
                '\u{fffe}' | '\u{ffff}' => out.write_char('\u{fffd}')?,
                character if character.is_control() => out.write_char('\u{fffd}')?,
                character => out.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// A table that scrolls by itself where the screen is narrower; cells are escaped, empty when there are no rows.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head: String = header
        .iter()
        .map(|cell| format!("<th>{}</th>", Text(cell)))
        .collect();
    let body: String = rows
        .iter()
        .map(|row| {
            let cells: String = row
                .iter()
                .map(|cell| format!("<td>{}</td>", Text(cell)))
                .collect();
            format!("<tr>{cells}</tr>\n")
        })
        .collect();
    format!(
        "<div class=\"scroll\"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_and_control_characters_are_disarmed() {
        let text = Text("<b a='1'>&\"\u{0}\u{1b}\u{ffff}ä").to_string();
        assert_eq!(
            text,
            "&lt;b a=&#39;1&#39;&gt;&amp;&quot;\u{fffd}\u{fffd}\u{fffd}ä"
        );
    }

    #[test]
    fn a_table_without_rows_is_nothing() {
        assert_eq!(table(&["a"], &[]), "");
        assert!(table(&["a"], &[vec!["<".to_owned()]]).contains("<td>&lt;</td>"));
    }
}
