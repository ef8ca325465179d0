//! The engine: a plan is carried out and gives a result.

mod alarm;
mod client;
mod gather;
mod recorder;
mod server;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use crate::control::Control;
use crate::payload::{self, Signature};
use crate::plan::{Plan, Protocol};
use crate::result::{Event, RunResult, SCHEMA, Second, Target};
use gather::Gathered;
use server::Observed;
use worker::{Shared, Worker};

/// Between the last preparation and the first request: threads wake up meanwhile.
const LEAD: Duration = Duration::from_millis(20);

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Requests are sent and not counted.
    WarmUp,
    /// Requests are sent and counted.
    Measuring,
    /// Nothing is sent any more; answers are awaited.
    Draining,
}

/// What an observer of a run is told, about once a second.
#[derive(Debug, Clone, Copy)]
pub struct Tick {
    /// Where the run stands.
    pub phase: Phase,
    /// The second that is over; in the warm-up it counts from the start of the run.
    pub second: Second,
    /// Time since the start of the warm-up.
    pub elapsed: Duration,
    /// Warm-up and measured time together.
    pub planned: Duration,
}

/// Carries out `plan`, telling `observer` about each second that is over.
///
/// Errors: if the server cannot be reached or asked about its models before the run. Failures of requests are part of
/// the result. Runs on the calling task and on threads of its own, which are joined; needs a tokio runtime.
pub async fn run(plan: &Plan, observer: &mut (dyn FnMut(&Tick) + Send)) -> Result<RunResult> {
    let control = Control::new(plan.control.clone().unwrap_or_else(|| plan.target.clone()));
    let (server_name, server_version) = match plan.target.protocol {
        Protocol::HttpRaw => (String::new(), String::new()),
        // Not every server has it, and a run does without.
        _ => control.server().await.unwrap_or_default(),
    };
    let shared = Arc::new(Shared {
        plan: plan.clone(),
        bodies: bodies(plan, &control).await?,
    });
    for deed in &plan.during {
        deed.action.prepare(&control).await?;
    }
    let deeds = timetable(plan);
    let first_event_us = deeds
        .first()
        .map(|deed| i64::try_from(deed.0.as_micros()).unwrap_or(i64::MAX));
    let mut workers = Vec::new();
    for index in 0..plan.threads {
        workers.push(Worker::spawn(Arc::clone(&shared), index, first_event_us).await?);
    }

    let measured_from = Instant::now() + LEAD + plan.warm_up;
    let started = SystemTime::now() + LEAD;
    workers.iter_mut().for_each(|worker| worker.start(measured_from));
    let recorders: Vec<_> = workers
        .iter()
        .map(|worker| Arc::clone(&worker.recorder))
        .collect();
    let mut gathered = Gathered::new(recorders, plan, measured_from);
    let events = tokio::spawn(events(control.clone(), deeds, measured_from));
    let observed = tokio::spawn(Observed::begin(control.clone(), plan.clone(), measured_from));

    let mut all = Box::pin(async {
        let mut spent = Vec::new();
        for worker in workers {
            spent.push(worker.join().await?);
        }
        anyhow::Ok(spent)
    });
    let spent = loop {
        let next = gathered.next_tick();
        tokio::select! {
            spent = &mut all => break spent?,
            // Cancel-safe: a tick that is due is due again.
            () = tokio::time::sleep_until(next.into()) => gathered.tick(observer),
        }
    };
    let server = observed.await?.end(&control, plan).await;
    let events = events.await?;

    let mut result = gathered.result(&spent);
    result.schema = SCHEMA;
    result.started_unix_ms = started
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    result.target = Target {
        url: plan.target.url.clone(),
        protocol: plan.target.protocol.name().to_owned(),
        server_name,
        server_version,
    };
    for (entry, bodies) in result.mix.iter_mut().zip(&shared.bodies) {
        entry.request_bytes = bodies.first().map_or(0, |body| body.body_bytes);
    }
    result.server = server;
    result.events = events;
    result.assertions = plan
        .assertions
        .iter()
        .map(|assertion| assertion.check(&result))
        .collect();
    Ok(result)
}

/// The bodies of each kind of request; asks for metadata where they are made from it.
async fn bodies(plan: &Plan, control: &Control) -> Result<Vec<Vec<crate::wire::Encoded>>> {
    let from_metadata = plan.target.protocol.has_tensors() && plan.payload.request.is_none();
    let mut signatures: BTreeMap<(&str, Option<&str>), Signature> = BTreeMap::new();
    let mut bodies = Vec::new();
    for (index, entry) in plan.mix.iter().enumerate() {
        let key = (entry.model.as_str(), entry.version.as_deref());
        if from_metadata && !signatures.contains_key(&key) {
            signatures.insert(key, control.signature(key.0, key.1).await?);
        }
        bodies.push(payload::bodies(plan, index, signatures.get(&key))?);
    }
    if from_metadata {
        let payload = &plan.payload;
        for name in payload
            .inputs
            .keys()
            .chain(payload.shapes.keys())
            .chain(&payload.only)
        {
            let mut inputs = signatures.values().flat_map(|signature| &signature.inputs);
            if !inputs.any(|input| input.name == *name) {
                let known: Vec<&str> = signatures
                    .values()
                    .flat_map(|s| &s.inputs)
                    .map(|i| i.name.as_str())
                    .collect();
                bail!(
                    "no model of the mix has an input `{name}`; there is {}",
                    known.join(", ")
                );
            }
        }
    }
    Ok(bodies)
}

/// What is to be done, in order: when, what, and for which time.
fn timetable(plan: &Plan) -> Vec<(Duration, crate::during::Action, usize)> {
    let mut deeds: Vec<_> = plan
        .during
        .iter()
        .flat_map(|deed| {
            deed.times(plan.duration)
                .into_iter()
                .map(|(at, number)| (at, deed.action.clone(), number))
        })
        .collect();
    deeds.sort_by_key(|deed| deed.0);
    deeds
}

/// Does one thing after the other, each at its time or when the one before is done.
async fn events(
    control: Control,
    deeds: Vec<(Duration, crate::during::Action, usize)>,
    measured_from: Instant,
) -> Vec<Event> {
    let mut events = Vec::new();
    for (at, action, number) in deeds {
        tokio::time::sleep_until((measured_from + at).into()).await;
        let begun = Instant::now();
        let outcome = match action.perform(&control, number).await {
            Ok(()) => "ok".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        events.push(Event {
            at_s: begun.saturating_duration_since(measured_from).as_secs_f64(),
            took_s: begun.elapsed().as_secs_f64(),
            action: action.describe(number),
            outcome,
        });
    }
    events
}
