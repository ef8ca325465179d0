//! What the server says about itself: statistics before and after, and its process in /proc.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::control::{Control, Spell, Statistics};
use crate::machine::{self, Process};
use crate::plan::{Plan, Protocol};
use crate::result::{Batches, Server};

/// The server at the end of the warm-up.
#[derive(Debug)]
pub(super) struct Observed {
    statistics: Option<BTreeMap<(String, String), Statistics>>,
    process: Option<Process>,
}

impl Observed {
    /// Waits until `measured_from` and looks.
    pub(super) async fn begin(control: Control, plan: Plan, measured_from: Instant) -> Self {
        tokio::time::sleep_until(measured_from.into()).await;
        let process = plan.server_pid.and_then(machine::process);
        Self {
            statistics: statistics(&control, &plan).await,
            process,
        }
    }

    /// Looks again, and says what came between; nothing if the server has neither statistics nor a process that can be
    /// read. Counts of a version that was unloaded meanwhile are lost where the server forgets them.
    pub(super) async fn end(self, control: &Control, plan: &Plan) -> Option<Server> {
        let process = plan.server_pid.and_then(machine::process);
        let after = match &self.statistics {
            Some(_) => statistics(control, plan).await,
            None => None,
        };
        let mut server = Server::default();
        if let (Some(before), Some(after)) = (&self.statistics, &after) {
            count(&mut server, before, after);
        } else if process.is_none() {
            return None;
        }
        if let (Some(before), Some(after)) = (&self.process, &process) {
            server.cpu_s = Some(after.cpu_s - before.cpu_s);
            server.memory_bytes = Some(after.memory_bytes);
        }
        Some(server)
    }
}

/// Statistics of every model of the mix; none if the server has no such route.
async fn statistics(control: &Control, plan: &Plan) -> Option<BTreeMap<(String, String), Statistics>> {
    if plan.target.protocol == Protocol::HttpRaw {
        return None;
    }
    let mut all = BTreeMap::new();
    for entry in &plan.mix {
        for one in control.statistics(&entry.model).await.ok()? {
            all.insert((one.model.clone(), one.version.clone()), one);
        }
    }
    Some(all)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "nanoseconds of a run are far below 2^53"
)]
fn count(
    server: &mut Server,
    before: &BTreeMap<(String, String), Statistics>,
    after: &BTreeMap<(String, String), Statistics>,
) {
    let mut batches: BTreeMap<u64, u64> = BTreeMap::new();
    let mut spells = [Spell::default(); 5];
    for (key, after) in after {
        let zero = Statistics::default();
        let mut before = before.get(key).unwrap_or(&zero);
        // A version that was loaded again may count from nothing.
        if before.success.count > after.success.count {
            before = &zero;
        }
        server.executions += after.executions.saturating_sub(before.executions);
        let pairs = [
            (before.success, after.success),
            (before.queue, after.queue),
            (before.compute_input, after.compute_input),
            (before.compute_infer, after.compute_infer),
            (before.compute_output, after.compute_output),
        ];
        for (sum, (before, after)) in spells.iter_mut().zip(pairs) {
            sum.count += after.count.saturating_sub(before.count);
            sum.ns += after.ns.saturating_sub(before.ns);
        }
        for (rows, count) in &after.batches {
            let new = count.saturating_sub(before.batches.get(rows).copied().unwrap_or(0));
            *batches.entry(*rows).or_default() += new;
        }
    }
    let mean_us = |spell: Spell| spell.ns as f64 / 1000.0 / (spell.count as f64).max(1.0);
    let [success, queue, input, infer, output] = spells;
    server.requests = success.count;
    server.request_us_mean = mean_us(success);
    server.queue_us_mean = mean_us(queue);
    server.compute_input_us_mean = mean_us(input);
    server.compute_us_mean = mean_us(infer);
    server.compute_output_us_mean = mean_us(output);
    let some = batches.into_iter().filter(|(_, count)| *count > 0);
    server.batches = some.map(|(rows, count)| Batches { rows, count }).collect();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::count;
    use crate::control::{Spell, Statistics};
    use crate::result::{Batches, Server};

    fn stats(requests: u64, batches: &[(u64, u64)]) -> BTreeMap<(String, String), Statistics> {
        let one = Statistics {
            executions: batches.iter().map(|(_, count)| count).sum(),
            success: Spell {
                count: requests,
                ns: requests * 3000,
            },
            queue: Spell {
                count: requests,
                ns: requests * 1000,
            },
            batches: batches.iter().copied().collect(),
            ..Statistics::default()
        };
        BTreeMap::from([(("m".to_owned(), "1".to_owned()), one)])
    }

    #[test]
    fn only_what_came_between_counts() {
        let mut server = Server::default();
        count(
            &mut server,
            &stats(10, &[(1, 10)]),
            &stats(30, &[(1, 10), (2, 10)]),
        );
        assert_eq!((server.requests, server.executions), (20, 10));
        assert_eq!(server.batches, [Batches { rows: 2, count: 10 }]);
        assert!((server.queue_us_mean - 1.0).abs() < 1e-9 && (server.request_us_mean - 3.0).abs() < 1e-9);
    }

    #[test]
    fn a_version_that_counts_from_nothing_again_is_counted_from_nothing() {
        let mut server = Server::default();
        count(&mut server, &stats(100, &[(1, 100)]), &stats(7, &[(1, 7)]));
        assert_eq!(server.requests, 7);
    }
}
