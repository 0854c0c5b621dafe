//! Latencies, counted in buckets whose width grows with them.
//!
//! Invariant: a quantile is off by at most one part in thirty-two.

/// Buckets for each power of two.
const STEPS: usize = 32;
/// Below this many nanoseconds everything is one bucket: nothing is that fast.
const FLOOR: u64 = STEPS as u64;

/// How many answers took how long.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; 64 * STEPS] }
    }

    pub(crate) fn add(&mut self, nanoseconds: u64) {
        let value = nanoseconds.max(FLOOR);
        let power = value.ilog2() as usize;
        // Five bits behind the highest one: with it, a number below twice the steps.
        let leading = usize::try_from(value >> (power - 5)).unwrap_or(STEPS);
        self.counts[power * STEPS + leading % STEPS] += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The latency in microseconds that this share of the answers, in thousandths, did not exceed.
    pub(crate) fn quantile_us(&self, thousandths: u64) -> f64 {
        let wanted = (self.total() * thousandths).div_ceil(1000).max(1);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                let (power, step) = (at / STEPS, at % STEPS);
                let bottom = (1_u64 << power) + ((step as u64) << (power.max(5) - 5));
                return bottom as f64 / 1000.0;
            }
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_close() {
        let mut histogram = Histogram::new();
        for value in 1..=100_000_u64 {
            histogram.add(value * 10);
        }
        for (thousandths, exact) in [(500, 500.0), (990, 990.0), (999, 999.0)] {
            let found = histogram.quantile_us(thousandths);
            assert!((found - exact).abs() <= exact / 32.0, "{thousandths}: {found}");
        }
    }

    #[test]
    fn an_empty_one_says_nothing() {
        assert!(Histogram::new().quantile_us(500).abs() < f64::EPSILON);
    }
}
