//! The routes that Tollgate answers itself: health, the caller's models, the caller's account.

use super::answer::GatewayHeaders;
use super::call::{Call, Next, RetryAfter, Stop};
use super::core::Core;
use super::downstream::Exchange;
use super::route::Route;
use super::tickets::Reply;
use super::{mailbox, models};
use crate::clock;
use crate::journal::JournalShared;
use crate::net;
use crate::wire::error::ApiError;
use crate::wire::write::write_duration;
use serde_json::{Value, json};
use shard::LimitsView;
use shard::key_cache::Caller;
use shard::message::{Account, ToControl};
use shard::units::Period;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The ledger is read for an account's cost; it may be busy writing.
const ACCOUNT_PATIENCE: Duration = Duration::from_secs(5);

/// `GET /healthz` and `GET /readyz`.
pub(super) async fn health(core: &Core, exchange: &mut Exchange<'_>, call: &Call) -> (u16, Next) {
    let ready = core.state.ready.load(Ordering::Relaxed) && !core.draining();
    let alive = call.route == Route::Healthz;
    let (status, word) = match (alive, ready) {
        (true, _) => (200, "ok"),
        (false, true) => (200, "ready"),
        (false, false) => (503, "draining"),
    };
    send(core, exchange, call, status, &json!({ "status": word }), None).await
}

/// `GET /v1/models`, `GET /v1/models/{id}` and `GET /api/v1/account`.
pub(super) async fn own_route(
    core: &Core,
    exchange: &mut Exchange<'_>,
    call: &Call,
    caller: &Caller,
) -> Result<(u16, Next), Stop> {
    if call.route != Route::Account {
        let body = models::asked_for(core, &exchange.request(), call, caller)?;
        return Ok(send(core, exchange, call, 200, &body, None).await);
    }
    let period = Period::of(clock::moment_lately().unix_us);
    let question = |ticket| ToControl::Account {
        shard: core.index,
        ticket,
        consumer: caller.consumer,
        period,
    };
    ledger_in_step(core).await;
    let Some(Reply::Account(month)) = mailbox::ask(core, ACCOUNT_PATIENCE, question).await else {
        return Err(ApiError::Overloaded.into());
    };
    let mut limits = core.shard.borrow().limits(caller, clock::moment_lately());
    // The ledger knows better than any shard.
    limits.remaining_tokens = limits.limit_tokens.saturating_sub(month.tokens);
    let body = account(core, caller, period, &month, &limits)?;
    Ok(send(core, exchange, call, 200, &body, Some(&limits)).await)
}

/// Waits, for a moment at most, until all that was settled on any shard is in the ledger.
async fn ledger_in_step(core: &Core) {
    const LOOKS_MAX: usize = 100;
    const LOOK_EVERY: Duration = Duration::from_millis(5);
    let settled: Vec<u64> = core.journals.iter().map(|journal| journal.post_end()).collect();
    for _ in 0..LOOKS_MAX {
        let behind = |(journal, end): (&Arc<JournalShared>, &u64)| journal.ingested() < *end;
        if !core.journals.iter().zip(&settled).any(behind) {
            return;
        }
        net::sleep(LOOK_EVERY).await;
    }
}

fn account(
    core: &Core,
    caller: &Caller,
    period: Period,
    month: &Account,
    limits: &LimitsView,
) -> Result<Value, Stop> {
    let shard = core.shard.borrow();
    let Some(plan) = shard.catalog().plans.get(caller.plan as usize) else {
        return Err(ApiError::Overloaded.into());
    };
    let mut reset = Vec::new();
    write_duration(&mut reset, limits.reset_tokens.0);
    let resets_at_unix_s = period.next().starts_at_unix_us() / 1_000_000;
    Ok(json!({
        "consumer": { "id": caller.consumer.to_string(), "name": &*month.consumer_name },
        "key_id": caller.key.to_string(),
        "plan": &*plan.name,
        "rate": {
            "limit_per_s": plan.rate_per_s,
            "burst": plan.burst,
            "remaining": limits.remaining_requests,
        },
        "quota": {
            "period": period.to_string(),
            "limit_tokens": plan.quota_tokens,
            "used_tokens": month.tokens,
            "remaining_tokens": limits.remaining_tokens,
            "resets_in": String::from_utf8_lossy(&reset),
            "resets_at_unix_s": resets_at_unix_s,
        },
        "month": {
            "calls": month.calls,
            "cost_nanousd": month.cost.0,
            "subscription_fees_nanousd": month.fees.0,
        },
    }))
}

async fn send(
    core: &Core,
    exchange: &mut Exchange<'_>,
    call: &Call,
    status: u16,
    body: &Value,
    limits: Option<&LimitsView>,
) -> (u16, Next) {
    let retry_after = (status == 503).then_some(RetryAfter::A_SECOND);
    let own = GatewayHeaders { limits, retry_after, ..GatewayHeaders::of(call) };
    (status, exchange.json(core, status, body.to_string().as_bytes(), own).await)
}
