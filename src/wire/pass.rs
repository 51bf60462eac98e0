//! What passes the gateway and what ends at it: one list for each direction, and nowhere else.
//!
//! Names are compared without regard to case, and `_` counts as `-`: many servers make one name
//! of the two, so `X_Api_Key` is as good a credential there as `x-api-key`. Fields of one hop
//! (`Connection` and those that it names) end before these lists are asked.

use super::head::is_hop_by_hop;

/// Fields of a request that the gateway writes itself, or that end at it.
const ENDS_HERE: [&[u8]; 6] = [
    b"host",
    b"content-length",
    b"expect",
    b"x-request-id",
    b"accept-encoding",
    b"x-tollgate-timeout-ms",
];

/// What a word of a field's name says of the field.
#[derive(Clone, Copy)]
enum Says {
    /// The field carries a credential. Longer words that end in this one say so too.
    Secret,
    /// The same, but only as the name's last word or right after an [`Says::OfSecrets`]:
    /// `x-max-token-count` and `x-key-frame` carry none.
    SecretAtTheEnd,
    /// A [`Says::SecretAtTheEnd`] right after this word counts wherever it stands.
    OfSecrets,
    /// A `key` beside it is no credential: `idempotency-key`.
    NoSecret,
}

const WORDS: [(&[u8], Says); 21] = [
    (b"authorization", Says::Secret),
    (b"secret", Says::Secret),
    (b"cookie", Says::Secret),
    (b"cookies", Says::Secret),
    (b"cookie2", Says::Secret),
    (b"password", Says::Secret),
    (b"credential", Says::Secret),
    (b"credentials", Says::Secret),
    (KEY_WORD, Says::SecretAtTheEnd),
    (b"token", Says::SecretAtTheEnd),
    (b"auth", Says::SecretAtTheEnd),
    (b"jwt", Says::SecretAtTheEnd),
    (b"api", Says::OfSecrets),
    (b"auth", Says::OfSecrets),
    (b"access", Says::OfSecrets),
    (b"security", Says::OfSecrets),
    (b"session", Says::OfSecrets),
    (b"bearer", Says::OfSecrets),
    (b"subscription", Says::OfSecrets),
    (b"idempotency", Says::NoSecret),
    (b"cache", Says::NoSecret),
];
const KEY_WORD: &[u8] = b"key";

/// Fields of an answer that say who the upstream is, that bind a browser to it, or that the
/// gateway answers for itself.
const STAYS_BEHIND: [&[u8]; 16] = [
    b"content-length",
    b"x-request-id",
    b"request-id",
    b"server",
    b"via",
    b"alt-svc",
    b"strict-transport-security",
    b"www-authenticate",
    b"nel",
    b"report-to",
    b"x-runtime",
    b"x-served-by",
    b"timing-allow-origin",
    b"openai-organization",
    b"openai-project",
    b"anthropic-organization-id",
];
/// The same, by how their names begin.
const STAYS_BEHIND_STARTS: [&[u8]; 11] = [
    b"access-control-",
    b"x-ratelimit-",
    b"anthropic-ratelimit-",
    b"x-tollgate-",
    b"x-powered-by",
    b"x-aspnet",
    b"x-backend",
    b"x-upstream",
    b"x-envoy-",
    b"x-kong-",
    b"cf-",
];

/// What of a call's target decides what passes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PassTarget<'a> {
    /// `host[:port]`.
    pub authority: &'a [u8],
    /// The header line that carries its credential, if it has one.
    pub credential_line: Option<&'a [u8]>,
}

impl PassTarget<'_> {
    /// May this field of a request go on to the upstream? `key` is the caller's, which stays
    /// here in whatever field it stands.
    pub(crate) fn takes(&self, name: &[u8], value: &[u8], key: &[u8]) -> bool {
        !(is_one_of(name, &ENDS_HERE)
            || is_credential(name)
            || has_underscore(name) && is_hop_by_hop(&dashed(name))
            || self.is_its_credential(name)
            || holds(value, key))
    }

    /// May this field of an answer go on to the caller?
    pub(crate) fn gives(&self, name: &[u8], value: &[u8]) -> bool {
        let starts = |start: &&[u8]| name.len() >= start.len() && same(&name[..start.len()], start);
        let is_place = same(name, b"location") || same(name, b"content-location");
        !(is_one_of(name, &STAYS_BEHIND)
            || STAYS_BEHIND_STARTS.iter().any(starts)
            || is_credential(name)
            || self.is_its_credential(name)
            || is_place && !self.is_public_place(value))
    }

    fn is_its_credential(&self, name: &[u8]) -> bool {
        let Some(line) = self.credential_line else { return false };
        line.split(|byte| *byte == b':').next().is_some_and(|own| same(own, name))
    }

    /// Is it a whole address on another, public host? A path, or the upstream's own address, would
    /// lead a caller past the gateway.
    fn is_public_place(&self, place: &[u8]) -> bool {
        let Some((scheme, rest)) = split_at_text(place, b"://") else { return false };
        if !(same(scheme, b"http") || same(scheme, b"https")) {
            return false;
        }
        let authority = rest.split(|byte| b"/?#".contains(byte)).next().unwrap_or_default();
        let host = host_of(authority);
        let last = host.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
        const PRIVATE: [&[u8]; 8] = [
            b"local",
            b"localhost",
            b"internal",
            b"intranet",
            b"lan",
            b"home",
            b"svc",
            b"localdomain",
        ];
        host.contains(&b'.')
            && !authority.contains(&b'@')
            && last.iter().all(|byte| byte.is_ascii_alphabetic())
            && !is_one_of(last, &PRIVATE)
            && !same(host, host_of(self.authority))
    }
}

/// Does a field of this name carry a credential?
fn is_credential(name: &[u8]) -> bool {
    let mut words = name.split(|byte| matches!(byte, b'-' | b'_' | b'.')).peekable();
    let (mut secret, mut of_secrets, mut no_secret) = (None, false, false);
    while let Some(word) = words.next() {
        let may_end = words.peek().is_none() || std::mem::take(&mut of_secrets);
        for (known, says) in WORDS.iter().filter(|(known, _)| ends_in(word, known)) {
            let is_whole = word.len() == known.len();
            match says {
                Says::SecretAtTheEnd if is_whole && !may_end => {}
                Says::Secret | Says::SecretAtTheEnd => secret = secret.or(Some(*known)),
                Says::OfSecrets => of_secrets |= is_whole,
                Says::NoSecret => no_secret |= is_whole,
            }
        }
    }
    secret.is_some_and(|known| known != KEY_WORD || !no_secret)
}

fn ends_in(word: &[u8], known: &[u8]) -> bool {
    // Most words differ in their last letter already.
    word.last().map(u8::to_ascii_lowercase) == known.last().copied()
        && word.len() >= known.len()
        && same(&word[word.len() - known.len()..], known)
}

fn is_one_of(name: &[u8], known: &[&[u8]]) -> bool {
    known.iter().any(|known| same(name, known))
}

/// Are these the same name, whatever its case, and with `_` or `-`?
fn same(a: &[u8], b: &[u8]) -> bool {
    let plain = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    a.len() == b.len() && a.iter().map(plain).eq(b.iter().map(plain))
}

fn has_underscore(name: &[u8]) -> bool {
    memchr::memchr(b'_', name).is_some()
}

/// Only for names with an underscore, which no client of good manners sends.
fn dashed(name: &[u8]) -> Vec<u8> {
    name.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect()
}

fn holds(value: &[u8], key: &[u8]) -> bool {
    value.len() >= key.len() && !key.is_empty() && memchr::memmem::find(value, key).is_some()
}

fn split_at_text<'a>(text: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = memchr::memmem::find(text, mark)?;
    Some((&text[..at], &text[at + mark.len()..]))
}

/// `host` of `host[:port]`.
fn host_of(authority: &[u8]) -> &[u8] {
    let bytes = match authority.first() {
        Some(b'[') => authority.iter().take_while(|byte| **byte != b']').count() + 1,
        _ => authority.iter().take_while(|byte| **byte != b':').count(),
    };
    &authority[..bytes.min(authority.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"tg_0123456789";
    const UPSTREAM: PassTarget<'_> = PassTarget {
        authority: b"models.example:8080",
        credential_line: Some(b"x-vendor: sk-secret"),
    };

    fn takes(name: &str) -> bool {
        UPSTREAM.takes(name.as_bytes(), b"1", KEY)
    }

    fn gives(name: &str, value: &str) -> bool {
        UPSTREAM.gives(name.as_bytes(), value.as_bytes())
    }

    #[test]
    fn no_credential_of_a_caller_goes_on() {
        for name in [
            "Authorization",
            "proxy_authorization",
            "x-api-key",
            "X_Api_Key",
            "api-key",
            "ApiKey",
            "x-goog-api-key",
            "Ocp-Apim-Subscription-Key",
            "x-functions-key",
            "cookie",
            "Cookie2",
            "x-auth-token",
            "X-Amz-Security-Token",
            "x-access-token",
            "token",
            "x-client-secret",
            "x-password",
            "x-api-key-2",
            "x_access_token_b",
            "x-vendor",
            "X_Vendor",
            "host",
            "Content_Length",
            "transfer_encoding",
            "expect",
        ] {
            assert!(!takes(name), "{name}");
        }
        assert!(!UPSTREAM.takes(b"x-note", b"it is tg_0123456789!", KEY));
    }

    #[test]
    fn what_a_call_needs_goes_on() {
        for name in [
            "accept",
            "content-type",
            "user-agent",
            "traceparent",
            "tracestate",
            "baggage",
            "Idempotency-Key",
            "x-prompt-cache-key",
            "openai-beta",
            "OpenAI-Organization",
            "anthropic-version",
            "anthropic-beta",
            "x-stainless-os",
            "x-max-tokens",
            "x-mock-inter-token-ms",
            "x-key-frame",
            "x-session-id",
        ] {
            assert!(takes(name), "{name}");
        }
        assert!(UPSTREAM.takes(b"x-note", b"tg_0", KEY) && UPSTREAM.takes(b"a", b"b", b""));
    }

    #[test]
    fn what_names_the_upstream_stays_behind() {
        for name in [
            "Server",
            "via",
            "X-Powered-By",
            "access-control-allow-origin",
            "Access-Control-Expose-Headers",
            "set-cookie",
            "x-vendor",
            "x-api-key",
            "alt-svc",
            "x-ratelimit-limit-requests",
            "anthropic-ratelimit-tokens-limit",
            "x-tollgate-cost-nanousd",
            "request-id",
            "openai-organization",
            "cf-ray",
            "x-envoy-upstream-service-time",
        ] {
            assert!(!gives(name, "1"), "{name}");
        }
        for name in ["content-type", "date", "etag", "openai-processing-ms", "retry-after", "x-a"] {
            assert!(gives(name, "1"), "{name}");
        }
    }

    #[test]
    fn a_place_is_told_only_where_a_caller_can_go() {
        for place in [
            "/v1/x",
            "x",
            "//models.example/x",
            "http://models.example/x",
            "https://MODELS.example:9/x",
            "http://10.0.0.7/x",
            "http://[::1]:80/x",
            "http://localhost/x",
            "http://gpu-7/x",
            "http://gpu.svc/x",
            "http://gpu.cluster.local:8000/x",
            "http://u:p@cdn.example/x",
            "ftp://cdn.example/x",
        ] {
            assert!(!gives("location", place) && !gives("Content-Location", place), "{place}");
        }
        assert!(gives("Location", "https://cdn.example/x") && gives("location", "http://a.b:1"));
    }
}
