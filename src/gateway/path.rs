//! The way of a request, stage by stage. Read this file first: it names every stage in order,
//! and each takes the proof of the one before.
//!
//! ```text
//! parse → identify → resolve → admit → attempt → relay
//! bytes   Caller     Wanted    Admitted connection Relayed
//!
//!       → meter → price → settle → durable → finish
//!         Usage           Bill               last byte
//! ```
//!
//! `downstream/` has parsed the head. From `admit` on there is an [`Admitted`]: it is consumed
//! by `settle`, whatever happens to the caller or the upstream.

use super::admitted::Admitted;
use super::call::{Beginning, Call, CallId, Next, Refused, RetryAfter, Stop};
use super::core::Core;
use super::downstream::Exchange;
use super::meter::meter;
use super::park::Spot;
use super::relay::{Relayed, finish, no_answer, relay};
use super::resolve::resolve;
use super::route::{Route, route};
use super::upstream::{self, Cause, Fault, Pools};
use super::wanted::Wanted;
use super::{local, mailbox};
use crate::clock;
use crate::net;
use crate::wire::error::ApiError;
use crate::wire::key_text;
use crate::wire::request::Method;
use shard::key_cache::{Caller, Identity, fingerprint};
use shard::lease;
use shard::message::KEY_TEXT_BYTES;
use shard::units::{KeyId, Nanos};
use shard::{Admission, Ask, Refusal, WaitFor};
use std::time::Duration;

/// A key's first verification may take this long: a queue of Argon2id hashes.
const VERDICT_PATIENCE: Duration = Duration::from_secs(10);
/// Control answers a want within microseconds, and a month's first one after a read of the ledger,
/// which a crowded host draws out; past this it is in trouble.
const GRANT_PATIENCE: Nanos = Nanos::from_ms(1_000);
/// How long a request waits before it asks its shard again.
const PARK: Duration = Duration::from_nanos(lease::PARK.0);

/// Serves one request whose head has been read.
pub(super) async fn request(core: &Core, pools: &Pools, exchange: &mut Exchange<'_>) -> Next {
    let route = route(exchange.request().path());
    let call = begin(core, exchange, route);
    let (status, next) = match serve(core, pools, exchange, &call).await {
        Ok(done) => done,
        Err(Stop::Gone) => return Next::Close,
        Err(Stop::Refused(refused)) => refuse(core, exchange, &call, &refused).await,
    };
    count(core, &call, status);
    next
}

/// Answers a request that could not be read, after which nothing can follow.
pub(super) async fn refuse_unread(
    core: &Core,
    exchange: &mut Exchange<'_>,
    route: Route,
    error: ApiError,
) -> Next {
    let call = begin(core, exchange, route);
    let (status, _) = refuse(core, exchange, &call, &error.into()).await;
    count(core, &call, status);
    Next::Close
}

fn begin(core: &Core, exchange: &Exchange<'_>, route: Route) -> Call {
    let request = exchange.request();
    let record_id = record_id(core);
    let given = request.head.x_request_id;
    let given = given.and_then(|id| CallId::given(id.of(request.bytes)));
    let request_id = given.unwrap_or_else(|| CallId::ours(record_id));
    let beginning = Beginning { record_id, request_id, begun: exchange.begun() };
    let shape = route.shape(request.head.names_anthropic);
    Call { route, endpoint: route.endpoint(), shape, beginning }
}

async fn serve(
    core: &Core,
    pools: &Pools,
    exchange: &mut Exchange<'_>,
    call: &Call,
) -> Result<(u16, Next), Stop> {
    let reads = matches!(exchange.request().head.method, Method::Get | Method::Head);
    match call.route {
        Route::Healthz | Route::Readyz | Route::Models | Route::OneModel | Route::Account
            if !reads =>
        {
            Err(ApiError::NotFound.into())
        }
        Route::Healthz | Route::Readyz => Ok(local::health(core, exchange, call).await),
        Route::Unknown => Err(ApiError::NotFound.into()),
        Route::Models | Route::OneModel | Route::Account => {
            let caller = known_sender(core, exchange).await?;
            local::own_route(core, exchange, call, &caller).await
        }
        Route::Consume { .. } | Route::Model(_) => {
            let caller = known_sender(core, exchange).await?;
            let wanted = resolve(core, &exchange.request(), call, &caller)?;
            let mut admitted = admit(core, exchange, caller, &wanted, &call.beginning).await?;
            let mut relayed = attempt(core, pools, exchange, call, &wanted, &mut admitted).await;
            admitted.waited = exchange.waited().after(relayed.waited);
            own_up(&mut relayed, &wanted);
            let Relayed { status, outcome, uncounted, fault, rest, .. } = relayed;
            if let Some(fault) = fault {
                report(core, call, &wanted, fault);
            }
            let usage = meter(core, uncounted, exchange.request().body).await;
            let bill = admitted.settle(core, status, outcome, &usage);
            Ok(finish(core, pools, exchange, call, &wanted, (status, rest), &bill).await)
        }
    }
}

/// Calls the upstream, and relays what it answers.
async fn attempt(
    core: &Core,
    pools: &Pools,
    exchange: &mut Exchange<'_>,
    call: &Call,
    wanted: &Wanted,
    admitted: &mut Admitted,
) -> Relayed {
    let asked = clock::lately();
    exchange.expect_answer(asked);
    let request = wanted.request(exchange.presence());
    let compose = |out: &mut Vec<u8>| wanted.compose(out, &exchange.request(), call);
    match upstream::call(core, pools, &request, &mut admitted.attempts, compose).await {
        Ok(connection) => relay(core, exchange, call, wanted, admitted, connection).await,
        Err(fault) => {
            let waited = clock::lately().since(asked);
            no_answer(exchange, fault, waited, None)
        }
    }
}

/// Did the caller's own timeout end the call? Then it is no fault of the upstream, and the prompt
/// is billed if the upstream may have read it, as for a client that leaves.
fn own_up(relayed: &mut Relayed, wanted: &Wanted) {
    let is_own =
        |fault: &mut Fault| fault.cause == Cause::Deadline && clock::lately() >= wanted.deadline;
    if relayed.fault.take_if(is_own).is_some_and(|fault| fault.heard) {
        relayed.uncounted.get_or_insert_default();
    }
}

/// Tells the operator what the caller is not told: a 502 is found by its request id.
#[cold]
fn report(core: &Core, call: &Call, wanted: &Wanted, fault: Fault) {
    core.metrics().upstream_fault(wanted.service, fault.phase);
    let Some(left_out) = core.fault_log.line(clock::lately()) else { return };
    tracing::warn!(
        request_id = %String::from_utf8_lossy(call.beginning.request_id.as_bytes()),
        service = wanted.service_name(),
        phase = fault.phase.name(),
        cause = %fault.cause,
        left_out,
        "the upstream failed a call"
    );
}

/// Reads the request's body for a caller who may be listened to. A body that took its time may
/// outlive the verdict on its sender.
async fn known_sender(core: &Core, exchange: &mut Exchange<'_>) -> Result<Caller, Stop> {
    let caller = identify(core, exchange).await?;
    if exchange.body_is_here(core) {
        return Ok(caller);
    }
    exchange.read_body(core).await?;
    identify(core, exchange).await
}

async fn identify(core: &Core, exchange: &Exchange<'_>) -> Result<Caller, Stop> {
    let text = exchange.request().credential();
    let Some(parsed) = key_text::parse(text) else {
        return Err(ApiError::InvalidApiKey.into());
    };
    let id = KeyId(parsed.id);
    let mut key = [0u8; KEY_TEXT_BYTES];
    key.copy_from_slice(text);
    let digest = *blake3::keyed_hash(&core.digest_key, &key).as_bytes();
    loop {
        let identity = core.shard.borrow_mut().identify(&digest, clock::lately());
        match identity {
            Identity::Known(caller) => return Ok(caller),
            // Should control say otherwise, later calls are refused; this one waits for nobody.
            Identity::Suspect(caller) => {
                core.shard.borrow_mut().verify(digest, key, exchange.peer(), clock::lately());
                mailbox::post(core);
                return Ok(caller);
            }
            Identity::Refused => return Err(ApiError::InvalidApiKey.into()),
            // Nobody has such a key: control is not asked, and no other caller waits behind it.
            Identity::Busy | Identity::Wait { .. } if !core.known_ids.may_have(id) => {
                return Err(ApiError::InvalidApiKey.into());
            }
            Identity::Busy => return Err(ApiError::Overloaded.into()),
            Identity::Wait { verify } => {
                if verify {
                    core.shard.borrow_mut().verify(digest, key, exchange.peer(), clock::lately());
                    mailbox::post(core);
                }
                let spot = Spot::Shard(WaitFor::Key(fingerprint(&digest)));
                if net::within(VERDICT_PATIENCE, core.parking.wait(spot)).await.is_none() {
                    return Err(ApiError::Overloaded.into());
                }
            }
        }
    }
}

async fn admit(
    core: &Core,
    exchange: &Exchange<'_>,
    mut caller: Caller,
    wanted: &Wanted,
    beginning: &Beginning,
) -> Result<Admitted, Stop> {
    let mut ask = Ask {
        service: wanted.service,
        reserve_tokens: wanted.reserve_tokens,
        strict: wanted.strict,
        retry: false,
    };
    // Reading a large call took time, which is no part of that patience, and leases end to the
    // nanosecond. Every wait from here on reads the clock.
    clock::tick();
    let deadline = clock::lately().after(GRANT_PATIENCE);
    loop {
        let admission = core.shard.borrow_mut().admit(&caller, &ask, clock::moment_lately());
        mailbox::post(core);
        match admission {
            Admission::Admitted(permit) => {
                let estimate = (wanted.input_estimate, wanted.streams());
                return Admitted::begin(core, permit, caller, estimate, beginning)
                    .map_err(Stop::from);
            }
            Admission::Refused(Refusal::CallerForgotten) => {
                caller = identify(core, exchange).await?;
                continue;
            }
            Admission::Refused(refusal) => return Err(refused(core, &caller, &refusal)),
            Admission::Wait(spot) => {
                if clock::lately() >= deadline {
                    return Err(ApiError::AuthorityUnavailable.into());
                }
                // It asks again even if nobody wakes it: a park ends by itself.
                net::within(PARK, core.parking.wait(Spot::Shard(spot))).await;
                ask.retry |= matches!(spot, WaitFor::Rate(_));
            }
        }
    }
}

fn refused(core: &Core, caller: &Caller, refusal: &Refusal) -> Stop {
    let (error, retry_after) = match refusal {
        Refusal::ServiceNotAllowed => return ApiError::ServiceNotAllowed.into(),
        Refusal::Overloaded => return ApiError::Overloaded.into(),
        // `admit` has looked at it already.
        Refusal::CallerForgotten => return ApiError::InvalidApiKey.into(),
        Refusal::RateLimited { retry_after } => {
            core.metrics().rate_limited(caller.plan);
            (ApiError::RateLimitExceeded, *retry_after)
        }
        Refusal::QuotaExhausted { retry_after } => {
            core.metrics().quota_exceeded(caller.plan);
            (ApiError::InsufficientQuota, *retry_after)
        }
    };
    let limits = core.shard.borrow().limits(caller, clock::moment_lately());
    let in_ms = error == ApiError::RateLimitExceeded;
    let retry_after = Some(RetryAfter { span: retry_after, in_ms });
    Stop::Refused(Refused { error, retry_after, limits: Some(limits) })
}

async fn refuse(
    core: &Core,
    exchange: &mut Exchange<'_>,
    call: &Call,
    why: &Refused,
) -> (u16, Next) {
    if why.error.status() == 408 {
        // The client is too slow, and what it still sends is no request.
        exchange.close_after();
    }
    (why.error.status(), exchange.refuse(core, call, why).await)
}

fn count(core: &Core, call: &Call, status: u16) {
    let duration_us = clock::lately().since(call.beginning.begun).0 / 1_000;
    core.metrics().request(call.endpoint, status, duration_us);
}

/// UUIDv7 (RFC 9562): milliseconds since 1970, then 74 random bits.
fn record_id(core: &Core) -> u128 {
    let unix_ms = (clock::moment_lately().unix_us / 1_000) as u64;
    let mut random = [0u8; 10];
    core.random.borrow_mut().fill(&mut random);
    uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid().as_u128()
}
