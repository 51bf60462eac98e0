//! Counts tokens of calls whose upstream reported none, off the shards and off the lease loop.
//!
//! The o200k tables take tens of MB, so they are loaded at the first question only. Where the
//! queue is full the answer is bytes/4 at once: such a record is marked `estimated` either way.

use super::shard_senders::ShardSenders;
use shard::message::ToShard;

/// Questions that wait.
const QUEUE_MAX: usize = 256;
/// Bytes of text that are counted exactly; a longer text is counted in proportion.
const COUNTED_BYTES_MAX: usize = 1 << 20;

struct CountQuestion {
    shard: u16,
    ticket: u64,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// The counting thread's front.
pub(crate) struct Tokenizer {
    questions: flume::Sender<CountQuestion>,
    senders: ShardSenders,
}

impl Tokenizer {
    /// Starts the thread, which ends when this is dropped.
    pub(crate) fn start(senders: ShardSenders) -> std::io::Result<Self> {
        let (questions, asked) = flume::bounded::<CountQuestion>(QUEUE_MAX);
        let answers = senders.clone();
        std::thread::Builder::new().name("tokenizer".to_owned()).spawn(move || {
            while let Ok(question) = asked.recv() {
                answer(&answers, &question, count);
            }
        })?;
        Ok(Self { questions, senders })
    }

    /// Counts `input` and `output` and tells the shard.
    pub(crate) fn ask(&self, shard: u16, ticket: u64, input: Vec<u8>, output: Vec<u8>) {
        let question = CountQuestion { shard, ticket, input, output };
        if let Err(refused) = self.questions.try_send(question) {
            answer(&self.senders, &refused.into_inner(), estimate);
        }
    }
}

fn answer(senders: &ShardSenders, question: &CountQuestion, count: fn(&[u8]) -> u32) {
    let counted = ToShard::Counted {
        ticket: question.ticket,
        input_tokens: count(&question.input),
        output_tokens: count(&question.output),
    };
    senders.tell(question.shard, counted);
}

fn estimate(text: &[u8]) -> u32 {
    u32::try_from(text.len().div_ceil(4)).unwrap_or(u32::MAX)
}

fn count(text: &[u8]) -> u32 {
    if text.is_empty() {
        return 0;
    }
    let counted = &text[..text.len().min(COUNTED_BYTES_MAX)];
    let tokens = bpe_openai::o200k_base().count(&*String::from_utf8_lossy(counted)) as u128;
    let scaled = tokens * text.len() as u128 / counted.len() as u128;
    u32::try_from(scaled).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_those_of_o200k() {
        assert_eq!(count(b""), 0);
        assert_eq!(count(b"Hello, world!"), 4);
        assert_eq!(estimate(b"Hello"), 2);
    }

    /// The examples of the OpenAI Cookbook ("How to count tokens with tiktoken"), and texts that
    /// are far from four bytes to a token: a guess by length fails each of them.
    #[test]
    fn tokens_are_counted_and_not_guessed() {
        let (words, digits) = ("hello ".repeat(500), "0".repeat(3_000));
        for (text, tokens) in [
            ("antidisestablishmentarianism", 6),
            ("2 + 2 = 4", 7),
            ("お誕生日おめでとう", 8),
            (words.as_str(), 501),
            (digits.as_str(), 1_000),
        ] {
            assert_eq!(count(text.as_bytes()), tokens, "{text:.30}");
            assert_ne!(estimate(text.as_bytes()), tokens, "{text:.30}");
        }
    }

    #[test]
    fn every_question_is_answered_once() {
        let (to_shard, from_control) = flume::unbounded();
        let tokenizer = Tokenizer::start(ShardSenders::new(vec![to_shard])).ok();
        let asked = 3 * QUEUE_MAX as u64;
        for ticket in 0..asked {
            let text = b"four words are here".to_vec();
            tokenizer.iter().for_each(|it| it.ask(0, ticket, text.clone(), Vec::new()));
        }
        let mut tickets: Vec<u64> = (0..asked)
            .filter_map(|_| match from_control.recv() {
                Ok(ToShard::Counted { ticket, input_tokens, output_tokens: 0 }) => {
                    assert!([4, 5].contains(&input_tokens), "{input_tokens}");
                    Some(ticket)
                }
                _ => None,
            })
            .collect();
        tickets.sort_unstable();
        assert_eq!(tickets, (0..asked).collect::<Vec<_>>());
        assert!(from_control.is_empty());
    }
}
