//! `crossfade approve`: signs what a release waits for, with a key that never leaves this machine.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crossfade_journal::approval::Approval;
use crossfade_journal::keys::{self, SigningKey};
use serde_json::json;

use super::release::Release;
use super::rollout::tell;
use super::wire::{self, Server};
use super::{ClientError, say};
use crate::config::ApproveArgs;

/// Agrees: by a signature, or as the holder of the token where no key is named.
pub(super) async fn run(server: &Server, args: &ApproveArgs) -> Result<(), ClientError> {
    let Some(wanted) = &args.release else {
        return Err(ClientError::Usage(
            "name a release, or the model whose release waits".to_owned(),
        ));
    };
    let key = args.key.as_deref().map(read).transpose()?;
    let found = server.find(wanted).await?;
    let path = wire::release(&found.model, &found.id);
    // Asked anew: what is agreed to is what this one release shows.
    let release: Release = server.read(server.get(&path).await?)?;
    let approval = release.approval.as_ref();
    let Some(subject) = approval.and_then(|approval| approval.subject.clone()) else {
        return Err(ClientError::Refused(format!(
            "release {} of {} waits for nobody's approval",
            release.id, release.model
        )));
    };
    if subject.release_id != release.id {
        return Err(ClientError::Refused(
            "the server shows what is another release's".to_owned(),
        ));
    }
    if !args.yes {
        tell(&release);
        say(&format!("to be agreed to: {}", subject.message()));
        confirmed()?;
    }
    let mut body = json!({ "subject": subject });
    if let Some(key) = &key {
        let Approval { key, signature } = Approval::sign(&subject, key);
        body["key"] = key.to_string().into();
        body["signature"] = signature.to_string().into();
    }
    say(&format!("agreeing to {}", subject.message()));
    let answer = server.post(&format!("{path}:approve"), &body).await?;
    tell(&server.read::<Release>(answer)?);
    Ok(())
}

/// Asks whoever sits there: what is signed is what they have just read.
fn confirmed() -> Result<(), ClientError> {
    if !io::stdin().is_terminal() {
        return Err(ClientError::Usage(
            "nobody is there to be asked: look at the release, then say --yes".to_owned(),
        ));
    }
    say("agree? [yes/no]");
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    read.map_err(|error| ClientError::Usage(format!("the terminal: {error}")))?;
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(ClientError::Refused("not agreed to".to_owned())),
    }
}

/// Makes a key and prints its public half, which the server has to know.
pub(super) fn new_key(file: &Path) -> Result<(), ClientError> {
    let failed = |reason: String| ClientError::Usage(format!("--new-key {}: {reason}", file.display()));
    let pem = keys::new_pem().map_err(|error| failed(error.to_string()))?;
    let key = SigningKey::from_pem(&pem).map_err(|error| failed(error.to_string()))?;
    // For its owner alone, and never over another key.
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file);
    made.and_then(|mut out| out.write_all(pem.as_bytes()))
        .map_err(|error| failed(error.to_string()))?;
    say(&key.public_key().to_string());
    Ok(())
}

fn read(file: &Path) -> Result<SigningKey, ClientError> {
    let failed = |reason: String| ClientError::Usage(format!("--key {}: {reason}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
    SigningKey::from_text(&text).map_err(|error| failed(error.to_string()))
}
