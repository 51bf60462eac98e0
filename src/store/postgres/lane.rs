//! A connection of its own for one kind of work, with a bounded number of those who wait for it.
//! What one lane waits for holds up nothing but what has been given to the same lane.
//!
//! Server lost: whoever asks is told so at once. The next one who asks has it connected again, but
//! not before a pause, which doubles up to a second.

use super::blocking::TooLong;
use super::session::{Access, CONNECT_WITHIN, Canceller, Session};
use crate::clock;
use crate::store::error::CatalogError;
use shard::units::Nanos;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{error::Elapsed, timeout};

const PAUSE_MIN: Nanos = Nanos::from_ms(25);
const PAUSE_MAX: Nanos = Nanos::from_s(1);

/// Work on a session.
pub(super) type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T, CatalogError>> + Send + 'a>>;

/// See the module.
pub(super) struct PostgresLane {
    access: Access,
    within: Duration,
    room: Arc<Semaphore>,
    slot: Mutex<LaneConnection>,
}

/// The connection, or when it may be tried again.
struct LaneConnection {
    session: Option<Session>,
    pause: Nanos,
    again_at: Nanos,
    why: String,
}

impl PostgresLane {
    /// A lane that connects when it is first used. Any work ends `within`, waiting for its turn
    /// included; `waiting_max` may wait.
    pub(super) fn new(access: Access, within: Duration, waiting_max: usize) -> Arc<Self> {
        let slot = LaneConnection {
            session: None,
            pause: PAUSE_MIN,
            again_at: Nanos(0),
            why: String::new(),
        };
        let room = Arc::new(Semaphore::new(waiting_max));
        Arc::new(Self { access, within, room, slot: Mutex::new(slot) })
    }

    /// Gives it its first session.
    pub(super) async fn begin_with(&self, session: Session) {
        self.slot.lock().await.session = Some(session);
    }

    /// What its connection is opened by.
    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// Runs `work` to its end, whether or not somebody still waits for it.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        runtime: &Handle,
        work: impl for<'a> FnOnce(&'a Session) -> Work<'a, T> + Send + 'static,
    ) -> Result<T, CatalogError> {
        self.give(runtime, work)?.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Runs `work` for as long as somebody waits for it.
    pub(super) async fn run_for_caller<T: Send + 'static>(
        self: &Arc<Self>,
        runtime: &Handle,
        work: impl for<'a> FnOnce(&'a Session) -> Work<'a, T> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let given = self.give(runtime, work)?;
        let _ends_with_caller = EndsWithCaller(given.abort_handle());
        given.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Runs `work` while this thread waits.
    pub(super) fn run_here<T: Send + 'static>(
        self: &Arc<Self>,
        runtime: &Handle,
        work: impl for<'a> FnOnce(&'a Session) -> Work<'a, T> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let (answer, answered) = flume::bounded(1);
        let given = self.give(runtime, work)?;
        runtime.spawn(async move { answer.send(given.await.unwrap_or_else(|_| Err(ended()))) });
        answered.recv().unwrap_or_else(|_| Err(ended()))
    }

    fn give<T: Send + 'static>(
        self: &Arc<Self>,
        runtime: &Handle,
        work: impl for<'a> FnOnce(&'a Session) -> Work<'a, T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T, CatalogError>>, CatalogError> {
        let room = self.room.clone().try_acquire_owned().map_err(|_| CatalogError::Busy)?;
        let lane = self.clone();
        Ok(runtime.spawn(async move {
            let _room = room;
            let until = clock::now().after(Nanos::from_ms(lane.within.as_millis() as u64));
            let left = || Duration::from_nanos(until.since(clock::now()).0);
            let mut slot = timeout(left(), lane.slot.lock()).await?;
            let session = slot.take(&lane.access).await?;
            let canceller = session.canceller();
            let mut cancels = CancelsUnlessDone(Some(canceller));
            let done = timeout(left(), work(&session)).await?;
            cancels.0 = None;
            slot.session = Some(session);
            done
        }))
    }
}

impl LaneConnection {
    /// The session, out of its place: where its work is cut short, it is closed.
    async fn take(&mut self, access: &Access) -> Result<Session, CatalogError> {
        if let Some(session) = self.session.take().filter(|session| !session.is_closed()) {
            return Ok(session);
        }
        if clock::now() < self.again_at {
            return Err(CatalogError::Away(self.why.clone()));
        }
        let failure = match timeout(CONNECT_WITHIN, Session::open(access)).await {
            Ok(Ok(session)) => {
                self.pause = PAUSE_MIN;
                return Ok(session);
            }
            Ok(Err(error)) => CatalogError::from(error),
            Err(_) => TooLong.into(),
        };
        self.again_at = clock::now().after(self.pause);
        self.pause = Nanos(self.pause.0 * 2).min(PAUSE_MAX);
        self.why = failure.to_string();
        Err(CatalogError::Away(self.why.clone()))
    }
}

/// Ends the work where its caller leaves.
struct EndsWithCaller(AbortHandle);

impl Drop for EndsWithCaller {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where work is cut short, the server is told to leave it.
struct CancelsUnlessDone(Option<Canceller>);

impl Drop for CancelsUnlessDone {
    fn drop(&mut self) {
        if let (Some(canceller), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(timeout(CONNECT_WITHIN, async move {
                // A server that does not hear it ends the statement at its bound.
                let _ = canceller.cancel().await;
            }));
        }
    }
}

impl From<Elapsed> for CatalogError {
    fn from(_: Elapsed) -> Self {
        Self::TooSlow
    }
}

fn ended() -> CatalogError {
    CatalogError::Internal("the store's thread has ended".to_owned())
}
