//! How amounts and texts are given on the command line. Amounts are exact: nothing here is a
//! floating-point number.

use serde_json::{Map, Value};
use std::io::Read;
use std::net::SocketAddr;

/// Digits after the point of an amount in USD: nano-USD.
const USD_DECIMALS: usize = 9;

/// The name of something new: `create NAME` or `create --name NAME`.
#[derive(clap::Args, Debug)]
pub(super) struct NewName {
    /// What it is called; no two of a kind may share a name
    #[arg(value_name = "NAME", required_unless_present = "name")]
    plain: Option<String>,
    /// The same
    #[arg(long, conflicts_with = "plain")]
    name: Option<String>,
}

impl NewName {
    /// The name.
    pub(super) fn text(&self) -> &str {
        self.plain.as_deref().or(self.name.as_deref()).unwrap_or_default()
    }
}

/// A count such as `250000`, `250_000`, `250k`, `10M` or `1G` (thousands, not 1024s).
pub(super) fn count(text: &str) -> Result<u64, String> {
    let allowed = || format!("{text:?} is not a count such as 250000, 250k, 10M or 1G");
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1_000),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1_000_000),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let digits = digits.replace('_', "");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(allowed());
    }
    let value: u64 = digits.parse().map_err(|_| allowed())?;
    value.checked_mul(unit).ok_or_else(allowed)
}

/// USD such as `20`, `2.50` or `0.000000001` as nano-USD.
pub(super) fn nanousd(text: &str) -> Result<u64, String> {
    let allowed =
        || format!("{text:?} is not an amount in USD such as 20 or 2.50 (at most 9 decimals)");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > USD_DECIMALS {
        return Err(allowed());
    }
    let whole: u64 = whole.parse().map_err(|_| allowed())?;
    let fraction: u64 = format!("{fraction:0<USD_DECIMALS$}").parse().map_err(|_| allowed())?;
    whole.checked_mul(1_000_000_000).and_then(|nano| nano.checked_add(fraction)).ok_or_else(allowed)
}

/// An address to listen on.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "give an IP address with a port, such as 127.0.0.1:3000 or [::]:3000; port 0: any that \
         is free"
            .to_string()
    })
}

/// Where a model server is: `http://host:port`, without a slash at its end.
pub(super) fn server_url(text: &str) -> Result<String, String> {
    match text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/')) {
        Some(rest) if !rest.is_empty() => Ok(format!("http://{rest}")),
        _ => Err("give a URL such as http://127.0.0.1:9000".to_string()),
    }
}

/// A text, or `@FILE` for a file's, or `@-` for stdin's, so that no secret has to stand where
/// every process can read it.
pub(super) fn text_or_file(given: &str) -> Result<String, String> {
    const BYTES_MAX: u64 = 1 << 20;
    let Some(path) = given.strip_prefix('@') else {
        return Ok(given.to_string());
    };
    let mut text = String::new();
    let read = match path {
        "-" => std::io::stdin().take(BYTES_MAX).read_to_string(&mut text),
        path => std::fs::File::open(path)
            .and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text)),
    };
    read.map_err(|error| format!("{given}: {error}"))?;
    Ok(text.trim().to_string())
}

/// A request's body: the fields that were given.
pub(super) fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?)));
    Value::Object(Map::from_iter(given))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::{address, count, nanousd, server_url, text_or_file};
    use crate::cli::render::usd;
    use proptest::prelude::*;

    #[test]
    fn counts_have_units() {
        for (text, expected) in [
            ("0", 0),
            ("250_000", 250_000),
            ("250k", 250_000),
            ("10M", 10_000_000),
            ("1G", 1_000_000_000),
        ] {
            assert_eq!(count(text), Ok(expected));
        }
        for text in ["", "k", "-1", "+1", "1.5M", "1 M", "1T", "99999999999G", "é"] {
            assert!(count(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_and_urls_say_what_they_are() {
        assert_eq!(address("[::1]:0").map(|it| it.port()), Ok(0));
        assert!(address("localhost:3000").unwrap_err().contains("127.0.0.1:3000"));
        assert_eq!(server_url("http://up:1/").as_deref(), Ok("http://up:1"));
        for text in ["up:1", "http://", "https://up", ""] {
            assert!(server_url(text).unwrap_err().contains("http://"), "{text}");
        }
    }

    #[test]
    fn amounts_are_exact() {
        for (text, expected) in [
            ("20", 20_000_000_000),
            ("2.50", 2_500_000_000),
            ("0.000000001", 1),
            ("18446744073.709551615", u64::MAX),
        ] {
            assert_eq!(nanousd(text), Ok(expected));
        }
        for text in
            ["", ".", "1.", ".5", "-1", "1e3", "1,5", "0.0000000001", "18446744073.709551616", "$1"]
        {
            assert!(nanousd(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_text_may_be_in_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "sk-secret\n").unwrap();
        let given = format!("@{}", file.path().display());
        assert_eq!(text_or_file(&given).unwrap(), "sk-secret");
        assert_eq!(text_or_file("plain").unwrap(), "plain");
        assert!(text_or_file("@/no/such/file").unwrap_err().starts_with("@/no/such/file: "));
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_given(nano in any::<u64>()) {
            prop_assert_eq!(nanousd(&usd(u128::from(nano)).replace(',', "")), Ok(nano));
        }
    }
}
