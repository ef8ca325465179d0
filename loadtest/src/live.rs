//! The live view: how a run is doing, second by second, on a terminal or line by line.

use std::io::Write;
use std::time::Duration;

use crate::capacity::Micros;
use crate::engine::{Phase, Tick};

/// How many seconds of p99 the screen's small graph shows.
const REMEMBERED: usize = 40;

/// Columns of the progress bar.
const BAR: usize = 30;

/// What is shown while a run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Three lines that are written over each second: for a terminal.
    Screen,
    /// One line per second: for a log.
    Lines,
    /// Nothing.
    Quiet,
}

impl View {
    /// The view that was asked for, or else the one that suits: a screen on a terminal, nothing where output is kept.
    pub fn choose(progress: bool, quiet: bool, is_terminal: bool) -> Self {
        match (quiet, progress, is_terminal) {
            (true, ..) => Self::Quiet,
            (false, true, _) => Self::Lines,
            (false, false, true) => Self::Screen,
            (false, false, false) => Self::Quiet,
        }
    }
}

/// A view of runs, written to `out`; if that can no longer be written to, it falls silent.
#[derive(Debug)]
pub struct Live<W> {
    view: View,
    out: W,
    /// 99th percentiles of the last seconds, in microseconds.
    recent: Vec<u64>,
    /// Whether the cursor stands below a screen that the next one is to replace.
    drawn: bool,
}

impl<W: Write> Live<W> {
    /// A view that has shown nothing yet.
    pub fn new(view: View, out: W) -> Self {
        Self {
            view,
            out,
            recent: Vec::new(),
            drawn: false,
        }
    }

    /// Shows the second that is over.
    pub fn tick(&mut self, tick: &Tick) {
        match self.view {
            View::Quiet => {}
            View::Lines => {
                let line = format!("{}\n", line(tick));
                self.write(&line);
            }
            View::Screen => {
                if self.recent.len() == REMEMBERED {
                    self.recent.remove(0);
                }
                self.recent.push(tick.second.p99_us);
                let screen = format!("{}{}", self.over(), screen(tick, &self.recent));
                self.write(&screen);
                self.drawn = true;
            }
        }
    }

    /// Writes `text` where it stays, above the screen of the run that follows; shown unless the view is quiet.
    pub fn note(&mut self, text: &str) {
        if self.view != View::Quiet {
            let over = self.over();
            self.write(&format!("{over}{text}\n"));
        }
        self.end();
    }

    /// Ends a run: what is on the screen stays, and the next run starts below it.
    pub fn end(&mut self) {
        self.drawn = false;
        self.recent.clear();
    }

    /// What moves the cursor to the first line of the last screen and clears from there on.
    fn over(&self) -> &'static str {
        if self.drawn { "\x1b[3A\x1b[J" } else { "" }
    }

    fn write(&mut self, text: &str) {
        if self
            .out
            .write_all(text.as_bytes())
            .and_then(|()| self.out.flush())
            .is_err()
        {
            self.view = View::Quiet;
        }
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::WarmUp => "warm-up",
        Phase::Measuring => "measuring",
        Phase::Draining => "draining",
    }
}

fn line(tick: &Tick) -> String {
    let second = &tick.second;
    format!(
        "{:>9} {:>4} s  sent {}/s  ok {}  errors {}  p50 {}  p99 {}  in flight {}  {} s left",
        phase(tick.phase),
        second.second,
        second.sent,
        second.ok,
        second.errors,
        Micros(second.p50_us),
        Micros(second.p99_us),
        second.in_flight,
        left(tick).as_secs()
    )
}

fn left(tick: &Tick) -> Duration {
    // Half a second rounds to the nearest whole one.
    tick.planned.saturating_sub(tick.elapsed) + Duration::from_millis(500)
}

/// Three lines of at most 80 columns, each with its line end.
fn screen(tick: &Tick, recent: &[u64]) -> String {
    let second = &tick.second;
    let done = tick.elapsed.as_secs_f64() / tick.planned.as_secs_f64().max(1e-9);
    #[expect(clippy::cast_possible_truncation, reason = "a share of 30 columns")]
    let filled = (done.clamp(0.0, 1.0) * BAR as f64) as usize;
    format!(
        "{:>9} [{}{}] {} s left\n          {} sent/s  {} ok  {} errors  {} in flight\n          p50 {}  p99 {}  {}\n",
        phase(tick.phase),
        "#".repeat(filled),
        "·".repeat(BAR - filled),
        left(tick).as_secs(),
        second.sent,
        second.ok,
        second.errors,
        second.in_flight,
        Micros(second.p50_us),
        Micros(second.p99_us),
        graph(recent)
    )
}

/// One bar per value, from nothing to the largest.
fn graph(values: &[u64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let largest = values.iter().copied().max().unwrap_or(0).max(1);
    let bar = |value: &u64| {
        let height = usize::try_from(u128::from(*value) * 7 / u128::from(largest)).unwrap_or(7);
        BARS[height.min(7)]
    };
    values.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Second;
    use std::io;

    fn tick(second: u64, p99_us: u64) -> Tick {
        Tick {
            phase: Phase::Measuring,
            second: Second {
                second,
                sent: 1_003,
                ok: 1_002,
                errors: 1,
                p50_us: 1_200,
                p99_us,
                max_us: p99_us,
                in_flight: 4,
            },
            elapsed: Duration::from_secs(second + 1),
            planned: Duration::from_secs(10),
        }
    }

    fn shown(view: View) -> String {
        let mut out = Vec::new();
        let mut live = Live::new(view, &mut out);
        live.tick(&tick(0, 3_400));
        live.tick(&tick(1, 6_800));
        live.note("1000/s held");
        live.tick(&tick(0, 3_400));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_view_follows_flags_first_and_the_terminal_then() {
        assert_eq!(View::choose(false, false, true), View::Screen);
        assert_eq!(View::choose(false, false, false), View::Quiet);
        assert_eq!(View::choose(true, false, true), View::Lines);
        assert_eq!(View::choose(true, true, true), View::Quiet);
    }

    #[test]
    fn lines_are_plain_text_with_every_figure() {
        let text = shown(View::Lines);
        let first = text.lines().next().unwrap();
        assert_eq!(
            first,
            "measuring    0 s  sent 1003/s  ok 1002  errors 1  p50 1.2 ms  p99 3.4 ms  in flight 4  9 s left"
        );
        assert!(!text.contains('\x1b'));
        assert_eq!(text.lines().count(), 4);
    }

    #[test]
    fn a_screen_replaces_the_one_before_and_a_note_stays() {
        let text = shown(View::Screen);
        // The second screen and the note go over a screen; what follows the note does not.
        assert_eq!(text.matches("\x1b[3A\x1b[J").count(), 2);
        assert!(text.contains("1000/s held\nmeasuring"), "{text}");
        assert!(text.contains("▄█"), "the graph grows: {text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn quiet_writes_nothing() {
        assert_eq!(shown(View::Quiet), "");
    }

    #[test]
    fn a_closed_terminal_silences_the_view() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut live = Live::new(View::Lines, Closed);
        live.tick(&tick(0, 1));
        assert_eq!(live.view, View::Quiet);
    }
}
