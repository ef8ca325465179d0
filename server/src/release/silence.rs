//! A version that answers nothing although it is asked: for how long, and when that is too long. Pure.

use std::time::Duration;

/// A version that answers nothing for so long, while requests wait for it, hangs …
const HANGS: Duration = Duration::from_secs(30);
/// … unless even this many times what the live version takes is longer.
const PAST_LIVE: f64 = 10.0;

/// For how long a version has answered nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Silence {
    /// Requests that it had answered, well or not, at the last look.
    answered: u64,
    /// Serving time since it answered one, with requests that waited for it.
    lasts: Duration,
}

impl Silence {
    /// Looks; returns whether the version hangs.
    ///
    /// * `answered`: requests that it has answered so far, well or not
    /// * `asked`: some wait for it, or have waited in vain since the last look
    /// * `served`: serving time since the last look
    /// * `live`: seconds that the slow requests of the live version take
    pub(super) fn look(&mut self, answered: u64, asked: bool, served: Duration, live: f64) -> bool {
        if answered != self.answered {
            self.answered = answered;
            self.lasts = Duration::ZERO;
        } else if asked {
            self.lasts += served;
        }
        let patience = Duration::try_from_secs_f64(PAST_LIVE * live).unwrap_or(HANGS);
        self.lasts >= HANGS.max(patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Looks once a second, until it hangs; returns how often.
    fn looks(silence: &mut Silence, live: f64) -> usize {
        let mut looks = 1;
        while !silence.look(0, true, SECOND, live) {
            looks += 1;
        }
        looks
    }

    #[test]
    fn a_version_that_was_asked_and_says_nothing_hangs() {
        assert_eq!(looks(&mut Silence::default(), 0.1), 30);
        assert_eq!(
            looks(&mut Silence::default(), 6.0),
            60,
            "the live one is slow, too"
        );
        assert_eq!(
            looks(&mut Silence::default(), f64::NAN),
            30,
            "nothing is known of the live one"
        );
    }

    #[test]
    fn an_answer_breaks_the_silence_and_nobody_who_asks_does_not() {
        let mut silence = Silence::default();
        (0..29).for_each(|_| assert!(!silence.look(0, true, SECOND, 0.0)));
        (0..99).for_each(|_| assert!(!silence.look(0, false, SECOND, 0.0)));
        assert!(!silence.look(1, true, SECOND, 0.0));
        (0..29).for_each(|_| assert!(!silence.look(1, true, SECOND, 0.0)));
        assert!(silence.look(1, true, SECOND, 0.0));
    }
}
