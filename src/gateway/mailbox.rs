//! What comes from and goes to the other threads by channel: wants and questions to control, its
//! answers, settled records to the writer. Nothing here waits for room in a channel.

use super::core::Core;
use super::park::Spot;
use super::tickets::Reply;
use crate::channels::Settled;
use crate::clock;
use crate::journal::{Journal, Rescue};
use shard::message::{ToControl, ToShard};
use std::time::Duration;

/// Posts what the pure state wants posted; false if the channel has no room for all of it.
/// Cheap when there is nothing.
pub(super) fn post(core: &Core) -> bool {
    loop {
        let unsent = core.unsent.borrow_mut().take();
        let Some(message) = unsent.or_else(|| poll_action(core)) else { return true };
        // Full: control is far behind. What is out of the pure state, spent tokens above all,
        // exists nowhere else, so it waits here for the next post; the rest waits there.
        if let Err(unsent) = core.channels.to_control.try_send(message) {
            *core.unsent.borrow_mut() = Some(unsent.into_inner());
            core.metrics().channel_full.add(1);
            return false;
        }
    }
}

fn poll_action(core: &Core) -> Option<ToControl> {
    let message = core.shard.borrow_mut().poll_action()?;
    if matches!(message, ToControl::Rate(_) | ToControl::Quota(_)) {
        core.metrics().lease_wants.add(1);
    }
    Some(message)
}

/// Asks control; `None` if it does not answer within `patience`.
pub(super) async fn ask(
    core: &Core,
    patience: Duration,
    question: impl FnOnce(u64) -> ToControl,
) -> Option<Reply> {
    let send = |ticket| core.channels.to_control.try_send(question(ticket)).is_ok();
    core.tickets.ask(&core.parking, patience, send).await
}

/// Hands a settled record to the writer. A full channel loses nothing: the record is in the
/// journal, where the writer finds it.
pub(super) fn hand_over(core: &Core, settled: Settled) {
    if core.channels.to_writer.try_send(settled).is_err() {
        core.metrics().channel_full.add(1);
    }
}

/// Takes in all that control says, until it says drain.
pub(super) async fn listen(core: &Core) {
    while let Ok(message) = core.channels.from_control.recv_async().await {
        if take_in(core, message) {
            return;
        }
    }
}

/// Takes in what control has said so far.
pub(super) fn take_in_waiting(core: &Core) {
    while let Ok(message) = core.channels.from_control.try_recv() {
        take_in(core, message);
    }
}

/// True if it is to drain.
fn take_in(core: &Core, message: ToShard) -> bool {
    clock::tick();
    match message {
        ToShard::Counted { ticket, input_tokens, output_tokens } => {
            let reply = Reply::Counted { input_tokens, output_tokens };
            core.tickets.answer(&core.parking, ticket, reply);
        }
        ToShard::Account { ticket, account } => {
            core.tickets.answer(&core.parking, ticket, Reply::Account(account));
        }
        ToShard::Synced { next_seq } => core.sync.synced(&core.parking, next_seq),
        ToShard::SyncFailed => on_sync_failed(core),
        ToShard::Drain => return true,
        other => hand_to_shard(core, other),
    }
    false
}

fn on_sync_failed(core: &Core) {
    let rescue = core.journal.borrow_mut().as_mut().map(Journal::sync_failed);
    tracing::error!(shard = core.index, ?rescue, "the journal could not be synced");
    if rescue == Some(Rescue::Lost) {
        core.sync.failed(&core.parking);
    }
}

fn hand_to_shard(core: &Core, message: ToShard) {
    let mut shard = core.shard.borrow_mut();
    if let ToShard::Catalog(change) = &message {
        core.services.change(change);
    }
    let woken = shard.handle(message, clock::lately());
    drop(shard);
    if let Some(spot) = woken {
        core.parking.wake(Spot::Shard(spot));
    }
    core.wake_ready();
    post(core);
}
