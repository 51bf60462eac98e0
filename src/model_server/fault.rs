//! What can be made to go wrong with an answer, by name.

/// A fault; see [`PlannedFault::NAMES`] for how each is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlannedFault {
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

const TABLE: [(&str, PlannedFault); 15] = [
    ("status-500", PlannedFault::Status(500)),
    ("status-429", PlannedFault::Status(429)),
    ("status-400", PlannedFault::Status(400)),
    ("close-before-head", PlannedFault::CloseBeforeHead),
    ("close-mid-body", PlannedFault::CloseMidBody),
    ("close-mid-stream", PlannedFault::CloseMidBody),
    ("stall-before-head", PlannedFault::StallBeforeHead),
    ("stall-mid-stream", PlannedFault::StallMidBody),
    ("garbage", PlannedFault::Garbage),
    ("bad-chunk", PlannedFault::BadChunk),
    ("short-body", PlannedFault::ShortBody),
    ("huge-head", PlannedFault::HugeHead),
    ("no-usage", PlannedFault::NoUsage),
    ("slow", PlannedFault::Slow),
    ("error-event", PlannedFault::ErrorEvent),
];

impl PlannedFault {
    /// Every fault's name.
    pub(crate) const NAMES: [&'static str; TABLE.len()] = {
        let mut names = [""; TABLE.len()];
        let mut at = 0;
        while at < names.len() {
            names[at] = TABLE[at].0;
            at += 1;
        }
        names
    };

    /// The fault of this name.
    pub(crate) fn named(name: &[u8]) -> Option<Self> {
        TABLE.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, fault)| *fault)
    }
}
