//! What the threads of one server share, and how it decides on an answer. It must never draw
//! from anything but the seed and the count of requests.

use super::Behaviour;
use super::draw::draw;
use super::embeddings::Vectors;
use super::fault::PlannedFault;
use super::put::Put;
use super::request::{Head, ModelRoute, Scanner};
use super::words::Words;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most output tokens of an answer.
const TOKENS_MAX: u32 = 1_000_000;
/// Most bytes that a body is padded to.
const PADDED_BYTES_MAX: u32 = 64 * 1024 * 1024;
/// Longest single wait.
const WAIT_MS_MAX: u32 = 600_000;
/// Bytes of a body that are kept for `/mock/last`.
const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The model's name if a request has none.
pub(super) const DEFAULT_NAME: &str = "mock-small";

/// One server.
pub(super) struct Model {
    behaviour: Behaviour,
    scanner: Scanner,
    /// What it says.
    pub words: Words,
    /// What happened so far.
    pub counts: Counts,
    last: Mutex<Last>,
}

/// Counts since the start; requests to `/mock/…` are in none but `connections`.
#[derive(Default)]
pub(super) struct Counts {
    pub requests: AtomicU64,
    pub streams: AtomicU64,
    /// Streams whose client went away before the end.
    pub aborted_streams: AtomicU64,
    pub connections: AtomicU64,
}

/// The last request.
#[derive(Default)]
struct Last {
    head: Vec<u8>,
    body: Vec<u8>,
}

/// The answer decided on for one request.
pub(super) struct ModelCall {
    pub endpoint: ModelRoute,
    pub head_only: bool,
    pub close: bool,
    pub stream: bool,
    /// OpenAI streams: the usage is wanted as an event of its own.
    pub include_usage: bool,
    /// Whether usage is reported at all.
    pub usage: bool,
    /// Answered with this error status.
    pub refusal: Option<u16>,
    pub fault: Option<PlannedFault>,
    pub tokens: u32,
    /// The request's maximum cut the answer short.
    pub capped: bool,
    pub prompt_tokens: u32,
    pub cached_tokens: u32,
    /// A whole answer's body has at least so many bytes.
    pub padded_bytes: usize,
    pub latency: Duration,
    pub ttft: Duration,
    pub inter_token: Duration,
    pub vectors: Vectors,
    /// Names the answer, and is where its text starts.
    pub id: u64,
    /// The model's name, as in JSON.
    pub name: Vec<u8>,
}

impl ModelCall {
    /// Where the answer's text starts.
    pub(super) const fn text_start(&self) -> u32 {
        self.id as u32
    }
}

impl Model {
    /// A server that behaves like this.
    pub(super) fn new(behaviour: Behaviour) -> Self {
        Self {
            words: Words::new(behaviour.seed),
            behaviour,
            scanner: Scanner::new(),
            counts: Counts::default(),
            last: Mutex::default(),
        }
    }

    /// Decides on the answer, and keeps the request for `/mock/last`. `name` is a buffer to use.
    pub(super) fn plan(&self, parsed: &Head, head: &[u8], body: &[u8], name: Vec<u8>) -> ModelCall {
        let endpoint = parsed.endpoint;
        let mut call = ModelCall {
            endpoint,
            head_only: parsed.head_only,
            close: parsed.close,
            stream: false,
            include_usage: false,
            usage: self.behaviour.usage,
            refusal: None,
            fault: None,
            tokens: 0,
            capped: false,
            prompt_tokens: 0,
            cached_tokens: 0,
            padded_bytes: parsed.overrides.body_bytes.unwrap_or(0).min(PADDED_BYTES_MAX) as usize,
            latency: Duration::ZERO,
            ttft: Duration::ZERO,
            inter_token: Duration::ZERO,
            vectors: Vectors::default(),
            id: 0,
            name,
        };
        if matches!(endpoint, ModelRoute::Stats | ModelRoute::Last) {
            return call;
        }
        let number = self.counts.requests.fetch_add(1, Ordering::Relaxed);
        call.id = draw(self.behaviour.seed, number, 1);
        self.keep(head, body);
        self.read_body(&mut call, parsed, body);
        self.count_tokens(&mut call, parsed, body);
        self.time(&mut call, parsed, number);
        self.spoil(&mut call, parsed, number);
        call
    }

    fn keep(&self, head: &[u8], body: &[u8]) {
        let mut last = self.last();
        last.head.clear();
        last.head.extend_from_slice(head);
        last.body.clear();
        last.body.extend_from_slice(&body[..body.len().min(KEPT_BYTES_MAX)]);
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        // A thread that died while it copied leaves some bytes, and any bytes will do.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of `/mock/last`: the head and the first 4 MiB of the body, as they came.
    pub(super) fn put_last(&self, out: &mut Vec<u8>) {
        let last = self.last();
        out.bytes(&last.head).bytes(&last.body);
    }

    /// The body of `/mock/stats`.
    pub(super) fn put_stats(&self, out: &mut Vec<u8>) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        out.text(r#"{"requests":"#)
            .number(count(&self.counts.requests))
            .text(r#","streams":"#)
            .number(count(&self.counts.streams))
            .text(r#","aborted_streams":"#)
            .number(count(&self.counts.aborted_streams))
            .text(r#","connections":"#)
            .number(count(&self.counts.connections))
            .text("}");
    }

    fn read_body(&self, call: &mut ModelCall, parsed: &Head, body: &[u8]) {
        let named = self.scanner.model(body).unwrap_or(DEFAULT_NAME.as_bytes());
        call.name.clear();
        call.name.extend_from_slice(named);
        match parsed.endpoint {
            ModelRoute::Chat | ModelRoute::Completions => {
                call.stream = self.scanner.stream(body) && !call.head_only;
                call.include_usage = call.stream && self.scanner.include_usage(body);
            }
            ModelRoute::Responses | ModelRoute::Messages => {
                call.stream = self.scanner.stream(body) && !call.head_only;
            }
            ModelRoute::Embeddings => match Vectors::wanted(body) {
                Some(vectors) => call.vectors = vectors,
                None => call.refusal = Some(400),
            },
            ModelRoute::Unknown => call.refusal = Some(404),
            ModelRoute::Models | ModelRoute::Stats | ModelRoute::Last => {}
        }
    }

    fn count_tokens(&self, call: &mut ModelCall, parsed: &Head, body: &[u8]) {
        let asked = &parsed.overrides;
        call.tokens = match asked.tokens {
            Some(tokens) => tokens,
            None => {
                let most = self.scanner.tokens_max(body).unwrap_or(u32::MAX);
                call.capped = most < self.behaviour.tokens;
                self.behaviour.tokens.min(most)
            }
        }
        .min(TOKENS_MAX);
        let estimate = (body.len() / 4).max(1) as u32;
        call.prompt_tokens =
            asked.prompt_tokens.or(self.behaviour.prompt_tokens).unwrap_or(estimate);
        let cached = (f64::from(call.prompt_tokens) * self.behaviour.cached_fraction) as u32;
        call.cached_tokens = asked.cached_tokens.unwrap_or(cached).min(call.prompt_tokens);
    }

    fn time(&self, call: &mut ModelCall, parsed: &Head, number: u64) {
        let (usual, asked) = (&self.behaviour, &parsed.overrides);
        let wait = |ms: u32| Duration::from_millis(u64::from(ms.min(WAIT_MS_MAX)));
        let jitter_ms = match usual.jitter_ms {
            0 => 0,
            most => (draw(usual.seed, number, 2) % (u64::from(most) + 1)) as u32,
        };
        let latency_ms = asked.latency_ms.unwrap_or(usual.latency_ms);
        call.latency = wait(latency_ms.saturating_add(jitter_ms));
        call.ttft = wait(asked.ttft_ms.unwrap_or(usual.ttft_ms));
        call.inter_token = wait(asked.inter_token_ms.unwrap_or(usual.inter_token_ms));
    }

    fn spoil(&self, call: &mut ModelCall, parsed: &Head, number: u64) {
        let usual = &self.behaviour;
        let falls = |purpose, rate| rate > 0.0 && chance(draw(usual.seed, number, purpose), rate);
        if falls(3, usual.fail_rate) {
            call.refusal = call.refusal.or(Some(500));
        }
        let by_rate = usual.fault.filter(|_| falls(4, usual.fault_rate));
        match parsed.overrides.fault.or(by_rate) {
            Some(PlannedFault::Status(status)) => call.refusal = Some(status),
            Some(PlannedFault::ErrorEvent) if !call.stream => call.refusal = Some(500),
            Some(PlannedFault::NoUsage) => call.usage = false,
            fault => call.fault = fault,
        }
    }
}

fn chance(drawn: u64, rate: f64) -> bool {
    ((drawn >> 11) as f64) < rate * (1_u64 << 53) as f64
}
