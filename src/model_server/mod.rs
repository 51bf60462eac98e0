//! The simulated model server behind `tollgate upstream` and inside `tollgate demo`.
//!
//! It stands in for the LLM services that the gateway calls: OpenAI's and Anthropic's shapes,
//! streamed and not, with faults on demand. Text, failures and waits are a function of the seed and
//! of the count of requests so far, so a run can be repeated. It is the partner of every load test,
//! so a plain answer costs one read, one write and no allocation. It must know nothing of the
//! gateway but the sockets in `net/`.

mod answer;
mod draw;
mod embeddings;
mod events;
mod fault;
mod model;
mod put;
mod request;
mod server;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use fault::PlannedFault;

use crate::net;
use model::Model;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

/// How the server behaves where a request's `x-mock-…` headers don't say otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    /// Wait before an answer's head.
    pub latency_ms: u32,
    /// At most this much more, drawn for each request.
    pub jitter_ms: u32,
    /// Streams: wait between the opening events and the first token.
    pub ttft_ms: u32,
    /// Streams: wait between tokens; if not 0, each event is a write of its own.
    pub inter_token_ms: u32,
    /// Share of requests answered with status 500, 0 to 1.
    pub fail_rate: f64,
    /// Output tokens of an answer; a request's own maximum caps it.
    pub tokens: u32,
    /// Prompt tokens to report; otherwise a quarter of the body's bytes, at least 1.
    pub prompt_tokens: Option<u32>,
    /// Share of the prompt tokens that is reported as cached, 0 to 1.
    pub cached_fraction: f64,
    /// Whether answers report their usage.
    pub usage: bool,
    /// What goes wrong.
    pub fault: Option<PlannedFault>,
    /// Share of requests with which it goes wrong, 0 to 1.
    pub fault_rate: f64,
    /// Makes a run repeatable.
    pub seed: u64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            latency_ms: 0,
            jitter_ms: 0,
            ttft_ms: 0,
            inter_token_ms: 0,
            fail_rate: 0.0,
            tokens: 16,
            prompt_tokens: None,
            cached_fraction: 0.0,
            usage: true,
            fault: None,
            fault_rate: 1.0,
            seed: 0,
        }
    }
}

/// Starts a server on a thread of its own, which lives as long as the process; the address that
/// it listens on.
pub(crate) fn spawn(listen: SocketAddr, behaviour: Behaviour) -> io::Result<SocketAddr> {
    let listener = net::bind(listen)?;
    let address = listener.local_addr()?;
    start_thread(listener, Arc::new(Model::new(behaviour)))?;
    Ok(address)
}

/// Runs a server of `threads` threads that share one port, until one of them fails.
pub(crate) fn run(
    listen: SocketAddr,
    threads: NonZeroUsize,
    behaviour: Behaviour,
    on_ready: impl FnOnce(SocketAddr),
) -> io::Result<()> {
    let model = Arc::new(Model::new(behaviour));
    let listener = net::bind(listen)?;
    let address = listener.local_addr()?;
    for _ in 1..threads.get() {
        start_thread(net::bind(address)?, Arc::clone(&model))?;
    }
    net::run(async {
        on_ready(address);
        server::serve(listener, model).await
    })?
}

/// Returns once the thread's ring stands, so that a host without io_uring is told at once.
fn start_thread(listener: TcpListener, model: Arc<Model>) -> io::Result<()> {
    let (started, outcome) = sync_channel(1);
    let failed = started.clone();
    thread::Builder::new().name("model-server".to_owned()).spawn(move || {
        let ended = net::run(async move {
            // The receiver waits for exactly this, so the send can't fail.
            let _ = started.send(Ok(()));
            server::serve(listener, model).await
        });
        if let Err(error) | Ok(Err(error)) = ended {
            // Nobody listens any more once the server has started.
            let _ = failed.try_send(Err(error));
        }
    })?;
    outcome.recv().unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::BrokenPipe)))
}
