//! What can be made to go wrong with an answer, by name.

/// A fault; see [`Fault::NAMES`] for how each is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An error answer with this status.
    Status(u16),
    /// The connection closes instead of an answer.
    CloseBeforeHead,
    /// The connection closes in the middle of the body, streamed or not.
    CloseMidBody,
    /// Nothing comes until the client goes away.
    StallBeforeHead,
    /// Half of the body comes, then nothing until the client goes away.
    StallMidBody,
    /// Bytes that are no HTTP.
    Garbage,
    /// A chunk's size is not a number.
    BadChunk,
    /// The whole body comes, but the framing promises more; then the connection closes.
    ShortBody,
    /// A head of 128 KiB.
    HugeHead,
    /// No usage is reported.
    NoUsage,
    /// A byte a millisecond.
    Slow,
    /// A stream's second half is an error event; a whole answer has status 500.
    ErrorEvent,
}

const TABLE: [(&str, Fault); 15] = [
    ("status-500", Fault::Status(500)),
    ("status-429", Fault::Status(429)),
    ("status-400", Fault::Status(400)),
    ("close-before-head", Fault::CloseBeforeHead),
    ("close-mid-body", Fault::CloseMidBody),
    ("close-mid-stream", Fault::CloseMidBody),
    ("stall-before-head", Fault::StallBeforeHead),
    ("stall-mid-stream", Fault::StallMidBody),
    ("garbage", Fault::Garbage),
    ("bad-chunk", Fault::BadChunk),
    ("short-body", Fault::ShortBody),
    ("huge-head", Fault::HugeHead),
    ("no-usage", Fault::NoUsage),
    ("slow", Fault::Slow),
    ("error-event", Fault::ErrorEvent),
];

impl Fault {
    /// Every fault's name.
    pub const NAMES: [&'static str; TABLE.len()] = {
        let mut names = [""; TABLE.len()];
        let mut at = 0;
        while at < names.len() {
            names[at] = TABLE[at].0;
            at += 1;
        }
        names
    };

    /// The fault of this name.
    pub fn named(name: &[u8]) -> Option<Self> {
        TABLE.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, fault)| *fault)
    }
}
