//! The machine: its processor, and a process on it, as the kernel shows them in /proc.

use std::fs;
use std::path::PathBuf;

use crate::result::Machine;

/// Clock ticks per second in /proc: a constant of Linux' interface to user space (proc(5), sysconf(_SC_CLK_TCK)).
const TICKS_PER_SECOND: f64 = 100.0;
/// Bytes in a kB of /proc.
const KIB: u64 = 1024;

/// A process at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Process {
    /// CPU time of all its threads so far, in seconds, to a hundredth.
    pub cpu_s: f64,
    /// Resident memory, in bytes.
    pub memory_bytes: u64,
}

/// The process `pid`; none if it does not exist.
pub fn process(pid: u32) -> Option<Process> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    // The name stands in parentheses and may hold anything; user and system time are fields 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: f64 = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = resident.split_whitespace().next()?.parse().ok()?;
    Some(Process {
        cpu_s: ticks / TICKS_PER_SECOND,
        memory_bytes: kib * KIB,
    })
}

/// The machine that this runs on.
pub fn this() -> Machine {
    let cores = std::thread::available_parallelism()
        .map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or_default();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Machine {
        cores,
        cpu: cpu.trim_start_matches([' ', '\t', ':']).to_owned(),
        os: format!("{} {}", std::env::consts::OS, release.trim()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_memory_and_one_that_cannot_exist_has_not() {
        let own = super::process(std::process::id()).expect("it runs");
        assert!(own.memory_bytes > 1 << 20 && own.cpu_s >= 0.0);
        assert_eq!(super::process(u32::MAX), None);
        assert!(super::this().cores >= 1);
    }
}
