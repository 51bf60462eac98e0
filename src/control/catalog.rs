//! Makes the shards' plans and services of the store's rows. Both come in order of creation and
//! keep their index for as long as the process runs.

use super::names::HostNames;
use super::upstream_url::{self, UpstreamUrl};
use super::vault::Seal;
use crate::store::{CatalogError, PlanRow, ServiceRow};
use shard::catalog::{Catalog, Plan, Service};
use std::net::SocketAddr;

/// The whole catalog as the store has it, read once: from then on it is changed step by step.
/// Each service gets the addresses that `names` has; `names` is told of every host.
pub(crate) fn load(
    plans: Vec<PlanRow>,
    services: &[ServiceRow],
    names: &HostNames,
    seal: &Seal,
) -> Result<Catalog, CatalogError> {
    let plans: Vec<Plan> = plans.into_iter().map(|row| row.plan).collect();
    let services = services.iter().enumerate().map(|(index, row)| {
        let url = url_of(row);
        names.uses(&url.host_port(), index as u32);
        let addrs = names.addrs(&url.host_port());
        service(row, url, addrs, seal)
    });
    Ok(Catalog::new(0, plans, services.collect::<Result<_, _>>()?))
}

/// The row's `base_url`.
pub(crate) fn url_of(row: &ServiceRow) -> UpstreamUrl {
    upstream_url::parse(&row.base_url).unwrap_or_else(|cause| {
        tracing::error!(service = row.name, "a base_url in the store cannot be used: it {cause}");
        UpstreamUrl::default()
    })
}

/// The row as shards know it; fails where its credential cannot be opened.
pub(crate) fn service(
    row: &ServiceRow,
    url: UpstreamUrl,
    addrs: Box<[SocketAddr]>,
    seal: &Seal,
) -> Result<Service, CatalogError> {
    let credential = row.credential.as_ref().map(|sealed| seal.open(row.id, sealed)).transpose();
    let credential = credential.map_err(|why| {
        CatalogError::Internal(format!("the upstream credential of {} is no use: {why}", row.name))
    })?;
    Ok(Service {
        id: row.id,
        name: row.name.as_str().into(),
        addrs,
        authority: url.authority.into(),
        is_tls: url.is_tls,
        base_path: url.base_path.into(),
        default_path: row.default_path.as_str().into(),
        credential_header: credential.map(Into::into),
        prices: row.prices.iter().map(|row| row.price.clone()).collect(),
        enabled: row.enabled,
        deleted: false,
    })
}
