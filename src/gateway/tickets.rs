//! Questions to control that single requests wait on, and their answers. A question's ticket
//! comes back with its answer; an answer that nobody waits for any more is dropped.

use super::park::{Parking, Spot};
use crate::net;
use shard::message::Account;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

/// The tokenizer takes milliseconds; where it is far behind, length decides.
pub(super) const COUNT_PATIENCE: Duration = Duration::from_secs(2);

/// Control's answer to a question of one request.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// Tokens counted.
    Counted {
        /// Of the prompt.
        input_tokens: u32,
        /// Of the completion.
        output_tokens: u32,
    },
    /// The consumer's month.
    Account(Account),
}

/// The questions under way: at most one for each request, so connections bound them.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    replies: RefCell<HashMap<u64, Option<Reply>>>,
    next: Cell<u64>,
}

impl Tickets {
    /// Waits for the answer to what `send` asks under the ticket that it is given; `None` if it
    /// cannot be asked, or if no answer comes within `patience`.
    pub(super) async fn ask(
        &self,
        parking: &Parking,
        patience: Duration,
        send: impl FnOnce(u64) -> bool,
    ) -> Option<Reply> {
        let ticket = self.next.get();
        self.next.set(ticket + 1);
        self.replies.borrow_mut().insert(ticket, None);
        if send(ticket) {
            net::within(patience, parking.wait(Spot::Ticket(ticket))).await;
        }
        self.replies.borrow_mut().remove(&ticket).flatten()
    }

    /// Gives the answer to whoever waits for it.
    pub(super) fn answer(&self, parking: &Parking, ticket: u64, reply: Reply) {
        if let Some(slot) = self.replies.borrow_mut().get_mut(&ticket) {
            *slot = Some(reply);
        }
        parking.wake(Spot::Ticket(ticket));
    }
}
