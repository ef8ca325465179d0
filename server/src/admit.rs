//! Permits and deadline: a request is admitted or refused at once, never parked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use crate::scope::RequestScope;
use crate::service::Service;
use crate::status::{Refusal, Status};

/// What is held by admitted requests. `Relaxed`: the counters guard no other memory.
#[derive(Debug, Default)]
pub struct Permits {
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

impl Permits {
    /// Requests between admission and answer.
    pub fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }

    /// Bytes of their bodies.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }
}

/// Proof of admission; holds the permit until dropped.
#[derive(Debug)]
pub struct Admitted {
    permits: Arc<Permits>,
    bytes: usize,
}

impl Admitted {
    /// Holds `body_bytes` bytes if those are more than it does: a body is admitted as it travelled, and is larger once
    /// decompressed.
    ///
    /// Errors: `Overloaded`; it holds them until dropped nevertheless.
    pub fn grow(&mut self, service: &Service, body_bytes: usize) -> Result<(), Refusal> {
        let Some(more) = body_bytes.checked_sub(self.bytes).filter(|&more| more > 0) else {
            return Ok(());
        };
        let held = self.permits.bytes.fetch_add(more, Relaxed) + more;
        self.bytes = body_bytes;
        bytes_fit(service, self.permits.requests(), held)
    }
}

/// Refuses a request that would not be admitted now, before its body of `body_bytes` bytes is read; takes nothing.
///
/// Errors: as [`admit`].
pub fn foresee(service: &Service, scope: &RequestScope, body_bytes: usize) -> Result<(), Refusal> {
    let permits = service.permits();
    in_time(scope)?;
    fits(service, permits.requests() + 1, permits.bytes() + body_bytes)
}

/// Admits a request whose body has `body_bytes` bytes, or refuses it.
///
/// Errors: `Overloaded` without a permit, `DeadlineExceeded` if already late.
pub fn admit(service: &Service, scope: &RequestScope, body_bytes: usize) -> Result<Admitted, Refusal> {
    in_time(scope)?;
    let permits = service.permits();
    // The guard exists before the check, so that every refusal gives back what it took.
    let admitted = Admitted {
        permits: permits.clone(),
        bytes: body_bytes,
    };
    let requests = permits.requests.fetch_add(1, Relaxed) + 1;
    let bytes = permits.bytes.fetch_add(body_bytes, Relaxed) + body_bytes;
    fits(service, requests, bytes)?;
    Ok(admitted)
}

fn in_time(scope: &RequestScope) -> Result<(), Refusal> {
    if scope
        .deadline()
        .is_some_and(|deadline| deadline <= Instant::now())
    {
        return Err(Refusal::new(
            Status::DeadlineExceeded,
            "the deadline had passed when the request was read",
        ));
    }
    Ok(())
}

/// Whether `requests` requests with `bytes` bytes together are within the limits.
fn fits(service: &Service, requests: usize, bytes: usize) -> Result<(), Refusal> {
    let limits = service.limits();
    if requests > limits.max_in_flight {
        let max = limits.max_in_flight;
        return Err(Refusal::new(
            Status::Overloaded,
            format!("{max} requests are in flight already; retry later"),
        ));
    }
    bytes_fit(service, requests, bytes)
}

/// Whether `bytes` bytes of `requests` requests are within the limit.
fn bytes_fit(service: &Service, requests: usize, bytes: usize) -> Result<(), Refusal> {
    let limits = service.limits();
    // A lone request may exceed the sum, since the size limit of one request bounds it.
    if bytes > limits.max_in_flight_bytes && requests > 1 {
        let max = limits.max_in_flight_bytes;
        let message = format!("requests in flight would hold more than {max} bytes; retry later");
        return Err(Refusal::new(Status::Overloaded, message));
    }
    Ok(())
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.permits.requests.fetch_sub(1, Relaxed);
        self.permits.bytes.fetch_sub(self.bytes, Relaxed);
    }
}
