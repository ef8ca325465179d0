//! Numbers as ECMAScript prints them, which is how RFC 8785 §3.2.2.3 wants them.

use serde_json::Number;

use super::canonical::NotCanonical;

/// Appends `number`.
///
/// All numbers of RFC 8785 are doubles. An integer that a double would change is refused, so that what is read back is
/// what was written.
///
/// Errors: [`NotCanonical::Integer`], [`NotCanonical::NotFinite`].
pub(crate) fn write(number: &Number, out: &mut String) -> Result<(), NotCanonical> {
    let value = number.as_f64().filter(|value| value.is_finite());
    let value = value.ok_or(NotCanonical::NotFinite)?;
    let start = out.len();
    double(value, out);
    if !number.is_f64() && number.to_string() != out[start..] {
        return Err(NotCanonical::Integer(number.to_string()));
    }
    Ok(())
}

/// Appends a finite double: ECMA-262, Number::toString with radix 10.
fn double(value: f64, out: &mut String) {
    if value < 0.0 {
        out.push('-');
    }
    let mut buffer = zmij::Buffer::new();
    let (digits, point) = decimal(buffer.format_finite(value.abs()));
    let count = i64::try_from(digits.len()).unwrap_or(i64::MAX);
    match point {
        _ if digits == "0" => out.push('0'),
        _ if count <= point && point <= 21 => {
            out.push_str(&digits);
            zeros(point - count, out);
        }
        1..=21 => {
            let (whole, fraction) = digits.split_at(usize::try_from(point).unwrap_or(0));
            out.push_str(whole);
            out.push('.');
            out.push_str(fraction);
        }
        -5..=0 => {
            out.push_str("0.");
            zeros(-point, out);
            out.push_str(&digits);
        }
        _ => exponential(&digits, point - 1, out),
    }
}

/// Appends `d.ddde±x`.
fn exponential(digits: &str, exponent: i64, out: &mut String) {
    let (first, rest) = digits.split_at(1);
    out.push_str(first);
    if !rest.is_empty() {
        out.push('.');
        out.push_str(rest);
    }
    out.push_str(if exponent < 0 { "e-" } else { "e+" });
    out.push_str(&exponent.unsigned_abs().to_string());
}

fn zeros(count: i64, out: &mut String) {
    out.extend((0..count).map(|_| '0'));
}

/// Takes a shortest decimal apart: its digits without zeros at either end, and where the point stands from their
/// beginning, so that the value is 0.digits · 10^point.
fn decimal(text: &str) -> (String, i64) {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let significant = all.trim_start_matches('0');
    let leading = i64::try_from(all.len() - significant.len()).unwrap_or(0);
    let point = i64::try_from(whole.len()).unwrap_or(0) - leading + exponent.parse().unwrap_or(0);
    match significant.trim_end_matches('0') {
        "" => ("0".to_owned(), 1),
        digits => (digits.to_owned(), point),
    }
}

#[cfg(test)]
mod tests;
