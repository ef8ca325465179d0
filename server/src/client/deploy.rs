//! `crossfade deploy`: begins a release, of a version that is there or of one that is put there first.

use std::path::Path;

use serde_json::json;

use super::release::Release;
use super::rollout::tell;
use super::watch::{Watch, follow};
use super::wire::{Server, rollouts};
use super::{ClientError, repository, say};
use crate::config::DeployArgs;

/// Begins the release, and follows it if asked to.
pub(super) async fn run(server: &Server, args: &DeployArgs) -> Result<(), ClientError> {
    let number = args.source.parse::<u64>().ok();
    if number.is_none() && !Path::new(&args.source).exists() {
        return Err(ClientError::Usage(format!(
            "`{}` is neither a version number nor a folder or file here",
            args.source
        )));
    }
    // Before anything is copied: whether the server is there, releases this model, and has room for one.
    let model = args.model.as_str();
    let earlier: Vec<Release> = server.releases(model).await?;
    let version = match number {
        Some(number) => number,
        None => {
            let active = earlier.iter().find(|release| release.is_active());
            if let Some(active) = active.filter(|_| !args.supersede) {
                return Err(ClientError::Refused(format!(
                    "release {} of version {} is active; wait for it, or end it with --supersede",
                    active.id, active.version
                )));
            }
            let known = earlier
                .iter()
                .map(|release| release.version.max(release.champion))
                .max();
            put(args, known.unwrap_or(0))?
        }
    };
    let release = begin(server, args, version, number.is_none()).await?;
    if !args.wait {
        tell(&release);
        return Ok(());
    }
    wait(server, &release).await
}

/// Puts the source into the repository; not on a thread that others wait for: there are none.
fn put(args: &DeployArgs, known: u64) -> Result<u64, ClientError> {
    let Some(root) = &args.model_repository else {
        return Err(ClientError::Usage(
            "a folder or a file is put into the repository that the server reads: name it with --model-repository"
                .to_owned(),
        ));
    };
    let put = repository::put(Path::new(&args.source), &root.join(&args.model), known);
    let version = put.map_err(|error| ClientError::Usage(format!("{}: {error}", args.source)))?;
    say(&format!(
        "{} is version {version} of {} now",
        args.source, args.model
    ));
    Ok(version)
}

/// Asks for the release. A server that scans the repository may have begun one for a version that was put there.
async fn begin(
    server: &Server,
    args: &DeployArgs,
    version: u64,
    fresh: bool,
) -> Result<Release, ClientError> {
    let body = json!({ "version": version, "supersede": args.supersede, "reason": args.reason });
    let asked = server.post(&rollouts(&args.model), &body).await;
    let refusal = match asked {
        Ok(answer) => return server.read(answer),
        Err(error @ ClientError::Refused(_)) if fresh => error,
        Err(error) => return Err(error),
    };
    let releases: Vec<Release> = server.releases(&args.model).await?;
    let begun = releases.into_iter().find(|release| release.version == version);
    let begun = begun.ok_or(refusal)?;
    say("the server found it by itself and has begun its release; the reason is not kept");
    Ok(begun)
}

/// Follows a release to its end.
async fn wait(server: &Server, release: &Release) -> Result<(), ClientError> {
    let ended = |shown: &[Release]| {
        let same = shown.iter().find(|shown| shown.id == release.id)?;
        (!same.is_active()).then(|| same.clone())
    };
    let last = follow(server, Watch::new(Some(&release.id)), ended).await?;
    if last.is_live() {
        return Ok(());
    }
    let why = last.why.as_deref().unwrap_or("no reason was given");
    Err(ClientError::SentBack(format!(
        "version {} of {} is not live: {} ({why})",
        last.version, last.model, last.state.name
    )))
}
