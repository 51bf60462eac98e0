//! Looks how far the replica is behind that lists and reports are read from.

use super::admin_state::AdminState;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

const EVERY: Duration = Duration::from_secs(1);

/// Runs for as long as its thread, or not at all without a replica.
pub(super) async fn watch(state: Arc<AdminState>) {
    let mut is_lost = false;
    loop {
        match state.store.replica_lag_us().await {
            Ok(None) => return,
            Ok(Some(lag_us)) => {
                state.metrics.control.replica_lag_us.set(lag_us.max(0).saturating_add(1));
                is_lost = false;
            }
            Err(failure) => {
                if !is_lost {
                    tracing::warn!(%failure, "how far the replica is behind is not known for now");
                }
                is_lost = true;
                state.metrics.control.replica_lag_us.set(0);
            }
        }
        sleep(EVERY).await;
    }
}
