//! One word for each (consumer, service, month) whose price depends on the month: the tokens so
//! far, shared by the shards. It begins where the ledger stood before this process's own records
//! and is then kept by the shards, so it must be made once and never read again.

use shard::message::ToShard;
use shard::units::{ConsumerId, Period, ServiceId};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Words kept, as far as shards have let go of the others.
const MONTHS_MAX: usize = 262_144;

/// Which word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// Whose month.
    pub(crate) consumer: ConsumerId,
    /// On which service.
    pub(crate) service: ServiceId,
    /// Which month.
    pub(crate) period: Period,
}

enum Word {
    /// The ledger is being read; these shards wait.
    Reading(Vec<u16>),
    Known(Arc<AtomicU64>),
}

/// What to do about a question.
#[derive(Debug)]
pub(crate) enum Asked {
    /// Tell the shard.
    Answer(ToShard),
    /// Read the ledger, then call [`Months::on_read`].
    Read,
    /// The ledger is being read already.
    Wait,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Months(HashMap<Place, Word>);

impl Months {
    /// A shard asks.
    pub(crate) fn ask(&mut self, shard: u16, place: Place) -> Asked {
        if self.0.len() >= MONTHS_MAX && !self.0.contains_key(&place) {
            // By the time the last shard has let go of a word, the ledger has its records.
            self.0.retain(|_, word| match word {
                Word::Reading(_) => true,
                Word::Known(tokens) => Arc::strong_count(tokens) > 1,
            });
        }
        match self.0.entry(place) {
            Entry::Vacant(vacant) => {
                vacant.insert(Word::Reading(vec![shard]));
                Asked::Read
            }
            Entry::Occupied(mut occupied) => match occupied.get_mut() {
                Word::Known(tokens) => Asked::Answer(answer(place, tokens)),
                Word::Reading(shards) => {
                    if !shards.contains(&shard) {
                        shards.push(shard);
                    }
                    Asked::Wait
                }
            },
        }
    }

    /// The ledger's word; the answer, and who waits for it.
    pub(crate) fn on_read(&mut self, place: Place, tokens: u64) -> Option<(Vec<u16>, ToShard)> {
        let Some(Word::Reading(shards)) = self.0.remove(&place) else {
            return None;
        };
        let tokens = Arc::new(AtomicU64::new(tokens));
        let answer = answer(place, &tokens);
        self.0.insert(place, Word::Known(tokens));
        Some((shards, answer))
    }
}

fn answer(place: Place, tokens: &Arc<AtomicU64>) -> ToShard {
    let Place { consumer, service, period } = place;
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

    #[test]
    fn all_shards_share_one_word_read_once() {
        let mut months = Months::default();
        let place =
            Place { consumer: ConsumerId(1), service: ServiceId(2), period: Period(202_611) };
        assert!(matches!(months.ask(0, place), Asked::Read));
        assert!(matches!(months.ask(1, place), Asked::Wait));
        assert!(matches!(months.ask(1, place), Asked::Wait));
        let read = months.on_read(place, 500);
        let (shards, first) = read.unwrap_or_else(|| (Vec::new(), ToShard::Drain));
        assert_eq!(shards, [0, 1]);
        word(&first).iter().for_each(|word| {
            word.fetch_add(7, Relaxed);
        });
        let second = match months.ask(2, place) {
            Asked::Answer(message) => word(&message).map(|word| word.load(Relaxed)),
            _ => None,
        };
        assert_eq!(second, Some(507));
        assert!(months.on_read(place, 1).is_none(), "a word is never made twice");
    }
}
