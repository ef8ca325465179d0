//! `crossfade rollout status | pause | resume | promote | abort` and `crossfade rollback`.

use serde_json::{Value, json};

use super::release::Release;
use super::view::{self, Line};
use super::watch::{Watch, until_interrupted};
use super::wire::{self, Server, of};
use super::{ClientError, say};
use crate::config::{ActArgs, RollbackArgs, StatusArgs};

/// Shows releases, once or for as long as someone looks.
pub(super) async fn status(server: &Server, args: &StatusArgs) -> Result<(), ClientError> {
    let wanted = args.model.as_deref();
    if args.watch {
        return until_interrupted(server, Watch::new(wanted)).await;
    }
    if args.json {
        let all = as_answered(server, wanted).await?;
        say(&serde_json::to_string_pretty(&all).unwrap_or_default());
        return Ok(());
    }
    let shown = match wanted {
        Some(wanted) => vec![server.find(wanted).await?],
        None => server.latest().await?,
    };
    if shown.is_empty() {
        say("no model has had a release yet");
    }
    for (index, release) in shown.iter().enumerate() {
        if index > 0 {
            say("");
        }
        tell(release);
    }
    Ok(())
}

/// As the server answers: the latest release of every model; every one of a model, newest first; or the one of an id.
async fn as_answered(server: &Server, wanted: Option<&str>) -> Result<Vec<Value>, ClientError> {
    let Some(wanted) = wanted else {
        return server.latest().await;
    };
    match server.found(wanted).await? {
        Some(release) if release.model == wanted => server.releases(wanted).await,
        Some(release) => Ok(vec![
            server.get(&wire::release(&release.model, &release.id)).await?,
        ]),
        None => Ok(Vec::new()),
    }
}

/// Moves a release on, or ends it.
pub(super) async fn act(server: &Server, args: &ActArgs, action: &str) -> Result<(), ClientError> {
    let release = server.find(&args.release).await?;
    let path = format!("{}:{action}", wire::release(&release.model, &release.id));
    let body = args
        .reason
        .as_ref()
        .map_or_else(|| json!({}), |reason| json!({ "reason": reason }));
    let answer = server.post(&path, &body).await?;
    tell(&server.read::<Release>(answer)?);
    Ok(())
}

/// Goes back.
pub(super) async fn back(server: &Server, args: &RollbackArgs) -> Result<(), ClientError> {
    let mut body = json!({ "reason": args.reason });
    if let Some(to) = args.to {
        body["to"] = to.into();
    }
    let answer = server
        .post(&format!("{}:rollback", of(&args.model)), &body)
        .await?;
    match answer["live"].as_u64().filter(|_| answer.get("id").is_none()) {
        Some(live) => say(&format!("{}: version {live} is live again", args.model)),
        None => tell(&server.read::<Release>(answer)?),
    }
    Ok(())
}

/// Prints one release.
pub(super) fn tell(release: &Release) {
    for Line { text, .. } in view::card(release, view::now()) {
        say(&text);
    }
}
