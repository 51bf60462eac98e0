//! The services of the shard's catalog, each kept by the calls that have begun on it.

use shard::catalog::{Catalog, CatalogChange, Item, Service};
use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

/// A service, counted by an `Rc` around it on its shard: a request that holds it touches no
/// counter that other shards touch.
pub(super) struct ServiceHandle(Arc<Service>);

impl Deref for ServiceHandle {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.0
    }
}

fn handle(service: &Arc<Service>) -> Rc<ServiceHandle> {
    Rc::new(ServiceHandle(Arc::clone(service)))
}

/// The services, by their index in the catalog.
pub(super) struct ServiceHandles(RefCell<Vec<Rc<ServiceHandle>>>);

impl ServiceHandles {
    /// Those of this catalog.
    pub(super) fn of(catalog: &Catalog) -> Self {
        Self(RefCell::new(catalog.services.iter().map(handle).collect()))
    }

    /// The service with this index, for as long as a call lasts.
    pub(super) fn get(&self, index: u32) -> Rc<ServiceHandle> {
        Rc::clone(&self.0.borrow()[index as usize])
    }

    /// Takes over a change of the catalog. Calls under way keep the service as it was.
    pub(super) fn change(&self, change: &CatalogChange) {
        let Item::Service(service) = &change.item else { return };
        let mut services = self.0.borrow_mut();
        match services.get_mut(change.index as usize) {
            Some(known) => *known = handle(service),
            None => services.push(handle(service)),
        }
    }
}
