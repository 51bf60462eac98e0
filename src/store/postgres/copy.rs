//! Records as rows of COPY in its binary form: a batch is one stream, one round trip, and no row
//! costs a value of its own.

use super::columns::{EPOCH_UNIX_US, signed};
use super::session::Session;
use crate::channels::Settled;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, pin_mut};
use shard::month_places::PlacedCost;
use tokio_postgres::Error;

/// In the columns' order of the table.
const COPY: &str = "COPY usage_rows (record_id, occurred_at, consumer_id, key_id, service_id,
    cost_nanousd, input_tokens, cached_tokens, output_tokens, price_version, latency_us, ttft_us,
    overhead_us, instance, status, attempts, outcome, request_id, month_place)
    FROM STDIN (FORMAT binary)";
const COLUMNS: i16 = 19;
/// Bits of `outcome`, above the outcome's own.
pub(super) const STREAMED: i16 = 8;
pub(super) const ESTIMATED: i16 = 16;
/// Signature, flags, length of an extension.
const HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const END: i16 = -1;
/// About what a row takes.
const ROW_BYTES: usize = 256;

/// Rows on their way into the table.
pub(super) struct CopyRows(BytesMut);

impl CopyRows {
    pub(super) fn with_room_for(rows: usize) -> Self {
        let mut bytes = BytesMut::with_capacity(HEAD.len() + rows * ROW_BYTES);
        bytes.put_slice(HEAD);
        Self(bytes)
    }

    /// Adds a row, with its final cost. What does not fit into its column is refused, with the
    /// reason, and nothing is added.
    pub(super) fn add(
        &mut self,
        settled: &Settled,
        priced: PlacedCost,
        instance: i32,
    ) -> Result<(), String> {
        let before = self.0.len();
        let done = self.put_row(settled, priced, instance);
        if done.is_err() {
            self.0.truncate(before);
        }
        done
    }

    fn put_row(
        &mut self,
        settled: &Settled,
        priced: PlacedCost,
        instance: i32,
    ) -> Result<(), String> {
        let record = &settled.record;
        self.0.put_i16(COLUMNS);
        self.0.put_i32(16);
        self.0.put_u128(record.record_id);
        self.long(record.occurred_at_unix_us.saturating_sub(EPOCH_UNIX_US));
        for id in [record.consumer.0, record.key.0, record.service.0] {
            self.long(i64::try_from(id).map_err(|_| misfit("an identity", id))?);
        }
        self.long(priced.cost.0);
        let usage = &record.usage;
        for (name, number) in [
            ("input_tokens", usage.input_tokens),
            ("cached_tokens", usage.cached_tokens),
            ("output_tokens", usage.output_tokens),
            ("price_version", record.price_version),
        ] {
            self.integer(i32::try_from(number).map_err(|_| misfit(name, number))?);
        }
        for us in [record.latency_us, record.ttft_us, record.overhead_us] {
            self.integer(i32::try_from(us).unwrap_or(i32::MAX));
        }
        self.integer(instance);
        let short = |name, number| i16::try_from(number).map_err(|_| misfit(name, number));
        self.short(short("status", record.status)?);
        self.short(short("attempts", record.attempts)?);
        let or = |bit, is| if is { bit } else { 0 };
        let (streamed, estimated) = (or(STREAMED, record.streamed), or(ESTIMATED, usage.estimated));
        self.short(record.outcome as i16 | streamed | estimated);
        // Left out where it is the record's own.
        self.text(settled.given_request_id().unwrap_or_default());
        match priced.month_place {
            Some(place) => self.text(signed(place).to_string().as_str()),
            None => self.text(""),
        }
        Ok(())
    }

    fn long(&mut self, number: i64) {
        self.0.put_i32(8);
        self.0.put_i64(number);
    }

    fn integer(&mut self, number: i32) {
        self.0.put_i32(4);
        self.0.put_i32(number);
    }

    fn short(&mut self, number: i16) {
        self.0.put_i32(2);
        self.0.put_i16(number);
    }

    fn text(&mut self, text: &str) {
        self.0.put_i32(text.len() as i32);
        self.0.put_slice(text.as_bytes());
    }

    /// Sends them all. Returns how many are in.
    pub(super) async fn send(mut self, db: &Session) -> Result<u64, Error> {
        self.0.put_i16(END);
        let statement = db.prepared(COPY).await?;
        let sink = db.client().copy_in::<_, Bytes>(&statement).await?;
        pin_mut!(sink);
        sink.send(self.0.freeze()).await?;
        sink.finish().await
    }
}

fn misfit(column: &str, number: impl std::fmt::Display) -> String {
    format!("{column} is out of range: {number}")
}
