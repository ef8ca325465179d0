//! Personal data in texts: what looks like an e-mail address, an IBAN, a card number, a phone number or an IP address.
//!
//! It finds forms, not meanings: names and addresses of streets are not found, and a number that only looks like one of these is.

use std::net::IpAddr;

/// A text in which each of them has given way to its kind, such as `[email]`.
pub(super) fn masked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let at_word = out
            .chars()
            .next_back()
            .is_none_or(|before| !before.is_alphanumeric());
        match at_word.then(|| found(rest)).flatten() {
            Some((kind, length)) => {
                out.push_str(kind);
                rest = &rest[length..];
            }
            None => {
                let mut chars = rest.chars();
                out.extend(chars.next());
                rest = chars.as_str();
            }
        }
    }
    out
}

/// What begins here, and its bytes.
fn found(text: &str) -> Option<(&'static str, usize)> {
    let all = [
        ("[email]", email as fn(&str) -> Option<usize>),
        ("[ip]", ip),
        ("[iban]", iban),
        ("[card]", card),
        ("[phone]", phone),
    ];
    all.into_iter().find_map(|(kind, of)| Some((kind, of(text)?)))
}

/// The bytes of the characters at the beginning that are such.
fn run(text: &str, is: impl Fn(char) -> bool) -> usize {
    text.find(|char| !is(char)).unwrap_or(text.len())
}

fn email(text: &str) -> Option<usize> {
    let local = run(text, |char| {
        char.is_alphanumeric() || "._%+-'!#$&*/=?^`{|}~".contains(char)
    });
    let domain = text[local..].strip_prefix('@').filter(|_| local > 0)?;
    let length = run(domain, |char| char.is_alphanumeric() || ".-".contains(char));
    let domain = domain[..length].trim_end_matches(['.', '-']);
    let (name, top) = domain.rsplit_once('.')?;
    (!name.is_empty() && top.chars().count() >= 2).then(|| local + 1 + domain.len())
}

fn ip(text: &str) -> Option<usize> {
    let length = run(text, |char| char.is_ascii_hexdigit() || ".:".contains(char));
    let address = text[..length].trim_end_matches(['.', ':']);
    // Of IPv6, no time of day: two groups are none.
    let is_address = address.parse::<IpAddr>().is_ok();
    is_address.then_some(address.len())
}

/// The letters and digits at the beginning, which may be in groups, and the bytes that each prefix of them takes.
fn grouped(text: &str, is: impl Fn(char) -> bool, between: &str) -> Vec<(char, usize)> {
    let mut found = Vec::new();
    let mut gap = true;
    for (at, char) in text.char_indices() {
        if is(char) {
            found.push((char, at + char.len_utf8()));
            gap = false;
        } else if between.contains(char) && !gap {
            gap = true;
        } else {
            break;
        }
    }
    found
}

/// Whether a word ends behind these bytes.
fn ends(text: &str, length: usize) -> bool {
    text[length..]
        .chars()
        .next()
        .is_none_or(|after| !after.is_alphanumeric())
}

/// ISO 13616: country, two check digits, up to 30 letters and digits; the remainder by 97 is 1.
fn iban(text: &str) -> Option<usize> {
    let all = grouped(text, |char| char.is_ascii_alphanumeric(), " ");
    let head: Vec<char> = all.iter().take(4).map(|(char, _)| *char).collect();
    let [one, two, three, four] = head[..] else {
        return None;
    };
    if !(one.is_ascii_alphabetic()
        && two.is_ascii_alphabetic()
        && three.is_ascii_digit()
        && four.is_ascii_digit())
    {
        return None;
    }
    (15..=34.min(all.len())).rev().find_map(|count| {
        let (_, length) = all[count - 1];
        let moved = all[4..count].iter().chain(&all[..4]);
        let remainder = moved.fold(0_u32, |rest, (char, _)| match char.to_digit(36) {
            Some(value) if value < 10 => (rest * 10 + value) % 97,
            Some(value) => (rest * 100 + value) % 97,
            None => rest,
        });
        (remainder == 1 && ends(text, length)).then_some(length)
    })
}

/// 13 to 19 digits, in groups or not, that pass Luhn's check.
fn card(text: &str) -> Option<usize> {
    let all = grouped(text, |char| char.is_ascii_digit(), " -");
    (13..=19.min(all.len())).rev().find_map(|count| {
        let (_, length) = all[count - 1];
        let sum: u32 = all[..count]
            .iter()
            .rev()
            .enumerate()
            .map(|(place, (char, _))| {
                let digit = char.to_digit(10).unwrap_or_default();
                match place % 2 {
                    0 => digit,
                    _ if digit > 4 => 2 * digit - 9,
                    _ => 2 * digit,
                }
            })
            .sum();
        (sum.is_multiple_of(10) && ends(text, length)).then_some(length)
    })
}

/// `+` and 7 to 15 digits (E.164), or a zero and as many in two groups or more.
fn phone(text: &str) -> Option<usize> {
    let international = text.strip_prefix('+');
    let (skipped, digits) = match international {
        Some(rest) => (1, rest),
        None => (0, text),
    };
    let all = grouped(digits, |char| char.is_ascii_digit(), " -./()");
    let (first, _) = all.first()?;
    let (_, length) = all.get(all.len().min(15) - 1)?;
    let in_groups = *length > all.len().min(15);
    let is_national = *first == '0' && in_groups;
    let fits = (7..=15).contains(&all.len()) && ends(digits, *length);
    (fits && (international.is_some() || is_national)).then(|| skipped + length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_looks_like_personal_data_gives_way_to_its_kind() {
        for (text, expected) in [
            ("write to ann.b+c@mail.example.org.", "write to [email]."),
            ("call +49 30 901820 or 030/90 18 20", "call [phone] or [phone]"),
            ("IBAN DE89 3704 0044 0532 0130 00!", "IBAN [iban]!"),
            ("GB82WEST12345698765432", "[iban]"),
            ("card 4111 1111 1111 1111, thanks", "card [card], thanks"),
            ("5500-0000-0000-0004", "[card]"),
            ("from 192.168.1.17 and 2001:db8::1", "from [ip] and [ip]"),
        ] {
            assert_eq!(masked(text), expected);
        }
    }

    #[test]
    fn what_is_none_of_them_stays() {
        for text in [
            "",
            "a plain sentence of 12 words at 12:30",
            "order 4111111111111112",
            "DE89370400440532013001",
            "version 1.2.3",
            "total 1234567 of 7654321",
            "user@localhost",
            "größe 10,50 €",
        ] {
            assert_eq!(masked(text), text);
        }
    }

    proptest! {
        /// Whatever stands around it.
        #[test]
        fn none_is_left_wherever_it_stands(before in "[a-z ]{0,12}", after in "[a-z ,;]{0,12}", which in 0..5_usize) {
            let secret = [
                "ann@example.org",
                "DE89370400440532013000",
                "4111111111111111",
                "+4930901820",
                "10.20.30.40",
            ][which];
            let found = masked(&format!("{before} {secret} {after}"));
            prop_assert!(!found.contains(secret), "{}", found);
        }

        #[test]
        fn any_text_can_be_looked_through(text in "\\PC*") {
            let once = masked(&text);
            prop_assert!(once.len() <= text.len() * 7 + 7);
        }
    }
}
