//! A random generator whose numbers are the same on every machine and in every version: SplitMix64.

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014, figure 17).
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator that gives the same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator for the `index`-th thing under `seed`, independent of its neighbours.
    pub fn of(seed: u64, index: u64) -> Self {
        let mut rng = Self(seed ^ index.wrapping_mul(0xd134_2543_de82_ef95));
        Self(rng.word())
    }

    /// Any of the 2^64 words.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in (0, 1], on a grid of 2^53.
    pub fn unit(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
        let numerator = ((self.word() >> 11) + 1) as f64;
        numerator / (1_u64 << 53) as f64
    }

    /// Uniform in `low..high`, to within 2^-64 per value of a range; `low` if the range is empty.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        let width = u128::from(high.saturating_sub(low).max(1).unsigned_abs());
        let offset = (u128::from(self.word()) * width) >> 64;
        low.saturating_add(i64::try_from(offset).unwrap_or(i64::MAX))
    }

    /// Uniform in `range`, its end excluded; its beginning if it is empty.
    pub fn length(&mut self, range: (u64, u64)) -> u64 {
        let width = u128::from(range.1.saturating_sub(range.0).max(1));
        let offset = (u128::from(self.word()) * width) >> 64;
        range.0 + u64::try_from(offset).unwrap_or(0)
    }

    /// Uniform among the indices of `count` things; 0 without any.
    pub fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.length((0, count as u64))).unwrap_or(0)
    }

    /// Exponential with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -self.unit().ln()
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn the_sequence_is_that_of_the_reference_implementation() {
        let mut rng = Rng::new(1_234_567);
        assert_eq!(
            [rng.word(), rng.word(), rng.word()],
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn ranges_are_kept_and_covered() {
        let mut rng = Rng::of(1, 2);
        let drawn: Vec<i64> = (0..1000).map(|_| rng.between(-2, 3)).collect();
        assert!((-2..3).all(|value| drawn.contains(&value)));
        assert!(drawn.iter().all(|value| (-2..3).contains(value)));
        let lengths: Vec<u64> = (0..1000).map(|_| rng.length((5, 9))).collect();
        assert!((5..9).all(|length| lengths.contains(&length)));
        assert!(lengths.iter().all(|length| (5..9).contains(length)));
        assert_eq!((rng.length((7, 7)), rng.index(0), rng.index(1)), (7, 0, 0));
        assert!(
            (0..1000)
                .map(|_| rng.unit())
                .all(|unit| unit > 0.0 && unit <= 1.0)
        );
    }
}
