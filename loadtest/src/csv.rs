//! CSV: a line per set of requests, and a line per second, for spreadsheets and scripts (RFC 4180).

use std::borrow::Cow;

use crate::result::{RunResult, Summary};

/// The columns of [`summary`].
const SUMMARY: &str = "run,url,protocol,load,rate_per_s,concurrency,scope,model,version,sent,ok,errors,\
throughput_per_s,min_us,mean_us,p50_us,p90_us,p95_us,p99_us,p999_us,max_us,tokens_per_s";

/// The columns of [`series`].
const SERIES: &str = "run,second,sent,ok,errors,p50_us,p99_us,max_us,in_flight";

/// One line for all requests of each named run, one per model and one per version that answered, under a header.
pub fn summary(runs: &[(String, &RunResult)]) -> String {
    let mut csv = format!("{SUMMARY}\r\n");
    for (name, run) in runs {
        let mut add = |scope: &str, model: &str, version: &str, summary: &Summary| {
            csv.push_str(&summary_line(name, run, [scope, model, version], summary));
        };
        add("total", "", "", &run.total);
        run.by_model
            .iter()
            .for_each(|entry| add("model", &entry.model, "", &entry.summary));
        run.by_version
            .iter()
            .for_each(|entry| add("version", &entry.model, &entry.version, &entry.summary));
    }
    csv
}

/// One line per second of each named run, under a header.
pub fn series(runs: &[(String, &RunResult)]) -> String {
    let mut csv = format!("{SERIES}\r\n");
    for (name, run) in runs {
        for second in &run.series {
            csv.push_str(&format!(
                "{},{},{},{},{},{},{},{},{}\r\n",
                field(name),
                second.second,
                second.sent,
                second.ok,
                second.errors,
                second.p50_us,
                second.p99_us,
                second.max_us,
                second.in_flight
            ));
        }
    }
    csv
}

fn summary_line(name: &str, run: &RunResult, scope: [&str; 3], summary: &Summary) -> String {
    let latency = &summary.latency;
    let fields = [
        field(name).into_owned(),
        field(&run.target.url).into_owned(),
        field(&run.target.protocol).into_owned(),
        field(&run.load.arrivals).into_owned(),
        run.load.rate.map_or_else(String::new, |rate| rate.to_string()),
        run.load
            .concurrency
            .map_or_else(String::new, |clients| clients.to_string()),
        scope.map(field).join(","),
        summary.sent.to_string(),
        summary.ok.to_string(),
        summary.errors.values().sum::<u64>().to_string(),
        summary.throughput_per_s.to_string(),
        latency.min_us.to_string(),
        latency.mean_us.to_string(),
        latency.p50_us.to_string(),
        latency.p90_us.to_string(),
        latency.p95_us.to_string(),
        latency.p99_us.to_string(),
        latency.p999_us.to_string(),
        latency.max_us.to_string(),
        summary.tokens_per_s.to_string(),
    ];
    format!("{}\r\n", fields.join(","))
}

/// A field as RFC 4180 quotes it.
fn field(text: &str) -> Cow<'_, str> {
    if text.contains([',', '"', '\r', '\n']) {
        Cow::Owned(format!("\"{}\"", text.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::fixtures;
    use proptest::prelude::*;

    /// The records of a CSV text, by the grammar of RFC 4180.
    fn records(csv: &str) -> Vec<Vec<String>> {
        let (mut records, mut record, mut text) = (Vec::new(), Vec::new(), String::new());
        let (mut quoted, mut characters) = (false, csv.chars().peekable());
        while let Some(character) = characters.next() {
            match character {
                '"' if quoted && characters.peek() == Some(&'"') => text.extend(characters.next()),
                '"' => quoted = !quoted,
                ',' if !quoted => record.push(std::mem::take(&mut text)),
                '\r' if !quoted => {}
                '\n' if !quoted => {
                    record.push(std::mem::take(&mut text));
                    records.push(std::mem::take(&mut record));
                }
                character => text.push(character),
            }
        }
        records
    }

    #[test]
    fn summary_has_a_line_for_all_for_the_model_and_for_the_version() {
        let run = fixtures::run(100.0, &[1_000; 50]);
        let records = records(&summary(&[("r".to_owned(), &run)]));
        assert_eq!(records.len(), 4);
        assert!(records.iter().all(|record| record.len() == records[0].len()));
        let cell = |line: usize, name: &str| {
            let column = records[0].iter().position(|header| header == name).unwrap();
            records[line][column].clone()
        };
        assert_eq!(
            [cell(1, "scope"), cell(2, "scope"), cell(3, "scope")],
            ["total", "model", "version"]
        );
        assert_eq!(
            (cell(3, "version"), cell(1, "p50_us"), cell(1, "ok")),
            ("1".into(), "1000".into(), "50".into())
        );
    }

    #[test]
    fn series_has_a_line_per_second() {
        let run = fixtures::run(100.0, &[1_000; 50]);
        let records = records(&series(&[("r".to_owned(), &run)]));
        assert_eq!(records.len(), 11);
        assert_eq!(records[1], ["r", "0", "5", "5", "0", "1000", "1000", "1000", "1"]);
    }

    proptest! {
        #[test]
        fn any_name_survives(name in any::<String>()) {
            let run = fixtures::run(100.0, &[1_000; 10]);
            let records = records(&series(&[(name.clone(), &run)]));
            prop_assert_eq!(&records[1][0], &name);
        }
    }
}
