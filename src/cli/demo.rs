//! `tollgate demo`: a whole marketplace on one machine, with nothing else to start.
//!
//! What it sells and to whom is created once, through the admin API like anybody else's, and
//! remembered in `DATA_DIR/demo.json`. That file has keys in it: only its owner may read it.

use super::CommandError;
use super::client::{Client, encoded};
use super::demo_file::{DemoFile, DemoKeys, DemoServices};
use super::demo_text;
use super::input::{address, server_url};
use super::log::LogArgs;
use crate::config::{Config, ConfigErrors, Shards};
use crate::run::{self, Addresses, Owner};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where a key's id stands: after `tg_`.
const KEY_ID: std::ops::Range<usize> = 3..15;

/// How to run the demo.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tollgate demo --listen 127.0.0.1:3000 --shards 2")]
pub(super) struct DemoArgs {
    /// Where callers connect [default: 127.0.0.1:3000]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Where the admin API is [default: 127.0.0.1:3001]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    admin_listen: Option<SocketAddr>,
    /// Where everything is kept [default: ./tollgate-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Executors, or auto [default: auto]
    #[arg(long)]
    shards: Option<Shards>,
    /// A model server of yours instead of the simulated one inside
    #[arg(long, value_name = "URL", value_parser = server_url)]
    upstream: Option<String>,
    /// A configuration under these flags
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the demo until a signal ends it.
pub(super) fn run(args: &DemoArgs, log: &LogArgs) -> Result<String, CommandError> {
    let read = || args.read();
    let config = read().map_err(|errors| CommandError::WrongUse(errors.to_string()))?;
    let log = log.start(&config.log)?;
    let upstream_url = match &args.upstream {
        Some(url) => url.clone(),
        None => run::spawn_model_server(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .map(|address| format!("http://{address}"))
            .map_err(|error| format!("the simulated model server did not start: {error}"))?,
    };
    let data_dir = config.server.data_dir.clone();
    let on_ready = |addresses: &Addresses| {
        let Addresses { data_url, admin_url, admin_token } = addresses;
        let demo = seed(admin_url, admin_token, &upstream_url, data_url, &data_dir)?;
        let program = std::env::args().next().unwrap_or_default();
        let text = demo_text::welcome(&demo, &data_dir, &program, args.upstream.is_some());
        super::emit(&text).map_err(|_| "stdout cannot be written".to_string())
    };
    let on_reload = |config: &Config, admin_token: &str| {
        log.reload(&config.log);
        if let Err(error) = remember_token(&data_dir, admin_token) {
            tracing::error!(%error, "demo.json still names the old admin token");
        }
    };
    let owner = Owner { read: &read, on_ready: &on_ready, on_reload: &on_reload };
    run::serve(config, &owner).map_err(|error| CommandError::Failed(error.to_string()))?;
    Ok(String::new())
}

impl DemoArgs {
    /// The configuration under these flags.
    fn read(&self) -> Result<Config, ConfigErrors> {
        let mut config = Config::load(self.config.as_deref())?;
        let server = &mut config.server;
        server.listen = self.listen.unwrap_or(server.listen);
        server.admin_listen = self.admin_listen.unwrap_or(server.admin_listen);
        server.shards = self.shards.unwrap_or(server.shards);
        if let Some(data_dir) = &self.data_dir {
            server.data_dir.clone_from(data_dir);
        }
        Ok(config)
    }
}

/// Scripts find the admin token in the demo's file.
fn remember_token(data_dir: &Path, admin_token: &str) -> Result<(), String> {
    match DemoFile::read(data_dir)? {
        Some(demo) if demo.admin_token != admin_token => {
            DemoFile { admin_token: admin_token.to_owned(), ..demo }.write(data_dir)
        }
        _ => Ok(()),
    }
}

/// Creates the demo's plan, consumers, keys and services, or finds what an earlier start has made.
/// Points the services to `upstream_url`, and keeps all of it in `data_dir/demo.json`.
pub(super) fn seed(
    admin_url: &str,
    admin_token: &str,
    upstream_url: &str,
    data_url: &str,
    data_dir: &Path,
) -> Result<DemoFile, String> {
    let client = Client::new(admin_url, admin_token)?;
    let (keys, services, models, deleted) = match remembered(&client, data_dir)? {
        Some(DemoFile { keys, services, models, .. }) => {
            let deleted = point_services(&client, &services, upstream_url)?;
            (keys, services, models, deleted)
        }
        None => {
            let (keys, services) = (create_keys(&client)?, create_services(&client, upstream_url)?);
            (keys, services, model_names(), Vec::new())
        }
    };
    let demo = DemoFile {
        data_url: data_url.to_string(),
        admin_url: admin_url.to_string(),
        admin_token: admin_token.to_string(),
        keys,
        services,
        models,
        upstream_url: upstream_url.to_string(),
        deleted,
    };
    demo.write(data_dir)?;
    Ok(demo)
}

/// What an earlier start has made; `None`: there was no earlier start, or its store is gone.
fn remembered(client: &Client, data_dir: &Path) -> Result<Option<DemoFile>, String> {
    let Some(demo) = DemoFile::read(data_dir)? else { return Ok(None) };
    // Of all that a demo makes, only a key can't be deleted: a revoked one is still shown.
    let id = demo.keys.basic.get(KEY_ID).unwrap_or_default();
    match client.get(&format!("keys/{}", encoded(id))) {
        Err(error) if error.is_not_found() => Ok(None),
        answer => {
            answer?;
            Ok(Some(demo))
        }
    }
}

/// Points an earlier start's services to `upstream_url`; returns the ids of those that somebody has
/// deleted since, which stay deleted.
fn point_services(
    client: &Client,
    services: &DemoServices,
    upstream_url: &str,
) -> Result<Vec<String>, String> {
    let DemoServices { per_token, tiered, subscription } = services;
    let mut deleted = Vec::new();
    for id in [per_token, tiered, subscription] {
        match client.patch(&format!("services/{id}"), &json!({ "base_url": upstream_url })) {
            Err(error) if error.is_not_found() => deleted.push(id.clone()),
            answer => drop(answer?),
        }
    }
    Ok(deleted)
}

fn create_keys(client: &Client) -> Result<DemoKeys, String> {
    let plan = json!({
        "name": "bench",
        "rate_per_s": 10_000_000,
        "burst": 10_000_000,
        "quota_tokens": 1_000_000_000_000_000_u64,
    });
    find_or_create(client, "plans", &plan)?;
    let key = |plan: &str| -> Result<String, String> {
        let consumer = json!({ "name": format!("demo-{plan}"), "plan": plan });
        let consumer_id = find_or_create(client, "consumers", &consumer)?;
        let body = json!({ "consumer_id": consumer_id, "name": "demo" });
        let answer = client.post("keys", &body)?;
        answer["key"].as_str().map(str::to_string).ok_or("a key came without its key".to_string())
    };
    Ok(DemoKeys {
        basic: key("basic")?,
        premium: key("premium")?,
        enterprise: key("enterprise")?,
        bench: key("bench")?,
    })
}

/// Prices as they are asked for today, USD per million tokens: 2.50 in, 1.25 cached, 10 out; from
/// 3 and 15 down to 1.80 and 9 by volume; 20 a month for 5 million tokens.
fn create_services(client: &Client, upstream_url: &str) -> Result<DemoServices, String> {
    const USD: u64 = 1_000_000_000;
    let per_token = |input: u64, cached: u64, output: u64| {
        json!({
            "kind": "per_token",
            "input_nanousd_per_mtok": input,
            "cached_input_nanousd_per_mtok": cached,
            "output_nanousd_per_mtok": output,
        })
    };
    let tier = |up_to_tokens: Option<u64>, input: u64, output: u64| {
        json!({
            "up_to_tokens": up_to_tokens,
            "input_nanousd_per_mtok": input,
            "output_nanousd_per_mtok": output,
        })
    };
    let tiers = [
        tier(Some(1_000_000), 3 * USD, 15 * USD),
        tier(Some(10_000_000), 24 * USD / 10, 12 * USD),
        tier(None, 18 * USD / 10, 9 * USD),
    ];
    let flat = json!({
        "kind": "subscription",
        "fee_nanousd": 20 * USD,
        "allowance_tokens": 5_000_000,
        "overage": per_token(USD, USD / 2, 4 * USD),
    });
    let service = |name: String, price: Value| {
        let body = json!({
            "name": name,
            "base_url": upstream_url,
            "default_path": "/v1/chat/completions",
            "price": price,
        });
        let id = find_or_create(client, "services", &body)?;
        client.patch(&format!("services/{id}"), &json!({ "base_url": upstream_url }))?;
        Ok::<_, String>(id)
    };
    let names = model_names();
    Ok(DemoServices {
        per_token: service(names.per_token, per_token(25 * USD / 10, 125 * USD / 100, 10 * USD))?,
        tiered: service(names.tiered, json!({ "kind": "tiered", "tiers": tiers }))?,
        subscription: service(names.subscription, flat)?,
    })
}

fn model_names() -> DemoServices {
    DemoServices {
        per_token: "demo-chat".to_string(),
        tiered: "demo-chat-tiered".to_string(),
        subscription: "demo-chat-flat".to_string(),
    }
}

/// The id of the object with the body's name, which an interrupted start may have left.
fn find_or_create(client: &Client, collection: &str, body: &Value) -> Result<String, String> {
    let mut rows = client.list(collection)?.into_iter();
    let found = match rows.find(|row| row["name"] == body["name"]) {
        Some(row) => row,
        None => client.post(collection, body)?,
    };
    Ok(client.id(&found)?)
}

#[cfg(test)]
#[path = "demo_tests.rs"]
mod tests;
