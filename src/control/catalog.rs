//! Builds the snapshots that shards work by from the store's rows. Plans and services come in
//! order of creation and are never deleted, so each keeps its index for good.

use super::store::services::ServiceRow;
use super::store::{Failure, Page, Store, plans, services};
use super::upstream_url::{self, UpstreamUrl};
use super::vault::Seal;
use shard::catalog::{Catalog, Plan, Service};
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use tokio::task::JoinSet;

type Addrs = HashMap<String, Box<[SocketAddr]>>;

/// The catalog as the store has it now; its version is that of `old` where nothing has changed.
/// Hosts that `old` knows are looked up again only to `refresh`; one that is not found any more
/// keeps its addresses.
pub(crate) async fn load(
    store: &Store,
    seal: &Seal,
    old: &Catalog,
    refresh: bool,
) -> Result<Catalog, Failure> {
    let (plans, services) = store
        .read(|db| Ok((plans::list(db, Page::EVERYTHING)?, services::list(db, Page::EVERYTHING)?)))
        .await?;
    let plans: Vec<Plan> = plans.into_iter().map(|row| row.plan).collect();
    let services: Vec<(ServiceRow, UpstreamUrl)> =
        services.into_iter().map(|row| (url_of(&row), row)).map(|(url, row)| (row, url)).collect();
    let authorities = services.iter().map(|(_, url)| url.authority.clone()).collect();
    let addrs = find_addrs(authorities, old, refresh).await;
    let services: Vec<Service> = services
        .into_iter()
        .map(|(row, url)| service(row, url, &addrs, seal))
        .collect::<Result<_, _>>()?;
    let mut catalog = Catalog::new(old.version, plans, services);
    if catalog != *old {
        catalog.version += 1;
    }
    Ok(catalog)
}

fn url_of(row: &ServiceRow) -> UpstreamUrl {
    upstream_url::parse(&row.base_url).unwrap_or_else(|cause| {
        tracing::error!(service = row.name, "a base_url in the store cannot be used: it {cause}");
        UpstreamUrl { authority: String::new(), base_path: String::new() }
    })
}

fn service(
    row: ServiceRow,
    url: UpstreamUrl,
    addrs: &Addrs,
    seal: &Seal,
) -> Result<Service, Failure> {
    let credential = row.credential.map(|sealed| seal.open(row.id, &sealed)).transpose();
    let credential = credential.map_err(|why| {
        Failure::Internal(format!("the upstream credential of {} is no use: {why}", row.name))
    })?;
    Ok(Service {
        id: row.id,
        name: row.name.into(),
        addrs: addrs.get(&url.authority).cloned().unwrap_or_default(),
        authority: url.authority.into(),
        base_path: url.base_path.into(),
        default_path: row.default_path.into(),
        credential_header: credential.map(Into::into),
        prices: row.prices.into_iter().map(|row| row.price).collect(),
        enabled: row.enabled,
    })
}

async fn find_addrs(authorities: BTreeSet<String>, old: &Catalog, refresh: bool) -> Addrs {
    let mut addrs: Addrs = old
        .services
        .iter()
        .map(|service| (service.authority.to_string(), service.addrs.clone()))
        .collect();
    let mut lookups = JoinSet::new();
    for authority in authorities.into_iter().filter(|authority| !authority.is_empty()) {
        if refresh || addrs.get(&authority).is_none_or(|known| known.is_empty()) {
            lookups.spawn(async {
                let mut found = upstream_url::resolve(&authority).await;
                // Answers come in any order; an order that changes would be a change.
                found.sort_unstable();
                (authority, found)
            });
        }
    }
    while let Some(joined) = lookups.join_next().await {
        if let Ok((authority, found)) = joined
            && !found.is_empty()
        {
            addrs.insert(authority, found);
        }
    }
    addrs
}
