//! The ledger as anybody with `sqlite3` or `psql` sees it, by the columns of the contract, part 5.

use super::{poll, postgres};
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

/// A record's place in the month, and what it was billed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedRow {
    pub place: u64,
    /// Input, cached of them, output.
    pub tokens: (u64, u64, u64),
    pub cost_nanousd: u64,
}

/// The ledger of one instance.
pub enum Ledger {
    /// In its data directory.
    File(PathBuf),
    /// In this database.
    Postgres(String),
}

impl Ledger {
    /// That of `data_dir`.
    pub fn of(data_dir: &Path) -> Self {
        Self::File(data_dir.join("tollgate.db"))
    }

    /// All rows, in the order of their time.
    pub fn rows(&self) -> Vec<Row> {
        self.select(None)
    }

    /// The rows of one request id.
    pub fn rows_of(&self, request_id: &str) -> Vec<Row> {
        self.select(Some(request_id))
    }

    /// The one row of a request id, once it is there.
    pub fn row(&self, request_id: &str) -> Row {
        let mut rows = poll::until(&format!("the row of {request_id}"), || {
            Some(self.rows_of(request_id)).filter(|rows| !rows.is_empty())
        });
        assert_eq!(rows.len(), 1, "{request_id} has more than one row: {rows:?}");
        rows.remove(0)
    }

    /// The consumer's rows on the service that have a place in the month, in that order: theirs in
    /// the ledger, whenever the calls were.
    pub fn placed(&self, consumer_id: &str, service_id: &str) -> Vec<PlacedRow> {
        let (rows, place, id) = match self {
            Self::File(_) => ("usage_rows JOIN usage_places USING (record_id)", "month_place", ""),
            Self::Postgres(_) => ("usage_rows", "nullif(month_place, '')::bigint", "tollgate_id"),
        };
        let query = format!(
            "SELECT {place}, input_tokens, cached_tokens, output_tokens, cost_nanousd
             FROM {rows} WHERE {id}(consumer_id) = '{consumer_id}'
                AND {id}(service_id) = '{service_id}' AND {place} IS NOT NULL
             ORDER BY {place}, input_tokens + output_tokens"
        );
        let placed = |[place, input, cached, output, cost_nanousd]: [u64; 5]| PlacedRow {
            place,
            tokens: (input, cached, output),
            cost_nanousd,
        };
        match self {
            Self::File(path) => {
                let connection = read_only(path);
                let mut statement = connection.prepare(&query).unwrap();
                let number = |row: &rusqlite::Row<'_>, column| {
                    u64::try_from(row.get::<_, i64>(column).unwrap()).unwrap()
                };
                let columns = [0, 1, 2, 3, 4];
                let rows = statement.query_map((), |row| Ok(columns.map(|at| number(row, at))));
                rows.unwrap().map(|row| placed(row.unwrap())).collect()
            }
            Self::Postgres(url) => {
                let rows = postgres::query(url, &query).unwrap();
                let numbers =
                    |row: &Vec<String>| [0, 1, 2, 3, 4].map(|at| row[at].parse().unwrap());
                rows.iter().map(|row| placed(numbers(row))).collect()
            }
        }
    }

    fn select(&self, request_id: Option<&str>) -> Vec<Row> {
        let condition = match request_id {
            Some(id) => format!("request_id = '{}'", id.replace('\'', "''")),
            None => "1 = 1".to_owned(),
        };
        let query = format!(
            "SELECT record_id, occurred_at, period, request_id, consumer_id, key_id, service_id,
                model, status, outcome, streamed, input_tokens, cached_tokens, output_tokens,
                tokens_source, price_version, cost_nanousd, attempts, latency_us, ttft_us,
                overhead_us, instance_id
             FROM usage_records WHERE {condition} ORDER BY record_id"
        );
        match self {
            Self::File(path) => {
                let connection = read_only(path);
                let mut statement = connection.prepare(&query).unwrap();
                let rows = statement.query_map((), read).unwrap();
                rows.collect::<Result<_, _>>().unwrap()
            }
            Self::Postgres(url) => {
                postgres::query(url, &query).unwrap().iter().map(|row| read_texts(row)).collect()
            }
        }
    }
}

fn read_only(path: &Path) -> Connection {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection
}

fn read_texts(row: &[String]) -> Row {
    let text = |column: usize| row[column].clone();
    let number = |column: usize| row[column].parse().unwrap();
    Row {
        record_id: text(0),
        occurred_at: text(1),
        period: text(2),
        request_id: text(3),
        consumer_id: text(4),
        key_id: text(5),
        service_id: text(6),
        model: text(7),
        status: row[8].parse().unwrap(),
        outcome: text(9),
        streamed: row[10] == "t",
        input_tokens: number(11),
        cached_tokens: number(12),
        output_tokens: number(13),
        tokens_source: text(14),
        price_version: number(15),
        cost_nanousd: number(16),
        attempts: number(17),
        latency_us: number(18),
        ttft_us: number(19),
        overhead_us: number(20),
        instance_id: text(21),
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
