//! A connection for a thread that waits for it: the writer's, and those of commands.

pub(super) use super::errors::TooLong;
use super::schema;
use super::session::{Access, CONNECT_WITHIN, Session};
use crate::store::error::StoreError;
use crate::store::location::PostgresServer;
use std::cell::RefCell;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// What a statement may take: a batch takes milliseconds, a look at all that was refused longer.
const WITHIN: Duration = Duration::from_secs(30);
/// What a whole piece of work may: a batch whose records are tried one by one.
const WORK_WITHIN: Duration = Duration::from_secs(120);
/// What a look at every record may.
const LONG_WORK_WITHIN: Duration = Duration::from_secs(24 * 3_600);

/// A connection for a thread that waits for it. It is opened again by whoever finds it closed.
pub(super) struct Blocking {
    runtime: Runtime,
    access: Access,
    session: RefCell<Option<Session>>,
}

impl Blocking {
    /// Connects, and brings the schema up to date.
    pub(super) fn open(server: &PostgresServer) -> Result<Self, StoreError> {
        let opened = Self::new(server)?;
        let session = opened.runtime.block_on(schema::open(&opened.access))?;
        *opened.session.borrow_mut() = Some(session);
        Ok(opened)
    }

    /// The same for whoever fills it from an embedded store.
    pub(super) fn open_half_filled(server: &PostgresServer) -> Result<Self, StoreError> {
        let opened = Self::new(server)?;
        let session = opened.runtime.block_on(schema::open_half_filled(&opened.access))?;
        *opened.session.borrow_mut() = Some(session);
        Ok(opened)
    }

    /// Connects when it is first used.
    pub(super) fn new(server: &PostgresServer) -> Result<Self, StoreError> {
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(StoreError::Thread)?;
        let access = Access::new(server, WITHIN)?;
        Ok(Self { runtime, access, session: RefCell::new(None) })
    }

    /// Does `work` on the session. What fails is undone, and what is cut short costs the session,
    /// which undoes it too.
    pub(super) fn run<T, E: From<tokio_postgres::Error> + From<TooLong>>(
        &self,
        work: impl AsyncFnOnce(&Session) -> Result<T, E>,
    ) -> Result<T, E> {
        self.run_within(WORK_WITHIN, work)
    }

    /// The same for what has to look at every record there is.
    pub(super) fn run_long<T, E: From<tokio_postgres::Error> + From<TooLong>>(
        &self,
        work: impl AsyncFnOnce(&Session) -> Result<T, E>,
    ) -> Result<T, E> {
        self.run_within(LONG_WORK_WITHIN, work)
    }

    fn run_within<T, E: From<tokio_postgres::Error> + From<TooLong>>(
        &self,
        within: Duration,
        work: impl AsyncFnOnce(&Session) -> Result<T, E>,
    ) -> Result<T, E> {
        let kept = self.session.borrow_mut().take().filter(|session| !session.is_closed());
        let (done, session) = self.runtime.block_on(async {
            let session = match kept {
                Some(session) => session,
                None => match timeout(CONNECT_WITHIN, Session::open(&self.access)).await {
                    Ok(opened) => opened?,
                    Err(_) => return Err(TooLong.into()),
                },
            };
            match timeout(within, work(&session)).await {
                Ok(Err(failure)) => {
                    let undone = timeout(CONNECT_WITHIN, session.batch("ROLLBACK")).await;
                    Ok((Err(failure), Some(session).filter(|_| matches!(undone, Ok(Ok(()))))))
                }
                Ok(done) => Ok((done, Some(session))),
                Err(_) => Err(E::from(TooLong)),
            }
        })?;
        *self.session.borrow_mut() = session;
        done
    }
}
