//! A thread with a connection of its own and a bounded queue. What one lane waits for (a commit,
//! a sum over millions of rows) holds up nothing but what has been given to the same lane.

use crate::clock;
use crate::store::error::CatalogError;
use rusqlite::Connection;
use shard::units::Nanos;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;

/// SQLite's steps between two looks at whether a bounded job may go on: about a tenth of a
/// millisecond of work.
const STEPS_BETWEEN_LOOKS: i32 = 10_000;

type LaneJob = Box<dyn FnOnce(&mut Connection) + Send>;

/// See the module. The thread ends when the last clone has been dropped.
#[derive(Clone)]
pub(super) struct Lane(flume::Sender<LaneJob>);

impl Lane {
    /// Starts the thread; of the jobs given to it, `waiting_max` may wait.
    pub(super) fn start(
        name: &str,
        mut connection: Connection,
        waiting_max: usize,
    ) -> io::Result<Self> {
        let (jobs, given) = flume::bounded::<LaneJob>(waiting_max);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Ok(job) = given.recv() {
                job(&mut connection);
            }
        })?;
        Ok(Self(jobs))
    }

    /// Runs `work` to its end, whether or not somebody still waits for it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, CatalogError> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let (answer, answered) = oneshot::channel();
        // Whoever asked may have left.
        self.give(Box::new(move |db| drop(answer.send(work(db)))))?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Runs `work` for as long as somebody waits for it, and until `within` is over: waiting for
    /// its turn counts.
    pub(super) async fn run_within<T: Send + 'static>(
        &self,
        within: Nanos,
        work: impl FnOnce(&mut Connection) -> Result<T, CatalogError> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let (answer, answered) = oneshot::channel();
        let waits = Waits(Arc::new(AtomicBool::new(true)));
        let still = Arc::clone(&waits.0);
        let until = clock::now().after(within);
        self.give(Box::new(move |db| {
            if still.load(Ordering::Relaxed) {
                drop(answer.send(bounded(db, until, still, work)));
            }
        }))?;
        let answered = answered.await.unwrap_or_else(|_| Err(ended()));
        drop(waits);
        answered
    }

    /// Runs `work` while this thread waits.
    pub(super) fn run_here<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, CatalogError> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let (answer, answered) = flume::bounded(1);
        self.give(Box::new(move |db| drop(answer.send(work(db)))))?;
        answered.recv().unwrap_or_else(|_| Err(ended()))
    }

    fn give(&self, job: LaneJob) -> Result<(), CatalogError> {
        self.0.try_send(job).map_err(|refused| match refused {
            flume::TrySendError::Full(_) => CatalogError::Busy,
            flume::TrySendError::Disconnected(_) => ended(),
        })
    }
}

/// Somebody waits for as long as this lives.
struct Waits(Arc<AtomicBool>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

fn bounded<T>(
    db: &mut Connection,
    until: Nanos,
    still: Arc<AtomicBool>,
    work: impl FnOnce(&mut Connection) -> Result<T, CatalogError>,
) -> Result<T, CatalogError> {
    if clock::now() >= until {
        return Err(CatalogError::TooSlow);
    }
    let is_over = move || !still.load(Ordering::Relaxed) || clock::now() >= until;
    db.progress_handler(STEPS_BETWEEN_LOOKS, Some(is_over))?;
    let done = work(db);
    db.progress_handler(0, None::<fn() -> bool>)?;
    done
}

fn ended() -> CatalogError {
    CatalogError::Internal("the store's thread has ended".to_owned())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Runs until it is interrupted.
    fn endless(db: &mut Connection) -> Result<i64, CatalogError> {
        let query = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
                     SELECT sum(i % 7) FROM n";
        Ok(db.query_row(query, (), |row| row.get(0))?)
    }

    fn lane(waiting_max: usize) -> Lane {
        Lane::start("lane", Connection::open_in_memory().unwrap(), waiting_max).unwrap()
    }

    #[tokio::test]
    async fn a_job_ends_at_its_bound_and_the_lane_goes_on() {
        let lane = lane(4);
        let over = lane.run_within(Nanos::from_ms(20), endless).await;
        assert!(matches!(over, Err(CatalogError::TooSlow)), "{over:?}");
        assert_eq!(lane.run(|_| Ok(7)).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_job_ends_when_nobody_waits_for_it() {
        let lane = lane(4);
        let waiting = tokio::spawn({
            let lane = lane.clone();
            async move { lane.run_within(Nanos::from_s(3_600), endless).await }
        });
        tokio::task::yield_now().await;
        waiting.abort();
        assert_eq!(lane.run(|_| Ok(7)).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn more_jobs_than_have_room_are_refused() {
        let lane = lane(1);
        let (hold, held) = mpsc::channel::<()>();
        let (begun, begins) = flume::bounded(1);
        let first = tokio::spawn({
            let lane = lane.clone();
            async move {
                let wait =
                    move |_: &mut Connection| Ok(begun.send(()).is_ok() && held.recv().is_ok());
                lane.run(wait).await
            }
        });
        begins.recv_async().await.unwrap();
        let second = tokio::spawn({
            let lane = lane.clone();
            async move { lane.run(|_| Ok(2)).await }
        });
        tokio::task::yield_now().await;
        assert!(matches!(lane.run(|_| Ok(3)).await, Err(CatalogError::Busy)));
        hold.send(()).unwrap();
        assert!(first.await.unwrap().unwrap());
        assert_eq!(second.await.unwrap().unwrap(), 2);
    }
}
