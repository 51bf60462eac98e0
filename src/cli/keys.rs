//! `tollgate key`, over the admin API. A key is printed once, when it is made, and nowhere else.

use super::CommandError;
use super::catalog::{listed, shown};
use super::client::{AdminArgs, Client, encoded};
use super::input::object;
use super::render::{self, Column};
use clap::Subcommand;
use serde_json::{Value, json};

/// `tollgate key`
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tollgate key create --consumer acme")]
pub(super) struct KeyArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Create a key and show it, this once
    #[command(after_help = "Example:\n  tollgate key create --consumer acme --name ci \
                            --expires-at 2027-01-01T00:00:00Z --service demo-chat")]
    Create {
        /// Id or name of the consumer
        #[arg(long)]
        consumer: String,
        /// A label
        #[arg(long)]
        name: Option<String>,
        /// RFC 3339; left out: never
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
        /// Id or name of a service that it may use, repeated; left out: all of them
        #[arg(long = "service", value_name = "SERVICE")]
        services: Vec<String>,
    },
    /// List all keys, without their secrets
    #[command(after_help = "Example:\n  tollgate key list --json")]
    List,
    /// Show one key, without its secret
    #[command(after_help = "Example:\n  tollgate key show 0123456789ab")]
    Show {
        /// Its id
        id: String,
    },
    /// Make a successor; the old key lives on for a while
    #[command(after_help = "Example:\n  tollgate key rotate 0123456789ab --grace-s 3600")]
    Rotate {
        /// Its id
        id: String,
        /// Seconds that the old key lives on
        #[arg(long, default_value_t = 0)]
        grace_s: u64,
    },
    /// Revoke a key: refused everywhere within a second
    #[command(after_help = "Example:\n  tollgate key revoke 0123456789ab")]
    Revoke {
        /// Its id
        id: String,
    },
}

const COLUMNS: [Column; 7] = [
    Column { title: "ID", field: "id" },
    Column { title: "NAME", field: "name" },
    Column { title: "CONSUMER", field: "consumer_id" },
    Column { title: "SERVICES", field: "services" },
    Column { title: "EXPIRES", field: "expires_at" },
    Column { title: "REVOKED", field: "revoked_at" },
    Column { title: "CREATED", field: "created_at" },
];

/// Does what `tollgate key …` asks for.
pub(super) fn run(args: &KeyArgs) -> Result<String, CommandError> {
    let client = args.admin.client()?;
    let path = |id: &str| format!("keys/{}", encoded(id));
    let answer = match &args.verb {
        Verb::List => return listed(&args.admin, &COLUMNS, client.list("keys")?),
        Verb::Show { id } => client.get(&path(id))?,
        Verb::Create { consumer, name, expires_at, services } => {
            let consumer_id = client.id(&client.find("consumers", consumer)?)?;
            let body = object([
                ("consumer_id", Some(json!(consumer_id))),
                ("name", name.as_deref().map(Value::from)),
                ("expires_at", expires_at.as_deref().map(Value::from)),
                ("services", service_ids(&client, services)?),
            ]);
            return made(&args.admin, &client.post("keys", &body)?);
        }
        Verb::Rotate { id, grace_s } => {
            let body = json!({ "grace_s": grace_s });
            return made(&args.admin, &client.post(&format!("{}/rotate", path(id)), &body)?);
        }
        Verb::Revoke { id } => match client.delete(&path(id))? {
            Value::Null => json!({ "id": id, "revoked": true }),
            answer => answer,
        },
    };
    shown(&args.admin, &answer)
}

/// `None`: all services, now and later.
fn service_ids(client: &Client, given: &[String]) -> Result<Option<Value>, CommandError> {
    if given.is_empty() {
        return Ok(None);
    }
    let id = |service: &String| client.id(&client.find("services", service)?);
    Ok(Some(Value::from(given.iter().map(id).collect::<Result<Vec<_>, _>>()?)))
}

fn made(admin: &AdminArgs, answer: &Value) -> Result<String, CommandError> {
    Ok(match admin.json {
        true => render::json(answer),
        false => format!("{}Keep the key now: it is not shown again.\n", render::object(answer)),
    })
}
