//! A service's `base_url`: read by hand, because `http[s]://host[:port][/prefix]` is all there is
//! to it.

use std::net::Ipv6Addr;

const URL_BYTES_MAX: usize = 2_048;

/// The parts of a base URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UpstreamUrl {
    /// It begins with `https`.
    pub(crate) is_tls: bool,
    /// `host[:port]`, as given.
    pub(crate) authority: String,
    /// Path prefix without a trailing slash, often empty.
    pub(crate) base_path: String,
}

/// Reads a base URL; the error completes the sentence "base_url …".
pub(crate) fn parse(url: &str) -> Result<UpstreamUrl, &'static str> {
    let is_tls = url.starts_with("https://");
    let Some(rest) = url.strip_prefix(if is_tls { "https://" } else { "http://" }) else {
        return Err("must begin with https:// or http://");
    };
    if url.len() > URL_BYTES_MAX || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("must be at most 2048 visible ASCII characters");
    }
    if rest.contains(['?', '#', '@', '\\', '"', '<', '>']) {
        return Err(
            "must be http[s]://host[:port][/prefix], without credentials, query or fragment",
        );
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if !is_authority(authority) {
        return Err("must name a host, and a port from 1 to 65535 if any");
    }
    Ok(UpstreamUrl {
        is_tls,
        authority: authority.to_owned(),
        base_path: path.trim_end_matches('/').to_owned(),
    })
}

impl UpstreamUrl {
    /// `host:port` to connect to: a name to look up, or an address.
    pub(crate) fn host_port(&self) -> String {
        host_port(&self.authority, self.is_tls)
    }
}

/// `host:port` of a service's `host[:port]`; the port is the scheme's where none is given.
pub(crate) fn host_port(authority: &str, is_tls: bool) -> String {
    let port = if is_tls { 443 } else { 80 };
    let has_port = authority.is_empty() || port_of(authority).is_some();
    if has_port { authority.to_owned() } else { format!("{authority}:{port}") }
}

/// Do host and port have the right form?
fn is_authority(authority: &str) -> bool {
    let Some(port) = port_of(authority) else { return is_host(authority) };
    let host = &authority[..authority.len() - port.len() - 1];
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
    is_host(host) && is_port && port.parse().is_ok_and(|number: u16| number > 0)
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(host: &str) -> bool {
    let is_in_name = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    let in_brackets = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match in_brackets {
        Some(address) => !address.contains('.') && address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(is_in_name),
    }
}

/// What follows the last colon, unless that colon is inside of `[…]`.
fn port_of(authority: &str) -> Option<&str> {
    let (_, port) = authority.rsplit_once(':')?;
    (!port.contains(']')).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_found() {
        for (url, authority, base_path) in [
            ("http://a", "a", ""),
            ("https://a/v1", "a", "/v1"),
            ("http://a.example:8080/", "a.example:8080", ""),
            ("http://[::1]:80/v2//", "[::1]:80", "/v2"),
            ("http://[::1]/a/b", "[::1]", "/a/b"),
        ] {
            let parts = UpstreamUrl {
                is_tls: url.starts_with("https"),
                authority: authority.to_owned(),
                base_path: base_path.to_owned(),
            };
            assert_eq!(parse(url), Ok(parts), "{url}");
        }
    }

    #[test]
    fn other_urls_are_refused() {
        for url in [
            "",
            "a",
            "ftp://a",
            "https:/a",
            "HTTPS://a",
            "http://",
            "http:///x",
            "http://:80",
            "http://a:0",
            "http://a:70000",
            "http://a:+80",
            "http://u@a",
            "http://a/?q",
            "http://a/#f",
            "http://a b",
            "http://[::1",
            "http://ü",
            "http://a:b:80",
            "http://a!b",
            "http://[]",
            "http://[x]:80",
            "http://[48fd6]",
            "http://[1:2:3:4:5:6:7]",
        ] {
            assert!(parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn the_port_is_the_schemes_where_none_is_given() {
        for (url, to) in [
            ("http://127.0.0.1", "127.0.0.1:80"),
            ("https://[::1]/v1", "[::1]:443"),
            ("https://a.example:81", "a.example:81"),
        ] {
            assert_eq!(parse(url).map(|url| url.host_port()), Ok(to.to_owned()));
        }
    }
}
