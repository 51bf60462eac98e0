//! The ledger as anybody with `sqlite3` sees it, by the columns of the contract, part 5.

use super::poll;
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub record_id: String,
    pub occurred_at: String,
    pub period: String,
    pub request_id: String,
    pub consumer_id: String,
    pub key_id: String,
    pub service_id: String,
    pub model: String,
    pub status: u16,
    pub outcome: String,
    pub streamed: bool,
    pub input_tokens: u64,
    pub cached_tokens: u64,
    pub output_tokens: u64,
    pub tokens_source: String,
    pub price_version: u64,
    pub cost_nanousd: u64,
    pub attempts: u64,
    pub latency_us: u64,
    pub ttft_us: u64,
    pub overhead_us: u64,
    pub instance_id: String,
}

/// The ledger of one data directory.
pub struct Ledger(PathBuf);

impl Ledger {
    /// That of `data_dir`.
    pub fn of(data_dir: &Path) -> Self {
        Self(data_dir.join("tollgate.db"))
    }

    /// All rows, in the order of their time.
    pub fn rows(&self) -> Vec<Row> {
        self.select("1 = 1", "")
    }

    /// The rows of one request id.
    pub fn rows_of(&self, request_id: &str) -> Vec<Row> {
        self.select("request_id = ?1", request_id)
    }

    /// The one row of a request id, once it is there.
    pub fn row(&self, request_id: &str) -> Row {
        let mut rows = poll::until(&format!("the row of {request_id}"), || {
            Some(self.rows_of(request_id)).filter(|rows| !rows.is_empty())
        });
        assert_eq!(rows.len(), 1, "{request_id} has more than one row: {rows:?}");
        rows.remove(0)
    }

    fn select(&self, condition: &str, request_id: &str) -> Vec<Row> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection = Connection::open_with_flags(&self.0, flags).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        let query = format!(
            "SELECT record_id, occurred_at, period, request_id, consumer_id, key_id, service_id,
                model, status, outcome, streamed, input_tokens, cached_tokens, output_tokens,
                tokens_source, price_version, cost_nanousd, attempts, latency_us, ttft_us,
                overhead_us, instance_id
             FROM usage_records WHERE {condition} ORDER BY record_id"
        );
        let mut statement = connection.prepare(&query).unwrap();
        let values: &[&dyn rusqlite::ToSql] =
            if request_id.is_empty() { &[] } else { &[&request_id] };
        let rows = statement.query_map(values, read).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let number = |column: usize| row.get::<_, i64>(column).map(|number| number.try_into().unwrap());
    Ok(Row {
        record_id: row.get(0)?,
        occurred_at: row.get(1)?,
        period: row.get(2)?,
        request_id: row.get(3)?,
        consumer_id: row.get(4)?,
        key_id: row.get(5)?,
        service_id: row.get(6)?,
        model: row.get(7)?,
        status: row.get(8)?,
        outcome: row.get(9)?,
        streamed: row.get(10)?,
        input_tokens: number(11)?,
        cached_tokens: number(12)?,
        output_tokens: number(13)?,
        tokens_source: row.get(14)?,
        price_version: number(15)?,
        cost_nanousd: number(16)?,
        attempts: number(17)?,
        latency_us: number(18)?,
        ttft_us: number(19)?,
        overhead_us: number(20)?,
        instance_id: row.get(21)?,
    })
}
