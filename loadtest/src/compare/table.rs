//! The table that a comparison is read as.

use std::fmt;

use super::{Comparison, Figure, Method, Row, Verdict};
use crate::noise::Scale;

impl fmt::Display for Comparison {
    /// One line per figure, then the warnings, then how to read them.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["figure", "A", "B", "change", "noise ±", "from", "verdict"].map(str::to_owned);
        let mut rows = vec![header];
        rows.extend(self.rows.iter().map(cells));
        let widths: Vec<usize> = (0..7)
            .map(|column| {
                rows.iter()
                    .map(|row| row[column].chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        for row in &rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // Numbers stand on the right, words on the left.
                let cell = if (1..5).contains(&column) {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                };
                line.push_str(&cell);
                line.push_str("  ");
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        for warning in &self.warnings {
            writeln!(out, "note: {warning}")?;
        }
        write!(
            out,
            "runs compared: {} against {}; chance alone stays within the noise {} % of the time",
            self.runs_a,
            self.runs_b,
            trimmed(self.confidence * 100.0, 3)
        )
    }
}

fn cells(row: &Row) -> [String; 7] {
    let absent = || "–".to_owned();
    let relative = row.figure.scale() == Scale::Ratio;
    let change = |change: f64, sign: bool| {
        let sign = if sign && change > 0.0 { "+" } else { "" };
        format!(
            "{sign}{:.*} {}",
            if relative { 1 } else { 3 },
            change * 100.0,
            if relative { "%" } else { "points" }
        )
    };
    [
        format!("{} ({})", row.figure.name(), unit(row)),
        row.a.map_or_else(absent, |value| shown(row.figure, value)),
        row.b.map_or_else(absent, |value| shown(row.figure, value)),
        row.change.map_or_else(absent, |value| change(value, true)),
        row.noise.map_or_else(absent, |value| change(value, false)),
        match row.method {
            Method::Runs => "runs".to_owned(),
            Method::Seconds => "seconds".to_owned(),
            Method::Unknown => absent(),
        },
        match row.verdict {
            Verdict::Better => "better".to_owned(),
            Verdict::Worse => "WORSE".to_owned(),
            Verdict::Same => "within the noise".to_owned(),
            Verdict::Unknown => "not judged".to_owned(),
        },
    ]
}

fn unit(row: &Row) -> &'static str {
    if row.figure == Figure::Errors {
        "%"
    } else {
        row.unit
    }
}

fn shown(figure: Figure, value: f64) -> String {
    match figure {
        Figure::Errors => trimmed(value * 100.0, 3),
        _ if value >= 1_000.0 => format!("{value:.0}"),
        _ => trimmed(value, 1),
    }
}

fn trimmed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}
