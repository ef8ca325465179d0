//! `crossfade rollout status | pause | resume | promote | abort` and `crossfade rollback`.

use serde_json::{Value, json};

use super::release::Release;
use super::view::{self, Line};
use super::watch::{Watch, until_interrupted};
use super::wire::{Server, name, of, rollouts};
use super::{ClientError, say};
use crate::config::{ActArgs, RollbackArgs, StatusArgs};

/// Shows releases, once or for as long as someone looks.
pub(super) async fn status(server: &Server, args: &StatusArgs) -> Result<(), ClientError> {
    let wanted = args.model.as_deref();
    if args.watch {
        return until_interrupted(server, Watch::new(wanted)).await;
    }
    if args.json {
        let mut all = server.get(&rollouts(None)).await?;
        if let (Value::Array(all), Some(wanted)) = (&mut all, wanted) {
            all.retain(|release| release["model"] == wanted || release["id"] == wanted);
        }
        say(&serde_json::to_string_pretty(&all).unwrap_or_default());
        return Ok(());
    }
    let shown = match wanted {
        Some(wanted) => vec![server.find(wanted).await?],
        None => last(server.releases(None).await?),
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

/// The last release of every model.
pub(super) fn last(all: Vec<Release>) -> Vec<Release> {
    let mut last: Vec<Release> = Vec::new();
    for release in all {
        match last.iter_mut().find(|earlier| earlier.model == release.model) {
            Some(earlier) => *earlier = release,
            None => last.push(release),
        }
    }
    last
}

/// Moves a release on, or ends it.
pub(super) async fn act(server: &Server, args: &ActArgs, action: &str) -> Result<(), ClientError> {
    let release = server.find(&args.release).await?;
    let path = format!(
        "{}/{}:{action}",
        rollouts(Some(&release.model)),
        name(&release.id)
    );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_model_the_last_release_is_shown() {
        let release = |model: &str, version: u64| {
            serde_json::from_value::<Release>(json!({
                "id": format!("{model}{version}"), "model": model, "version": version, "champion": 1,
                "state": { "state": "live" },
            }))
            .unwrap()
        };
        let all = vec![release("a", 2), release("b", 2), release("a", 3)];
        let ids: Vec<String> = last(all).into_iter().map(|release| release.id).collect();
        assert_eq!(ids, ["a3", "b2"]);
    }
}
