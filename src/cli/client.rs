//! Speaks to the admin API over HTTP. It must never follow a redirect or go through a proxy with
//! the admin token, nor show it.

use super::CommandError;
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::{Method, Request};

/// Rows asked for at once.
const PAGE_ROWS: usize = 200;
/// Pages followed at most: a list longer than this is not for a terminal.
const PAGES_MAX: usize = 10_000;
/// One answer at most.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// One call at most; a usage report over a large ledger takes its time.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the admin API is and how it knows us.
#[derive(clap::Args)]
#[command(next_help_heading = "Admin API")]
pub(super) struct AdminArgs {
    /// Where the admin API is
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "TOLLGATE_ADMIN_URL",
        default_value = "http://127.0.0.1:3001"
    )]
    admin_url: String,
    /// Its bearer token [default: DATA_DIR/admin.token]
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "TOLLGATE_ADMIN__TOKEN",
        hide_env_values = true
    )]
    admin_token: Option<String>,
    /// Where admin.token is kept
    #[arg(long, global = true, value_name = "DIR", default_value = "./tollgate-data")]
    data_dir: PathBuf,
    /// Print the admin API's JSON instead of a table
    #[arg(long, global = true)]
    pub json: bool,
}

impl AdminArgs {
    /// A client with the token that is found first.
    pub(super) fn client(&self) -> Result<Client, CommandError> {
        let token =
            self.admin_token.clone().or_else(|| token_in(&self.data_dir)).ok_or_else(|| {
                CommandError::WrongUse(format!(
                    "no admin token: give --admin-token, set TOLLGATE_ADMIN__TOKEN, or point \
                     --data-dir to where admin.token is (not readable in {})",
                    self.data_dir.display()
                ))
            })?;
        Client::new(&self.admin_url, &token).map_err(CommandError::WrongUse)
    }
}

/// The token that an instance keeps in its `data_dir`.
pub(super) fn token_in(data_dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(data_dir.join("admin.token")).ok()?;
    Some(text.trim().to_string())
}

/// Why a call to the admin API did not do what was asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AdminCallError {
    /// There was no usable answer.
    Unreachable(String),
    /// The answer was no.
    Refused {
        /// HTTP status.
        status: u16,
        /// The server's words.
        message: String,
        /// The field it is about.
        field: Option<String>,
    },
}

impl AdminCallError {
    /// Is the object not there?
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }
}

impl fmt::Display for AdminCallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(message) => f.write_str(message),
            Self::Refused { status, message, field } => {
                write!(f, "{message}")?;
                if let Some(field) = field.as_ref().filter(|field| !message.contains(*field)) {
                    write!(f, " (field: {field})")?;
                }
                write!(f, " [{status}]")
            }
        }
    }
}

impl From<AdminCallError> for CommandError {
    fn from(error: AdminCallError) -> Self {
        match error {
            AdminCallError::Refused { status: 400, .. } => Self::WrongUse(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<AdminCallError> for String {
    fn from(error: AdminCallError) -> Self {
        error.to_string()
    }
}

/// A connection to one admin API.
pub(super) struct Client {
    agent: ureq::Agent,
    base_url: String,
    authorization: String,
}

impl Client {
    /// A client for the API at `admin_url`, such as `http://127.0.0.1:3001`.
    pub(super) fn new(admin_url: &str, token: &str) -> Result<Self, String> {
        if !admin_url.starts_with("http://") {
            return Err(format!("--admin-url {admin_url}: it has to begin with http://"));
        }
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_global(Some(CALL_TIMEOUT))
            .build()
            .new_agent();
        let base_url = admin_url.trim_end_matches('/').to_string();
        Ok(Self { agent, base_url, authorization: format!("Bearer {token}") })
    }

    /// `GET /admin/v1/{path}`
    pub(super) fn get(&self, path: &str) -> Result<Value, AdminCallError> {
        self.call(Method::GET, path, None)
    }

    /// `POST /admin/v1/{path}`
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, AdminCallError> {
        self.call(Method::POST, path, Some(body))
    }

    /// `PATCH /admin/v1/{path}`
    pub(super) fn patch(&self, path: &str, body: &Value) -> Result<Value, AdminCallError> {
        self.call(Method::PATCH, path, Some(body))
    }

    /// `DELETE /admin/v1/{path}`
    pub(super) fn delete(&self, path: &str) -> Result<Value, AdminCallError> {
        self.call(Method::DELETE, path, None)
    }

    /// Every row of a list, page after page.
    pub(super) fn list(&self, path: &str) -> Result<Vec<Value>, AdminCallError> {
        self.list_with(path, &format!("limit={PAGE_ROWS}"))
    }

    /// Every row of the list that `query` asks for.
    pub(super) fn list_with(&self, path: &str, query: &str) -> Result<Vec<Value>, AdminCallError> {
        let mut rows = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut path = format!("{path}?{query}");
            if let Some(cursor) = &cursor {
                path.push_str(&format!("&cursor={}", encoded(cursor)));
            }
            let mut page = self.get(&path)?;
            match page["data"].take() {
                Value::Array(data) => rows.extend(data),
                _ => return Err(self.nonsense("a list without data")),
            }
            match &page["next_cursor"] {
                Value::String(next) if !next.is_empty() => cursor = Some(next.clone()),
                _ => return Ok(rows),
            }
        }
        Err(self.nonsense("a list without an end"))
    }

    /// The object that `given`, an id or else a name, stands for.
    pub(super) fn find(&self, collection: &str, given: &str) -> Result<Value, AdminCallError> {
        match self.get(&format!("{collection}/{}", encoded(given))) {
            Err(error) if error.is_not_found() => {}
            answer => return answer,
        }
        let rows = self.list(collection)?;
        let mut named = rows.into_iter().filter(|row| row["name"] == given);
        let refused =
            |status, message| Err(AdminCallError::Refused { status, message, field: None });
        match (named.next(), named.next()) {
            (Some(row), None) => Ok(row),
            (None, _) => {
                refused(404, format!("none of the {collection} has the id or name {given}"))
            }
            (Some(_), Some(_)) => {
                refused(409, format!("several {collection} are named {given}: give the id"))
            }
        }
    }

    /// The path of the object that `given` stands for.
    pub(super) fn path(&self, collection: &str, given: &str) -> Result<String, AdminCallError> {
        let id = self.id(&self.find(collection, given)?)?;
        Ok(format!("{collection}/{}", encoded(&id)))
    }

    /// An object's id.
    pub(super) fn id(&self, object: &Value) -> Result<String, AdminCallError> {
        let id = object["id"].as_str().map(str::to_string);
        id.ok_or_else(|| self.nonsense("an object without id"))
    }

    fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, AdminCallError> {
        let uri = format!("{}/admin/v1/{path}", self.base_url);
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("authorization", &self.authorization)
            .header("content-type", "application/json");
        let unreachable = |reason: String| {
            AdminCallError::Unreachable(format!(
                "the admin API at {} gave no answer: {reason}. Is Tollgate running, and is \
                 --admin-url right?",
                self.base_url
            ))
        };
        let wrong = |error: ureq::http::Error| unreachable(error.to_string());
        let answer = match body {
            None => self.agent.run(request.body(()).map_err(wrong)?),
            Some(body) => self.agent.run(request.body(body.to_string()).map_err(wrong)?),
        };
        let mut answer = answer.map_err(|error| unreachable(error.to_string()))?;
        let status = answer.status().as_u16();
        let text = answer
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_string()
            .map_err(|error| unreachable(error.to_string()))?;
        if (200..300).contains(&status) {
            return match text.is_empty() {
                true => Ok(Value::Null),
                false => serde_json::from_str(&text).map_err(|_| self.nonsense("no JSON")),
            };
        }
        Err(refusal(status, &text))
    }

    fn nonsense(&self, what: &str) -> AdminCallError {
        AdminCallError::Unreachable(format!(
            "{} answered {what}: is it Tollgate's admin API?",
            self.base_url
        ))
    }
}

fn refusal(status: u16, text: &str) -> AdminCallError {
    let answer: Value = serde_json::from_str(text).unwrap_or_default();
    let error = &answer["error"];
    let message = match (status, error["message"].as_str()) {
        (401, _) => "the admin token was refused: give another by --admin-token or \
                     TOLLGATE_ADMIN__TOKEN, or point --data-dir to where admin.token is"
            .to_string(),
        (_, Some(message)) => message.to_string(),
        (_, None) => "the admin API refused".to_string(),
    };
    AdminCallError::Refused { status, message, field: error["param"].as_str().map(str::to_string) }
}

/// Percent-encodes what is not unreserved, for a path segment or a query value.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{AdminCallError, encoded, refusal};

    #[test]
    fn a_refusal_shows_the_message_and_the_field_once() {
        for (text, expected) in [
            (
                r#"{"error":{"message":"must be at least 1","param":"burst"}}"#,
                "must be at least 1 (field: burst) [400]",
            ),
            (
                r#"{"error":{"message":"burst is required.","param":"burst"}}"#,
                "burst is required. [400]",
            ),
            (r#"{"error":{"message":"no","param":null}}"#, "no [400]"),
            ("<html>", "the admin API refused [400]"),
        ] {
            assert_eq!(refusal(400, text).to_string(), expected);
        }
        let unauthorized = refusal(401, "");
        assert!(matches!(&unauthorized, AdminCallError::Refused { message, .. }
            if message.contains("--admin-token")));
        assert!(refusal(404, "").is_not_found() && !unauthorized.is_not_found());
    }

    #[test]
    fn a_name_cannot_leave_its_place_in_the_path() {
        assert_eq!(encoded("a-Z.0_9~"), "a-Z.0_9~");
        assert_eq!(encoded("../a b?c&d=é"), "..%2Fa%20b%3Fc%26d%3D%C3%A9");
    }
}
