//! Calls of the protocol that come with an `Idempotency-Key`: carried out once, however often they come.

use std::future::Future;
use std::sync::Arc;

use crossfade_journal::Hash;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::repeats::Begun;
use super::{Admin, Caller, Conditions, Declined};
use crate::status::{Refusal, Status};

/// A call with a key, and what another call with that key has to have in common with it.
pub(crate) struct Keyed<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) key: &'a str,
    /// Of its URL.
    pub(crate) path: &'a str,
    /// What it would change; empty for settings of the server.
    pub(crate) model: &'a str,
    pub(crate) body: &'a [u8],
    pub(crate) conditions: &'a Conditions,
}

impl Keyed<'_> {
    fn identity(&self) -> Hash {
        let rev = self.conditions.config_rev.as_deref().unwrap_or_default();
        let mut identity = Sha256::new();
        // Of each its digest: where one ends and the next begins makes a difference.
        for part in [self.path.as_bytes(), rev.as_bytes(), self.body] {
            identity.update(Sha256::digest(part));
        }
        Hash(identity.finalize().into())
    }
}

impl Admin {
    /// Carries a call out, or answers as it was answered before.
    ///
    /// * `deed`: carries it out and records it; goes on although nobody may wait for the answer any more, since whoever
    ///   sends a key may have gone away and ask again
    ///
    /// Errors: `Conflict` for a key of another call, or of one under way; `Stale` if another configuration is in force; what
    /// `deed` says.
    pub(crate) async fn once(
        self: &Arc<Self>,
        call: Keyed<'_>,
        deed: impl Future<Output = Result<Value, Refusal>> + Send + 'static,
    ) -> Result<Value, Declined> {
        let turn = match self
            .repeats
            .begin(&call.caller.actor, call.key, call.identity())?
        {
            Begun::Before(answer) => return answer.map_err(recorded),
            Begun::Now(turn) => turn,
        };
        let (admin, conditions, model) = (self.clone(), call.conditions.clone(), call.model.to_owned());
        let done = tokio::spawn(async move {
            waited(move || admin.must_match(&conditions, &model)).await??;
            let answer = deed.await;
            let kept = waited(move || {
                turn.end(answer.as_ref());
                answer
            });
            kept.await?.map_err(recorded)
        });
        done.await.map_err(internal)?
    }
}

fn recorded(refusal: Refusal) -> Declined {
    Declined {
        refusal,
        recorded: true,
    }
}

async fn waited<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(internal)
}

fn internal(error: tokio::task::JoinError) -> Refusal {
    Refusal::new(Status::Internal, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_the_same_only_if_all_of_them_is() {
        let caller = Caller {
            actor: "ann".to_owned(),
            roles: Vec::new(),
        };
        let identity = |path: &str, rev: Option<&str>, body: &str| {
            let conditions = Conditions {
                key: None,
                config_rev: rev.map(str::to_owned),
            };
            let call = Keyed {
                caller: &caller,
                key: "k",
                path,
                model: "",
                body: body.as_bytes(),
                conditions: &conditions,
            };
            call.identity()
        };
        let one = identity("/v2/logging", Some("r"), "{}");
        assert_eq!(one, identity("/v2/logging", Some("r"), "{}"));
        for other in [
            identity("/v2/logging{", Some("r"), "}"),
            identity("/v2/logging", None, "r{}"),
            identity("/v2/trace/setting", Some("r"), "{}"),
            identity("/v2/logging", Some("r"), ""),
        ] {
            assert_ne!(one, other);
        }
    }
}
