//! The caller's side of a call. A stage reads its request and writes its answer through an
//! [`Exchange`] and knows nothing of how either is framed, nor of what else is on the connection.

mod body;
mod http1;

pub(super) use http1::{HeadRead, Http1, IDLE_GRACE};

use super::answer::{AnswerFields, AnswerHead, BodyLength, GatewayHeaders};
use super::call::{Call, Next, Refused};
use super::core::Core;
use super::presence::Presence;
use crate::wire::error::ApiError;
use crate::wire::request::{BodyFraming, Method, RequestHead};
use shard::units::Nanos;
use std::net::IpAddr;

/// One request and its answer.
pub(super) enum Exchange<'a> {
    /// On a connection that has one at a time.
    Http1(&'a mut Http1),
}

/// A request, for reading.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    /// Its head, as places in `bytes`.
    pub head: &'a RequestHead,
    /// See `head`.
    pub bytes: &'a [u8],
    /// Its body; whole after [`Exchange::read_body`].
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// The path of its target.
    pub(super) fn path(&self) -> &'a [u8] {
        self.head.path.of(self.bytes)
    }

    /// Its method as sent.
    pub(super) fn method(&self) -> &'a [u8] {
        self.head.method_span.of(self.bytes)
    }

    /// HEAD: its answer has a head only.
    pub(super) fn is_head(&self) -> bool {
        self.head.method == Method::Head
    }

    /// Does it have a body, be it empty?
    pub(super) fn has_body(&self) -> bool {
        self.head.framing != BodyFraming::None
    }

    /// The text that it gives as its key; empty where it gives none.
    pub(super) fn credential(&self) -> &'a [u8] {
        let credential = self.head.bearer.or(self.head.x_api_key);
        credential.map(|span| span.of(self.bytes)).unwrap_or_default()
    }

    /// Names and values of its fields, as sent.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let bytes = self.bytes;
        self.head.headers.iter().map(move |(name, value)| (name.of(bytes), value.of(bytes)))
    }
}

impl Exchange<'_> {
    /// The request.
    pub(super) fn request(&self) -> Request<'_> {
        match self {
            Self::Http1(http1) => http1.request(),
        }
    }

    /// Who sent it.
    pub(super) fn peer(&self) -> IpAddr {
        match self {
            Self::Http1(http1) => http1.peer.ip(),
        }
    }

    /// When its first byte was here.
    pub(super) fn begun(&self) -> Nanos {
        match self {
            Self::Http1(http1) => http1.begun,
        }
    }

    /// Time since then that went by waiting for the caller: to send, and to take the answer.
    pub(super) fn waited(&self) -> Nanos {
        match self {
            Self::Http1(http1) => http1.waited,
        }
    }

    /// Is its body whole already?
    pub(super) fn body_is_here(&mut self, core: &Core) -> bool {
        match self {
            Self::Http1(http1) => http1.body_is_here(core),
        }
    }

    /// Reads the rest of it. Refuses what is too large or too slow; `Err(None)`: the caller is
    /// gone.
    pub(super) async fn read_body(&mut self, core: &Core) -> Result<(), Option<ApiError>> {
        match self {
            Self::Http1(http1) => http1.read_body(core).await,
        }
    }

    /// For looking after the caller while nobody reads from it.
    pub(super) fn presence(&self) -> Presence {
        match self {
            Self::Http1(http1) => http1.presence(),
        }
    }

    /// From now on until the head of its answer a caller that says no more is asked whether it
    /// still listens.
    pub(super) fn expect_answer(&self, now: Nanos) {
        match self {
            Self::Http1(http1) => http1.expect_answer(now),
        }
    }

    /// Has the caller left while its upstream was waited for?
    pub(super) fn has_left(&self) -> bool {
        match self {
            Self::Http1(http1) => http1.has_left(),
        }
    }

    /// After this answer the connection is closed.
    pub(super) fn close_after(&mut self) {
        match self {
            Self::Http1(http1) => http1.close_after(),
        }
    }

    /// Begins the answer. Nothing has left before [`Exchange::flush`] or the end.
    pub(super) fn answer(&mut self, core: &Core, answer: &AnswerHead<'_>) {
        match self {
            Self::Http1(http1) => http1.answer(core, answer),
        }
    }

    /// Adds to the answer's body.
    pub(super) fn part(&mut self, bytes: &[u8]) {
        match self {
            Self::Http1(http1) => http1.part(bytes),
        }
    }

    /// Is there anything that has not left yet?
    pub(super) fn has_parts(&self) -> bool {
        match self {
            Self::Http1(http1) => http1.has_parts(),
        }
    }

    /// Sends what there is of the answer. How long that takes is the caller's doing.
    ///
    /// # Errors
    /// The caller is gone, or takes nothing any more.
    pub(super) async fn flush(&mut self, core: &Core) -> std::io::Result<()> {
        match self {
            Self::Http1(http1) => http1.flush(core).await,
        }
    }

    /// No part of the answer will come for a while but its end.
    pub(super) fn expect_end(&self) {
        match self {
            Self::Http1(http1) => http1.expect_end(),
        }
    }

    /// Ends the answer, and sends all of it that has not left.
    pub(super) async fn finish(&mut self, core: &Core) -> Next {
        match self {
            Self::Http1(http1) => http1.finish(core).await,
        }
    }

    /// Ends the answer in a way that nobody takes for its end.
    pub(super) async fn abort(&mut self, core: &Core) -> Next {
        match self {
            Self::Http1(http1) => http1.abort(core).await,
        }
    }

    /// A whole answer of ours, with a JSON body.
    pub(super) async fn json(
        &mut self,
        core: &Core,
        status: u16,
        body: &[u8],
        own: GatewayHeaders<'_>,
    ) -> Next {
        let length = BodyLength::Known(body.len() as u64);
        self.answer(core, &AnswerHead { status, fields: AnswerFields::Json, length, own });
        self.part(body);
        self.finish(core).await
    }

    /// A whole answer that refuses the call.
    pub(super) async fn refuse(&mut self, core: &Core, call: &Call, refused: &Refused) -> Next {
        let mut body = Vec::with_capacity(256);
        refused.error.write_body(&mut body, call.shape);
        let (limits, retry_after) = (refused.limits.as_ref(), refused.retry_after);
        let own = GatewayHeaders { limits, retry_after, ..GatewayHeaders::of(call) };
        self.json(core, refused.error.status(), &body, own).await
    }
}
