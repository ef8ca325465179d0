//! `[admin]`: from what was written to what the code may rely on.

use std::net::SocketAddr;

use super::file::{RawAdmin, RawToken};
use super::{AdminConfig, ConfigError};
use crate::admin::Token;
use crate::admin::tokens::digest;

/// Actors of the audit that are no tokens.
const TAKEN: [&str; 3] = ["local", "anonymous", "crossfade"];

/// Checks `[admin]`; `listen` is where the flags and the file put it.
///
/// Errors: another address than loopback without tokens; a token without a name of its own, or without a digest.
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
    Ok(AdminConfig {
        listen,
        tokens,
        v2_control: file.v2_control,
    })
}

fn token(raw: RawToken) -> Result<Token, ConfigError> {
    let RawToken { name, sha256, roles } = raw;
    if name.is_empty() || name.len() > 64 || TAKEN.contains(&name.as_str()) {
        return Err(wrong(format!(
            "`{name}` cannot be a name; take 1 to 64 bytes, and none of {TAKEN:?}"
        )));
    }
    let sha256 = digest(&sha256).ok_or_else(|| {
        wrong(format!(
            "`sha256` of `{name}` must be 64 lower-case hexadecimal digits: `printf %s TOKEN | sha256sum`"
        ))
    })?;
    Ok(Token { name, sha256, roles })
}

fn wrong(reason: String) -> ConfigError {
    ConfigError::Value {
        key: "admin.tokens",
        reason,
    }
}
