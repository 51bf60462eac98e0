//! The way from control to the shards.

use shard::message::ToShard;
use std::sync::Arc;

/// Control's ends of the shards' channels.
#[derive(Clone)]
pub(crate) struct ShardSenders(Arc<[flume::Sender<ToShard>]>);

impl ShardSenders {
    /// Ends by the shards' numbers.
    pub(crate) fn new(to_shards: Vec<flume::Sender<ToShard>>) -> Self {
        Self(to_shards.into())
    }

    /// How many shards there are.
    pub(crate) fn shards(&self) -> usize {
        self.0.len()
    }

    /// Tells one shard, without waiting: a shard that has left 65 536 messages unread is not
    /// coming back, and the others must not wait for it.
    pub(crate) fn tell(&self, shard: u16, message: ToShard) {
        let Some(to_shard) = self.0.get(usize::from(shard)) else { return };
        match to_shard.try_send(message) {
            Ok(()) | Err(flume::TrySendError::Disconnected(_)) => {}
            Err(flume::TrySendError::Full(_)) => {
                tracing::error!(shard, "a message was lost: the shard reads no messages");
            }
        }
    }

    /// Tells every shard, waiting for room: what is told to all must not be lost.
    pub(crate) async fn tell_all(&self, message: &ToShard) {
        for to_shard in self.0.iter() {
            // A shard that has ended needs no word.
            let _ = to_shard.send_async(message.clone()).await;
        }
    }
}
