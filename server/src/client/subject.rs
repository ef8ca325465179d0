//! `crossfade subject`: what a person asks of the inference log.

use std::io;

use serde_json::{Value, json};

use super::wire::Server;
use super::{ClientError, say};
use crate::config::{SubjectArgs, SubjectCommand};

/// Whom a command is about, and which server it goes to.
pub(super) fn args(command: &SubjectCommand) -> &SubjectArgs {
    match command {
        SubjectCommand::Erase(args)
        | SubjectCommand::Restrict(args)
        | SubjectCommand::Object(args)
        | SubjectCommand::Lift(args) => args,
        SubjectCommand::Rectify(args) => &args.subject,
    }
}

/// Asks, and prints what was done.
///
/// Errors: the server's; a correction that is no JSON.
pub(super) async fn run(server: &Server, command: &SubjectCommand) -> Result<(), ClientError> {
    let args = args(command);
    let subject = match args.subject.as_str() {
        "-" => {
            let read = io::read_to_string(io::stdin());
            read.map_err(|error| ClientError::Usage(format!("standard input: {error}")))?
        }
        subject => subject.to_owned(),
    };
    let mut asked = json!({ "subject": subject.trim_end(), "reason": args.reason });
    let call = match command {
        SubjectCommand::Erase(_) => "erase",
        SubjectCommand::Restrict(_) => "restrict",
        SubjectCommand::Object(_) => "object",
        SubjectCommand::Lift(_) => "lift",
        SubjectCommand::Rectify(args) => {
            let right: Value = serde_json::from_str(&args.correction)
                .map_err(|error| ClientError::Usage(format!("--correction: {error}")))?;
            asked["request_id"] = json!(args.request_id);
            asked["correction"] = right;
            "rectify"
        }
    };
    let done = server
        .post(&format!("/crossfade/v1/subjects:{call}"), &asked)
        .await?;
    say(&format!("{done:#}"));
    Ok(())
}
