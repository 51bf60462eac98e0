//! How many tokens a call used: as the upstream reported them, or counted by the tokenizer off
//! the shard where it reported none, or one half, and marked so.

use super::call::Uncounted;
use super::core::Core;
use super::mailbox;
use super::tickets::{COUNT_PATIENCE, Reply};
use crate::wire::prompt::prompt_text;
use crate::wire::usage::{Reported, TokenCounts};
use shard::message::ToControl;
use shard::record::Usage;

/// Text handed to the tokenizer at most; of more, the count is scaled up.
const COUNTED_BYTES_MAX: usize = 1 << 20;
/// Bytes to a token where nobody counts: OpenAI's rule of thumb.
const BYTES_PER_TOKEN: usize = 4;

/// Of an answer that stands for no work and reports nothing.
const NONE_REPORTED: Usage =
    Usage { input_tokens: 0, cached_tokens: 0, output_tokens: 0, estimated: true };

/// What a call used: what was reported, and what was not, counted of the request's body and the
/// completion's text.
pub(super) async fn meter(core: &Core, uncounted: Option<Uncounted>, request: &[u8]) -> Usage {
    let Some(Uncounted { reported, completion }) = uncounted else { return NONE_REPORTED };
    match reported.whole() {
        Some(counts) => as_reported(counts),
        None => complete(core, reported, request, completion).await,
    }
}

const fn as_reported(counts: TokenCounts) -> Usage {
    Usage {
        input_tokens: counts.input,
        cached_tokens: if counts.cached < counts.input { counts.cached } else { counts.input },
        output_tokens: counts.output,
        estimated: false,
    }
}

async fn complete(
    core: &Core,
    reported: Reported,
    request: &[u8],
    mut completion: Vec<u8>,
) -> Usage {
    let (mut prompt, mut other) = (Vec::new(), 0);
    if reported.input.is_none() {
        other = prompt_text(request, &mut prompt);
    }
    if reported.output.is_some() {
        completion.clear();
    }
    let (of_prompt, of_completion) = count(core, prompt, completion).await;
    let of_prompt = u64::from(of_prompt).saturating_add(other);
    let (input_tokens, cached_tokens) =
        reported.input.unwrap_or((u32::try_from(of_prompt).unwrap_or(u32::MAX), 0));
    Usage {
        input_tokens,
        cached_tokens,
        output_tokens: reported.output.unwrap_or(of_completion),
        estimated: true,
    }
}

/// The tokens of two texts.
async fn count(core: &Core, mut input: Vec<u8>, mut output: Vec<u8>) -> (u32, u32) {
    if input.is_empty() && output.is_empty() {
        return (0, 0);
    }
    let (input_bytes, output_bytes) = (input.len(), output.len());
    input.truncate(COUNTED_BYTES_MAX);
    output.truncate(COUNTED_BYTES_MAX);
    let shard = core.index;
    let question = |ticket| ToControl::Count { shard, ticket, input, output };
    match mailbox::ask(core, COUNT_PATIENCE, question).await {
        Some(Reply::Counted { input_tokens, output_tokens }) => {
            (scale(input_tokens, input_bytes), scale(output_tokens, output_bytes))
        }
        _ => (by_length(input_bytes), by_length(output_bytes)),
    }
}

fn scale(tokens: u32, bytes: usize) -> u32 {
    let counted = bytes.clamp(1, COUNTED_BYTES_MAX) as u64;
    u32::try_from(u64::from(tokens).saturating_mul(bytes as u64) / counted).unwrap_or(u32::MAX)
}

fn by_length(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(BYTES_PER_TOKEN)).unwrap_or(u32::MAX)
}
