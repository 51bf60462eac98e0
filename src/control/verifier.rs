//! Answers shards that meet a key for the first time. A key that was verified before, by any
//! process, is recognized by its digest, at once, whatever else waits. Only a key without a digest
//! (an earlier version's, or one under another digest key) has its text hashed: Argon2id, on a
//! bounded number of threads with a bounded queue in which no key has more than its share. Each
//! text is checked once for all shards.
//!
//! Wrong texts are charged to the key that they name, and to the address only within that key: no
//! caller pays for another one's mistakes behind the same address.
//!
//! What is kept of a check is whether this text matches that key's hash: true for ever, because
//! a key's secret never changes (a rotated key has a new id). The verdict is made from the
//! directory when it is sent, so nothing here has to be dropped at a revocation.

use super::directory::{Check, Directory};
use super::failures::Failures;
use super::secret;
use crate::config::Keys;
use crate::metrics::ControlMetrics;
use crate::store::Digest;
use crate::wire::key_text;
use shard::message::{KEY_TEXT_BYTES, KeyDigest, Verdict};
use shard::units::{KeyId, Moment};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Texts that were wrong.
const WRONG_MAX: usize = 16_384;
/// Texts of one key that may be hashed or wait for it: room for the right one among wrong ones,
/// and none that other keys need.
const FLIGHTS_PER_KEY_MAX: usize = 2;

/// A shard's question. No `Debug`: it holds a key.
pub(crate) struct VerifyQuestion {
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

struct HashJob {
    digest: KeyDigest,
    text: [u8; KEY_TEXT_BYTES],
    secret_hash: Arc<str>,
}

/// A check under way.
struct CheckUnderWay {
    key: KeyId,
    network: IpAddr,
    shards: Vec<u16>,
}

/// See the module.
pub(crate) struct Verifier {
    jobs: flume::Sender<HashJob>,
    flights: HashMap<KeyDigest, CheckUnderWay>,
    wrong: Recent,
    by_network: Failures<(IpAddr, KeyId)>,
    by_key: Failures<KeyId>,
    unsaved: Vec<(KeyId, Digest)>,
}

impl Verifier {
    /// Starts the threads; they end when the verifier is dropped. What they find out comes by
    /// the channel and belongs into [`Verifier::checked`].
    pub(crate) fn start(config: &Keys) -> std::io::Result<(Self, flume::Receiver<Checked>)> {
        let (jobs, waiting) = flume::bounded::<HashJob>(config.verifier_queue_max);
        // As many as can be under way: no thread ever waits to answer.
        let (found, checks) =
            flume::bounded(config.verifier_queue_max.saturating_add(config.verifier_threads));
        for number in 0..config.verifier_threads {
            let (waiting, found) = (waiting.clone(), found.clone());
            std::thread::Builder::new().name(format!("verify-{number}")).spawn(move || {
                while let Ok(HashJob { digest, text, secret_hash }) = waiting.recv() {
                    let matches = secret::matches(&text, &secret_hash);
                    if found.send(Checked { digest, matches }).is_err() {
                        return;
                    }
                }
            })?;
        }
        Ok((Self::new(config, jobs), checks))
    }

    fn new(config: &Keys, jobs: flume::Sender<HashJob>) -> Self {
        Self {
            jobs,
            flights: HashMap::new(),
            wrong: Recent::new(WRONG_MAX),
            by_network: Failures::new(config.failures_per_minute_per_address),
            by_key: Failures::new(config.failures_per_minute_per_key),
            unsaved: Vec::new(),
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
        question: &VerifyQuestion,
        directory: &Directory,
        at: Moment,
        metrics: &ControlMetrics,
    ) -> Option<Verdict> {
        let Some(key) = key_text::parse(&question.text).map(|text| KeyId(text.id)) else {
            metrics.verified_refused.add(1);
            return Some(Verdict::Refused);
        };
        match directory.check(key, at) {
            None => {
                metrics.verified_refused.add(1);
                Some(Verdict::Refused)
            }
            Some(Check::Digest(digest)) if bool::from(digest.ct_eq(&question.digest)) => {
                metrics.verified_cached.add(1);
                Some(verdict(directory, key, at))
            }
            Some(Check::Digest(_)) => Some(self.wrong_text(question, key, at, metrics)),
            Some(Check::Hash(hash)) => self.ask_hash(question, key, hash, at, metrics),
        }
    }

    /// The text is not the key's: no hash has to say so.
    fn wrong_text(
        &mut self,
        question: &VerifyQuestion,
        key: KeyId,
        at: Moment,
        metrics: &ControlMetrics,
    ) -> Verdict {
        let network = network_of(question.peer);
        if !self.wrong.has(&question.digest) {
            if !self.may_fail(network, key, at) {
                metrics.verified_busy.add(1);
                return Verdict::Busy;
            }
            self.wrong.insert(question.digest);
            self.charge(network, key, at);
        }
        metrics.verified_refused.add(1);
        Verdict::Refused
    }

    fn ask_hash(
        &mut self,
        question: &VerifyQuestion,
        key: KeyId,
        secret_hash: Arc<str>,
        at: Moment,
        metrics: &ControlMetrics,
    ) -> Option<Verdict> {
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
        let of_key = self.flights.values().filter(|flight| flight.key == key).count();
        let is_allowed = of_key < FLIGHTS_PER_KEY_MAX && self.may_fail(network, key, at);
        let job = HashJob { digest, text: question.text, secret_hash };
        if !is_allowed || self.jobs.try_send(job).is_err() {
            metrics.verified_busy.add(1);
            return Some(Verdict::Busy);
        }
        self.flights.insert(digest, CheckUnderWay { key, network, shards: vec![question.shard] });
        None
    }

    fn may_fail(&self, network: IpAddr, key: KeyId, at: Moment) -> bool {
        self.by_network.may_fail((network, key), at.now) && self.by_key.may_fail(key, at.now)
    }

    fn charge(&mut self, network: IpAddr, key: KeyId, at: Moment) {
        self.by_network.charge((network, key), at.now);
        self.by_key.charge(key, at.now);
    }

    /// A thread is done: the verdict, and who waits for it.
    pub(crate) fn checked(
        &mut self,
        checked: Checked,
        directory: &mut Directory,
        at: Moment,
        metrics: &ControlMetrics,
    ) -> (Vec<u16>, Verdict) {
        let Some(flight) = self.flights.remove(&checked.digest) else {
            return (Vec::new(), Verdict::Refused);
        };
        let verdict = if checked.matches {
            let digest = directory.set_digest(flight.key, checked.digest);
            self.unsaved.extend(digest.map(|digest| (flight.key, digest)));
            verdict(directory, flight.key, at)
        } else {
            self.wrong.insert(checked.digest);
            self.charge(flight.network, flight.key, at);
            Verdict::Refused
        };
        match verdict {
            Verdict::Granted(_) => metrics.verified_granted.add(1),
            _ => metrics.verified_refused.add(1),
        }
        (flight.shards, verdict)
    }

    /// Digests that the store has not got yet: one for each key verified by its hash.
    pub(crate) fn take_unsaved(&mut self) -> Vec<(KeyId, Digest)> {
        std::mem::take(&mut self.unsaved)
    }
}

fn verdict(directory: &Directory, key: KeyId, at: Moment) -> Verdict {
    directory.grant(key, at).map_or(Verdict::Refused, |grant| Verdict::Granted(Box::new(grant)))
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
    use super::super::directory::tests::{directory_with_key, key_row};
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

    fn question(shard: u16, secret: u8) -> VerifyQuestion {
        VerifyQuestion { shard, digest: [secret; 32], text: text(secret), peer: PEER }
    }

    /// Real threads, and a directory with a real key.
    fn started() -> (Verifier, flume::Receiver<Checked>, Directory, VerifyQuestion) {
        let (verifier, checks) = Verifier::start(&config()).unwrap();
        let (text, hash) = secret::make(KEY, &config()).unwrap();
        let question = VerifyQuestion { shard: 0, digest: [1; 32], text, peer: PEER };
        (verifier, checks, directory_with_key(KEY, &hash), question)
    }

    fn is_granted(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Granted(grant) if grant.key == KEY)
    }

    #[test]
    fn a_right_key_is_checked_once_for_all_shards() {
        let (mut verifier, checks, mut directory, mut question) = started();
        let metrics = ControlMetrics::default();
        assert_eq!(verifier.ask(&question, &directory, at(), &metrics), None);
        question.shard = 1;
        assert_eq!(verifier.ask(&question, &directory, at(), &metrics), None);
        let checked = checks.recv().unwrap();
        let (shards, verdict) = verifier.checked(checked, &mut directory, at(), &metrics);
        assert_eq!(shards, [0, 1]);
        assert!(is_granted(&verdict));
        question.shard = 2;
        assert!(is_granted(&verifier.ask(&question, &directory, at(), &metrics).unwrap()));
        assert_eq!((metrics.verified_granted.get(), metrics.verified_cached.get()), (1, 1));
        assert!(checks.is_empty());
        let saved: Vec<KeyId> = verifier.take_unsaved().iter().map(|(key, _)| *key).collect();
        assert_eq!(saved, [KEY]);
        assert!(verifier.take_unsaved().is_empty());
    }

    /// With a digest no text is hashed, and the right one is granted whatever others have spent.
    #[test]
    fn a_key_verified_before_waits_for_nobody() {
        let (jobs, waiting) = flume::bounded(1);
        let mut verifier = Verifier::new(&config(), jobs);
        let (mut directory, metrics) = (directory_with_key(KEY, "h"), ControlMetrics::default());
        directory.set_digest(KEY, [1; 32]);
        for secret in 2..5 {
            let wrong = verifier.ask(&question(0, secret), &directory, at(), &metrics);
            assert_eq!(wrong, Some(Verdict::Refused));
        }
        let wrong = verifier.ask(&question(0, 9), &directory, at(), &metrics);
        assert_eq!(wrong, Some(Verdict::Busy), "the key's budget is spent");
        assert!(is_granted(&verifier.ask(&question(0, 1), &directory, at(), &metrics).unwrap()));
        assert!(waiting.is_empty());
    }

    #[test]
    fn a_wrong_secret_and_an_unknown_key_are_refused() {
        let (mut verifier, checks, mut directory, _) = started();
        let metrics = ControlMetrics::default();
        assert_eq!(verifier.ask(&question(0, 9), &directory, at(), &metrics), None);
        let checked = checks.recv().unwrap();
        assert_eq!(
            verifier.checked(checked, &mut directory, at(), &metrics),
            (vec![0], Verdict::Refused)
        );
        let again = verifier.ask(&question(1, 9), &directory, at(), &metrics);
        assert_eq!(again, Some(Verdict::Refused));
        let unknown = VerifyQuestion { text: key_text::compose(8, &[1; 16]), ..question(0, 2) };
        assert_eq!(verifier.ask(&unknown, &directory, at(), &metrics), Some(Verdict::Refused));
        let broken = VerifyQuestion { text: [b'x'; KEY_TEXT_BYTES], ..question(0, 3) };
        assert_eq!(verifier.ask(&broken, &directory, at(), &metrics), Some(Verdict::Refused));
    }

    #[test]
    fn a_key_revoked_under_way_does_not_come_back() {
        let (mut verifier, checks, mut directory, question) = started();
        let metrics = ControlMetrics::default();
        assert_eq!(verifier.ask(&question, &directory, at(), &metrics), None);
        let checked = checks.recv().unwrap();
        let mut row = key_row(KEY, "");
        row.revoked_at = Some("now".to_owned());
        directory.set_key(&row);
        let (_, verdict) = verifier.checked(checked, &mut directory, at(), &metrics);
        assert_eq!(verdict, Verdict::Refused);
        let later = verifier.ask(&question, &directory, at(), &metrics);
        assert_eq!(later, Some(Verdict::Refused));
    }

    /// A directory with this key and its neighbours, none of them verified before.
    fn book_with_keys() -> Directory {
        let mut directory = directory_with_key(KEY, "h");
        (8..20).for_each(|id| directory.set_key(&key_row(KeyId(id), "h")));
        directory
    }

    fn question_of(key: u64, secret: u8) -> VerifyQuestion {
        let text = key_text::compose(key, &[secret; 16]);
        VerifyQuestion { shard: 0, digest: *blake3::hash(&text).as_bytes(), text, peer: PEER }
    }

    fn fail(verifier: &mut Verifier, directory: &mut Directory, question: &VerifyQuestion) {
        let metrics = ControlMetrics::default();
        assert_eq!(verifier.ask(question, directory, at(), &metrics), None);
        let checked = Checked { digest: question.digest, matches: false };
        verifier.checked(checked, directory, at(), &metrics);
    }

    #[test]
    fn failures_use_up_an_addresss_budget_for_one_key_and_no_other() {
        let (jobs, waiting) = flume::bounded(100);
        let mut verifier = Verifier::new(&config(), jobs);
        let (mut directory, metrics) = (book_with_keys(), ControlMetrics::default());
        for secret in 0..3 {
            fail(&mut verifier, &mut directory, &question_of(KEY.0, secret));
        }
        let refused = verifier.ask(&question_of(KEY.0, 3), &directory, at(), &metrics);
        assert_eq!(refused, Some(Verdict::Busy));
        assert_eq!(
            verifier.ask(&question_of(8, 1), &directory, at(), &metrics),
            None,
            "a neighbour"
        );
        let elsewhere = VerifyQuestion { peer: [10, 0, 0, 1].into(), ..question_of(KEY.0, 3) };
        assert_eq!(verifier.ask(&elsewhere, &directory, at(), &metrics), None);
        let later = Moment { now: at().now.after(Nanos::from_s(60)), unix_us: 0 };
        assert_eq!(verifier.ask(&question_of(KEY.0, 4), &directory, later, &metrics), None);
        assert_eq!(waiting.len(), 6);
    }

    #[test]
    fn a_keys_budget_holds_whoever_tries_it() {
        let (jobs, _waiting) = flume::bounded(100);
        let mut verifier =
            Verifier::new(&Keys { failures_per_minute_per_key: 1, ..config() }, jobs);
        let (mut directory, metrics) = (book_with_keys(), ControlMetrics::default());
        fail(&mut verifier, &mut directory, &question_of(KEY.0, 0));
        let elsewhere = VerifyQuestion { peer: [10, 0, 0, 1].into(), ..question_of(KEY.0, 1) };
        assert_eq!(verifier.ask(&elsewhere, &directory, at(), &metrics), Some(Verdict::Busy));
    }

    #[test]
    fn a_full_queue_makes_no_one_wait_and_no_key_fills_it() {
        let (jobs, _waiting) = flume::bounded(config().verifier_queue_max);
        let mut verifier = Verifier::new(&config(), jobs);
        let (directory, metrics) = (book_with_keys(), ControlMetrics::default());
        for secret in 0..2 {
            let asked = verifier.ask(&question_of(KEY.0, secret), &directory, at(), &metrics);
            assert_eq!(asked, None);
        }
        let third = verifier.ask(&question_of(KEY.0, 2), &directory, at(), &metrics);
        assert_eq!(third, Some(Verdict::Busy));
        for key in 8..10 {
            assert_eq!(verifier.ask(&question_of(key, 0), &directory, at(), &metrics), None);
        }
        let refused = verifier.ask(&question_of(10, 0), &directory, at(), &metrics);
        assert_eq!(refused, Some(Verdict::Busy));
        assert_eq!(metrics.verified_busy.get(), 2);
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
