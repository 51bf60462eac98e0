//! A consumer's month as `GET /api/v1/account` shows it.

use super::admin_state::AdminState;
use shard::message::{Account, ToShard};
use shard::units::{ConsumerId, NanoUsd, Period};
use std::sync::Arc;

/// The month by the ledger, which lags the calls by a batch of the writer. A month that cannot
/// be read is not answered: the shard's own timeout is.
pub(super) async fn answer(
    state: Arc<AdminState>,
    shard: u16,
    ticket: u64,
    consumer: ConsumerId,
    period: Period,
) {
    let read = state.store.month_costs(consumer, period).await;
    let month = match read {
        Ok(month) => month,
        Err(failure) => {
            tracing::error!(%failure, "a month's cost was not read");
            return;
        }
    };
    let directory = state.directory();
    let consumer_name =
        directory.consumer(consumer).map_or_else(|| "".into(), |it| Arc::clone(&it.name));
    drop(directory);
    let (cost, fees) = (NanoUsd(0), NanoUsd(0));
    let mut account = Account { cost, fees, calls: 0, tokens: 0, consumer_name };
    for part in month {
        account.cost.0 = account.cost.0.saturating_add(part.cost.0);
        account.fees.0 = account.fees.0.saturating_add(part.fee.0);
        account.calls += part.calls;
        account.tokens = account.tokens.saturating_add(part.tokens);
    }
    state.senders.tell(shard, ToShard::Account { ticket, account });
}
