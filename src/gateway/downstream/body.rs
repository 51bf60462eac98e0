//! A request's body: read within its bounds and deadlines, or skipped so that the next request
//! can be read.

use super::http1::{BUFFER_KEPT_BYTES, CONTINUE, Http1, INPUT_BYTES_MIN};
use crate::clock;
use crate::gateway::core::Core;
use crate::wire::chunked::{ChunkDecoder, Step};
use crate::wire::error::ApiError;
use crate::wire::request::BodyFraming;
use shard::units::Nanos;

/// Room for a body grows with what has come of it, by this or to twice as much: a client that only
/// announces a large one takes no memory.
const BODY_STEP_BYTES: usize = 16 * 1024;
/// A refused request's rest is read up to here, so that the client can read its refusal.
const SKIPPED_BODY_BYTES_MAX: u64 = 64 * 1024;

/// How long a body may take.
struct Patience {
    per_read: Nanos,
    until: Nanos,
}

impl Http1 {
    /// The current request's body; whole after [`Http1::read_body`].
    pub(crate) fn body(&self) -> &[u8] {
        match self.head.framing {
            BodyFraming::None => &[],
            BodyFraming::Length(_) => &self.input[self.head.head_len..self.request_bytes],
            BodyFraming::Chunked => &self.decoded_body,
        }
    }

    /// Can the next request be reached: is this one's body read, or small enough to skip?
    pub(crate) const fn can_continue(&self) -> bool {
        let small = match self.head.framing {
            BodyFraming::Length(length) => length <= SKIPPED_BODY_BYTES_MAX,
            BodyFraming::None | BodyFraming::Chunked => false,
        };
        // A client that waits for `100 Continue` may or may not send the body now.
        self.body_is_read || small && !self.head.expect_continue
    }

    /// Is [`Http1::body`] whole already?
    pub(crate) fn body_is_here(&mut self, core: &Core) -> bool {
        if let BodyFraming::Length(length) = self.head.framing
            && length <= core.config().server.max_body_bytes as u64
            && length <= (self.input.len() - self.head.head_len) as u64
        {
            self.request_bytes = self.head.head_len + length as usize;
            self.body_is_read = true;
        }
        self.body_is_read
    }

    /// Reads the rest of the request. Refuses what is too large or too slow; `Err(None)`: the
    /// client is gone.
    pub(crate) async fn read_body(&mut self, core: &Core) -> Result<(), Option<ApiError>> {
        let most = core.config().server.max_body_bytes as u64;
        if matches!(self.head.framing, BodyFraming::Length(length) if length > most) {
            return Err(Some(ApiError::RequestTooLarge));
        }
        if self.head.expect_continue && self.input.len() == self.head.head_len {
            self.output.extend_from_slice(CONTINUE);
            self.send(core).await.map_err(|_| None)?;
        }
        self.take_body(core, most, core.config().server.body_total_timeout_ms).await
    }

    async fn take_body(
        &mut self,
        core: &Core,
        most: u64,
        total_ms: u64,
    ) -> Result<(), Option<ApiError>> {
        let patience = Patience {
            per_read: Nanos::from_ms(core.config().server.body_timeout_ms),
            until: clock::lately().after(Nanos::from_ms(total_ms)),
        };
        if let BodyFraming::Length(length) = self.head.framing {
            let whole = self.head.head_len + length as usize;
            while self.input.len() < whole {
                let rest = whole - self.input.len();
                self.input.reserve(rest.min(self.input.len().max(BODY_STEP_BYTES)));
                self.must_read(&patience).await?;
            }
            self.request_bytes = whole;
        } else {
            let mut decoder = ChunkDecoder::default();
            self.decoded_body.clear();
            loop {
                let rest = &self.input[self.request_bytes..];
                let step = decoder.decode(rest).map_err(|error| Some(error.into()))?;
                match step {
                    Step::Data { payload, consumed } => {
                        if (self.decoded_body.len() + payload.len()) as u64 > most {
                            return Err(Some(ApiError::RequestTooLarge));
                        }
                        self.decoded_body.extend_from_slice(&rest[payload]);
                        self.request_bytes += consumed;
                    }
                    Step::More { consumed } => {
                        // The chunks read so far are decoded: only the head must stay.
                        let done = self.request_bytes + consumed;
                        self.input.drain(self.head.head_len..done);
                        self.request_bytes = self.head.head_len;
                        self.must_read(&patience).await?;
                    }
                    Step::End { consumed } => {
                        self.request_bytes += consumed;
                        break;
                    }
                }
            }
        }
        self.body_is_read = true;
        Ok(())
    }

    async fn must_read(&mut self, patience: &Patience) -> Result<(), Option<ApiError>> {
        let deadline = clock::lately().after(patience.per_read).min(patience.until);
        match self.read_more(deadline).await {
            Some(_) => Ok(()),
            None if self.socket.reader.is_expired() => Err(Some(ApiError::RequestTimeout)),
            None => Err(None),
        }
    }

    /// Makes room for the next request: forgets this one, reading the rest of a refused body.
    /// False if that cannot be.
    pub(crate) async fn finish_request(&mut self, core: &Core) -> bool {
        if !self.body_is_read {
            // Nobody wants it, so it gets no more time in all than a read that somebody wants.
            let total_ms = core.config().server.body_timeout_ms;
            let skipped = self.can_continue()
                && self.take_body(core, SKIPPED_BODY_BYTES_MAX, total_ms).await.is_ok();
            if !skipped {
                return false;
            }
        }
        self.input.drain(..self.request_bytes);
        self.decoded_body.clear();
        for buffer in [&mut self.input, &mut self.output, &mut self.decoded_body] {
            if buffer.capacity() > BUFFER_KEPT_BYTES {
                buffer.shrink_to(INPUT_BYTES_MIN);
            }
        }
        true
    }
}
