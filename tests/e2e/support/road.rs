//! A road to a server that can be bad: slow, silent or cut. Whoever connects to it reaches the
//! server that it leads to.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// What happens to the bytes on the road.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// They pass.
    Free,
    /// They pass, each read so much later.
    Slow(Duration),
    /// They stay where they are, and so do new connections.
    Silent,
    /// Every connection ends, and new ones do at once.
    Cut,
}

/// See the module. Its threads end with the connections on it.
pub struct Road {
    address: SocketAddr,
    state: Arc<Shared>,
}

struct Shared {
    road: Mutex<(Traffic, SocketAddr, Vec<TcpStream>)>,
    changed: Condvar,
}

impl Road {
    /// A free one to `server`.
    pub fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let road = Mutex::new((Traffic::Free, server, Vec::new()));
        let state = Arc::new(Shared { road, changed: Condvar::new() });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            // It ends when the `Road` has gone and somebody connects: see `drop`.
            for client in listener.incoming().map_while(Result::ok) {
                if Arc::strong_count(&shared) == 1 {
                    return;
                }
                open(&shared, client);
            }
        });
        Self { address, state }
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From here on it is so.
    pub fn set(&self, traffic: Traffic) {
        let mut road = self.state.road.lock().unwrap();
        road.0 = traffic;
        if traffic == Traffic::Cut {
            close(&mut road.2);
        }
        self.state.changed.notify_all();
    }

    /// It leads to another server: every connection to the one before ends.
    pub fn lead_to(&self, server: SocketAddr) {
        let mut road = self.state.road.lock().unwrap();
        road.1 = server;
        close(&mut road.2);
    }
}

fn close(streams: &mut Vec<TcpStream>) {
    for stream in streams.drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

impl Drop for Road {
    fn drop(&mut self) {
        self.set(Traffic::Cut);
    }
}

fn open(shared: &Arc<Shared>, client: TcpStream) {
    let mut road = shared.road.lock().unwrap();
    if road.0 == Traffic::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(road.1) else { return };
    for (from, to) in [(&client, &server), (&server, &client)] {
        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let _ = to.set_nodelay(true);
        let shared = Arc::clone(shared);
        thread::spawn(move || pass(&shared, from, to));
    }
    road.2.extend([client, server]);
}

fn pass(shared: &Shared, mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let road = shared.road.lock().unwrap();
        let road = shared.changed.wait_while(road, |road| road.0 == Traffic::Silent).unwrap();
        let traffic = road.0;
        let late = match traffic {
            Traffic::Slow(late) => late,
            _ => Duration::ZERO,
        };
        // Whatever happens to the road meanwhile, these bytes are this late.
        let (road, _) = shared.changed.wait_timeout_while(road, late, |_| true).unwrap();
        drop(road);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
