//! Answers that are relayed as they come: event streams, and bodies too large to hold. Every
//! piece goes on at once; only the end of the answer waits for its record.

use super::{Relayed, Rest, fields_of, meaning, uncounted_of};
use crate::clock;
use crate::gateway::admitted::Admitted;
use crate::gateway::answer::{AnswerHead, BodyLength, GatewayHeaders};
use crate::gateway::call::{Call, Next, Uncounted};
use crate::gateway::core::Core;
use crate::gateway::downstream::Exchange;
use crate::gateway::upstream::{Fault, Pools, UpstreamConnection};
use crate::gateway::wanted::Wanted;
use crate::net;
use crate::wire::error::ApiError;
use crate::wire::response::{ResponseFraming, is_success};
use crate::wire::sse::{EventTooLarge, SseEvent, SseSplitter};
use crate::wire::usage::{EventRole, StreamMeter};
use shard::record::Outcome;
use std::ops::Range;
use std::time::Duration;

/// Of a large body, and of a stream's text, this much is kept to find or count its usage in.
const KEPT_BYTES_MAX: usize = 8 << 20;
/// An event with less text than this, on the average, is taken for one token: hardly any token of
/// an answer is longer, and most upstreams send one an event.
const TOKEN_BYTES_MAX: u64 = 16;
/// Bytes to a token of longer events: OpenAI's rule of thumb.
const BYTES_PER_TOKEN: u64 = 4;
/// What comes after a stream's end marker (a proxy's `[DONE]` behind `message_stop`, say) is waited
/// for so long, and relayed up to so many bytes. Nothing is expected after `[DONE]` itself.
const EXTRA_PATIENCE: Duration = Duration::from_millis(100);
const EXTRA_BYTES_MAX: usize = 64 * 1024;

enum StreamEnd {
    Whole,
    Gone,
    Broken(Fault),
}

/// Relays the rest of an answer whose head, and perhaps some of whose body, is in `connection`.
pub(super) async fn relay(
    core: &Core,
    exchange: &mut Exchange<'_>,
    call: &Call,
    wanted: &Wanted,
    admitted: &mut Admitted,
    mut connection: UpstreamConnection,
) -> Relayed {
    let status = connection.head.status;
    let length = match connection.head.framing {
        ResponseFraming::Length(length) if !admitted.streamed => BodyLength::Known(length),
        _ => BodyLength::Unknown,
    };
    let limits = core.shard.borrow().limits(&admitted.caller, clock::moment_lately());
    let own = GatewayHeaders { limits: Some(&limits), ..GatewayHeaders::of(call) };
    let fields = fields_of(wanted, &connection);
    exchange.answer(core, &AnswerHead { status, fields, length, own });
    let mut stream = StreamRelay::new(admitted.streamed, wanted.hide_usage);
    let end = stream.run(core, exchange, admitted, &mut connection).await;
    exchange.expect_end();
    let uncounted = stream.uncounted(status);
    let waited = connection.waited();
    let (outcome, fault, rest) = match end {
        StreamEnd::Whole => {
            let failed = stream.upstream_gave_up;
            let outcome = if failed { Outcome::UpstreamFailed } else { Outcome::Completed };
            (outcome, None, Some(Rest::End(stream, connection)))
        }
        StreamEnd::Gone => (Outcome::ClientAborted, None, None),
        StreamEnd::Broken(fault) => {
            let (error, outcome) = meaning(&fault);
            (outcome, Some(fault), Some(Rest::Failure(stream, error)))
        }
    };
    Relayed { status, outcome, uncounted, waited, fault, rest }
}

/// An answer on its way through.
pub(crate) struct StreamRelay {
    is_stream: bool,
    hide_usage: bool,
    splitter: SseSplitter,
    meter: StreamMeter,
    /// Bytes of a stream that are no whole event yet.
    pending: Vec<u8>,
    /// An event was too large: the rest goes through unread.
    unsplittable: bool,
    /// The text of a stream, or the bytes of a body.
    kept: Vec<u8>,
    /// One event's text.
    text: Vec<u8>,
    scratch: Vec<u8>,
    /// Bytes that must not leave before the record is in the journal.
    held: Vec<u8>,
    text_events: u32,
    text_bytes: u64,
    /// The stream's end marker has passed.
    said_all: bool,
    /// It was, or was followed by, `[DONE]`.
    said_done: bool,
    /// The upstream itself ended the stream with an error.
    upstream_gave_up: bool,
}

impl StreamRelay {
    fn new(is_stream: bool, hide_usage: bool) -> Self {
        Self {
            is_stream,
            hide_usage,
            splitter: SseSplitter::default(),
            meter: StreamMeter::default(),
            pending: Vec::new(),
            unsplittable: false,
            text: Vec::new(),
            scratch: Vec::new(),
            kept: Vec::new(),
            held: Vec::new(),
            text_events: 0,
            text_bytes: 0,
            said_all: false,
            said_done: false,
            upstream_gave_up: false,
        }
    }

    async fn run(
        &mut self,
        core: &Core,
        exchange: &mut Exchange<'_>,
        admitted: &mut Admitted,
        connection: &mut UpstreamConnection,
    ) -> StreamEnd {
        let begun = std::mem::take(&mut connection.body);
        self.take(&begun, exchange);
        connection.body = begun;
        loop {
            match connection.part_at_hand() {
                Ok(Some(part)) => self.take(&connection.input[part], exchange),
                Ok(None) if connection.is_done() => {
                    self.take_rest(exchange);
                    return StreamEnd::Whole;
                }
                // What came with the end marker has been taken too.
                Ok(None) if self.said_all => return StreamEnd::Whole,
                // What has been read is written in one go, before more is waited for.
                Ok(None) => {
                    let input = self.meter.reported().input.map(|(input, _)| input);
                    admitted.checkpoint(core, input, self.tokens_so_far());
                    if exchange.has_parts() && exchange.flush(core).await.is_err() {
                        return StreamEnd::Gone;
                    }
                    if let Err(fault) = connection.read_more(core).await {
                        return if exchange.has_left() {
                            StreamEnd::Gone
                        } else {
                            StreamEnd::Broken(fault)
                        };
                    }
                    continue;
                }
                Err(_) if self.said_all => return StreamEnd::Whole,
                Err(fault) => return StreamEnd::Broken(fault),
            }
            if !self.is_stream && connection.is_done() {
                return StreamEnd::Whole;
            }
        }
    }

    /// Sends what waited for the record, and what the upstream says after the end marker.
    pub(crate) async fn end(
        mut self,
        core: &Core,
        pools: &Pools,
        exchange: &mut Exchange<'_>,
        service: u32,
        mut connection: UpstreamConnection,
    ) -> Next {
        self.pass_held(exchange);
        let mut is_kept = true;
        if self.said_all && !self.said_done && !connection.is_done() {
            // The client has the end before the upstream has come to its own. A read that is given
            // up takes its connection with it.
            is_kept = exchange.flush(core).await.is_ok()
                && net::within(EXTRA_PATIENCE, self.take_extra(core, exchange, &mut connection))
                    .await
                    .is_some();
        }
        self.take_rest(exchange);
        self.pass_held(exchange);
        let next = exchange.finish(core).await;
        if is_kept {
            pools.put(core, service, connection);
        }
        next
    }

    async fn take_extra(
        &mut self,
        core: &Core,
        exchange: &mut Exchange<'_>,
        connection: &mut UpstreamConnection,
    ) {
        while !self.said_done && self.held.len() < EXTRA_BYTES_MAX {
            let Ok(Some(part)) = connection.next_part(core).await else { return };
            self.take(&connection.input[part], exchange);
        }
    }

    fn pass_held(&mut self, exchange: &mut Exchange<'_>) {
        exchange.part(&self.held);
        self.held.clear();
    }

    /// About how many tokens of a stream's text have passed.
    fn tokens_so_far(&self) -> u32 {
        let events = u64::from(self.text_events);
        let tokens = if self.text_bytes / TOKEN_BYTES_MAX < events {
            events
        } else {
            self.text_bytes / BYTES_PER_TOKEN
        };
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }

    /// Passes on the next bytes of the body.
    fn take(&mut self, bytes: &[u8], exchange: &mut Exchange<'_>) {
        if !self.is_stream {
            let room = KEPT_BYTES_MAX.saturating_sub(self.kept.len()).min(bytes.len());
            self.kept.extend_from_slice(&bytes[..room]);
            return exchange.part(bytes);
        }
        self.pending.extend_from_slice(bytes);
        if self.unsplittable {
            return self.take_rest(exchange);
        }
        // Runs of events that go the same way leave in one chunk: what stays of them is moved over
        // what does not, to `from..to`.
        let (mut from, mut to, mut at) = (0, 0, 0);
        loop {
            let event = match self.splitter.next_event(&self.pending[at..]) {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(EventTooLarge) => {
                    self.unsplittable = true;
                    break;
                }
            };
            let end = at + event.bytes;
            let role = self.role(&event, at);
            if role.is_end && !self.said_all {
                self.pass(from..to, exchange);
                from = to;
                self.said_all = true;
            }
            let hidden = self.hidden(&event, &role, at);
            to = self.keep(at..hidden.start, to);
            to = self.keep(hidden.end..end, to);
            at = end;
        }
        self.pass(from..to, exchange);
        self.pending.drain(..at);
        if self.unsplittable {
            self.take_rest(exchange);
        }
    }

    fn role(&mut self, event: &SseEvent, at: usize) -> EventRole {
        let Some(data) = event.data(&self.pending[at..], &mut self.scratch) else {
            return EventRole::default();
        };
        self.said_done |= data == b"[DONE]";
        let role = self.meter.event(data, &mut self.text);
        self.upstream_gave_up |= role.is_error;
        if role.has_text {
            self.text_events += 1;
            self.text_bytes += self.text.len() as u64;
        }
        if self.kept.len() < KEPT_BYTES_MAX {
            self.kept.append(&mut self.text);
        }
        self.text.clear();
        role
    }

    /// What the caller is not shown of the event at `at`: perhaps nothing.
    fn hidden(&self, event: &SseEvent, role: &EventRole, at: usize) -> Range<usize> {
        let end = at + event.bytes;
        if !self.hide_usage {
            return end..end;
        }
        match (role.is_usage_only, event.data_line(), role.null_usage) {
            (true, _, _) => at..end,
            (false, Some(data), Some(usage)) => {
                let data_at = at + data.start as usize;
                data_at + usage.start as usize..data_at + usage.end as usize
            }
            _ => end..end,
        }
    }

    /// Moves a part of `pending` down to `to`; where it ends there.
    fn keep(&mut self, part: Range<usize>, to: usize) -> usize {
        let end = to + part.len();
        if part.start != to {
            self.pending.copy_within(part, to);
        }
        end
    }

    /// Passes on a part of `pending`: to the client, or, from the end marker on, to what waits
    /// for the record.
    fn pass(&mut self, part: Range<usize>, exchange: &mut Exchange<'_>) {
        let bytes = &self.pending[part];
        if self.said_all {
            self.held.extend_from_slice(bytes);
        } else {
            exchange.part(bytes);
        }
    }

    /// Passes on an unfinished event at the end of a stream.
    fn take_rest(&mut self, exchange: &mut Exchange<'_>) {
        let rest = 0..self.pending.len();
        self.pass(rest, exchange);
        self.pending.clear();
    }

    fn uncounted(&mut self, status: u16) -> Option<Uncounted> {
        let uncounted = if self.is_stream {
            let completion = std::mem::take(&mut self.kept);
            Uncounted { reported: self.meter.reported(), completion }
        } else {
            uncounted_of(&self.kept)
        };
        Some(uncounted).filter(|it| it.is_whole() || is_success(status))
    }

    /// Ends a stream with an error event; a body that is not a stream just breaks off.
    pub(crate) async fn fail(
        self,
        core: &Core,
        exchange: &mut Exchange<'_>,
        call: &Call,
        error: &ApiError,
    ) -> Next {
        if !self.is_stream {
            return exchange.abort(core).await;
        }
        // What went through unread may have stopped in the middle of an event.
        let mut event = if self.unsplittable { b"\n\n".to_vec() } else { Vec::new() };
        error.write_sse_event(&mut event, call.shape);
        exchange.part(&event);
        exchange.close_after();
        exchange.finish(core).await
    }
}
