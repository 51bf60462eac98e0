//! One word for each (consumer, service, month) whose price depends on the month: the tokens so
//! far, shared by the shards. It begins where the ledger stood before this process's own records
//! and is then kept by the shards, so it must be made once and never read again.
//!
//! A service whose price comes to depend on the month while the process runs has calls that were
//! admitted without a word. Each shard tells how far its journal was when it heard of the price
//! (its cut). What was settled before is counted by the ledger, so a word is made only from a
//! reading that reaches past every cut. What is settled behind the cut and has no word is told, and
//! is added unless the reading had it: no call is counted twice, and none is left out.

use shard::catalog::Catalog;
use shard::message::ToShard;
use shard::units::{ConsumerId, Period, ServiceId};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words kept; those that a shard still holds are kept beyond that.
const MONTHS_MAX: usize = 262_144;

/// Which month a word is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WordPlace {
    /// Whose month.
    pub(crate) consumer: ConsumerId,
    /// On which service.
    pub(crate) service: ServiceId,
    /// Which month.
    pub(crate) period: Period,
}

enum MonthWord {
    /// The ledger is being read; these shards wait.
    Reading(Vec<u16>),
    Known {
        tokens: Arc<AtomicU64>,
        /// How far the reading that it was made from reached into each shard's journal.
        reached: Arc<[u64]>,
    },
}

/// What a reading of the ledger brought.
#[derive(Debug)]
pub(crate) enum OnRead {
    /// Who waits, and the answer.
    Answer(Vec<u16>, ToShard),
    /// It does not reach past every cut: read again.
    Behind,
    /// Nobody waits.
    Nothing,
}

/// A settled call that no word counts: see the module.
#[derive(Clone, Copy, Debug)]
struct UncountedCall {
    shard: u16,
    seq: u64,
    tokens: u64,
}

/// What to do about a question.
#[derive(Debug)]
pub(crate) enum MonthAnswer {
    /// Tell the shard.
    Answer(ToShard),
    /// Read the ledger, then call [`Months::on_read`].
    Read,
    /// The ledger is being read already.
    Wait,
}

/// See the module.
#[derive(Default)]
pub(crate) struct MonthWords {
    words: HashMap<WordPlace, MonthWord>,
    /// Services whose price depended on the month when the shards started.
    from_start: HashSet<ServiceId>,
    /// Of the others, how far each shard was.
    cuts: HashMap<ServiceId, Vec<Option<u64>>>,
    /// Of months without a word. No more than there were permits when the prices changed.
    uncounted: HashMap<WordPlace, Vec<UncountedCall>>,
    shards: usize,
}

impl MonthWords {
    /// For so many shards, that start with this catalog.
    pub(crate) fn new(shards: usize, catalog: &Catalog) -> Self {
        let dependent = catalog.services.iter().filter(|service| service.depends_on_month());
        let from_start = dependent.map(|service| service.id).collect();
        Self { from_start, shards, ..Self::default() }
    }

    /// A shard's word that a service's price depends on the month from here on.
    pub(crate) fn cut(&mut self, shard: u16, service: ServiceId, next_seq: u64) {
        let cuts = self.cuts.entry(service).or_insert_with(|| vec![None; self.shards]);
        if let Some(cut) = cuts.get_mut(usize::from(shard)) {
            *cut = Some(next_seq);
        }
    }

    /// A call that its shard could not count.
    pub(crate) fn count(&mut self, place: WordPlace, shard: u16, seq: u64, tokens: u64) {
        match self.words.get(&place) {
            Some(MonthWord::Known { tokens: word, reached }) => {
                if reached.get(usize::from(shard)).is_none_or(|reached| seq >= *reached) {
                    word.fetch_add(tokens, Ordering::Relaxed);
                }
            }
            _ => {
                self.uncounted.entry(place).or_default().push(UncountedCall { shard, seq, tokens });
            }
        }
    }

    /// Does a reading that reaches so far have all that was settled before the cuts?
    fn is_past_cuts(&self, service: ServiceId, reached: &[u64]) -> bool {
        if self.from_start.contains(&service) {
            return true;
        }
        let is_past = |(cut, reached): (&Option<u64>, &u64)| cut.is_some_and(|cut| cut <= *reached);
        let cuts = self.cuts.get(&service);
        cuts.is_some_and(|cuts| cuts.iter().zip(reached).all(is_past))
    }

    /// A shard asks.
    pub(crate) fn ask(&mut self, shard: u16, place: WordPlace) -> MonthAnswer {
        if self.words.len() >= MONTHS_MAX && !self.words.contains_key(&place) {
            // By the time the last shard has let go of a word, the ledger has its records.
            self.words.retain(|_, word| match word {
                MonthWord::Reading(_) => true,
                MonthWord::Known { tokens, .. } => Arc::strong_count(tokens) > 1,
            });
        }
        match self.words.entry(place) {
            Entry::Vacant(vacant) => {
                vacant.insert(MonthWord::Reading(vec![shard]));
                MonthAnswer::Read
            }
            Entry::Occupied(mut occupied) => match occupied.get_mut() {
                MonthWord::Known { tokens, .. } => MonthAnswer::Answer(answer(place, tokens)),
                MonthWord::Reading(shards) => {
                    if !shards.contains(&shard) {
                        shards.push(shard);
                    }
                    MonthAnswer::Wait
                }
            },
        }
    }

    /// The ledger's word, by a reading that reached so far into each shard's journal.
    pub(crate) fn on_read(
        &mut self,
        place: WordPlace,
        tokens: u64,
        reached: &Arc<[u64]>,
    ) -> OnRead {
        if !self.is_past_cuts(place.service, reached) {
            return OnRead::Behind;
        }
        let Some(MonthWord::Reading(shards)) = self.words.get_mut(&place) else {
            return OnRead::Nothing;
        };
        let shards = std::mem::take(shards);
        let is_missing = |it: &UncountedCall| it.seq >= reached[usize::from(it.shard)];
        let late = self.uncounted.remove(&place).unwrap_or_default();
        let late = late
            .into_iter()
            .filter(is_missing)
            .fold(0, |sum: u64, it| sum.saturating_add(it.tokens));
        let tokens = Arc::new(AtomicU64::new(tokens.saturating_add(late)));
        let answer = answer(place, &tokens);
        self.words.insert(place, MonthWord::Known { tokens, reached: Arc::clone(reached) });
        OnRead::Answer(shards, answer)
    }
}

fn answer(place: WordPlace, tokens: &Arc<AtomicU64>) -> ToShard {
    let WordPlace { consumer, service, period } = place;
    ToShard::Month { consumer, service, period, tokens: Arc::clone(tokens) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    fn word(message: &ToShard) -> Option<&Arc<AtomicU64>> {
        match message {
            ToShard::Month { tokens, .. } => Some(tokens),
            _ => None,
        }
    }

    const PLACE: WordPlace =
        WordPlace { consumer: ConsumerId(1), service: ServiceId(2), period: Period(202_611) };

    /// For two shards. The service is priced by the month from the start, or comes to be.
    fn months(from_start: bool) -> MonthWords {
        let from_start = from_start.then_some(PLACE.service).into_iter().collect();
        MonthWords { from_start, shards: 2, ..MonthWords::default() }
    }

    fn reached(marks: [u64; 2]) -> Arc<[u64]> {
        marks.into()
    }

    fn tokens(on_read: &OnRead) -> Option<u64> {
        match on_read {
            OnRead::Answer(_, message) => word(message).map(|word| word.load(Relaxed)),
            OnRead::Behind | OnRead::Nothing => None,
        }
    }

    #[test]
    fn all_shards_share_one_word_read_once() {
        let mut months = months(true);
        assert!(matches!(months.ask(0, PLACE), MonthAnswer::Read));
        assert!(matches!(months.ask(1, PLACE), MonthAnswer::Wait));
        assert!(matches!(months.ask(1, PLACE), MonthAnswer::Wait));
        let read = months.on_read(PLACE, 500, &reached([0, 0]));
        let (shards, first) = match read {
            OnRead::Answer(shards, first) => (shards, first),
            OnRead::Behind | OnRead::Nothing => (Vec::new(), ToShard::Drain),
        };
        assert_eq!(shards, [0, 1]);
        word(&first).iter().for_each(|word| {
            word.fetch_add(7, Relaxed);
        });
        let second = match months.ask(2, PLACE) {
            MonthAnswer::Answer(message) => word(&message).map(|word| word.load(Relaxed)),
            _ => None,
        };
        assert_eq!(second, Some(507));
        let again = months.on_read(PLACE, 1, &reached([0, 0]));
        assert!(matches!(again, OnRead::Nothing), "a word is never made twice");
    }

    #[test]
    fn a_word_is_made_only_from_a_reading_past_every_shards_cut() {
        let mut months = months(false);
        assert!(matches!(months.ask(0, PLACE), MonthAnswer::Read));
        months.cut(0, PLACE.service, 10);
        let read =
            |months: &mut MonthWords, marks| tokens(&months.on_read(PLACE, 5, &reached(marks)));
        assert_eq!(read(&mut months, [99, 99]), None, "one shard has not told");
        months.cut(1, PLACE.service, 20);
        assert_eq!(read(&mut months, [10, 19]), None);
        assert_eq!(read(&mut months, [9, 20]), None);
        assert_eq!(read(&mut months, [10, 20]), Some(5));
    }

    #[test]
    fn a_call_under_way_at_the_change_counts_once_whenever_it_is_told() {
        let mut months = months(false);
        for (shard, cut) in [(0, 10), (1, 20)] {
            months.cut(shard, PLACE.service, cut);
        }
        // Settled behind the cut: one that the reading has, one that it has not.
        months.count(PLACE, 0, 11, 1_000);
        months.count(PLACE, 1, 25, 70);
        assert!(matches!(months.ask(0, PLACE), MonthAnswer::Read));
        let read = months.on_read(PLACE, 5_000, &reached([12, 25]));
        assert_eq!(tokens(&read), Some(5_070));
        // Told later, of which the reading had one.
        months.count(PLACE, 0, 10, 2_000);
        months.count(PLACE, 0, 12, 300);
        assert_eq!(tokens(&read), Some(5_370));
    }
}
