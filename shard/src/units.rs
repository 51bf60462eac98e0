//! Units and identities. Money and tokens are integers everywhere; a time is a duration or an
//! instant on a clock that the caller owns. Nothing here reads one.

use core::fmt;
use core::str::FromStr;

/// An instant, or a span, in nanoseconds on the caller's monotonic clock (`CLOCK_BOOTTIME`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// A span of whole microseconds.
    pub const fn from_us(us: u64) -> Self {
        Self(us.saturating_mul(1_000))
    }
    /// A span of whole milliseconds.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }
    /// A span of whole seconds.
    pub const fn from_s(s: u64) -> Self {
        Self(s.saturating_mul(1_000_000_000))
    }
    /// Whole microseconds, what is begun left out.
    pub const fn us(self) -> u64 {
        self.0 / 1_000
    }
    /// `self + span`, stopping at the end of time.
    #[must_use]
    pub const fn after(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }
    /// The span from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

/// The two clocks of one decision: `now` decides, `unix_us` only labels (period, `occurred_at`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The monotonic instant.
    pub now: Nanos,
    /// Wall time, microseconds since 1970 (UTC).
    pub unix_us: i64,
}

/// Microseconds of a day.
pub const DAY_US: i64 = 86_400_000_000;

/// Nano-USD: 10⁻⁹ US dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NanoUsd(pub i64);

/// The calendar month (UTC) as `YYYYMM`, e.g. `202611`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(pub u32);

impl Period {
    /// The month that `unix_us` lies in.
    /// Days to civil date after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    pub const fn of(unix_us: i64) -> Self {
        let days = unix_us.div_euclid(DAY_US) + 719_468;
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + days.div_euclid(146_097) * 400 + if month <= 2 { 1 } else { 0 };
        Self((year * 100 + month) as u32)
    }
    /// The first microsecond of this month, since 1970.
    pub const fn starts_at_unix_us(self) -> i64 {
        let (year, month) = ((self.0 / 100) as i64, (self.0 % 100) as i64);
        let year = if month <= 2 { year - 1 } else { year };
        let year_of_era = year.rem_euclid(400);
        let month_from_march = if month > 2 { month - 3 } else { month + 9 };
        let day_of_year = (153 * month_from_march + 2) / 5;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        (year.div_euclid(400) * 146_097 + day_of_era - 719_468) * DAY_US
    }
    /// The month after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        if self.0 % 100 == 12 { Self(self.0 + 89) } else { Self(self.0 + 1) }
    }
    /// `2026-11`, as ASCII.
    pub fn to_text(self) -> [u8; 7] {
        let digit = |place: u32| b'0' + (self.0 / place % 10) as u8;
        [digit(100_000), digit(10_000), digit(1_000), digit(100), b'-', digit(10), digit(1)]
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_text().into_iter().try_for_each(|byte| fmt::Write::write_char(f, byte as char))
    }
}

/// A month with its bounds: which month an instant lies in is asked several times a call, and the
/// calendar's divisions take longer than the rest of the decision's arithmetic.
#[derive(Clone, Copy, Debug)]
pub struct Month {
    /// Which.
    pub period: Period,
    starts_at_unix_us: i64,
    ends_at_unix_us: i64,
}

impl Month {
    /// The month of `unix_us`.
    pub const fn of(unix_us: i64) -> Self {
        let period = Period::of(unix_us);
        Self {
            period,
            starts_at_unix_us: period.starts_at_unix_us(),
            ends_at_unix_us: period.next().starts_at_unix_us(),
        }
    }

    /// This month if `unix_us` lies in it, else its own.
    #[must_use]
    pub(crate) const fn or_of(self, unix_us: i64) -> Self {
        if self.starts_at_unix_us <= unix_us && unix_us < self.ends_at_unix_us {
            return self;
        }
        Self::of(unix_us)
    }

    /// From `unix_us`, which lies in it, to its end.
    pub const fn left(self, unix_us: i64) -> Nanos {
        Nanos(self.ends_at_unix_us.abs_diff(unix_us).saturating_mul(1_000))
    }
}

/// Crockford's base 32, lower case: no `i`, `l`, `o`, `u`.
pub const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of an identity as text: 60 bits, five to a character.
pub const ID_CHARS: usize = 12;
/// The largest identity.
pub const ID_MAX: u64 = (1 << 60) - 1;

/// The value of a character of [`BASE32`].
pub fn base32_digit(byte: u8) -> Option<u8> {
    const NONE: u8 = u8::MAX;
    const DIGITS: [u8; 256] = {
        let mut digits = [NONE; 256];
        let mut digit = 0;
        while digit < BASE32.len() {
            digits[BASE32[digit] as usize] = digit as u8;
            digit += 1;
        }
        digits
    };
    Some(DIGITS[usize::from(byte)]).filter(|digit| *digit != NONE)
}

/// Writes the low 60 bits of `id` as 12 characters.
pub fn id_to_text(id: u64) -> [u8; ID_CHARS] {
    let mut text = [0u8; ID_CHARS];
    for (place, byte) in text.iter_mut().enumerate() {
        *byte = BASE32[(id >> (5 * (ID_CHARS - 1 - place)) & 31) as usize];
    }
    text
}

/// Reads what [`id_to_text`] wrote; `None` for anything else.
pub fn id_from_text(text: &[u8]) -> Option<u64> {
    if text.len() != ID_CHARS {
        return None;
    }
    let mut id = 0u64;
    for byte in text {
        id = id << 5 | u64::from(base32_digit(*byte)?);
    }
    Some(id)
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for byte in id_to_text(self.0) {
                    fmt::Write::write_char(f, byte as char)?;
                }
                Ok(())
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;
            fn from_str(text: &str) -> Result<Self, NotAnId> {
                id_from_text(text.as_bytes()).map(Self).ok_or(NotAnId)
            }
        }
    };
}

/// The text is not 12 characters of [`BASE32`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnId;

identity!(
    /// Who pays: owner of keys, of the monthly quota and of the price tiers' month.
    ConsumerId
);
identity!(
    /// One API key.
    KeyId
);
identity!(
    /// What one rate limit is counted under. A key rotated with grace shares its successor's.
    BucketId
);
identity!(
    /// A service of the marketplace, one upstream.
    ServiceId
);
identity!(
    /// A plan: rate, burst and quota.
    PlanId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_begin_and_end_where_the_calendar_says() {
        for (unix_s, period) in [
            (0, 197_001),
            (951_782_399, 200_002),
            (951_868_800, 200_003),
            (1_795_564_799, 202_611),
            (1_796_083_199, 202_611),
            (1_796_083_200, 202_612),
            (1_798_761_600, 202_701),
        ] {
            assert_eq!(Period::of(unix_s * 1_000_000), Period(period), "{unix_s}");
        }
        let mut period = Period(197_001);
        while period < Period(240_001) {
            let start = period.starts_at_unix_us();
            assert_eq!(Period::of(start), period);
            let (year, month) = (period.0 / 100, period.0 % 100);
            assert_eq!(period.to_string(), format!("{year:04}-{month:02}"));
            assert_eq!(Period::of(period.next().starts_at_unix_us() - 1), period);
            let month = Month::of(start);
            let end = period.next().starts_at_unix_us();
            assert_eq!(
                (month.or_of(end - 1).period, month.or_of(end).period),
                (period, period.next())
            );
            assert_eq!(
                (month.or_of(start - 1).period.next(), month.left(end - 1)),
                (period, Nanos(1_000))
            );
            period = period.next();
        }
    }

    #[test]
    fn identities_round_trip_as_text() {
        for id in [0, 1, 31, 32, ID_MAX, 0x0123_4567_89ab_cdef & ID_MAX] {
            assert_eq!(KeyId(id).to_string().parse(), Ok(KeyId(id)));
        }
        assert_eq!("short".parse::<KeyId>(), Err(NotAnId));
        assert_eq!("iiiiiiiiiiii".parse::<KeyId>(), Err(NotAnId));
    }
}
