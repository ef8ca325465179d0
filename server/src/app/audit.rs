//! `crossfade audit`: checks and prints the record of every call that changed something, without a server.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use crossfade_journal::Head;
use crossfade_journal::audit;

use super::say;
use crate::config::{AuditCommand, ExportArgs, VerifyArgs};
use crate::data_dir::audit_in;

/// Runs `verify` or `export`.
///
/// Errors: the first bad record, by its number.
pub(super) fn run(command: &AuditCommand) -> Result<ExitCode> {
    match command {
        AuditCommand::Verify(args) => verify(args)?,
        AuditCommand::Export(args) => export(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(args: &VerifyArgs) -> Result<()> {
    let (head, known) = match &args.export {
        Some(file) => verify_export(file, args)?,
        None => verify_folder(&folder(&args.data_dir)?, args.head)?,
    };
    say(&format!("{} records, each follows the one before it", head.seq));
    if known.is_none() {
        say(
            "no earlier head is known, so records missing at the end would go unseen: keep the head below elsewhere",
        );
    }
    say(&format!("head {}:{}", head.seq, head.hash));
    Ok(())
}

fn verify_export(file: &Path, args: &VerifyArgs) -> Result<(Head, Option<Head>)> {
    let opened = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let after = args.after.unwrap_or(Head::EMPTY);
    let head = audit::export::verify(BufReader::new(opened), file, after, args.head)?;
    Ok((head, args.head))
}

/// The audit of a server, also against the signed head that lies beside it.
fn verify_folder(folder: &Path, expected: Option<Head>) -> Result<(Head, Option<Head>)> {
    let mut known = expected;
    if let Some(signed) = audit::read_signed(folder)? {
        let signed_head = signed
            .verify(&[signed.key])
            .with_context(|| format!("the signed head of record {} in {}", signed.seq, folder.display()))?;
        audit::verify(folder, Some(signed_head))?;
        say(&format!(
            "record {} is signed by the key {}",
            signed.seq, signed.key
        ));
        known = known.or(Some(signed_head));
    }
    Ok((audit::verify(folder, expected)?, known))
}

fn export(args: &ExportArgs) -> Result<()> {
    let records = audit::records(&folder(&args.data_dir)?, args.since)?;
    let mut out = BufWriter::new(io::stdout().lock());
    audit::export::write(records, &mut out, Path::new("standard output"))?;
    Ok(())
}

fn folder(data_dir: &Path) -> Result<PathBuf> {
    let folder = audit_in(data_dir);
    if !folder.is_dir() {
        bail!(
            "there is no audit in the data folder `{}`; name the server's with --data-dir",
            data_dir.display()
        );
    }
    Ok(folder)
}
