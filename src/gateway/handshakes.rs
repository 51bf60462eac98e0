//! How many TLS handshakes a shard makes at once. Each costs as much of the shard's time as some
//! calls: a crowd of callers who each need a new connection must not take all of it from the
//! callers who need none.

use super::park::{Parking, Spot};
use crate::clock;
use crate::net;
use shard::units::Nanos;
use std::cell::Cell;
use std::time::Duration;

/// At once, on one shard.
const HANDSHAKES_MAX: u32 = 16;

/// Those under way on one shard.
#[derive(Default)]
pub(super) struct Handshakes(Cell<u32>);

/// Leave to make one; the next may begin when it is dropped.
pub(super) struct Turn<'a> {
    under_way: &'a Cell<u32>,
    parking: &'a Parking,
}

impl Handshakes {
    /// Waits for a turn; `None`: it has not come by the deadline, or by the end of the drain.
    pub(super) async fn turn<'a>(
        &'a self,
        parking: &'a Parking,
        deadline: Nanos,
    ) -> Option<Turn<'a>> {
        while self.0.get() >= HANDSHAKES_MAX {
            let patience = Duration::from_nanos(deadline.since(clock::lately()).0);
            net::within(patience, parking.wait(Spot::Handshake)).await?;
        }
        self.0.set(self.0.get() + 1);
        Some(Turn { under_way: &self.0, parking })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.under_way.set(self.under_way.get() - 1);
        self.parking.wake(Spot::Handshake);
    }
}
