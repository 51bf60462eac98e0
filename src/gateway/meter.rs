//! How many tokens a call used: as the upstream reported them, or counted by the tokenizer off
//! the shard where it reported none, and marked so.

use super::core::{Core, Reply};
use crate::wire::usage::{TokenCounts, answer_text, prompt_text};
use shard::message::ToControl;
use shard::record::Usage;
use std::time::Duration;

/// Text handed to the tokenizer at most; of more, the count is scaled up.
const COUNTED_BYTES_MAX: usize = 1 << 20;
/// The tokenizer takes milliseconds; where it is far behind, length decides.
pub const COUNT_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes to a token where nobody counts: OpenAI's rule of thumb.
const BYTES_PER_TOKEN: usize = 4;

/// An answer that stands for work done: where it reports no usage, tokens are counted.
pub const fn is_billable(status: u16) -> bool {
    status >= 200 && status < 300
}

/// Of an answer that stands for no work and reports nothing.
pub const NONE_REPORTED: Usage =
    Usage { input_tokens: 0, cached_tokens: 0, output_tokens: 0, estimated: true };

/// As the upstream reported.
pub const fn reported(counts: TokenCounts) -> Usage {
    Usage {
        input_tokens: counts.input,
        cached_tokens: if counts.cached < counts.input { counts.cached } else { counts.input },
        output_tokens: counts.output,
        estimated: false,
    }
}

/// Counts a whole answer's tokens.
pub async fn estimate_answer(core: &Core, request_body: &[u8], answer_body: &[u8]) -> Usage {
    let mut text = Vec::new();
    answer_text(answer_body, &mut text);
    estimate(core, request_body, text).await
}

/// Counts the tokens of a request's texts and of the completion's.
pub async fn estimate(core: &Core, request_body: &[u8], completion: Vec<u8>) -> Usage {
    let mut prompt = Vec::new();
    prompt_text(request_body, &mut prompt);
    let (prompt_bytes, completion_bytes) = (prompt.len(), completion.len());
    let cut = |mut text: Vec<u8>| {
        text.truncate(COUNTED_BYTES_MAX);
        text
    };
    let (input, output) = (cut(prompt), cut(completion));
    let reply = if input.is_empty() && output.is_empty() {
        Some(Reply::Counted { input_tokens: 0, output_tokens: 0 })
    } else {
        let shard = core.index;
        core.ask(COUNT_PATIENCE, |ticket| ToControl::Count { shard, ticket, input, output }).await
    };
    match reply {
        Some(Reply::Counted { input_tokens, output_tokens }) => Usage {
            input_tokens: scale(input_tokens, prompt_bytes),
            cached_tokens: 0,
            output_tokens: scale(output_tokens, completion_bytes),
            estimated: true,
        },
        _ => Usage {
            input_tokens: by_length(prompt_bytes),
            cached_tokens: 0,
            output_tokens: by_length(completion_bytes),
            estimated: true,
        },
    }
}

fn scale(tokens: u32, bytes: usize) -> u32 {
    let counted = bytes.clamp(1, COUNTED_BYTES_MAX) as u64;
    u32::try_from(u64::from(tokens).saturating_mul(bytes as u64) / counted).unwrap_or(u32::MAX)
}

fn by_length(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(BYTES_PER_TOKEN)).unwrap_or(u32::MAX)
}
