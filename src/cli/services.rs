//! `tollgate service` and `tollgate price`, over the admin API.

use super::CommandError;
use super::catalog::{changes, listed, shown};
use super::client::AdminArgs;
use super::input::{NewName, object, text_or_file};
use super::price::PriceFlags;
use super::render::Column;
use clap::Subcommand;
use serde_json::{Value, json};

/// `tollgate service`
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tollgate service list")]
pub(super) struct ServiceArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    verb: ServiceVerb,
}

#[derive(Subcommand)]
enum ServiceVerb {
    /// Put a service up for sale
    #[command(after_help = "Examples:\n  \
        tollgate service create chat --base-url http://10.0.0.5:8000 --per-token 2.50,10\n  \
        tollgate service create chat-volume --base-url http://10.0.0.5:8000 \
        --tier 1M:3,15 --tier rest:1.80,9\n  \
        tollgate service create chat-flat --base-url http://10.0.0.5:8000 \
        --fee 20 --allowance 5M --overage 1,4")]
    Create {
        #[command(flatten)]
        name: NewName,
        #[command(flatten)]
        upstream: UpstreamFlags,
        #[command(flatten)]
        price: PriceFlags,
    },
    /// List all services
    #[command(after_help = "Example:\n  tollgate service list --json")]
    List,
    /// Show one service
    #[command(after_help = "Example:\n  tollgate service show demo-chat")]
    Show {
        /// Id or name
        service: String,
    },
    /// Change where a service is, or switch it off; prices change with `tollgate price add`
    #[command(after_help = "Example:\n  tollgate service update chat --enabled false")]
    Update {
        /// Id or name
        service: String,
        #[command(flatten)]
        upstream: UpstreamFlags,
        /// false: calls are refused
        #[arg(long)]
        enabled: Option<bool>,
    },
    /// Delete a service that no key is bound to; its usage stays
    #[command(after_help = "Example:\n  tollgate service delete chat")]
    Delete {
        /// Id or name
        service: String,
    },
}

#[derive(clap::Args)]
struct UpstreamFlags {
    /// Where the model server is
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// The path for calls that name none
    #[arg(long, value_name = "PATH")]
    default_path: Option<String>,
    /// What the model server asks for; @FILE or @- keeps it off the command line
    #[arg(long, value_name = "SECRET")]
    upstream_credential: Option<String>,
}

impl UpstreamFlags {
    fn body(
        &self,
        name: Option<&str>,
        price: Option<Value>,
        enabled: Option<bool>,
    ) -> Result<Value, CommandError> {
        let credential = self.upstream_credential.as_deref().map(text_or_file).transpose();
        Ok(object([
            ("name", name.map(Value::from)),
            ("base_url", self.base_url.as_deref().map(Value::from)),
            ("default_path", self.default_path.as_deref().map(Value::from)),
            ("upstream_credential", credential.map_err(CommandError::WrongUse)?.map(Value::from)),
            ("price", price),
            ("enabled", enabled.map(Value::from)),
        ]))
    }
}

const SERVICE_COLUMNS: [Column; 5] = [
    Column { title: "ID", field: "id" },
    Column { title: "NAME", field: "name" },
    Column { title: "BASE URL", field: "base_url" },
    Column { title: "PRICE (USD PER 1M TOKENS)", field: "price" },
    Column { title: "ENABLED", field: "enabled" },
];

/// Does what `tollgate service …` asks for.
pub(super) fn service(args: &ServiceArgs) -> Result<String, CommandError> {
    let body = match &args.verb {
        ServiceVerb::Create { name, upstream, price } => {
            upstream.body(Some(name.text()), Some(price.required()?), None)?
        }
        ServiceVerb::Update { upstream, enabled, .. } => {
            changes(upstream.body(None, None, *enabled)?)?
        }
        ServiceVerb::List | ServiceVerb::Show { .. } | ServiceVerb::Delete { .. } => Value::Null,
    };
    let client = args.admin.client()?;
    let answer = match &args.verb {
        ServiceVerb::List => {
            return listed(&args.admin, &SERVICE_COLUMNS, client.list("services")?);
        }
        ServiceVerb::Create { .. } => client.post("services", &body)?,
        ServiceVerb::Show { service } => client.find("services", service)?,
        ServiceVerb::Update { service, .. } => {
            client.patch(&client.path("services", service)?, &body)?
        }
        ServiceVerb::Delete { service } => client.delete(&client.path("services", service)?)?,
    };
    shown(&args.admin, &answer)
}

/// `tollgate price`
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tollgate price list demo-chat")]
pub(super) struct PriceArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    verb: PriceVerb,
}

#[derive(Subcommand)]
enum PriceVerb {
    /// Give a service a new price version
    #[command(after_help = "Example:\n  tollgate price add demo-chat --per-token 2,8,1 \
                            --effective-at 2027-01-01T00:00:00Z")]
    Add {
        /// Id or name
        service: String,
        /// RFC 3339, not in the past; left out: now
        #[arg(long, value_name = "TIME")]
        effective_at: Option<String>,
        #[command(flatten)]
        price: PriceFlags,
    },
    /// List a service's price versions
    #[command(after_help = "Example:\n  tollgate price list demo-chat --json")]
    List {
        /// Id or name
        service: String,
    },
}

const PRICE_COLUMNS: [Column; 4] = [
    Column { title: "VERSION", field: "version" },
    Column { title: "IN FORCE", field: "in_force" },
    Column { title: "EFFECTIVE", field: "effective_at" },
    Column { title: "PRICE (USD PER 1M TOKENS)", field: "price" },
];

/// Does what `tollgate price …` asks for.
pub(super) fn price(args: &PriceArgs) -> Result<String, CommandError> {
    match &args.verb {
        PriceVerb::Add { service, price, effective_at } => {
            let body = object([
                ("price", Some(price.required()?)),
                ("effective_at", effective_at.as_ref().map(|time| json!(time))),
            ]);
            let client = args.admin.client()?;
            let path = format!("{}/prices", client.path("services", service)?);
            shown(&args.admin, &client.post(&path, &body)?)
        }
        PriceVerb::List { service } => {
            let client = args.admin.client()?;
            let path = format!("{}/prices", client.path("services", service)?);
            listed(&args.admin, &PRICE_COLUMNS, client.list(&path)?)
        }
    }
}
