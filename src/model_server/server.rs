//! The connections: read a request, play its answer with its waits and faults, read the next one.
//!
//! Answers to requests that came in one piece leave in one piece. What is ready is sent before a
//! wait, a stall or a stream, so that none of them holds it back.

use super::answer::{self, AnswerFraming};
use super::events::Events;
use super::fault::PlannedFault;
use super::model::{Model, ModelCall};
use super::put::Put;
use super::request::{self, Framing, Head};
use crate::net::{self, Listener, Stream};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Connections of one thread; more are closed at once.
const CONNECTIONS_MAX: usize = 16_384;
/// Room that a read is given.
const READ_BYTES: usize = 16 * 1024;
/// Output that is sent before more is made.
const WRITE_BYTES: usize = 64 * 1024;
/// A buffer that grew past this is given back after the request.
const IDLE_BYTES_MAX: usize = 256 * 1024;
/// Before the next `accept` after a failed one, say for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// Between the bytes of the fault `slow`.
const SLOW_PAUSE: Duration = Duration::from_millis(1);
/// What the fault `short-body` promises beyond the body.
const MISSING_BYTES: usize = 16;

/// Serves connections; ends only if the listener can't be used.
pub(super) async fn serve(
    listener: std::net::TcpListener,
    model: Arc<Model>,
) -> std::io::Result<()> {
    let listener = Listener::from_std(listener)?;
    let open = Rc::new(Cell::new(0));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            net::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        if open.get() == CONNECTIONS_MAX {
            continue;
        }
        model.counts.connections.fetch_add(1, Ordering::Relaxed);
        open.set(open.get() + 1);
        let (connection, open) = (Connection::new(stream, Arc::clone(&model)), Rc::clone(&open));
        net::spawn(async move {
            connection.run().await;
            open.set(open.get() - 1);
        });
    }
}

/// What becomes of the connection after an answer.
enum AfterAnswer {
    Keep,
    Close,
}

/// Why a connection ends early.
enum EarlyEnd {
    /// The client is gone.
    Gone,
    /// What it sent is no request; the status to say so with.
    Refused(u16),
}

struct Connection {
    stream: Stream,
    model: Arc<Model>,
    /// What has come; everything before `at` is done with.
    input: Vec<u8>,
    at: usize,
    /// A body that came in chunks, decoded.
    body: Vec<u8>,
    /// What is still to be sent.
    out: Vec<u8>,
    /// For bodies and events, whose length stands before them.
    scratch: Vec<u8>,
    /// For the model's name.
    name: Vec<u8>,
    /// Send byte by byte.
    slow: bool,
}

impl Connection {
    const fn new(stream: Stream, model: Arc<Model>) -> Self {
        Self {
            stream,
            model,
            input: Vec::new(),
            at: 0,
            body: Vec::new(),
            out: Vec::new(),
            scratch: Vec::new(),
            name: Vec::new(),
            slow: false,
        }
    }

    async fn run(mut self) {
        let end = loop {
            match self.turn().await {
                Ok(AfterAnswer::Keep) => {}
                Ok(AfterAnswer::Close) => break None,
                Err(end) => break Some(end),
            }
        };
        if let Some(EarlyEnd::Refused(status)) = end {
            answer::put_refusal(&mut self.out, status);
        }
        if !matches!(end, Some(EarlyEnd::Gone)) {
            // The connection is over whether or not this arrives.
            let _ = self.flush().await;
        }
    }

    /// One request and its answer.
    async fn turn(&mut self) -> Result<AfterAnswer, EarlyEnd> {
        let head = loop {
            match request::parse(&self.input[self.at..]).map_err(EarlyEnd::Refused)? {
                Some(head) => break head,
                None => self.fill(READ_BYTES).await?,
            }
        };
        let length = self.read_body(&head).await?;
        let (head_bytes, rest) = self.input[self.at..].split_at(head.length);
        let body = match head.framing {
            Framing::Length(length) => &rest[..length],
            Framing::Chunked => &self.body,
        };
        let name = std::mem::take(&mut self.name);
        let call = self.model.plan(&head, head_bytes, body, name);
        self.at += length;
        let next = self.answer(&call).await;
        if call.stream && matches!(next, Err(EarlyEnd::Gone)) {
            self.model.counts.aborted_streams.fetch_add(1, Ordering::Relaxed);
        }
        self.name = call.name;
        match next? {
            AfterAnswer::Keep if !call.close => Ok(AfterAnswer::Keep),
            _ => Ok(AfterAnswer::Close),
        }
    }

    /// Waits for all of the body; returns how many bytes head and body had as they came.
    async fn read_body(&mut self, head: &Head) -> Result<usize, EarlyEnd> {
        if head.expects {
            self.out.text("HTTP/1.1 100 Continue\r\n\r\n");
        }
        let mut end = head.length;
        if let Framing::Length(length) = head.framing {
            end += length;
            while self.input.len() - self.at < end {
                let missing = end - (self.input.len() - self.at);
                self.fill(missing.clamp(READ_BYTES, 16 * WRITE_BYTES)).await?;
            }
            return Ok(end);
        }
        self.body.clear();
        let decode = request::decode_chunks;
        while !decode(&self.input[self.at..], &mut end, &mut self.body)
            .map_err(EarlyEnd::Refused)?
        {
            self.fill(READ_BYTES).await?;
        }
        Ok(end)
    }

    /// Sends what is ready, and reads more.
    async fn fill(&mut self, room: usize) -> Result<(), EarlyEnd> {
        self.flush().await?;
        if self.at == self.input.len() {
            self.input.clear();
            for buffer in [&mut self.input, &mut self.body, &mut self.out, &mut self.scratch] {
                if buffer.capacity() > IDLE_BYTES_MAX {
                    *buffer = Vec::new();
                }
            }
        } else {
            self.input.drain(..self.at);
        }
        self.at = 0;
        if self.input.capacity() - self.input.len() < room {
            self.input.reserve(room);
        }
        match self.stream.reader.read(&mut self.input).await {
            Ok(1..) => Ok(()),
            _ => Err(EarlyEnd::Gone),
        }
    }

    async fn flush(&mut self) -> Result<(), EarlyEnd> {
        if self.out.is_empty() {
            return Ok(());
        }
        if self.slow {
            let mut byte = Vec::with_capacity(1);
            for at in 0..self.out.len() {
                byte.clear();
                byte.push(self.out[at]);
                self.stream.writer.write_all(&mut byte).await.map_err(|_| EarlyEnd::Gone)?;
                net::sleep(SLOW_PAUSE).await;
            }
        } else {
            self.stream.writer.write_all(&mut self.out).await.map_err(|_| EarlyEnd::Gone)?;
        }
        self.out.clear();
        Ok(())
    }

    async fn pause(&mut self, span: Duration) -> Result<(), EarlyEnd> {
        if span > Duration::ZERO {
            self.flush().await?;
            net::sleep(span).await;
        }
        Ok(())
    }

    /// Sends what is ready, then nothing until the client goes away.
    async fn stall(&mut self) -> Result<AfterAnswer, EarlyEnd> {
        self.flush().await?;
        let mut ignored = Vec::with_capacity(READ_BYTES);
        while matches!(self.stream.reader.read(&mut ignored).await, Ok(1..)) {
            ignored.clear();
        }
        Err(EarlyEnd::Gone)
    }

    async fn answer(&mut self, call: &ModelCall) -> Result<AfterAnswer, EarlyEnd> {
        if call.stream && call.refusal.is_none() {
            self.model.counts.streams.fetch_add(1, Ordering::Relaxed);
        }
        self.pause(call.latency).await?;
        match call.fault {
            Some(PlannedFault::CloseBeforeHead) => return Ok(AfterAnswer::Close),
            Some(PlannedFault::StallBeforeHead) => return self.stall().await,
            Some(PlannedFault::Garbage) => {
                self.out.text("\0\u{1}tollgate? \r\n\r\nnot HTTP\r\n");
                return Ok(AfterAnswer::Close);
            }
            Some(PlannedFault::Slow) => {
                self.flush().await?;
                self.slow = true;
            }
            _ => {}
        }
        let next = if call.stream && call.refusal.is_none() {
            self.answer_in_events(call).await?
        } else {
            self.answer_whole(call).await?
        };
        if self.slow || self.out.len() >= WRITE_BYTES {
            self.flush().await?;
            self.slow = false;
        }
        Ok(next)
    }

    async fn answer_whole(&mut self, call: &ModelCall) -> Result<AfterAnswer, EarlyEnd> {
        let (out, body) = (&mut self.out, &mut self.scratch);
        body.clear();
        answer::put_body(body, call, &self.model);
        let whole = AnswerFraming::Bytes(body.len());
        let half = &body[..body.len() / 2];
        match call.fault {
            Some(PlannedFault::CloseMidBody) => {
                answer::put_head(out, call, &whole, false);
                out.bytes(half);
                Ok(AfterAnswer::Close)
            }
            Some(PlannedFault::StallMidBody) => {
                answer::put_head(out, call, &whole, false);
                out.bytes(half);
                self.stall().await
            }
            Some(PlannedFault::BadChunk) => {
                answer::put_head(out, call, &AnswerFraming::Chunked, false);
                out.chunk(half).text("zz\r\n").bytes(body);
                Ok(AfterAnswer::Close)
            }
            Some(PlannedFault::ShortBody) => {
                answer::put_head(
                    out,
                    call,
                    &AnswerFraming::Bytes(body.len() + MISSING_BYTES),
                    false,
                );
                out.bytes(body);
                Ok(AfterAnswer::Close)
            }
            fault => {
                answer::put_head(out, call, &whole, fault == Some(PlannedFault::HugeHead));
                if !call.head_only {
                    out.bytes(body);
                }
                Ok(AfterAnswer::Keep)
            }
        }
    }

    async fn answer_in_events(&mut self, call: &ModelCall) -> Result<AfterAnswer, EarlyEnd> {
        let model = Arc::clone(&self.model);
        let events = Events::new(call, &model);
        let (first, tokens_end) = (events.opening(), events.opening() + call.tokens);
        let huge = call.fault == Some(PlannedFault::HugeHead);
        answer::put_head(&mut self.out, call, &AnswerFraming::Chunked, huge);
        for step in 0..events.count() {
            if step == first {
                self.pause(call.ttft).await?;
            } else if (first..tokens_end).contains(&step) {
                self.pause(call.inter_token).await?;
            }
            if !call.inter_token.is_zero() || self.out.len() >= WRITE_BYTES {
                self.flush().await?;
            }
            self.scratch.clear();
            if step == events.middle() {
                match call.fault {
                    Some(PlannedFault::CloseMidBody) => return Ok(AfterAnswer::Close),
                    Some(PlannedFault::StallMidBody) => return self.stall().await,
                    Some(PlannedFault::BadChunk) => {
                        self.out.text("zz\r\n");
                        return Ok(AfterAnswer::Close);
                    }
                    Some(PlannedFault::ErrorEvent) => {
                        events.put_error(&mut self.scratch, step);
                        self.out.chunk(&self.scratch).chunk(b"");
                        return Ok(AfterAnswer::Keep);
                    }
                    _ => {}
                }
            }
            events.put(&mut self.scratch, step);
            self.out.chunk(&self.scratch);
        }
        if call.fault == Some(PlannedFault::ShortBody) {
            return Ok(AfterAnswer::Close);
        }
        self.out.chunk(b"");
        Ok(AfterAnswer::Keep)
    }
}
