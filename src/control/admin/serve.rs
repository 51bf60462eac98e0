//! The admin port: a bounded number of connections, each for a bounded time, whoever holds them.
//! A head that does not come, an answer that nobody takes or a crowd of silent clients must never
//! use up the instance's descriptors or memory: it needs both for calls.
//!
//! The timeouts are those of `[server]`, except that a connection which is kept waits for its
//! next request no longer than for a head.

use super::error::AdminError;
use super::router;
use crate::control::admin_state::AdminState;
use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt::set_tcp_user_timeout;
use rustix::net::{Shutdown, shutdown};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Connections that are served at once. With [`HEAD_BYTES_MAX`] and a body each they hold 12 MB.
const CONNECTIONS_MAX: usize = 128;
/// Connections over that number that are told so at once; more are closed without a word.
const REFUSALS_MAX: usize = 32;
/// Request line and headers; past it 431.
const HEAD_BYTES_MAX: usize = 32 * 1_024;
/// A connection that is kept, or read from byte by byte, ends after this: what is being answered
/// then has [`LAST_ANSWER_MAX`] left.
const LIFE_MAX: Duration = Duration::from_secs(600);
const LAST_ANSWER_MAX: Duration = Duration::from_secs(60);
/// A client that is refused may still be sending: closing at once would take the refusal from it.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES_MAX: usize = 64 * 1_024;
/// After a failed accept: out of descriptors, most likely.
const PAUSE: Duration = Duration::from_millis(20);

/// Serves the admin API for as long as it is polled.
pub(crate) async fn serve(state: Arc<AdminState>, listener: TcpListener) {
    let router = router(Arc::clone(&state));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            let (state, router) = (Arc::clone(&state), router.clone());
            tokio::spawn(async move {
                converse(&state, router, stream, peer).await;
                drop(place);
            });
        } else if let Ok(place) = Arc::clone(&refusals).try_acquire_owned() {
            tokio::spawn(async move {
                refuse(&stream, AdminError::overloaded()).await;
                drop(place);
            });
        }
    }
}

/// One connection from its first request to its last.
async fn converse(state: &AdminState, router: Router, stream: TcpStream, peer: SocketAddr) {
    let (head_timeout, write_timeout_ms) = {
        let settings = state.settings();
        let server = &settings.config.server;
        (Duration::from_millis(server.head_timeout_ms), server.write_timeout_ms)
    };
    // Without it, the connection's life is the bound.
    let write_timeout_ms = u32::try_from(write_timeout_ms).unwrap_or(u32::MAX);
    let _ = set_tcp_user_timeout(&stream, write_timeout_ms);
    let service = TowerToHyperService::new(router.layer(Extension(ConnectInfo(peer))));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = Box::pin(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = sleep(LIFE_MAX) => {
            connection.as_mut().graceful_shutdown();
            timeout(LAST_ANSWER_MAX, connection.as_mut()).await.unwrap_or(Ok(()))
        }
    };
    if ended.is_err_and(|error| error.is_timeout()) {
        let parts = Pin::into_inner(connection).into_parts();
        // A client that has sent nothing was waiting for nothing.
        if !parts.read_buf.is_empty() {
            refuse(&parts.io.into_inner(), AdminError::timeout()).await;
        }
    }
}

/// Says why nothing comes of this connection, and hears the client out for a moment.
async fn refuse(stream: &TcpStream, error: AdminError) {
    let goodbye = async {
        stream.writable().await?;
        // The first bytes of an answer always have room.
        stream.try_write(error.as_http().as_bytes())?;
        shutdown(stream, Shutdown::Write)?;
        let (mut skipped, mut bytes) = (0, [0; 4_096]);
        while skipped < LINGER_BYTES_MAX {
            stream.readable().await?;
            match stream.try_read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => skipped += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok::<_, io::Error>(())
    };
    // A client that is gone needs no word.
    let _ = timeout(LINGER, goodbye).await;
}
