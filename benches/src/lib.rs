//! What the benches share: measuring another process from outside.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Kernel clock ticks per second in /proc; fixed at 100 on Linux for user space (proc(5), sysconf(_SC_CLK_TCK)).
const TICKS_PER_SECOND: u64 = 100;

/// A server process under measurement; ended when dropped.
pub struct Process {
    child: Child,
    /// What it said about where it listens: `key=address`.
    line: String,
}

impl Process {
    /// Starts `command` and waits for the line that contains `listening`, on standard error.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let mut log = BufReader::new(child.stderr.take().context("standard error was piped")?);
        let mut line = String::new();
        loop {
            line.clear();
            if log.read_line(&mut line)? == 0 {
                bail!("{command:?} ended before it listened");
            }
            if line.contains("listening") {
                break;
            }
        }
        // Keeps the pipe from filling up.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Ok(Self { child, line })
    }

    /// The address after `key=`.
    pub fn address(&self, key: &str) -> Result<String> {
        let rest = self
            .line
            .split_once(&format!(" {key}="))
            .with_context(|| format!("no {key} in {}", self.line))?;
        Ok(rest.1.split_whitespace().next().unwrap_or_default().to_owned())
    }

    /// CPU time that the process has used, in user and in system mode together.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The command's name, in parentheses, may contain spaces; utime and stime are fields 14 and 15.
        let fields = stat.rsplit_once(')').context("no command in /proc/PID/stat")?.1;
        let mut times = fields.split_ascii_whitespace().skip(11);
        let mut ticks = || -> Result<u64> { Ok(times.next().context("short /proc/PID/stat")?.parse()?) };
        Ok(Duration::from_millis(
            (ticks()? + ticks()?) * 1000 / TICKS_PER_SECOND,
        ))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}
