//! What a shard remembers of control's verdicts on keys, so that a known key, right or wrong, is
//! told from its digest alone. Right and wrong keys live apart: a stranger with many wrong keys
//! displaces no right one.
//!
//! Never holds a key's text. Never answers for a forgotten key without a new verdict. Digests are
//! keyed BLAKE3, so that any eight of their bytes are a hash that no stranger can aim; the
//! comparison still takes the same time wherever two digests differ.

use crate::clock_table::{ClockTable, TableKey, TablePlace};
use crate::limits::{
    BUSY_TTL, KEY_FRESH_MIN, KEY_FRESH_SPREAD, KEY_TTL, KEYS_CACHED_MAX, VERIFIES_MAX,
    VERIFY_RETRY, WRONG_KEY_TTL, WRONG_KEYS_CACHED_MAX,
};
use crate::message::{KeyDigest, KeyGrant, Verdict};
use crate::units::{BucketId, ConsumerId, KeyId, Nanos, ServiceId};
use std::sync::Arc;

/// Proof that a key is valid: who calls. Holds until the key is forgotten or its verdict lapses;
/// from then on admission answers `CallerForgotten`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// With which key.
    pub key: KeyId,
    /// Who pays.
    pub consumer: ConsumerId,
    /// Index into `Catalog::plans`.
    pub plan: u32,
    /// What the key's rate is counted under.
    pub bucket: BucketId,
    place: TablePlace,
}

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Valid.
    Known(Caller),
    /// Valid as far as is known, by a verdict of some time ago. Go on, and call `verify` now.
    Suspect(Caller),
    /// Wrong, revoked or expired, or not ours.
    Refused,
    /// Control would not look at it a moment ago, or too many keys are being looked at.
    Busy,
    /// Nothing yet. Park until `WaitFor::Key`.
    Wait {
        /// Call `verify` now: no question about this key is under way.
        verify: bool,
    },
}

/// The first eight bytes of a digest: its hash, and its name in `WaitFor::Key`.
pub fn fingerprint(digest: &KeyDigest) -> u64 {
    word(digest, 0)
}

fn word(digest: &KeyDigest, at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[8 * at..8 * at + 8]);
    u64::from_ne_bytes(bytes)
}

impl TableKey for KeyDigest {
    fn hash(&self) -> u64 {
        fingerprint(self)
    }
    fn is(&self, other: &Self) -> bool {
        (0..4).fold(0, |differing, at| differing | (word(self, at) ^ word(other, at))) == 0
    }
}

struct Known {
    key: KeyId,
    consumer: ConsumerId,
    bucket: BucketId,
    plan: u32,
    /// Then control is asked again; never after `valid_until`.
    fresh_until: Nanos,
    valid_until: Nanos,
    services: Option<Arc<[ServiceId]>>,
}

impl Known {
    fn caller(&self, place: TablePlace) -> Caller {
        let Self { key, consumer, bucket, plan, .. } = *self;
        Caller { key, consumer, plan, bucket, place }
    }

    /// Would a caller be told the same of both?
    fn is_same_caller(&self, other: &Self) -> bool {
        let of = |it: &Self| (it.key, it.consumer, it.bucket, it.plan);
        of(self) == of(other)
    }
}

/// A question about a key that has no lasting answer yet.
#[derive(Clone, Copy)]
struct Question {
    until: Nanos,
    /// Answered: not looked at.
    busy: bool,
}

/// The verdicts that one shard remembers.
pub(crate) struct KeyCache {
    known: ClockTable<KeyDigest, Known>,
    /// Until when each wrong key is refused without asking control.
    wrong: ClockTable<KeyDigest, Nanos>,
    /// Never displaced while they last, so that one `Verify` per digest is under way.
    questions: ClockTable<KeyDigest, Question>,
    /// When it is worth looking for questions that have lapsed.
    questions_swept_at: Nanos,
}

impl KeyCache {
    pub(crate) fn new() -> Self {
        Self {
            known: ClockTable::new(KEYS_CACHED_MAX),
            wrong: ClockTable::new(WRONG_KEYS_CACHED_MAX),
            questions: ClockTable::new(VERIFIES_MAX),
            questions_swept_at: Nanos(0),
        }
    }

    /// Valid keys remembered, lapsed ones among them.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// What is known of the key with this digest?
    pub(crate) fn identify(&mut self, digest: &KeyDigest, now: Nanos) -> Identity {
        if let Some((place, known)) = self.known.get(digest) {
            if now < known.fresh_until {
                return Identity::Known(known.caller(place));
            }
            if now < known.valid_until {
                return Identity::Suspect(known.caller(place));
            }
        }
        if self.wrong.get(digest).is_some_and(|(_, until)| now < *until) {
            return Identity::Refused;
        }
        if let Some((_, question)) = self.questions.get(digest) {
            return match question {
                Question { until, .. } if now >= *until => Identity::Wait { verify: true },
                Question { busy: true, .. } => Identity::Busy,
                Question { busy: false, .. } => Identity::Wait { verify: false },
            };
        }
        if self.question_has_room(now) { Identity::Wait { verify: true } } else { Identity::Busy }
    }

    /// Notes that control is being asked about `digest`. A key that is still valid goes on, and is
    /// asked about once, however many calls come before the answer.
    pub(crate) fn asked(&mut self, digest: KeyDigest, now: Nanos) {
        let until = now.after(VERIFY_RETRY);
        match self.known.get(&digest) {
            Some((_, known)) if now < known.valid_until => {
                known.fresh_until = until.min(known.valid_until);
            }
            _ => self.questions.insert(digest, Question { until, busy: false }),
        }
    }

    /// Takes control's answer.
    pub(crate) fn answered(&mut self, digest: KeyDigest, verdict: Verdict, now: Nanos) {
        match verdict {
            Verdict::Busy => {
                if let Some((_, question)) = self.questions.get(&digest) {
                    *question = Question { until: now.after(BUSY_TTL), busy: true };
                }
                return;
            }
            Verdict::Granted(grant) if grant.expires_at.is_none_or(|at| now < at) => {
                self.wrong.remove(&digest);
                let known = known(&digest, *grant, now);
                match self.known.get(&digest) {
                    // Calls under way hold a place, and go on.
                    Some((_, held)) if held.is_same_caller(&known) => *held = known,
                    _ => self.known.insert(digest, known),
                }
            }
            Verdict::Granted(_) | Verdict::Refused => {
                self.known.remove(&digest);
                self.wrong.insert(digest, now.after(WRONG_KEY_TTL));
            }
        }
        self.questions.remove(&digest);
    }

    /// Forgets every verdict on `key`. Looks at all entries: revocations are rare.
    pub(crate) fn forget(&mut self, key: KeyId) {
        self.known.retain(|known| known.key != key);
    }

    /// Forgets every verdict on the consumer's keys.
    pub(crate) fn forget_consumer(&mut self, consumer: ConsumerId) {
        self.known.retain(|known| known.consumer != consumer);
    }

    /// Is what identified the caller still in force?
    pub(crate) fn is_current(&self, caller: &Caller, now: Nanos) -> bool {
        self.known.at(caller.place).is_some_and(|known| now < known.valid_until)
    }

    /// May the caller's key use the service? False too once it was forgotten.
    pub(crate) fn may_use(&self, caller: &Caller, service: ServiceId) -> bool {
        self.known.at(caller.place).is_some_and(|known| {
            known.services.as_ref().is_none_or(|services| services.contains(&service))
        })
    }

    /// Room for one more question? Lapsed ones are cleared away, at most once per `BUSY_TTL`.
    fn question_has_room(&mut self, now: Nanos) -> bool {
        if self.questions.len() < VERIFIES_MAX {
            return true;
        }
        if now < self.questions_swept_at.after(BUSY_TTL) {
            return false;
        }
        self.questions_swept_at = now;
        self.questions.retain(|question| now < question.until);
        self.questions.len() < VERIFIES_MAX
    }
}

fn known(digest: &KeyDigest, grant: KeyGrant, now: Nanos) -> Known {
    let KeyGrant { key, consumer, bucket, plan, expires_at, services } = grant;
    let lapses_at = now.after(KEY_TTL);
    let valid_until = expires_at.map_or(lapses_at, |expires_at| expires_at.min(lapses_at));
    let fresh_until = now.after(fresh_for(digest)).min(valid_until);
    Known { key, consumer, bucket, plan, fresh_until, valid_until, services }
}

/// As evenly spread as the digests are, and for each key always the same.
fn fresh_for(digest: &KeyDigest) -> Nanos {
    KEY_FRESH_MIN.after(Nanos(word(digest, 1) % KEY_FRESH_SPREAD.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Digests that share their first eight bytes in pairs.
    fn digest(number: u64) -> KeyDigest {
        let mut digest = [7; 32];
        digest[..8]
            .copy_from_slice(&(number / 2).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_ne_bytes());
        digest[31] = (number % 2) as u8;
        digest
    }

    fn grant(key: u64, expires_at: Option<Nanos>) -> KeyGrant {
        KeyGrant {
            key: KeyId(key),
            consumer: ConsumerId(key % 3),
            bucket: BucketId(key + 100),
            plan: key as u32,
            expires_at,
            services: key.is_multiple_of(2).then(|| [ServiceId(key)].into()),
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Identify { ask: bool },
        Granted { expires_in_ms: Option<u64> },
        Refused,
        Busy,
        Forget,
        ForgetConsumer,
        Pass { ms: u64 },
    }

    fn any_step() -> impl Strategy<Value = (u64, Step)> {
        let step = prop_oneof![
            6 => any::<bool>().prop_map(|ask| Step::Identify { ask }),
            3 => proptest::option::of(0..400_000u64)
                .prop_map(|expires_in_ms| Step::Granted { expires_in_ms }),
            1 => Just(Step::Refused),
            1 => Just(Step::Busy),
            1 => Just(Step::Forget),
            1 => Just(Step::ForgetConsumer),
            1 => prop_oneof![0..200u64, 0..11_000u64, 0..400_000u64]
                .prop_map(|ms| Step::Pass { ms }),
        ];
        (0..6u64, step)
    }

    /// The same by plain maps: verdicts until when, and until when not asked about again;
    /// questions until when and whether busy.
    #[derive(Default)]
    struct Model {
        valid: HashMap<u64, Nanos>,
        fresh: HashMap<u64, Nanos>,
        wrong: HashMap<u64, Nanos>,
        questions: HashMap<u64, (Nanos, bool)>,
    }

    impl Model {
        /// Of a valid key, whether it is fresh.
        fn expect(&self, key: u64, now: Nanos) -> Result<bool, Identity> {
            let lasts = |until: Option<&Nanos>| until.is_some_and(|until| now < *until);
            match self.questions.get(&key) {
                _ if lasts(self.valid.get(&key)) => Ok(lasts(self.fresh.get(&key))),
                _ if lasts(self.wrong.get(&key)) => Err(Identity::Refused),
                Some((until, true)) if now < *until => Err(Identity::Busy),
                Some((until, false)) if now < *until => Err(Identity::Wait { verify: false }),
                _ => Err(Identity::Wait { verify: true }),
            }
        }

        fn apply(&mut self, key: u64, step: &Step, now: Nanos) {
            match step {
                Step::Granted { expires_in_ms } if *expires_in_ms != Some(0) => {
                    let ttl_ms = expires_in_ms.unwrap_or(u64::MAX).min(300_000);
                    self.valid.insert(key, now.after(Nanos::from_ms(ttl_ms)));
                    self.fresh.insert(key, now.after(fresh_for(&digest(key))));
                    self.wrong.remove(&key);
                    self.questions.remove(&key);
                }
                Step::Granted { .. } | Step::Refused => {
                    self.valid.remove(&key);
                    self.wrong.insert(key, now.after(Nanos::from_s(5)));
                    self.questions.remove(&key);
                }
                Step::Busy => {
                    let busy = (now.after(Nanos::from_ms(100)), true);
                    self.questions.entry(key).and_modify(|question| *question = busy);
                }
                Step::Forget => self.valid.retain(|other, _| *other != key),
                Step::ForgetConsumer => self.valid.retain(|other, _| other % 3 != key % 3),
                Step::Identify { .. } | Step::Pass { .. } => {}
            }
        }
    }

    proptest! {
        /// Above all: after `forget`, `Known` only by a new verdict.
        #[test]
        fn answers_as_the_last_verdict_says(
            steps in proptest::collection::vec(any_step(), 0..150),
        ) {
            let (mut cache, mut model) = (KeyCache::new(), Model::default());
            let mut now = Nanos::from_s(1);
            let mut callers: Vec<Caller> = Vec::new();
            for (key, step) in steps {
                model.apply(key, &step, now);
                match &step {
                    Step::Identify { ask } => {
                        let identity = cache.identify(&digest(key), now);
                        match (identity, model.expect(key, now)) {
                            (Identity::Known(caller), Ok(true))
                            | (Identity::Suspect(caller), Ok(false)) => {
                                prop_assert_eq!(caller.key, KeyId(key));
                                prop_assert_eq!(caller.consumer, ConsumerId(key % 3));
                                prop_assert_eq!(caller.bucket, BucketId(key + 100));
                                let odd = key % 2 == 1;
                                prop_assert!(cache.may_use(&caller, ServiceId(key)));
                                prop_assert_eq!(cache.may_use(&caller, ServiceId(99)), odd);
                                callers.push(caller);
                            }
                            (identity, expected) => prop_assert_eq!(Err(identity), expected),
                        }
                        if matches!(identity, Identity::Suspect(_)) && *ask {
                            cache.asked(digest(key), now);
                            model.fresh.insert(key, now.after(Nanos::from_s(10)));
                        }
                        if identity == (Identity::Wait { verify: true }) && *ask {
                            cache.asked(digest(key), now);
                            let until = now.after(Nanos::from_s(10));
                            model.questions.insert(key, (until, false));
                        }
                    }
                    Step::Granted { expires_in_ms } => {
                        let expires_at = expires_in_ms.map(|ms| now.after(Nanos::from_ms(ms)));
                        let verdict = Verdict::Granted(Box::new(grant(key, expires_at)));
                        cache.answered(digest(key), verdict, now);
                    }
                    Step::Refused => cache.answered(digest(key), Verdict::Refused, now),
                    Step::Busy => cache.answered(digest(key), Verdict::Busy, now),
                    Step::Forget => cache.forget(KeyId(key)),
                    Step::ForgetConsumer => cache.forget_consumer(ConsumerId(key % 3)),
                    Step::Pass { ms } => now = now.after(Nanos::from_ms(*ms)),
                }
                // A caller is current only while its key is valid; never once forgotten.
                for caller in &callers {
                    let valid = model.expect(caller.key.0, now).is_ok();
                    prop_assert!(valid || !cache.is_current(caller, now));
                }
            }
        }
    }

    /// A revocation that nobody told the shard of holds within half a minute.
    #[test]
    fn a_key_in_use_is_asked_about_every_half_minute_and_goes_on_meanwhile() {
        let (mut cache, mut now) = (KeyCache::new(), Nanos::from_s(1));
        let granted = || Verdict::Granted(Box::new(grant(0, None)));
        cache.answered(digest(0), granted(), now);
        let first = match cache.identify(&digest(0), now) {
            Identity::Known(caller) => Some(caller),
            _ => None,
        };
        let is_current = |cache: &KeyCache, now| first.is_some_and(|it| cache.is_current(&it, now));
        for _ in 0..3 {
            let verified_at = now;
            while let Identity::Known(_) = cache.identify(&digest(0), now) {
                now = now.after(Nanos::from_ms(100));
            }
            let fresh_for = now.since(verified_at);
            assert!((10..=30).contains(&(fresh_for.us() / 1_000_000)), "{fresh_for:?}");
            assert!(matches!(cache.identify(&digest(0), now), Identity::Suspect(_)));
            cache.asked(digest(0), now);
            assert!(matches!(cache.identify(&digest(0), now), Identity::Known(_)), "asked once");
            cache.answered(digest(0), granted(), now);
            assert!(is_current(&cache, now), "a call under way goes on");
        }
        // No answer: asked again and again, and not used for ever.
        let silent_since = now;
        while now < silent_since.after(KEY_TTL) {
            if let Identity::Suspect(_) = cache.identify(&digest(0), now) {
                cache.asked(digest(0), now);
            }
            assert!(matches!(cache.identify(&digest(0), now), Identity::Known(_)));
            now = now.after(Nanos::from_s(1));
        }
        assert_eq!(cache.identify(&digest(0), now), Identity::Wait { verify: true });
        cache.answered(digest(0), granted(), now);
        cache.answered(digest(0), Verdict::Refused, now);
        assert_eq!(cache.identify(&digest(0), now), Identity::Refused);
        assert!(!is_current(&cache, now));
    }

    #[test]
    fn keys_verified_at_one_moment_are_not_asked_about_at_another() {
        let mut of_second = [0; 30];
        for key in 1..=10_000u64 {
            let mut digest = [0; 32];
            digest[8..16].copy_from_slice(&key.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_ne_bytes());
            of_second[(fresh_for(&digest).us() / 1_000_000) as usize] += 1;
        }
        assert!(of_second[..10].iter().all(|count| *count == 0));
        assert!(of_second[10..].iter().all(|count| (400..600).contains(count)), "{of_second:?}");
    }

    #[test]
    fn a_flood_of_wrong_keys_displaces_no_right_one_and_stays_bounded() {
        let mut cache = KeyCache::new();
        let now = Nanos::from_s(1);
        cache.answered(digest(0), Verdict::Granted(Box::new(grant(0, None))), now);
        for number in 1..2 * WRONG_KEYS_CACHED_MAX as u64 {
            cache.answered(digest(number), Verdict::Refused, now);
        }
        assert_eq!(cache.wrong.len(), WRONG_KEYS_CACHED_MAX);
        assert!(matches!(cache.identify(&digest(0), now), Identity::Known(_)));
    }

    #[test]
    fn questions_are_bounded_and_their_room_comes_back() {
        let mut cache = KeyCache::new();
        let now = Nanos::from_s(1);
        for number in 0..VERIFIES_MAX as u64 {
            assert_eq!(cache.identify(&digest(number), now), Identity::Wait { verify: true });
            cache.asked(digest(number), now);
        }
        let next = digest(VERIFIES_MAX as u64);
        assert_eq!(cache.identify(&next, now), Identity::Busy);
        assert_eq!(cache.identify(&digest(0), now), Identity::Wait { verify: false });
        let later = now.after(VERIFY_RETRY);
        assert_eq!(cache.identify(&next, later), Identity::Wait { verify: true });
    }
}
