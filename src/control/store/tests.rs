//! The store's own queries, against a store in a temporary directory.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::usage::{By, Span, month_costs, month_tokens, sums};
use super::*;
use shard::catalog::{PriceModel, TokenPrices};
use shard::units::{ConsumerId, NanoUsd, Period, PlanId, ServiceId};

fn new_service(id: u64, name: &str) -> services::NewService {
    services::NewService {
        id: ServiceId(id),
        name: name.to_owned(),
        base_url: "http://127.0.0.1:1".to_owned(),
        default_path: "/v1/chat/completions".to_owned(),
        credential_header: None,
        enabled: true,
        price: PriceModel::PerToken(TokenPrices::default()),
        effective_at_unix_us: 5,
    }
}

#[test]
fn a_new_store_has_the_contracts_plans_and_keeps_them() {
    let dir = tempfile::tempdir().unwrap();
    let list = |store: &Store| {
        let rows = store.run_here(|db| plans::list(db, Page::EVERYTHING)).unwrap();
        rows.into_iter().map(|row| row.plan).collect::<Vec<_>>()
    };
    let first = list(&Store::open(dir.path()).unwrap());
    let terms: Vec<_> = first
        .iter()
        .map(|plan| (&*plan.name, plan.rate_per_s, plan.burst, plan.quota_tokens))
        .collect();
    assert_eq!(
        terms,
        [
            ("basic", 10, 10, 100_000),
            ("premium", 100, 100, 10_000_000),
            ("enterprise", 1_000, 1_000, 1_000_000_000),
        ]
    );
    assert_eq!(list(&Store::open(dir.path()).unwrap()), first);
}

#[test]
fn names_are_taken_once_and_lists_are_paged_in_order_of_creation() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store
        .run_here(|db| {
            for (id, name) in [(9, "z"), (3, "a"), (5, "m")] {
                services::insert(db, &new_service(id, name))?;
            }
            let again = services::insert(db, &new_service(6, "a")).err();
            assert!(matches!(again, Some(Failure::Duplicate)));
            let page = services::list(db, Page { limit: 2, after: 0 })?;
            let names: Vec<&str> = page.iter().map(|row| row.name.as_str()).collect();
            assert_eq!(names, ["z", "a"]);
            let rest = services::list(db, Page { limit: 2, after: page[1].place })?;
            assert_eq!(rest.len(), 1);
            assert!(matches!(services::get(db, ServiceId(1)).err(), Some(Failure::Missing)));
            Ok(())
        })
        .unwrap();
}

#[test]
fn prices_are_versions_in_order_of_their_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let versions = store
        .run_here(|db| {
            services::insert(db, &new_service(1, "a"))?;
            let free = PriceModel::PerToken(TokenPrices::default());
            assert_eq!(services::add_price(db, ServiceId(1), &free, 9)?.price.version, 2);
            assert_eq!(services::add_price(db, ServiceId(1), &free, 7)?.price.version, 3);
            assert_eq!(services::add_price(db, ServiceId(1), &free, 9)?.price.version, 4);
            let missing = services::add_price(db, ServiceId(2), &free, 9).err();
            assert!(matches!(missing, Some(Failure::Missing)));
            services::prices_of(db, ServiceId(1))
        })
        .unwrap();
    let versions: Vec<u32> = versions.iter().map(|row| row.price.version).collect();
    assert_eq!(versions, [1, 3, 2, 4]);
}

#[test]
fn sums_are_apart_by_what_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (one, two) = (ConsumerId(1), ConsumerId(2));
    let (chat, flat) = (ServiceId(7), ServiceId(8));
    store
        .run_here(|db| {
            for (consumer, service, day, tokens) in [
                (one, chat, "2026-10-31", 1),
                (one, chat, "2026-11-01", 10),
                (one, flat, "2026-11-02", 100),
                (two, chat, "2026-11-02", 1_000),
            ] {
                db.execute(
                    "INSERT INTO usage_daily
                     VALUES (?1, ?2, ?3, substr(?3, 1, 7), 2, ?4, 0, ?4, ?4)",
                    (consumer.to_string(), service.to_string(), day, tokens),
                )?;
            }
            let tokens = |by: &[By], span: &Span| {
                let rows = sums(db, by, span, 100, 0).unwrap();
                rows.into_iter().map(|sum| (sum.group, sum.input_tokens)).collect::<Vec<_>>()
            };
            let all = Span::default();
            assert_eq!(tokens(&[], &all), [(vec![], 1_111)]);
            let by_consumer = [(vec![one.to_string()], 111), (vec![two.to_string()], 1_000)];
            assert_eq!(tokens(&[By::Consumer], &all), by_consumer);
            let november = Span {
                from_day: Some("2026-11-01".to_owned()),
                to_day: Some("2026-11-02".to_owned()),
                ..Span::default()
            };
            let days = [
                (vec!["2026-11-01".to_owned(), chat.to_string()], 10),
                (vec!["2026-11-02".to_owned(), chat.to_string()], 1_000),
                (vec!["2026-11-02".to_owned(), flat.to_string()], 100),
            ];
            assert_eq!(tokens(&[By::Day, By::Service], &november), days);
            assert_eq!(sums(db, &[By::Day], &all, 1, 1)?[0].group, ["2026-11-01"]);
            let period = Period(202_611);
            assert_eq!(month_tokens(db, one, None, period)?, 220);
            assert_eq!(month_tokens(db, one, Some(chat), period)?, 20);
            let costs = month_costs(db, one, period)?;
            let costs: Vec<_> =
                costs.iter().map(|it| (it.service, it.cost, it.calls, it.tokens)).collect();
            assert_eq!(costs, [(chat, NanoUsd(10), 2, 20), (flat, NanoUsd(100), 2, 200)]);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_rotated_key_ends_no_later_than_it_would_have() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store
        .run_here(|db| {
            let plan = plans::find(db, "basic")?.unwrap_or(PlanId(0));
            consumers::insert(db, ConsumerId(1), "c", plan)?;
            let key = |id, expires_at_unix_us| keys::NewKey {
                id: shard::units::KeyId(id),
                consumer: ConsumerId(1),
                bucket: shard::units::BucketId(4),
                name: None,
                secret_hash: "x".to_owned(),
                services: Some([ServiceId(3)].into()),
                expires_at_unix_us,
            };
            let first = keys::insert(db, &key(1, Some(50)))?;
            assert_eq!(first.services.as_deref(), Some(&[ServiceId(3)][..]));
            let (old, _) = keys::rotate(db, first.id, &key(2, None), Some(70))?;
            assert_eq!(old.expires_at_unix_us, Some(50));
            let (old, new) = keys::rotate(db, first.id, &key(3, None), Some(30))?;
            assert_eq!((old.expires_at_unix_us, new.expires_at_unix_us), (Some(30), None));
            let (old, _) = keys::rotate(db, first.id, &key(5, None), None)?;
            assert!(old.revoked_at.is_some());
            let mut living = Vec::new();
            keys::each_unrevoked(db, |row| living.push(row.id.0))?;
            assert_eq!(living, [2, 3, 5]);
            assert_eq!(keys::list(db, Some(ConsumerId(1)), Page::EVERYTHING)?.len(), 4);
            assert_eq!(keys::list(db, Some(ConsumerId(2)), Page::EVERYTHING)?.len(), 0);
            assert_eq!(keys::list(db, None, Page { limit: 1, after: 2 })?[0].id.0, 3);
            Ok(())
        })
        .unwrap();
}
