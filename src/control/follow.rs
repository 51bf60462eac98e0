//! Follows what other instances change in the catalog. The store says that something may have
//! changed; a look twice a second is the net under that. What this instance changed itself comes
//! back too, and is found to be known.
//!
//! Store lost: what is known goes on serving, and all that was missed is read once it is back.

use super::admin_state::AdminState;
use crate::store::{CatalogError, CatalogNews, CatalogWatch};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// A look without being told.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs for as long as its thread.
pub(super) async fn follow(state: Arc<AdminState>, watch: CatalogWatch) {
    let CatalogWatch { mut seen, told } = watch;
    let mut is_lost = false;
    loop {
        if let Ok(Err(flume::RecvError::Disconnected)) =
            timeout(LOOK_EVERY, told.recv_async()).await
        {
            sleep(LOOK_EVERY).await;
        }
        match look(&state, seen).await {
            Ok(next) => (seen, is_lost) = (next, false),
            Err(failure) => {
                if !is_lost {
                    tracing::warn!(%failure, "changes by other instances are not heard of for now");
                }
                is_lost = true;
            }
        }
    }
}

async fn look(state: &Arc<AdminState>, seen: i64) -> Result<i64, CatalogError> {
    let (seen, news) = state.store.news_after(seen).await?;
    for item in news {
        match take(state, item).await {
            // A credential that this instance cannot open must not hold up all that came after.
            Err(CatalogError::Internal(cause)) => {
                tracing::error!(cause, ?item, "a change by another instance cannot be followed");
            }
            taken => taken?,
        }
    }
    Ok(seen)
}

/// Reads what changed and takes it over; what is not there any more is forgotten.
async fn take(state: &Arc<AdminState>, item: CatalogNews) -> Result<(), CatalogError> {
    match item {
        CatalogNews::Plan(id) => match state.change_plan(state.store.plan(id)).await {
            // Nobody is on a deleted plan.
            Err(CatalogError::Missing) => Ok(()),
            taken => taken.map(drop),
        },
        CatalogNews::Service(id) => match state.change_service(state.store.service(id)).await {
            Err(CatalogError::Missing) => {
                state.forget_service(id).await;
                Ok(())
            }
            taken => taken.map(drop),
        },
        CatalogNews::Consumer(id) => match state.change_consumer(state.store.consumer(id)).await {
            Err(CatalogError::Missing) => {
                state.forget_consumer(id).await;
                Ok(())
            }
            taken => taken.map(drop),
        },
        CatalogNews::Key(id) => state.follow_key(id).await,
    }
}
