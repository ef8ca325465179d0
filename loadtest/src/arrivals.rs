//! Arrivals: when requests are due, as a pure sequence of times.
//!
//! A rate that is piecewise linear in time is walked through by its integral: request n is due where the integral
//! reaches n (even spacing), or where it reaches the sum of n exponential draws (a Poisson process, of varying rate if
//! the rate varies). Nothing here reads a clock, so nothing drifts.

use std::sync::Arc;
use std::time::Duration;

use crate::rng::Rng;

/// A timetable of sends.
#[derive(Debug, Clone, PartialEq)]
pub enum Arrivals {
    /// Evenly, this many per second.
    Constant(f64),
    /// A Poisson process of this many per second.
    Poisson(f64),
    /// A Poisson process of each of these rates in turn, for equal shares of the measured time.
    Steps(Vec<f64>),
    /// A Poisson process whose rate goes from the first to the second over the measured time.
    Ramp(f64, f64),
    /// A Poisson process of rate `base`, and of rate `peak` for the first `on` of every `period`.
    Burst {
        /// Requests per second outside the bursts; may be 0.
        base: f64,
        /// Requests per second inside.
        peak: f64,
        /// How long a burst is.
        on: Duration,
        /// From the start of one burst to the next.
        period: Duration,
    },
    /// At these times after the start, ascending, in seconds.
    Times(Arc<[f64]>),
}

/// A stretch of time in which the rate is linear.
#[derive(Debug, Clone, Copy)]
struct Segment {
    seconds: f64,
    from: f64,
    to: f64,
}

impl Segment {
    fn flat(seconds: f64, rate: f64) -> Self {
        Self {
            seconds,
            from: rate,
            to: rate,
        }
    }

    /// Requests due in the first `seconds` of it.
    fn integral(&self, seconds: f64) -> f64 {
        seconds * (self.from + (self.to - self.from) * seconds / self.seconds / 2.0)
    }

    /// The time at which `requests` are due; `requests` is at most the integral of the whole.
    fn inverse(&self, requests: f64) -> f64 {
        // The root of a x²/2 + from x = requests, in the form that loses no digits when a is small.
        let slope = (self.to - self.from) / self.seconds;
        let root = (self.from * self.from + 2.0 * slope * requests).max(0.0).sqrt();
        let seconds = if self.from + root > 0.0 {
            2.0 * requests / (self.from + root)
        } else {
            0.0
        };
        seconds.min(self.seconds)
    }
}

impl Arrivals {
    /// The times from the start at which requests are due, ascending, all before `total`.
    ///
    /// The same `seed` gives the same times.
    pub fn times(&self, total: Duration, seed: u64) -> Times {
        let seconds = total.as_secs_f64();
        let segments = match self {
            Self::Times(times) => {
                return Times(Source::Listed {
                    times: Arc::clone(times),
                    next: 0,
                    total: seconds,
                });
            }
            Self::Constant(rate) | Self::Poisson(rate) => vec![Segment::flat(seconds, *rate)],
            #[expect(clippy::cast_precision_loss, reason = "nobody writes 2^53 steps")]
            Self::Steps(rates) => rates
                .iter()
                .map(|rate| Segment::flat(seconds / rates.len() as f64, *rate))
                .collect(),
            Self::Ramp(from, to) => vec![Segment {
                seconds,
                from: *from,
                to: *to,
            }],
            Self::Burst {
                base,
                peak,
                on,
                period,
            } => {
                let pair = [
                    Segment::flat(on.as_secs_f64(), *peak),
                    Segment::flat(period.saturating_sub(*on).as_secs_f64(), *base),
                ];
                let periods = (seconds / period.as_secs_f64()).ceil();
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "positive, and saturates"
                )]
                let periods = periods as usize;
                pair.iter().copied().cycle().take(2 * periods).collect()
            }
        };
        Times(Source::Integrated {
            segments,
            segment: 0,
            start: 0.0,
            used: 0.0,
            total: seconds,
            rng: (!matches!(self, Self::Constant(_))).then(|| Rng::new(seed)),
            due: 0.0,
        })
    }

    /// Mean requests per second over `total`.
    pub fn mean_rate(&self, total: Duration) -> f64 {
        match self {
            Self::Constant(rate) | Self::Poisson(rate) => *rate,
            #[expect(clippy::cast_precision_loss, reason = "nobody writes 2^53 steps")]
            Self::Steps(rates) => rates.iter().sum::<f64>() / rates.len().max(1) as f64,
            Self::Ramp(from, to) => f64::midpoint(*from, *to),
            Self::Burst {
                base,
                peak,
                on,
                period,
            } => {
                let share = (on.as_secs_f64() / period.as_secs_f64()).min(1.0);
                base + (peak - base) * share
            }
            #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 arrivals")]
            Self::Times(times) => {
                let seconds = total.as_secs_f64();
                times.iter().take_while(|time| **time < seconds).count() as f64
                    / seconds.max(f64::MIN_POSITIVE)
            }
        }
    }

    /// The warm-up before these: the same process where the rate is one, else evenly at the mean rate.
    #[must_use]
    pub fn warm_up(&self, total: Duration) -> Self {
        match self {
            Self::Constant(_) | Self::Poisson(_) => self.clone(),
            _ => Self::Constant(self.mean_rate(total)),
        }
    }
}

impl std::fmt::Display for Arrivals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Constant(rate) => write!(f, "constant {rate}/s"),
            Self::Poisson(rate) => write!(f, "poisson {rate}/s"),
            Self::Steps(rates) => {
                let rates: Vec<String> = rates.iter().map(f64::to_string).collect();
                write!(f, "poisson in steps of {}/s", rates.join(", "))
            }
            Self::Ramp(from, to) => write!(f, "poisson from {from}/s to {to}/s"),
            Self::Burst {
                base,
                peak,
                on,
                period,
            } => {
                write!(
                    f,
                    "poisson {base}/s with bursts of {peak}/s for {on:?} every {period:?}"
                )
            }
            Self::Times(times) => write!(f, "{} arrivals from a file", times.len()),
        }
    }
}

/// The times of [`Arrivals::times`].
#[derive(Debug, Clone)]
pub struct Times(Source);

#[derive(Debug, Clone)]
enum Source {
    /// Read from a list: all times and the end in seconds, and the index of the next.
    Listed {
        times: Arc<[f64]>,
        next: usize,
        total: f64,
    },
    /// Found on the integral of a rate, which is `used` at `start`, where `segments[segment]` begins; `due` is the
    /// integral at the last time (even: at the next).
    Integrated {
        segments: Vec<Segment>,
        segment: usize,
        start: f64,
        used: f64,
        total: f64,
        rng: Option<Rng>,
        due: f64,
    },
}

impl Iterator for Times {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let (seconds, total) = match &mut self.0 {
            Source::Listed { times, next, total } => {
                let time = *times.get(*next)?;
                *next += 1;
                (time, *total)
            }
            Source::Integrated {
                segments,
                segment,
                start,
                used,
                total,
                rng,
                due,
            } => {
                let wanted = match rng {
                    Some(rng) => {
                        *due += rng.exponential();
                        *due
                    }
                    None => {
                        let wanted = *due;
                        *due += 1.0;
                        wanted
                    }
                };
                loop {
                    let current = segments.get(*segment)?;
                    let whole = current.integral(current.seconds);
                    if wanted <= *used + whole {
                        break (*start + current.inverse(wanted - *used), *total);
                    }
                    *segment += 1;
                    *start += current.seconds;
                    *used += whole;
                }
            }
        };
        (seconds < total).then(|| Duration::from_secs_f64(seconds))
    }
}

#[cfg(test)]
mod tests;
