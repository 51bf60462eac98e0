//! Wall times as text: RFC 3339 in UTC with microseconds, and calendar days. Labels only: no
//! decision is taken on what is written here.

use shard::units::DAY_US;

/// `2026-11-23T21:00:00.123456Z`.
pub(crate) fn rfc3339(unix_us: i64) -> String {
    let in_day_us = unix_us.rem_euclid(DAY_US);
    let (s, us) = (in_day_us / 1_000_000, in_day_us % 1_000_000);
    let (h, m) = (s / 3_600, s / 60 % 60);
    format!("{}T{h:02}:{m:02}:{:02}.{us:06}Z", day(unix_us), s % 60)
}

/// `2026-11-23`, the day (UTC) that `unix_us` lies in.
/// Days to civil date after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
pub(crate) fn day(unix_us: i64) -> String {
    let days = unix_us.div_euclid(DAY_US) + 719_468;
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + days.div_euclid(146_097) * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The first microsecond of `2026-11-23`.
pub(crate) fn parse_day(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let (year, month, date) = (number(&bytes[..4])?, number(&bytes[5..7])?, number(&bytes[8..])?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&date) {
        return None;
    }
    let shifted = if month <= 2 { year - 1 } else { year };
    let year_of_era = shifted.rem_euclid(400);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + date - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let unix_us = (shifted.div_euclid(400) * 146_097 + day_of_era - 719_468) * DAY_US;
    // A date that its month does not have would come back as another one.
    (day(unix_us) == text).then_some(unix_us)
}

/// Reads RFC 3339 with any offset and any fraction (cut to microseconds).
pub(crate) fn parse_rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() < 20 || !text.is_ascii() || !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    if bytes[13] != b':' || bytes[16] != b':' {
        return None;
    }
    let (h, m, s) = (number(&bytes[11..13])?, number(&bytes[14..16])?, number(&bytes[17..19])?);
    if h > 23 || m > 59 || s > 60 {
        return None;
    }
    let mut rest = &bytes[19..];
    let mut us = 0;
    if let [b'.', fraction @ ..] = rest {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let kept = number(&fraction[..digits.min(6)])?;
        us = kept * 10_i64.pow(6 - digits.min(6) as u32);
        rest = &fraction[digits..];
    }
    let offset_min = match rest {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (h, m) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
            if h > 23 || m > 59 {
                return None;
            }
            if *sign == b'+' { h * 60 + m } else { -(h * 60 + m) }
        }
        _ => return None,
    };
    Some(parse_day(&text[..10])? + ((h * 60 + m - offset_min) * 60 + s) * 1_000_000 + us)
}

fn number(digits: &[u8]) -> Option<i64> {
    let mut sum = 0;
    for byte in digits {
        sum = sum * 10 + i64::from(byte.is_ascii_digit().then(|| byte - b'0')?);
    }
    (!digits.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_instants_read_and_write() {
        for (text, unix_us) in [
            ("1970-01-01T00:00:00.000000Z", 0),
            ("2024-02-29T23:59:59.999999Z", 1_709_251_199_999_999),
            ("2026-11-23T21:02:54.000001Z", 1_795_467_774_000_001),
        ] {
            assert_eq!(rfc3339(unix_us), text);
            assert_eq!(parse_rfc3339(text), Some(unix_us), "{text}");
        }
        assert_eq!(parse_rfc3339("2026-11-23T21:02:54+01:30"), Some(1_795_462_374_000_000));
        assert_eq!(parse_rfc3339("1970-01-01T00:00:00.5Z"), Some(500_000));
        assert_eq!(parse_rfc3339("1970-01-01T00:00:00.1234567Z"), Some(123_456));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "2026-02-30", "2026-13-01", "2026-1-01", "+026-01-01", "2026-01-01T00"] {
            assert_eq!(parse_day(text), None, "{text}");
        }
        for text in [
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+0100",
            "2026-01-01T00:00:00Zx",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_instant_round_trips(unix_us in 0..4_102_444_800_000_000_i64) {
            prop_assert_eq!(parse_rfc3339(&rfc3339(unix_us)), Some(unix_us));
        }
    }
}
