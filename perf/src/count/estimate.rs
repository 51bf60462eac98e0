//! What many noisy turns say together: medians, and ratios of neighbouring turns with the bounds
//! that the ratio of another run would most likely keep. Pure.

/// How often the turns are drawn anew to find the bounds.
const DRAWS: usize = 2_000;
/// Share of the draws left out on each side: the rest is a 95 % interval.
const OUTSIDE: f64 = 0.025;

/// A ratio and its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// The mean of the middle half of the turns' ratios: a few disturbed turns move it as little as
    /// the median, and it is steadier.
    pub mean: f64,
    /// Lower bound of its 95 % interval (bootstrap).
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

impl Ratio {
    /// The ratio of `over` to `under`, turn by turn.
    pub fn of(over: &[f64], under: &[f64]) -> Self {
        let mut ratios: Vec<f64> = over.iter().zip(under).map(|(a, b)| a / b).collect();
        let mean = middle_mean(&mut ratios);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let draw = |_| {
            let mut drawn: Vec<f64> =
                (0..ratios.len()).map(|_| ratios[random.below(ratios.len())]).collect();
            middle_mean(&mut drawn)
        };
        let mut means: Vec<f64> = (0..DRAWS).map(draw).collect();
        means.sort_by(f64::total_cmp);
        let outside = (DRAWS as f64 * OUTSIDE) as usize;
        Self { mean, low: means[outside], high: means[DRAWS - 1 - outside] }
    }

    /// Half of the interval's width.
    pub fn spread(&self) -> f64 {
        (self.high - self.low) / 2.0
    }
}

/// The median.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0
}

/// The mean of the middle half.
fn middle_mean(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let quarter = values.len() / 4;
    let middle = &values[quarter..values.len() - quarter];
    middle.iter().sum::<f64>() / middle.len() as f64
}

/// Marsaglia's xorshift: the same draws in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::{Random, Ratio, median};

    #[test]
    fn wild_turns_move_nothing() {
        let under: Vec<f64> = (0..100).map(|turn| 10.0 + f64::from(turn % 7)).collect();
        let mut over: Vec<f64> = under.iter().map(|cost| cost * 1.03).collect();
        over.iter_mut().step_by(9).for_each(|cost| *cost *= 3.0);
        let ratio = Ratio::of(&over, &under);
        assert!((ratio.mean - 1.03).abs() < 1e-9 && ratio.spread() < 1e-9, "{ratio:?}");
        assert_eq!(median(&[3.0, 1.0, 100.0, 2.0]), 2.5);
    }

    #[test]
    fn the_bounds_hold_the_truth_and_close_in() {
        let mut random = Random(7);
        let mut noisy = |turns: usize| -> Vec<f64> {
            (0..turns).map(|_| 1.0 + random.below(1_000) as f64 / 10_000.0).collect()
        };
        let few = Ratio::of(&noisy(20), &noisy(20));
        let many = Ratio::of(&noisy(500), &noisy(500));
        assert!(many.spread() < few.spread() / 2.0, "{few:?} {many:?}");
        for ratio in [few, many] {
            assert!(ratio.low < 1.0 && 1.0 < ratio.high, "{ratio:?}");
        }
    }
}
