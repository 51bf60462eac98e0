//! How long a call of the authority takes at most, from those before it.

use crate::units::Nanos;

/// After RFC 6298, "Computing TCP's Retransmission Timer": the mean and four times the mean
/// deviation, which few of a hundred round trips exceed.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTrip {
    mean_ns: u64,
    deviation_ns: u64,
}

impl RoundTrip {
    /// Taken to last so long until one is measured.
    pub(super) const fn new(first: Nanos) -> Self {
        Self { mean_ns: first.0, deviation_ns: 0 }
    }

    /// Takes a measured one in.
    pub(super) fn add(&mut self, span: Nanos) {
        let off = span.0.abs_diff(self.mean_ns);
        self.deviation_ns = self.deviation_ns - self.deviation_ns / 4 + off / 4;
        self.mean_ns = self.mean_ns - self.mean_ns / 8 + span.0 / 8;
    }

    /// In whole microseconds, rounded up.
    pub(super) fn at_most(&self) -> Nanos {
        let ns = self.mean_ns.saturating_add(self.deviation_ns.saturating_mul(4));
        Nanos::from_us(ns.div_ceil(1_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_what_is_measured() {
        let mut round_trip = RoundTrip::new(Nanos::from_ms(1));
        assert_eq!(round_trip.at_most(), Nanos::from_ms(1));
        (0..200).for_each(|_| round_trip.add(Nanos::from_us(300)));
        let steady = round_trip.at_most();
        assert!((300..330).contains(&steady.us()), "{steady:?}");
        round_trip.add(Nanos::from_ms(40));
        assert!(round_trip.at_most() >= Nanos::from_ms(40), "one that was late counts at once");
        (0..200).for_each(|_| round_trip.add(Nanos::from_us(300)));
        assert!(round_trip.at_most() < Nanos::from_us(330));
        (0..99).for_each(|_| round_trip.add(Nanos(u64::MAX)));
        assert!(round_trip.at_most() > Nanos::from_s(60), "and no sum wraps around");
    }
}
