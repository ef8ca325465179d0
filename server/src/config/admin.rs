//! `[admin]`: from what was written to what the code may rely on.

use std::net::SocketAddr;

use super::file::{RawAdmin, RawApprover, RawToken};
use super::{AdminConfig, ConfigError};
use crate::admin::tokens::digest;
use crate::admin::{Approver, Token};

/// Actors of the audit that are no tokens.
const TAKEN: [&str; 3] = ["local", "anonymous", "crossfade"];

/// Checks `[admin]`; `listen` is where the flags and the file put it.
///
/// Errors: another address than loopback without tokens; a token or an approver without a name of its own, or without
/// a digest or key of its own.
pub(super) fn resolve(listen: SocketAddr, file: RawAdmin) -> Result<AdminConfig, ConfigError> {
    if file.tokens.is_empty() && !listen.ip().is_loopback() {
        let reason = format!(
            "{listen} can be reached from elsewhere, and without `admin.tokens` anyone there could change the server; \
             add tokens, or listen on 127.0.0.1"
        );
        return Err(ConfigError::Value {
            key: "admin.listen (--admin-address)",
            reason,
        });
    }
    let mut tokens: Vec<Token> = Vec::new();
    for raw in file.tokens {
        let token = token(raw)?;
        if tokens.iter().any(|known| known.name == token.name) {
            return Err(wrong(format!(
                "two are named `{}`; records could not tell them apart",
                token.name
            )));
        }
        tokens.push(token);
    }
    let mut approvers: Vec<Approver> = Vec::new();
    for raw in file.approvers {
        let approver = approver(raw)?;
        let same = |known: &&Approver| known.name == approver.name || known.key == approver.key;
        if let Some(known) = approvers.iter().find(same) {
            return Err(wrong_approver(format!(
                "`{}` and `{}` have the same name or key; one person would count as two, or two as one",
                known.name, approver.name
            )));
        }
        approvers.push(approver);
    }
    Ok(AdminConfig {
        listen,
        tokens,
        approvers,
        v2_control: file.v2_control,
    })
}

fn token(raw: RawToken) -> Result<Token, ConfigError> {
    let RawToken {
        name,
        sha256,
        roles,
        groups,
    } = raw;
    check_name(&name).map_err(wrong)?;
    let sha256 = digest(&sha256).ok_or_else(|| {
        wrong(format!(
            "`sha256` of `{name}` must be 64 lower-case hexadecimal digits: `printf %s TOKEN | sha256sum`"
        ))
    })?;
    Ok(Token {
        name,
        sha256,
        roles,
        groups,
    })
}

fn approver(raw: RawApprover) -> Result<Approver, ConfigError> {
    let RawApprover { name, key, groups } = raw;
    check_name(&name).map_err(wrong_approver)?;
    let key = key.parse().map_err(|_| {
        wrong_approver(format!(
            "`key` of `{name}` must be an Ed25519 public key as 64 lower-case hexadecimal digits"
        ))
    })?;
    Ok(Approver { name, key, groups })
}

fn check_name(name: &str) -> Result<(), String> {
    match name.is_empty() || name.len() > 64 || TAKEN.contains(&name) {
        true => Err(format!(
            "`{name}` cannot be a name; take 1 to 64 bytes, and none of {TAKEN:?}"
        )),
        false => Ok(()),
    }
}

fn wrong(reason: String) -> ConfigError {
    ConfigError::Value {
        key: "admin.tokens",
        reason,
    }
}

fn wrong_approver(reason: String) -> ConfigError {
    ConfigError::Value {
        key: "admin.approvers",
        reason,
    }
}
