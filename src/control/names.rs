//! Addresses of upstream hosts. A look-up waits on a thread of its own, of which there is a bounded
//! number and, for hosts that were not found the last time, a smaller one: a resolver that is
//! silent holds up nobody, and hosts that it does not know never take the room of those it knows.
//!
//! What was found last is kept while a host is not found any more. Each change between found and
//! not found is logged once.

use shard::units::Nanos;
use std::collections::{BTreeSet, HashMap};
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

/// Look-ups under way at once: the C library waits 10 to 30 s for a silent resolver.
const LOOKUPS_MAX: usize = 32;
/// Of those, the most that hosts may have that were not found last time.
const LOOKUPS_OF_MISSING_MAX: usize = 16;
/// A host whose look-up takes longer counts as not found; an answer that comes later is taken.
const ANSWERS_WITHIN: Nanos = Nanos::from_s(5);
/// The C library's resolver needs about 64 KiB.
const STACK_BYTES: usize = 256 * 1_024;
/// Addresses kept of one host.
const ADDRS_MAX: usize = 16;

#[derive(Default)]
struct Host {
    addrs: Box<[SocketAddr]>,
    /// Indexes of services that stand, or have stood, on it.
    services: BTreeSet<u32>,
    is_asked: bool,
    is_missing: bool,
}

/// See the module. Keeps one entry for each `host:port` of the catalog that is no address.
pub(crate) struct HostNames {
    hosts: Mutex<HashMap<String, Host>>,
    lookups: Arc<Semaphore>,
    lookups_of_missing: Arc<Semaphore>,
    answered: Notify,
}

impl Default for HostNames {
    fn default() -> Self {
        Self {
            hosts: Mutex::default(),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            lookups_of_missing: Arc::new(Semaphore::new(LOOKUPS_OF_MISSING_MAX)),
            answered: Notify::new(),
        }
    }
}

impl HostNames {
    /// The service with this index stands on this host.
    pub(crate) fn uses(&self, authority: &str, service: u32) {
        if !authority.is_empty() && address(authority).is_none() {
            self.hosts().entry(authority.to_owned()).or_default().services.insert(service);
        }
    }

    /// The service with this index stands nowhere any more. Hosts without services are not looked
    /// up again. One that is being looked up goes with the end of that: a service that comes to it
    /// meanwhile must not begin a second look-up.
    pub(crate) fn forget(&self, service: u32) {
        self.hosts().retain(|_, host| {
            host.services.remove(&service);
            host.is_asked || !host.services.is_empty()
        });
    }

    /// The host's addresses, as far as they are known.
    pub(crate) fn addrs(&self, authority: &str) -> Box<[SocketAddr]> {
        match address(authority) {
            Some(addr) => [addr].into(),
            None => self.hosts().get(authority).map(|host| host.addrs.clone()).unwrap_or_default(),
        }
    }

    /// Services that stand, or have stood, on the host.
    pub(crate) fn services(&self, authority: &str) -> BTreeSet<u32> {
        self.hosts().get(authority).map(|host| host.services.clone()).unwrap_or_default()
    }

    /// All hosts, or those without addresses.
    pub(crate) fn hosts_to_find(&self, all: bool) -> Vec<String> {
        let hosts = self.hosts();
        let due = hosts.iter().filter(|(_, host)| all || host.addrs.is_empty());
        due.map(|(authority, _)| authority.clone()).collect()
    }

    /// Begins a look-up, which [`HostNames::end`] ends. `false`: there is nothing to look up, or a
    /// look-up is under way.
    pub(crate) fn begin(&self, authority: &str) -> bool {
        let mut hosts = self.hosts();
        hosts.get_mut(authority).is_some_and(|host| !std::mem::replace(&mut host.is_asked, true))
    }

    /// The look-up is over, and all shards know what it has brought.
    pub(crate) fn end(&self, authority: &str) {
        let mut hosts = self.hosts();
        if let Some(host) = hosts.get_mut(authority) {
            host.is_asked = false;
            if host.services.is_empty() {
                hosts.remove(authority);
            }
        }
        drop(hosts);
        self.answered.notify_waiters();
    }

    /// Waits until no look-up of the host is under way.
    pub(crate) async fn ended(&self, authority: &str) {
        loop {
            let mut answered = pin!(self.answered.notified());
            answered.as_mut().enable();
            if !self.hosts().get(authority).is_some_and(|host| host.is_asked) {
                return;
            }
            answered.await;
        }
    }

    /// Looks the host up; true: its addresses are others than before.
    pub(crate) async fn look_up(&self, authority: &str) -> bool {
        let is_missing = self.hosts().get(authority).is_some_and(|host| host.is_missing);
        let mut lookup = pin!(self.find(authority, is_missing));
        let patience = Duration::from_nanos(ANSWERS_WITHIN.0);
        let found = match tokio::time::timeout(patience, lookup.as_mut()).await {
            Ok(found) => found,
            Err(_) => {
                self.note(authority, Err("the resolver does not answer".to_owned()));
                lookup.await
            }
        };
        self.note(authority, found)
    }

    async fn find(&self, authority: &str, was_missing: bool) -> Result<Box<[SocketAddr]>, String> {
        let mut places = Vec::new();
        if was_missing {
            places.push(Arc::clone(&self.lookups_of_missing).acquire_owned().await);
        }
        places.push(Arc::clone(&self.lookups).acquire_owned().await);
        ask(authority.to_owned(), places).await
    }

    fn note(&self, authority: &str, found: Result<Box<[SocketAddr]>, String>) -> bool {
        let mut hosts = self.hosts();
        let Some(host) = hosts.get_mut(authority) else { return false };
        let was_missing = std::mem::replace(&mut host.is_missing, found.is_err());
        match found {
            Err(cause) => {
                if !was_missing {
                    tracing::warn!(authority, cause, "an upstream's host is not found");
                }
                false
            }
            Ok(addrs) => {
                if was_missing {
                    tracing::info!(authority, "an upstream's host is found again");
                }
                let is_new = host.addrs != addrs;
                host.addrs = addrs;
                is_new
            }
        }
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<String, Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type ServicePlaces = Result<OwnedSemaphorePermit, tokio::sync::AcquireError>;

/// Asks the C library on a thread of its own, which holds `places` until it has an answer.
async fn ask(target: String, places: Vec<ServicePlaces>) -> Result<Box<[SocketAddr]>, String> {
    let (answer, answered) = oneshot::channel();
    let ask = move || {
        let found = target.to_socket_addrs();
        drop(places);
        // Whoever asked may have ended.
        drop(answer.send(found.map(|addrs| addrs.take(ADDRS_MAX).collect::<Vec<_>>())));
    };
    let thread = std::thread::Builder::new().name("resolver".to_owned()).stack_size(STACK_BYTES);
    thread.spawn(ask).map_err(|error| error.to_string())?;
    let found = answered.await.map_err(|_| "the look-up broke off".to_owned())?;
    let mut addrs = found.map_err(|error| error.to_string())?;
    // Answers come in any order; an order that changes would be a change.
    addrs.sort_unstable();
    if addrs.is_empty() { Err("it has no address".to_owned()) } else { Ok(addrs.into()) }
}

/// The address, where the host of `host:port` is one and not a name.
fn address(authority: &str) -> Option<SocketAddr> {
    authority.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "models.example:81";

    fn addr(last: u8) -> Box<[SocketAddr]> {
        [SocketAddr::from(([10, 0, 0, last], 81))].into()
    }

    #[test]
    fn what_was_found_is_kept_while_the_host_is_missing() {
        let names = HostNames::default();
        names.uses(HOST, 3);
        assert_eq!(names.hosts_to_find(false), [HOST]);
        assert!(names.note(HOST, Ok(addr(1))));
        assert!(!names.note(HOST, Err("gone".to_owned())));
        assert_eq!(names.addrs(HOST), addr(1));
        assert!(!names.note(HOST, Ok(addr(1))));
        assert!(names.note(HOST, Ok(addr(2))));
        assert!(names.hosts_to_find(false).is_empty());
        assert_eq!(names.services(HOST), BTreeSet::from([3]));
        names.uses(HOST, 4);
        names.forget(3);
        assert_eq!(names.hosts_to_find(true), [HOST]);
        names.forget(4);
        assert!(names.hosts_to_find(true).is_empty());
    }

    #[test]
    fn a_host_that_is_forgotten_while_it_is_looked_up_goes_with_the_end_of_that() {
        let names = HostNames::default();
        names.uses(HOST, 3);
        assert!(names.begin(HOST));
        names.forget(3);
        names.uses(HOST, 4);
        assert!(!names.begin(HOST), "one look-up at a time, whoever uses the host");
        names.forget(4);
        names.note(HOST, Ok(addr(1)));
        names.end(HOST);
        assert!(names.hosts_to_find(true).is_empty() && names.addrs(HOST).is_empty());
    }

    #[test]
    fn an_address_is_no_host_to_be_found() {
        let names = HostNames::default();
        names.uses("127.0.0.1:81", 0);
        assert!(names.hosts_to_find(true).is_empty());
        assert_eq!(*names.addrs("127.0.0.1:81"), [SocketAddr::from(([127, 0, 0, 1], 81))]);
        assert_eq!(*names.addrs("[::1]:80"), [SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 80))]);
    }

    #[tokio::test]
    async fn one_look_up_of_a_host_is_under_way_at_a_time() {
        let names = HostNames::default();
        names.uses("localhost:80", 0);
        assert!(names.begin("localhost:80"));
        assert!(!names.begin("localhost:80"));
        assert!(names.look_up("localhost:80").await);
        names.end("localhost:80");
        names.ended("localhost:80").await;
        assert!(names.begin("localhost:80"));
        assert!(names.addrs("localhost:80").iter().all(|addr| addr.port() == 80));
    }
}
