//! Where a request waits for another thread: for a verdict on its key, tokens, a count of
//! tokens, a sync. Only the cold path comes here. Each wait is bounded in time by its caller and
//! ends by itself; nothing else on the shard notices.

use shard::WaitFor;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// What a parked request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Spot {
    /// Something of the shard's state.
    Shard(WaitFor),
    /// The answer to a question, by its ticket.
    Ticket(u64),
    /// The journal's sync.
    Sync,
    /// The end of a TLS handshake.
    Handshake,
    /// The end of a drain: whatever waits is cut off.
    CutOff,
}

#[derive(Default)]
struct Waiter {
    woken: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// The waiters of one shard.
#[derive(Default)]
pub(super) struct Parking(RefCell<HashMap<Spot, Vec<Rc<Waiter>>>>);

impl Parking {
    /// Waits until the next [`Parking::wake`] of the spot.
    pub(super) fn wait(&self, spot: Spot) -> impl Future<Output = ()> {
        let waiter = Rc::new(Waiter::default());
        self.0.borrow_mut().entry(spot).or_default().push(Rc::clone(&waiter));
        Parked { parking: self, spot, waiter }
    }

    /// Wakes everyone who waits there.
    pub(super) fn wake(&self, spot: Spot) {
        let Some(waiters) = self.0.borrow_mut().remove(&spot) else { return };
        for waiter in waiters {
            waiter.woken.set(true);
            if let Some(waker) = waiter.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

struct Parked<'a> {
    parking: &'a Parking,
    spot: Spot,
    waiter: Rc<Waiter>,
}

impl Future for Parked<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.waiter.woken.get() {
            return Poll::Ready(());
        }
        *self.waiter.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        if self.waiter.woken.get() {
            return;
        }
        let mut spots = self.parking.0.borrow_mut();
        if let Some(waiters) = spots.get_mut(&self.spot) {
            waiters.retain(|waiter| !Rc::ptr_eq(waiter, &self.waiter));
            if waiters.is_empty() {
                spots.remove(&self.spot);
            }
        }
    }
}
