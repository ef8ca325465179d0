//! The admin interface: who may change the server, and what can be asked of it beyond the protocol's own calls.
//!
//! Knows no transport; `http/admin` is its front.

pub mod approvers;
pub mod change;
pub mod control;
mod once;
pub mod page;
mod repeats;
pub mod tokens;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use http::uri::Authority;
use http::{HeaderMap, header};

pub use self::approvers::{Approver, Approvers};
pub use self::change::{Change, Conditions, Declined};
pub use self::control::{
    ApproveRelease, Caller, ControlError, CreateRelease, ReleaseAction, ReleaseControl, Role,
};
pub(crate) use self::once::Keyed;
pub use self::page::Page;
use self::repeats::Repeats;
pub use self::tokens::Token;
use crate::status::{Refusal, Status};

/// Who calls when there are no tokens: whoever reaches loopback.
const LOCAL: &str = "local";

/// What the admin listener answers with.
pub struct Admin {
    tokens: Vec<Token>,
    releases: Option<Arc<dyn ReleaseControl>>,
    repeats: Arc<Repeats>,
}

impl Admin {
    /// An interface for the holders of `tokens`; without any, for all who reach it.
    pub fn new(tokens: Vec<Token>, releases: Option<Arc<dyn ReleaseControl>>) -> Self {
        Self {
            tokens,
            releases,
            repeats: Arc::new(Repeats::default()),
        }
    }

    /// Answers to calls with an `Idempotency-Key` are kept in this file.
    pub fn keeping_answers(self, path: &Path) -> Self {
        Self {
            repeats: Arc::new(Repeats::open(path)),
            ..self
        }
    }

    /// What moves releases on.
    ///
    /// Errors: `Unsupported` where nothing does.
    pub fn releases(&self) -> Result<&Arc<dyn ReleaseControl>, Refusal> {
        let message = "this server runs no releases";
        self.releases
            .as_ref()
            .ok_or_else(|| Refusal::new(Status::Unsupported, message))
    }

    /// Who sent these headers.
    ///
    /// Errors: `Unauthenticated` without a known token, where there are tokens; `Forbidden` for a page in a browser,
    /// where there are none: loopback is no proof of who made it call.
    pub fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        if self.tokens.is_empty() {
            if headers.contains_key(header::ORIGIN) || !names_loopback(headers) {
                let message = "calls from web pages, or to a name that is not this machine's, need tokens (admin.tokens)";
                return Err(Refusal::new(Status::Forbidden, message));
            }
            return Ok(Caller {
                actor: LOCAL.to_owned(),
                roles: Role::ALL.to_vec(),
            });
        }
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        let found = given.and_then(|given| tokens::find(&self.tokens, given));
        let token = found.ok_or_else(|| {
            let message = "send a token of the server's `admin.tokens`: `authorization: Bearer …`";
            Refusal::new(Status::Unauthenticated, message)
        })?;
        Ok(Caller {
            actor: token.name.clone(),
            roles: token.roles.clone(),
        })
    }
}

/// Whether a call was sent to loopback by address or as `localhost`. A page of a name that was made to point here is sent
/// to that name, and a browser tells of no `Origin` when it only reads.
fn names_loopback(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else {
        return true;
    };
    let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    authority.is_some_and(|authority| {
        let host = authority.host().trim_matches(['[', ']']);
        host.eq_ignore_ascii_case("localhost")
            || host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.to_canonical().is_loopback())
    })
}

impl Caller {
    /// Errors: `Forbidden` without any of the roles.
    pub fn must_have(&self, roles: &[Role]) -> Result<(), Refusal> {
        if self.roles.iter().any(|role| roles.contains(role)) {
            return Ok(());
        }
        let names: Vec<_> = roles.iter().map(|role| format!("`{}`", role.name())).collect();
        let message = format!("`{}` needs the role {}", self.actor, names.join(" or "));
        Err(Refusal::new(Status::Forbidden, message))
    }
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        let (status, message) = match error {
            ControlError::Unknown(message) => (Status::NotFound, message),
            ControlError::Conflict(message) => (Status::Conflict, message),
            ControlError::Invalid(message) => (Status::InvalidInput, message),
            ControlError::Forbidden(message) => (Status::Forbidden, message),
            ControlError::Unavailable(message) => (Status::NotReady, message),
        };
        Refusal::new(status, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    /// `printf secret | sha256sum`
    const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    fn guarded() -> Admin {
        let token = |name: &str, digest: &str, roles: &[Role]| Token {
            name: name.to_owned(),
            sha256: tokens::digest(digest).unwrap(),
            roles: roles.to_vec(),
            groups: Default::default(),
        };
        let other = "0".repeat(64);
        let tokens = vec![token("other", &other, &[]), token("ci", SECRET, &[Role::Deploy])];
        Admin::new(tokens, None)
    }

    #[test]
    fn a_token_gives_its_name_and_its_roles() {
        let caller = guarded()
            .caller(&headers(header::AUTHORIZATION, "Bearer secret"))
            .unwrap();
        assert_eq!(
            (caller.actor.as_str(), caller.roles.as_slice()),
            ("ci", &[Role::Deploy][..])
        );
        assert_eq!(caller.must_have(&[Role::Deploy]), Ok(()));
        let refusal = caller.must_have(&[Role::Promote]).unwrap_err();
        assert_eq!(refusal.status, Status::Forbidden);
        assert!(refusal.message.contains("`promote`"), "{refusal}");
        assert!(
            guarded()
                .caller(&headers(header::AUTHORIZATION, "bearer  secret "))
                .is_ok()
        );
    }

    #[test]
    fn anything_else_is_nobody() {
        for value in [
            "secret",
            "Basic secret",
            "Bearer",
            "Bearer ",
            "Bearer secre",
            "Bearer Secret",
        ] {
            let refusal = guarded()
                .caller(&headers(header::AUTHORIZATION, value))
                .unwrap_err();
            assert_eq!(refusal.status, Status::Unauthenticated, "{value}");
        }
        assert!(guarded().caller(&HeaderMap::new()).is_err());
        let digest = format!("Bearer {SECRET}");
        assert!(
            guarded()
                .caller(&headers(header::AUTHORIZATION, &digest))
                .is_err()
        );
    }

    #[test]
    fn without_tokens_who_reaches_it_is_local_unless_a_page_sent_it() {
        let open = Admin::new(Vec::new(), None);
        let caller = open.caller(&HeaderMap::new()).unwrap();
        assert_eq!(caller.actor, "local");
        assert!(Role::ALL.iter().all(|role| caller.must_have(&[*role]).is_ok()));
        let page = open.caller(&headers(header::ORIGIN, "http://example.org"));
        assert_eq!(page.unwrap_err().status, Status::Forbidden);
        for (host, expected) in [
            ("localhost:8003", true),
            ("LOCALHOST", true),
            ("127.0.0.1:8003", true),
            ("127.1.2.3", true),
            ("[::1]:8003", true),
            ("[::ffff:127.0.0.1]:8003", true),
            ("rebound.example:8003", false),
            ("127.0.0.1.rebound.example", false),
            ("10.0.0.1:8003", false),
            ("", false),
        ] {
            let called = open.caller(&headers(header::HOST, host));
            assert_eq!(called.is_ok(), expected, "{host}");
        }
    }
}
