//! The writer: one thread that brings settled records into the ledger, in batches, and deletes
//! the journal segments behind them. The only place that writes usage.
//!
//! Records come by a channel that may drop them and by the journals, which do not: a record that
//! the channel did not bring is read from its file. Failure stance: while the store fails or is
//! locked, the batch is kept and tried again after growing pauses, and the journals spool until
//! they are full. A record that the store refuses is kept aside and stops nothing. Never
//! acknowledges anything, and never touches a request.

pub(crate) mod replay;
mod run;
#[cfg(test)]
mod tests;
mod upkeep;

pub(crate) use replay::{ReplayReport, journals_in, replay, replay_journal};
pub(crate) use run::{WriterArgs, WriterHandle, spawn};
