//! What the model says: plain words, each one token to the usual tokenizers, so that a count by
//! tokenizer comes near the usage reported.

use super::draw::draw;

/// Words whose form with and without a leading space is one token of o200k.
const WORDS: [&str; 48] = [
    "the", "a", "time", "way", "day", "man", "world", "life", "hand", "part", "place", "case",
    "week", "work", "point", "home", "water", "room", "area", "money", "story", "fact", "month",
    "right", "book", "word", "side", "kind", "head", "house", "service", "friend", "power", "hour",
    "game", "line", "end", "city", "name", "team", "minute", "idea", "body", "back", "face",
    "level", "office", "door",
];
/// Length of the endless text's period.
const PERIOD: u32 = 4096;

/// An endless text.
pub(super) struct Words {
    /// One period; each word has a space before it.
    text: String,
    /// Where each word starts, and where the last one ends.
    starts: Vec<u32>,
}

impl Words {
    /// The text of this seed.
    pub(super) fn new(seed: u64) -> Self {
        let (mut text, mut starts) = (String::new(), vec![0]);
        for number in 0..u64::from(PERIOD) {
            text.push(' ');
            text.push_str(WORDS[(draw(seed, number, 0) % WORDS.len() as u64) as usize]);
            starts.push(text.len() as u32);
        }
        Self { text, starts }
    }

    /// Appends word `index` of an answer that starts at `start` of the text.
    pub(super) fn put_one(&self, out: &mut Vec<u8>, start: u32, index: u32) {
        let word = self.slice(start.wrapping_add(index) % PERIOD, 1);
        out.extend_from_slice(if index == 0 { &word[1..] } else { word });
    }

    /// Appends the first `count` words of an answer that starts at `start` of the text.
    pub(super) fn put_all(&self, out: &mut Vec<u8>, start: u32, count: u32) {
        let mut done = 0;
        while done < count {
            let from = start.wrapping_add(done) % PERIOD;
            let take = (count - done).min(PERIOD - from);
            out.extend_from_slice(&self.slice(from, take)[usize::from(done == 0)..]);
            done += take;
        }
    }

    fn slice(&self, from: u32, count: u32) -> &[u8] {
        let (begin, end) = (self.starts[from as usize], self.starts[(from + count) as usize]);
        &self.text.as_bytes()[begin as usize..end as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokenizer_counts_the_tokens_promised() {
        let words = Words::new(7);
        let tokenizer = bpe_openai::o200k_base();
        for (start, count) in [(0, 1), (5, 16), (PERIOD - 10, 200), (3, 2 * PERIOD)] {
            let mut text = Vec::new();
            words.put_all(&mut text, start, count);
            let text = String::from_utf8_lossy(&text);
            assert_eq!(tokenizer.count(text.as_ref()), count as usize, "{text}");
        }
    }

    #[test]
    fn word_by_word_is_the_whole() {
        let words = Words::new(7);
        for start in [0, PERIOD - 3, u32::MAX - 2] {
            let (mut whole, mut parts) = (Vec::new(), Vec::new());
            words.put_all(&mut whole, start, 9);
            (0..9).for_each(|index| words.put_one(&mut parts, start, index));
            assert_eq!(whole, parts);
        }
    }
}
