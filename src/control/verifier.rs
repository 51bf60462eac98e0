//! Answers shards that have met a key for the first time. Argon2id runs on threads of its own,
//! a bounded number with a bounded queue, and only for a key id that exists, within the budgets
//! of failures. Each text is checked once for all shards, at the same time or later.
//!
//! What is kept of a check is whether this text matches that key's hash: true for ever, because
//! a key's secret never changes (a rotated key has a new id). The verdict is made from the book
//! when it is sent, so nothing here has to be dropped at a revocation.

use super::book::Book;
use super::failures::Failures;
use super::secret;
use crate::config::Keys;
use crate::metrics::ControlMetrics;
use crate::wire::key_text;
use shard::message::{KEY_TEXT_BYTES, KeyDigest, Verdict};
use shard::units::{KeyId, Moment};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Texts that matched, remembered for the instance's other shards.
const MATCHED_MAX: usize = 131_072;
/// Texts that did not.
const WRONG_MAX: usize = 16_384;

/// A shard's question. No `Debug`: it holds a key.
pub(crate) struct Question {
    /// Who asks.
    pub(crate) shard: u16,
    /// Keyed digest of `text`.
    pub(crate) digest: KeyDigest,
    /// The key.
    pub(crate) text: [u8; KEY_TEXT_BYTES],
    /// The caller's address.
    pub(crate) peer: IpAddr,
}

/// A thread's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    /// Of the text.
    pub(crate) digest: KeyDigest,
    matches: bool,
}

struct Job {
    digest: KeyDigest,
    text: [u8; KEY_TEXT_BYTES],
    secret_hash: Arc<str>,
}

/// A check under way.
struct Flight {
    key: KeyId,
    network: IpAddr,
    shards: Vec<u16>,
}

/// See the module.
pub(crate) struct Verifier {
    jobs: flume::Sender<Job>,
    flights: HashMap<KeyDigest, Flight>,
    matched: Recent,
    wrong: Recent,
    by_network: Failures<IpAddr>,
    by_key: Failures<KeyId>,
}

impl Verifier {
    /// Starts the threads; they end when the verifier is dropped. What they find out comes by
    /// the channel and belongs into [`Verifier::checked`].
    pub(crate) fn start(config: &Keys) -> std::io::Result<(Self, flume::Receiver<Checked>)> {
        let (jobs, waiting) = flume::bounded::<Job>(config.verifier_queue_max);
        // As many as can be under way: no thread ever waits to answer.
        let (found, checks) =
            flume::bounded(config.verifier_queue_max.saturating_add(config.verifier_threads));
        for number in 0..config.verifier_threads {
            let (waiting, found) = (waiting.clone(), found.clone());
            std::thread::Builder::new().name(format!("verify-{number}")).spawn(move || {
                while let Ok(Job { digest, text, secret_hash }) = waiting.recv() {
                    let matches = secret::matches(&text, &secret_hash);
                    if found.send(Checked { digest, matches }).is_err() {
                        return;
                    }
                }
            })?;
        }
        Ok((Self::new(config, jobs), checks))
    }

    fn new(config: &Keys, jobs: flume::Sender<Job>) -> Self {
        Self {
            jobs,
            flights: HashMap::new(),
            matched: Recent::new(MATCHED_MAX),
            wrong: Recent::new(WRONG_MAX),
            by_network: Failures::new(config.failures_per_minute_per_address),
            by_key: Failures::new(config.failures_per_minute_per_key),
        }
    }

    /// From now on, these budgets of failures. Threads and queue are those of the start.
    pub(crate) fn set_budgets(&mut self, config: &Keys) {
        self.by_network.set_budget(config.failures_per_minute_per_address);
        self.by_key.set_budget(config.failures_per_minute_per_key);
    }

    /// Answers at once, or later by [`Verifier::checked`].
    pub(crate) fn ask(
        &mut self,
        question: &Question,
        book: &Book,
        at: Moment,
        metrics: &ControlMetrics,
    ) -> Option<Verdict> {
        let Some(key) = key_text::parse(&question.text).map(|text| KeyId(text.id)) else {
            metrics.verified_refused.add(1);
            return Some(Verdict::Refused);
        };
        let Some(secret_hash) = book.secret_hash(key, at) else {
            metrics.verified_refused.add(1);
            return Some(Verdict::Refused);
        };
        if self.matched.has(&question.digest) {
            metrics.verified_cached.add(1);
            return Some(verdict(book, key, at));
        }
        if self.wrong.has(&question.digest) {
            metrics.verified_refused.add(1);
            return Some(Verdict::Refused);
        }
        if let Some(flight) = self.flights.get_mut(&question.digest) {
            flight.shards.push(question.shard);
            return None;
        }
        let network = network_of(question.peer);
        let digest = question.digest;
        let is_allowed =
            self.by_network.may_fail(network, at.now) && self.by_key.may_fail(key, at.now);
        let job = Job { digest, text: question.text, secret_hash };
        if !is_allowed || self.jobs.try_send(job).is_err() {
            metrics.verified_busy.add(1);
            return Some(Verdict::Busy);
        }
        self.flights.insert(digest, Flight { key, network, shards: vec![question.shard] });
        None
    }

    /// A thread is done: the verdict, and who waits for it.
    pub(crate) fn checked(
        &mut self,
        checked: Checked,
        book: &Book,
        at: Moment,
        metrics: &ControlMetrics,
    ) -> (Vec<u16>, Verdict) {
        let Some(flight) = self.flights.remove(&checked.digest) else {
            return (Vec::new(), Verdict::Refused);
        };
        let verdict = if checked.matches {
            self.matched.insert(checked.digest);
            verdict(book, flight.key, at)
        } else {
            self.wrong.insert(checked.digest);
            self.by_network.charge(flight.network, at.now);
            self.by_key.charge(flight.key, at.now);
            Verdict::Refused
        };
        match verdict {
            Verdict::Granted(_) => metrics.verified_granted.add(1),
            _ => metrics.verified_refused.add(1),
        }
        (flight.shards, verdict)
    }
}

fn verdict(book: &Book, key: KeyId, at: Moment) -> Verdict {
    book.grant(key, at).map_or(Verdict::Refused, |grant| Verdict::Granted(Box::new(grant)))
}

/// Whose budget a caller spends: an IPv6 network has more addresses than there are budgets.
fn network_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        v4 => v4,
    }
}

/// A set that forgets: at least the last half of its bound is remembered.
struct Recent {
    half_max: usize,
    new: HashSet<KeyDigest>,
    old: HashSet<KeyDigest>,
}

impl Recent {
    fn new(max: usize) -> Self {
        Self { half_max: max / 2, new: HashSet::new(), old: HashSet::new() }
    }

    fn has(&self, digest: &KeyDigest) -> bool {
        self.new.contains(digest) || self.old.contains(digest)
    }

    fn insert(&mut self, digest: KeyDigest) {
        if self.new.len() >= self.half_max {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(digest);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::super::book::tests::{book_with_key, key_row};
    use super::*;
    use shard::units::Nanos;

    const KEY: KeyId = KeyId(7);
    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn config() -> Keys {
        Keys {
            argon2_memory_kib: 8,
            argon2_passes: 1,
            verifier_threads: 1,
            verifier_queue_max: 4,
            failures_per_minute_per_address: 3,
            failures_per_minute_per_key: 100,
        }
    }

    fn at() -> Moment {
        Moment { now: Nanos::from_s(1_000), unix_us: 0 }
    }

    fn text(secret: u8) -> [u8; KEY_TEXT_BYTES] {
        key_text::compose(KEY.0, &[secret; 16])
    }

    fn question(shard: u16, secret: u8) -> Question {
        Question { shard, digest: [secret; 32], text: text(secret), peer: PEER }
    }

    /// Real threads, and a book with a real key.
    fn started() -> (Verifier, flume::Receiver<Checked>, Book, Question) {
        let (verifier, checks) = Verifier::start(&config()).unwrap();
        let (text, hash) = secret::make(KEY, &config()).unwrap();
        let text = text.as_bytes().try_into().unwrap();
        let question = Question { shard: 0, digest: [1; 32], text, peer: PEER };
        (verifier, checks, book_with_key(KEY, &hash), question)
    }

    fn is_granted(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Granted(grant) if grant.key == KEY)
    }

    #[test]
    fn a_right_key_is_checked_once_for_all_shards() {
        let (mut verifier, checks, book, mut question) = started();
        let metrics = ControlMetrics::default();
        assert_eq!(verifier.ask(&question, &book, at(), &metrics), None);
        question.shard = 1;
        assert_eq!(verifier.ask(&question, &book, at(), &metrics), None);
        let checked = checks.recv().unwrap();
        let (shards, verdict) = verifier.checked(checked, &book, at(), &metrics);
        assert_eq!(shards, [0, 1]);
        assert!(is_granted(&verdict));
        question.shard = 2;
        assert!(is_granted(&verifier.ask(&question, &book, at(), &metrics).unwrap()));
        assert_eq!((metrics.verified_granted.get(), metrics.verified_cached.get()), (1, 1));
        assert!(checks.is_empty());
    }

    #[test]
    fn a_wrong_secret_and_an_unknown_key_are_refused() {
        let (mut verifier, checks, book, _) = started();
        let metrics = ControlMetrics::default();
        assert_eq!(verifier.ask(&question(0, 9), &book, at(), &metrics), None);
        let checked = checks.recv().unwrap();
        assert_eq!(verifier.checked(checked, &book, at(), &metrics), (vec![0], Verdict::Refused));
        let again = verifier.ask(&question(1, 9), &book, at(), &metrics);
        assert_eq!(again, Some(Verdict::Refused));
        let unknown = Question { text: key_text::compose(8, &[1; 16]), ..question(0, 2) };
        assert_eq!(verifier.ask(&unknown, &book, at(), &metrics), Some(Verdict::Refused));
        let broken = Question { text: [b'x'; KEY_TEXT_BYTES], ..question(0, 3) };
        assert_eq!(verifier.ask(&broken, &book, at(), &metrics), Some(Verdict::Refused));
    }

    #[test]
    fn a_key_revoked_under_way_does_not_come_back() {
        let (mut verifier, checks, mut book, question) = started();
        let metrics = ControlMetrics::default();
        assert_eq!(verifier.ask(&question, &book, at(), &metrics), None);
        let checked = checks.recv().unwrap();
        let mut row = key_row(KEY, "");
        row.revoked_at = Some("now".to_owned());
        book.set_key(&row);
        let (_, verdict) = verifier.checked(checked, &book, at(), &metrics);
        assert_eq!(verdict, Verdict::Refused);
        let later = verifier.ask(&question, &book, at(), &metrics);
        assert_eq!(later, Some(Verdict::Refused));
    }

    #[test]
    fn failures_use_up_an_addresss_budget_and_nobody_elses() {
        let (jobs, waiting) = flume::bounded(100);
        let mut verifier = Verifier::new(&config(), jobs);
        let (book, metrics) = (book_with_key(KEY, "h"), ControlMetrics::default());
        for secret in 0..3 {
            assert_eq!(verifier.ask(&question(0, secret), &book, at(), &metrics), None);
            let checked = Checked { digest: [secret; 32], matches: false };
            verifier.checked(checked, &book, at(), &metrics);
        }
        let refused = verifier.ask(&question(0, 3), &book, at(), &metrics);
        assert_eq!(refused, Some(Verdict::Busy));
        let elsewhere = Question { peer: [10, 0, 0, 1].into(), ..question(0, 3) };
        assert_eq!(verifier.ask(&elsewhere, &book, at(), &metrics), None);
        let later = Moment { now: at().now.after(Nanos::from_s(60)), unix_us: 0 };
        assert_eq!(verifier.ask(&question(0, 4), &book, later, &metrics), None);
        assert_eq!(waiting.len(), 5);
    }

    #[test]
    fn a_keys_budget_holds_whoever_tries_it() {
        let (jobs, _waiting) = flume::bounded(100);
        let mut verifier =
            Verifier::new(&Keys { failures_per_minute_per_key: 1, ..config() }, jobs);
        let (book, metrics) = (book_with_key(KEY, "h"), ControlMetrics::default());
        assert_eq!(verifier.ask(&question(0, 0), &book, at(), &metrics), None);
        verifier.checked(Checked { digest: [0; 32], matches: false }, &book, at(), &metrics);
        let elsewhere = Question { peer: [10, 0, 0, 1].into(), ..question(0, 1) };
        assert_eq!(verifier.ask(&elsewhere, &book, at(), &metrics), Some(Verdict::Busy));
    }

    #[test]
    fn a_full_queue_makes_no_one_wait() {
        let (jobs, _waiting) = flume::bounded(config().verifier_queue_max);
        let mut verifier = Verifier::new(&config(), jobs);
        let (book, metrics) = (book_with_key(KEY, "h"), ControlMetrics::default());
        for secret in 0..4 {
            assert_eq!(verifier.ask(&question(0, secret), &book, at(), &metrics), None);
        }
        let refused = verifier.ask(&question(0, 4), &book, at(), &metrics);
        assert_eq!(refused, Some(Verdict::Busy));
        assert_eq!(metrics.verified_busy.get(), 1);
    }

    #[test]
    fn an_ipv6_network_is_one_name() {
        let network = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
    }

    #[test]
    fn what_was_seen_last_is_remembered() {
        let mut recent = Recent::new(4);
        for seen in 0..9 {
            recent.insert([seen; 32]);
            assert!(recent.new.len() + recent.old.len() <= 4);
        }
        assert!(recent.has(&[8; 32]) && recent.has(&[7; 32]) && !recent.has(&[0; 32]));
    }
}
