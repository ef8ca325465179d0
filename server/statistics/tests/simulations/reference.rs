//! Values of the two formulas that decide, for others to check: `reference/check.py` works them out by quadrature.

use crossfade_statistics::random::SplitMix64;
use crossfade_statistics::{Counts, log_e, rate};

use super::{row, share};

#[test]
fn values() {
    let mut random = SplitMix64::new(1);
    for _ in 0..300 {
        // Every size of count from none to 10⁵, and shares from one in a thousand to all but that.
        let mut count = || {
            let size = u32::try_from(random.below(6)).expect("at most five");
            random.below(10_usize.pow(size)) as u64
        };
        let counts = Counts {
            canary: count(),
            control: count(),
        };
        let w = 0.001 + 0.998 * random.unit();
        let value = log_e(counts, share(w));
        assert!(value.is_finite(), "{counts:?}, w {w}: {value}");
        row(
            "log_e",
            &[
                counts.canary.to_string(),
                counts.control.to_string(),
                format!("{w:.17}"),
                format!("{value:.15e}"),
            ],
        );
        let units = counts.canary + counts.control;
        let upper = rate::upper(counts.canary, units, 0.01).expect("a level and fewer events than units");
        assert!(
            upper >= counts.canary as f64 / units.max(1) as f64,
            "{counts:?}: {upper}"
        );
        row(
            "upper",
            &[
                counts.canary.to_string(),
                units.to_string(),
                format!("{upper:.17}"),
            ],
        );
    }
}
