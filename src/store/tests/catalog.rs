//! Plans, consumers, keys, services and prices.

use super::{TestStore, done, new_service, newest, on_every_store};
use crate::store::error::CatalogError;
use crate::store::rows::{ConsumerChange, Digest, KeyNames, NewKey, Page};
use shard::catalog::{PriceModel, TokenPrices};
use shard::units::{BucketId, ConsumerId, KeyId, PlanId, ServiceId};

on_every_store! {
    a_new_store_has_the_contracts_plans_and_keeps_them
    names_are_taken_once_and_lists_are_paged_in_order_of_creation
    prices_are_versions_in_order_of_their_start
    what_is_used_stays_and_what_is_deleted_is_used_by_nobody_any_more
    a_rotated_key_ends_no_later_than_it_would_have
    digests_of_verified_keys_are_kept
    what_changed_is_there_for_the_next_start
}

fn new_key(id: u64, consumer: u64, service: Option<u64>) -> NewKey {
    NewKey {
        id: KeyId(id),
        consumer: ConsumerId(consumer),
        bucket: BucketId(id),
        name: None,
        secret_hash: "x".to_owned(),
        digest: Digest { key_name: [1; 8], digest: [2; 32] },
        services: service.map(|id| [ServiceId(id)].into()),
        expires_at_unix_us: None,
    }
}

fn a_new_store_has_the_contracts_plans_and_keeps_them(store: &TestStore) {
    let list = || {
        let rows = done(store.catalog().plans(Page::EVERYTHING)).unwrap();
        rows.into_iter().map(|row| row.plan).collect::<Vec<_>>()
    };
    let first = list();
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
    assert_eq!(list(), first);
}

fn names_are_taken_once_and_lists_are_paged_in_order_of_creation(store: &TestStore) {
    let db = store.catalog();
    done(async {
        for (id, name) in [(9, "z"), (3, "a"), (5, "m")] {
            db.insert_service(new_service(id, name)).await?;
        }
        let again = db.insert_service(new_service(6, "a")).await.err();
        assert!(matches!(again, Some(CatalogError::Duplicate)));
        let page = db.services(Page { limit: 2, after: 0 }).await?;
        let names: Vec<&str> = page.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["z", "a"]);
        let rest = db.services(Page { limit: 2, after: page[1].place }).await?;
        assert_eq!(rest.len(), 1);
        let missing = db.service(ServiceId(1)).await.err();
        assert!(matches!(missing, Some(CatalogError::Missing)));
        Ok::<(), CatalogError>(())
    })
    .unwrap();
}

fn prices_are_versions_in_order_of_their_start(store: &TestStore) {
    let db = store.catalog();
    done(async {
        db.insert_service(new_service(1, "a")).await?;
        let free = || PriceModel::PerToken(TokenPrices::default());
        for (version, effective_at_unix_us) in [(2, 9), (3, 7), (4, 9)] {
            let row = db.add_price(ServiceId(1), free(), effective_at_unix_us).await?;
            assert_eq!(newest(row), version);
        }
        let missing = db.add_price(ServiceId(2), free(), 9).await.err();
        assert!(matches!(missing, Some(CatalogError::Missing)));
        let prices = db.service(ServiceId(1)).await?.prices;
        let versions: Vec<u32> = prices.iter().map(|row| row.price.version).collect();
        assert_eq!(versions, [1, 3, 2, 4]);
        Ok::<(), CatalogError>(())
    })
    .unwrap();
}

fn what_is_used_stays_and_what_is_deleted_is_used_by_nobody_any_more(store: &TestStore) {
    fn in_use<T>(refused: Result<T, CatalogError>) -> String {
        match refused.err() {
            Some(CatalogError::InUse(by)) => by,
            other => format!("{other:?}"),
        }
    }
    fn deleted<T>(refused: Result<T, CatalogError>) -> &'static str {
        match refused.err() {
            Some(CatalogError::Deleted(field)) => field,
            _ => "nothing",
        }
    }
    let db = store.catalog();
    let find = async |name: &str| {
        db.find_plan(name.to_owned()).await.map(|found| found.unwrap_or(PlanId(0)))
    };
    done(async {
        let plan = find("basic").await?;
        for id in 1..=5 {
            db.insert_consumer(ConsumerId(id), format!("c{id}"), plan).await?;
        }
        let taken = db.insert_consumer(ConsumerId(6), "c1".to_owned(), plan).await.err();
        assert!(matches!(taken, Some(CatalogError::Duplicate)));
        db.insert_service(new_service(8, "s")).await?;
        let first = db.insert_key(new_key(1, 1, Some(8))).await?;
        db.insert_key(new_key(2, 1, None)).await?;
        assert_eq!(in_use(db.delete_plan(plan).await), "consumers c1, c2, c3 and 2 more");
        let (one, two) = (KeyId(1), KeyId(2));
        let both = format!("keys {one}, {two}");
        assert_eq!(in_use(db.delete_consumer(ConsumerId(1)).await), both);
        assert_eq!(in_use(db.delete_service(ServiceId(8)).await), format!("key {one}"));

        // A key ends, and so does a revoked one.
        db.rotate_key(first.id, new_key(3, 1, Some(8)), Some(1)).await?;
        let three = format!("key {}", KeyId(3));
        assert_eq!(in_use(db.delete_service(ServiceId(8)).await), three);
        db.revoke_key(KeyId(3)).await?;
        db.revoke_key(two).await?;
        assert_eq!(db.delete_service(ServiceId(8)).await?.name, "s");
        for id in 1..=5 {
            assert_eq!(db.delete_consumer(ConsumerId(id)).await?.name, format!("c{id}"));
        }
        assert_eq!(&*db.delete_plan(plan).await?.plan.name, "basic");

        // Whoever had looked them up before.
        let late = db.insert_consumer(ConsumerId(6), "c6".to_owned(), plan).await;
        assert_eq!(deleted(late), "plan");
        assert_eq!(deleted(db.insert_key(new_key(4, 1, None)).await), "consumer_id");
        let premium = find("premium").await?;
        db.insert_consumer(ConsumerId(7), "c1".to_owned(), premium).await?;
        assert_eq!(deleted(db.insert_key(new_key(4, 7, Some(8))).await), "services");
        let renamed = ConsumerChange { name: Some("x".to_owned()), plan: None };
        let missing = db.update_consumer(ConsumerId(1), renamed).await.err();
        assert!(matches!(missing, Some(CatalogError::Missing)));
        let missing = db.add_price(ServiceId(8), new_service(8, "s").price, 9).await;
        assert!(matches!(missing.err(), Some(CatalogError::Missing)));

        db.insert_service(new_service(9, "s")).await?;
        let again = db.insert_service(new_service(10, "s")).await.err();
        assert!(matches!(again, Some(CatalogError::Duplicate)));
        assert_eq!(db.services(Page::EVERYTHING).await?.len(), 1);
        Ok::<(), CatalogError>(())
    })
    .unwrap();
}

fn a_rotated_key_ends_no_later_than_it_would_have(store: &TestStore) {
    let db = store.catalog();
    done(async {
        let plan = db.find_plan("basic".to_owned()).await?.unwrap_or(PlanId(0));
        db.insert_consumer(ConsumerId(1), "c".to_owned(), plan).await?;
        db.insert_service(new_service(3, "s")).await?;
        let key = |id, expires_at_unix_us| NewKey {
            bucket: BucketId(4),
            expires_at_unix_us,
            ..new_key(id, 1, Some(3))
        };
        let first = db.insert_key(key(1, Some(50))).await?;
        assert_eq!(first.services.as_deref(), Some(&[ServiceId(3)][..]));
        let [old, _] = db.rotate_key(first.id, key(2, None), Some(70)).await?;
        assert_eq!(old.expires_at_unix_us, Some(50));
        let [old, new] = db.rotate_key(first.id, key(3, None), Some(30)).await?;
        assert_eq!((old.expires_at_unix_us, new.expires_at_unix_us), (Some(30), None));
        let [old, _] = db.rotate_key(first.id, key(5, None), None).await?;
        assert!(old.revoked_at.is_some());
        assert_eq!(db.keys(Some(ConsumerId(1)), Page::EVERYTHING).await?.len(), 4);
        assert_eq!(db.keys(Some(ConsumerId(2)), Page::EVERYTHING).await?.len(), 0);
        assert_eq!(db.keys(None, Page { limit: 1, after: 2 }).await?[0].id.0, 3);
        Ok::<(), CatalogError>(())
    })
    .unwrap();
    let living = db.load_keys(Page::EVERYTHING).unwrap();
    let living: Vec<u64> = living.iter().map(|row| row.id.0).collect();
    assert_eq!(living, [2, 3, 5]);
}

fn digests_of_verified_keys_are_kept(store: &TestStore) {
    let db = store.catalog();
    done(async {
        let plan = db.find_plan("basic".to_owned()).await?.unwrap_or(PlanId(0));
        db.insert_consumer(ConsumerId(1), "c".to_owned(), plan).await?;
        db.insert_key(new_key(1, 1, None)).await?;
        let digest = Digest { key_name: [3; 8], digest: [4; 32] };
        db.set_digests(vec![(KeyId(1), digest), (KeyId(2), digest)]).await?;
        let kept = db.key(KeyId(1)).await?.digest.map(Digest::to_bytes);
        assert_eq!(kept, Some(digest.to_bytes()));
        Ok::<(), CatalogError>(())
    })
    .unwrap();
}

fn what_changed_is_there_for_the_next_start(store: &TestStore) {
    let db = store.catalog();
    done(async {
        let plan = db.find_plan("basic".to_owned()).await?.unwrap_or(PlanId(0));
        assert_eq!(db.find_plan(plan.to_string()).await?, Some(plan));
        let change = crate::store::PlanChange { burst: Some(7), ..Default::default() };
        assert_eq!(db.update_plan(plan, change).await?.plan.burst, 7);
        db.insert_consumer(ConsumerId(1), "c".to_owned(), plan).await?;
        let renamed = ConsumerChange { name: Some("d".to_owned()), plan: None };
        assert_eq!(db.update_consumer(ConsumerId(1), renamed).await?.plan, plan);
        db.insert_service(new_service(2, "s")).await?;
        let sealed = crate::store::ServiceChange {
            credential: Some(Some(vec![1, 2])),
            enabled: Some(false),
            ..Default::default()
        };
        db.update_service(ServiceId(2), sealed).await?;
        db.insert_key(new_key(1, 1, None)).await?;
        Ok::<(), CatalogError>(())
    })
    .unwrap();
    drop(db);
    let loaded = store.catalog().load().unwrap();
    assert_eq!(loaded.plans[0].plan.burst, 7);
    assert_eq!(loaded.consumers[0].name, "d");
    assert_eq!(loaded.consumers[0].plan_name, "basic");
    let service = &loaded.services[0];
    assert_eq!((&service.credential, service.enabled), (&Some(vec![1, 2]), false));
    assert_eq!(service.created_at.len(), "2026-11-26T00:00:00.000000Z".len());
    assert_eq!(loaded.keys, 1);
    let mut credentials = crate::store::Credentials::open(store.location()).unwrap();
    assert_eq!(credentials.sealed().unwrap()[0].sealed, [1, 2]);
    let keys = |name| KeyNames { digest: [name; 8], encryption: [name + 1; 8] };
    assert_eq!(credentials.key_names().unwrap(), None);
    assert_eq!(credentials.agree(keys(1)).unwrap(), keys(1));
    credentials.replace(&[(ServiceId(2), Some(vec![3]))], keys(3)).unwrap();
    credentials.scrub().unwrap();
    assert_eq!(credentials.sealed().unwrap()[0].sealed, [3]);
    // One that is alone has nobody to agree with.
    let agreed = credentials.key_names().unwrap();
    assert!(agreed.is_none_or(|agreed| agreed == keys(3)));
    let is_shared = agreed.is_some();
    let others = if is_shared { keys(3) } else { keys(5) };
    assert_eq!(credentials.agree(keys(5)).unwrap(), others);
}
