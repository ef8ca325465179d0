//! Releases as they change: a screen that is drawn anew on a terminal, lines where output is kept.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::ClientError;
use super::events::{Events, Told};
use super::release::Release;
use super::view::{self, Line, Tone};
use super::wire::Server;

/// Between two questions; the server looks as often.
const EVERY: Duration = Duration::from_secs(1);
/// Questions after which a line is written although nothing moved.
const QUIET: u32 = 10;
/// Moves that stay on the screen.
const REMEMBERED: usize = 8;
/// A terminal that does not say how large it is.
const COLUMNS: usize = 100;
const ROWS: usize = 40;

/// What someone watches, and what was shown so far.
pub(super) struct Watch {
    wanted: Option<String>,
    screen: bool,
    colour: bool,
    /// Lines above the cursor that the next screen takes the place of.
    drawn: usize,
    moves: VecDeque<Line>,
    /// Where releases stood when a line was last written, and how many questions ago.
    written: BTreeMap<String, (String, u32)>,
}

impl Watch {
    /// Watches a model or a release, or the last release of each model.
    pub(super) fn new(wanted: Option<&str>) -> Self {
        let screen = io::stdout().is_terminal();
        Self {
            wanted: wanted.map(str::to_owned),
            screen,
            colour: screen && std::env::var_os("NO_COLOR").is_none(),
            drawn: 0,
            moves: VecDeque::new(),
            written: BTreeMap::new(),
        }
    }

    fn wants(&self, model: &str, release: Option<&str>) -> bool {
        match self.wanted.as_deref() {
            None => true,
            Some(wanted) => wanted == model || release == Some(wanted),
        }
    }

    /// Shows how releases stand; `trouble`: why that is not known just now.
    fn show(&mut self, releases: &[Release], trouble: Option<&str>, out: &mut impl Write) {
        let text = match self.screen {
            true => self.drawn_anew(releases, trouble),
            false => self.lines(releases, trouble),
        };
        // Who has closed the terminal has seen enough.
        let _seen = out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok();
    }

    fn drawn_anew(&mut self, releases: &[Release], trouble: Option<&str>) -> String {
        let (columns, rows) = size();
        let now = view::now();
        let mut lines: Vec<Line> = Vec::new();
        for release in releases {
            lines.extend(view::card(release, now));
            lines.push(Line::new(String::new(), Tone::Plain));
        }
        if releases.is_empty() && trouble.is_none() {
            lines.push(Line::new("no release yet".to_owned(), Tone::Faint));
        }
        lines.extend(trouble.map(|trouble| Line::new(trouble.to_owned(), Tone::Bad)));
        lines.extend(self.moves.iter().cloned());
        // What does not fit cannot be written over later.
        lines.truncate(rows.saturating_sub(1).max(1));
        let mut text = match self.drawn {
            0 => String::new(),
            above => format!("\x1b[{above}A\x1b[J"),
        };
        for line in &lines {
            text.push_str(&line.painted(columns, self.colour));
            text.push('\n');
        }
        self.drawn = lines.len();
        text
    }

    /// A line for each release that moved, or of which nothing was said for some time.
    fn lines(&mut self, releases: &[Release], trouble: Option<&str>) -> String {
        let mut text = String::new();
        for release in releases {
            let stands = format!("{} {:?}", release.id, release.state);
            let (before, quiet) = self.written.remove(&release.model).unwrap_or_default();
            let moved = before != stands;
            let due = moved || (release.is_active() && quiet >= QUIET);
            if due {
                text.push_str(&view::summary(release));
                text.push('\n');
            }
            let quiet = if due { 0 } else { quiet + 1 };
            self.written.insert(release.model.clone(), (stands, quiet));
        }
        if let Some(trouble) = trouble {
            text.push_str(trouble);
            text.push('\n');
        }
        text
    }

    /// A move is told.
    fn told(&mut self, told: &Told, out: &mut impl Write) {
        if !self.wants(&told.model, told.release.as_deref()) {
            return;
        }
        let line = view::told(told);
        if self.screen {
            if self.moves.len() == REMEMBERED {
                self.moves.pop_front();
            }
            self.moves.push_back(line);
        } else {
            let _seen = writeln!(out, "{}", line.text).is_ok();
        }
    }
}

/// Watches until the process is ended.
///
/// Errors: the first question is not answered; later ones are asked again.
pub(super) async fn until_interrupted(server: &Server, watch: Watch) -> Result<(), ClientError> {
    follow(server, watch, |_| None).await.map(|_: Release| ())
}

/// Watches until `done` says so of one of the releases, which is returned.
///
/// Errors: as [`until_interrupted`].
pub(super) async fn follow(
    server: &Server,
    mut watch: Watch,
    done: impl Fn(&[Release]) -> Option<Release>,
) -> Result<Release, ClientError> {
    let mut out = io::stdout();
    let mut events = server.events().await.ok();
    let mut shown = chosen(&watch, server).await?;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        watch.show(&shown, None, &mut out);
        if let Some(release) = done(&shown) {
            return Ok(release);
        }
        // Both are cancel-safe.
        tokio::select! {
            told = next(&mut events) => match told {
                Some(told) => watch.told(&told, &mut out),
                None => events = None,
            },
            _ = ticks.tick() => {}
        }
        match chosen(&watch, server).await {
            Ok(now) => {
                if events.is_none() {
                    events = server.events().await.ok();
                }
                shown = now;
            }
            Err(error @ ClientError::Unreachable(_)) => {
                watch.show(&shown, Some(&format!("{error}; asking again")), &mut out);
                tokio::time::sleep(EVERY).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// How the releases that are watched stand.
async fn chosen(watch: &Watch, server: &Server) -> Result<Vec<Release>, ClientError> {
    match &watch.wanted {
        Some(wanted) => Ok(server.found(wanted).await?.into_iter().collect()),
        None => server.latest().await,
    }
}

/// The next move; never, where nobody tells.
async fn next(events: &mut Option<Events>) -> Option<Told> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// Columns and rows of the terminal.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (COLUMNS, ROWS),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn release(state: &str) -> Release {
        serde_json::from_value(json!({
            "id": "r1", "model": "m", "version": 2, "champion": 1, "state": { "state": state },
        }))
        .unwrap()
    }

    fn watch(screen: bool) -> Watch {
        Watch {
            screen,
            colour: false,
            ..Watch::new(Some("m"))
        }
    }

    fn shown(watch: &mut Watch, states: &[&str]) -> String {
        let mut out = Vec::new();
        for state in states {
            watch.show(&[release(state)], None, &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_is_written_when_something_moves_and_now_and_then() {
        let mut lines = watch(false);
        let text = shown(&mut lines, &["canary", "canary", "paused"]);
        assert_eq!(text.lines().count(), 2, "{text}");
        let text = shown(&mut lines, &["paused"; 11]);
        assert_eq!(text.lines().count(), 1, "{text}");
        let text = shown(&mut lines, &["live"; 30]);
        assert_eq!(text, "m version 2: live\n", "what has ended is said once");
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn a_screen_takes_the_place_of_the_one_before() {
        let mut screen = watch(true);
        let text = shown(&mut screen, &["canary", "canary"]);
        let lines = screen.drawn;
        assert!(text.contains(&format!("\x1b[{lines}A\x1b[J")), "{text}");
        assert_eq!(text.matches("version 2").count(), 2);
        assert_eq!(text.lines().count(), 2 * lines);
    }

    #[test]
    fn moves_of_others_are_not_told_and_old_ones_go() {
        let mut screen = watch(true);
        let told = |model: &str, at| Told {
            model: model.into(),
            version: 2,
            release: None,
            event: "held".into(),
            to: None,
            actor: String::new(),
            why: None,
            at,
        };
        let mut out = Vec::new();
        screen.told(&told("other", 0), &mut out);
        (0..20).for_each(|at| screen.told(&told("m", at), &mut out));
        assert_eq!((screen.moves.len(), out.len()), (REMEMBERED, 0));
        assert!(
            screen.moves[0].text.starts_with("00:00:12"),
            "{:?}",
            screen.moves[0]
        );
    }
}
