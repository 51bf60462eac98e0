//! One shard's thread: pinned, with its ring, its listener and its tasks; from the first accept
//! to the last settlement.

use super::core::{Core, Parts};
use super::deadline::Ends;
use super::downstream::IDLE_GRACE;
use super::tickets::COUNT_PATIENCE;
use super::upstream::Pools;
use super::{connection, mailbox, timers};
use crate::clock;
use crate::config::Config;
use crate::net::{self, Listener, Stream};
use rustix::thread::{CpuSet, sched_setaffinity};
use shard::units::Nanos;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a draining shard looks whether it is done.
const DRAIN_POLL: Duration = Duration::from_millis(5);
/// Connections over `server.max_connections` that are told so at once; more are just closed, for
/// each takes a descriptor while its refusal is on the way.
pub(crate) const REFUSING_MAX: u32 = 32;

/// What a shard's thread needs.
pub(crate) struct ShardArgs {
    /// State, journal, channels.
    pub parts: Parts,
    /// Shares its port with the other shards'.
    pub listener: TcpListener,
    /// Brings each new configuration.
    pub configs: flume::Receiver<Arc<Config>>,
    /// The core to run on; `None`: wherever the scheduler likes.
    pub cpu: Option<usize>,
}

/// Starts a shard. Its thread ends after `ToShard::Drain`.
pub(crate) fn spawn(args: ShardArgs) -> io::Result<JoinHandle<io::Result<()>>> {
    let name = format!("shard-{}", args.parts.index);
    std::thread::Builder::new().name(name).spawn(move || {
        if let Some(cpu) = args.cpu {
            let mut cpus = CpuSet::new();
            cpus.set(cpu);
            if let Err(error) = sched_setaffinity(None, &cpus) {
                tracing::warn!(%error, cpu, "shard is not pinned");
            }
        }
        net::run(async move { serve(args.parts, args.listener, args.configs).await })?
    })
}

async fn serve(
    parts: Parts,
    listener: TcpListener,
    configs: flume::Receiver<Arc<Config>>,
) -> io::Result<()> {
    let listener = Rc::new(Listener::from_std(listener)?);
    let core = Rc::new(Core::new(parts));
    let pools = Rc::new(Pools::default());
    let accepting = (Rc::clone(&core), Rc::clone(&pools), Rc::clone(&listener));
    net::spawn(async move { accept(accepting.0, accepting.1, accepting.2).await });
    let timed = Rc::clone(&core);
    net::spawn(async move { timers::keep(&timed, &pools).await });
    let configured = Rc::clone(&core);
    net::spawn(async move {
        while let Ok(config) = configs.recv_async().await {
            configured.set_config(&config);
        }
    });
    mailbox::listen(&core).await;
    listener.end();
    drop(listener);
    drain(&core).await;
    Ok(())
}

async fn accept(core: Rc<Core>, pools: Rc<Pools>, listener: Rc<Listener>) {
    /// Out of descriptors, most likely: they come back as connections close.
    const PAUSE: Duration = Duration::from_millis(20);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => take(&core, &pools, stream, peer),
            Err(_) if core.draining() => return,
            Err(_) => net::sleep(PAUSE).await,
        }
    }
}

fn take(core: &Rc<Core>, pools: &Rc<Pools>, stream: Stream, peer: SocketAddr) {
    if core.connections.get() >= core.config().server.max_connections {
        if core.refusing.get() < REFUSING_MAX {
            core.refusing.set(core.refusing.get() + 1);
            let socket = core.deadlines.socket(stream, Ends::Reads);
            net::spawn(connection::refuse(Rc::clone(core), socket, peer));
        }
        return;
    }
    let socket = core.deadlines.socket(stream, Ends::Reads);
    // From here on a drain waits for it.
    core.connections.set(core.connections.get() + 1);
    net::spawn(connection::serve(Rc::clone(core), Rc::clone(pools), socket, peer));
}

/// Finishes what is in flight, gives back what is leased, and closes the journal.
async fn drain(core: &Core) {
    let begun = clock::lately();
    let idle_deadline = begun.after(IDLE_GRACE);
    let deadline = begun.after(Nanos::from_ms(core.config().server.drain_timeout_ms));
    let mut idle_closed = false;
    // The ring may hold a connection that was accepted a moment ago.
    net::sleep(DRAIN_POLL).await;
    while core.is_connected() && clock::lately() < deadline {
        // Control still answers wants; so does the syncer.
        mailbox::take_in_waiting(core);
        if !idle_closed && clock::lately() >= idle_deadline {
            core.deadlines.end_idle();
            idle_closed = true;
        }
        net::sleep(DRAIN_POLL).await;
    }
    if core.is_connected() {
        tracing::warn!(connections = core.connections.get(), "cut off: the drain took too long");
        core.cut_off();
        // What is cut off may have to be counted before it can be settled.
        let counted = Nanos(COUNT_PATIENCE.as_nanos() as u64);
        let last = clock::lately().after(counted).after(Nanos::from_s(1));
        while core.is_connected() && clock::lately() < last {
            mailbox::take_in_waiting(core);
            net::sleep(DRAIN_POLL).await;
        }
    }
    core.fault_log.flush_all();
    core.shard.borrow_mut().release_all(clock::lately());
    let last = clock::lately().after(Nanos::from_s(1));
    while !mailbox::post(core) && clock::lately() < last {
        net::sleep(DRAIN_POLL).await;
    }
    if let Some(journal) = core.journal.borrow_mut().take() {
        journal.close();
    }
}
