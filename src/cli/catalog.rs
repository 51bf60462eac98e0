//! `tollgate plan` and `tollgate consumer`, over the admin API.

use super::CommandError;
use super::client::AdminArgs;
use super::input::{NewName, count, object};
use super::render::{self, Column};
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

/// `tollgate plan`
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tollgate plan list")]
pub(super) struct PlanArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    verb: PlanVerb,
}

#[derive(Subcommand)]
enum PlanVerb {
    /// Create a plan
    #[command(after_help = "Example:\n  tollgate plan create team --rate-per-s 50 \
                            --burst 100 --quota-tokens 5M")]
    Create {
        #[command(flatten)]
        name: NewName,
        #[command(flatten)]
        limits: Limits,
    },
    /// List all plans
    #[command(after_help = "Example:\n  tollgate plan list --json")]
    List,
    /// Show one plan
    #[command(after_help = "Example:\n  tollgate plan show basic")]
    Show {
        /// Id or name
        plan: String,
    },
    /// Change a plan; its keys follow within a second
    #[command(after_help = "Example:\n  tollgate plan update team --quota-tokens 10M")]
    Update {
        /// Id or name
        plan: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// Delete a plan that no consumer is on
    #[command(after_help = "Example:\n  tollgate plan delete team")]
    Delete {
        /// Id or name
        plan: String,
    },
}

#[derive(clap::Args)]
struct Limits {
    /// Requests per second, in the long run
    #[arg(long, value_parser = count)]
    rate_per_s: Option<u64>,
    /// Requests at once; with 1 a key gets 70 to 90 % of its rate, with 2 at least 95 %
    #[arg(long, value_parser = count)]
    burst: Option<u64>,
    /// Tokens per calendar month (UTC), e.g. 10M
    #[arg(long, value_parser = count)]
    quota_tokens: Option<u64>,
    /// While the authority is out of reach; instance: as the instance is configured
    #[arg(long, value_enum)]
    when_lost: Option<Stance>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Stance {
    Closed,
    Degraded,
    Open,
    Instance,
}

impl Limits {
    /// A new plan has to name its three numbers; an update need not.
    fn complete(&self) -> Result<&Self, CommandError> {
        match (self.rate_per_s, self.burst, self.quota_tokens) {
            (Some(_), Some(_), Some(_)) => Ok(self),
            _ => Err(CommandError::WrongUse(
                "--rate-per-s, --burst and --quota-tokens are needed".to_string(),
            )),
        }
    }

    fn body(&self, name: Option<&str>) -> Value {
        let when_lost = self.when_lost.map(|stance| match stance {
            Stance::Closed => json!("closed"),
            Stance::Degraded => json!("degraded"),
            Stance::Open => json!("open"),
            Stance::Instance => Value::Null,
        });
        object([
            ("name", name.map(Value::from)),
            ("rate_per_s", self.rate_per_s.map(Value::from)),
            ("burst", self.burst.map(Value::from)),
            ("quota_tokens", self.quota_tokens.map(Value::from)),
            ("when_lost", when_lost),
        ])
    }
}

const PLAN_COLUMNS: [Column; 6] = [
    Column { title: "ID", field: "id" },
    Column { title: "NAME", field: "name" },
    Column { title: "RATE/S", field: "rate_per_s" },
    Column { title: "BURST", field: "burst" },
    Column { title: "TOKENS/MONTH", field: "quota_tokens" },
    Column { title: "WHEN LOST", field: "when_lost" },
];

/// Does what `tollgate plan …` asks for.
pub(super) fn plan(args: &PlanArgs) -> Result<String, CommandError> {
    let body = match &args.verb {
        PlanVerb::Create { name, limits } => limits.complete()?.body(Some(name.text())),
        PlanVerb::Update { limits, .. } => changes(limits.body(None))?,
        PlanVerb::List | PlanVerb::Show { .. } | PlanVerb::Delete { .. } => Value::Null,
    };
    let client = args.admin.client()?;
    let answer = match &args.verb {
        PlanVerb::List => return listed(&args.admin, &PLAN_COLUMNS, client.list("plans")?),
        PlanVerb::Create { .. } => client.post("plans", &body)?,
        PlanVerb::Show { plan } => client.find("plans", plan)?,
        PlanVerb::Update { plan, .. } => client.patch(&client.path("plans", plan)?, &body)?,
        PlanVerb::Delete { plan } => client.delete(&client.path("plans", plan)?)?,
    };
    shown(&args.admin, &answer)
}

/// `tollgate consumer`
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tollgate consumer list")]
pub(super) struct ConsumerArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    verb: ConsumerVerb,
}

#[derive(Subcommand)]
enum ConsumerVerb {
    /// Create a consumer
    #[command(after_help = "Example:\n  tollgate consumer create acme --plan basic")]
    Create {
        #[command(flatten)]
        name: NewName,
        /// Its plan's name or id
        #[arg(long)]
        plan: String,
    },
    /// List all consumers
    #[command(after_help = "Example:\n  tollgate consumer list --json")]
    List,
    /// Show one consumer
    #[command(after_help = "Example:\n  tollgate consumer show acme")]
    Show {
        /// Id or name
        consumer: String,
    },
    /// Change a consumer's name or plan; its keys follow within a second
    #[command(after_help = "Example:\n  tollgate consumer update acme --plan premium")]
    Update {
        /// Id or name
        consumer: String,
        /// Its new name
        #[arg(long)]
        name: Option<String>,
        /// Its new plan's name or id
        #[arg(long)]
        plan: Option<String>,
    },
    /// Delete a consumer whose keys are all revoked or expired; its usage stays
    #[command(after_help = "Example:\n  tollgate consumer delete acme")]
    Delete {
        /// Id or name
        consumer: String,
    },
}

const CONSUMER_COLUMNS: [Column; 4] = [
    Column { title: "ID", field: "id" },
    Column { title: "NAME", field: "name" },
    Column { title: "PLAN", field: "plan" },
    Column { title: "CREATED", field: "created_at" },
];

/// Does what `tollgate consumer …` asks for.
pub(super) fn consumer(args: &ConsumerArgs) -> Result<String, CommandError> {
    let body = match &args.verb {
        ConsumerVerb::Create { name, plan } => json!({"name": name.text(), "plan": plan}),
        ConsumerVerb::Update { name, plan, .. } => changes(object([
            ("name", name.as_deref().map(Value::from)),
            ("plan", plan.as_deref().map(Value::from)),
        ]))?,
        ConsumerVerb::List | ConsumerVerb::Show { .. } | ConsumerVerb::Delete { .. } => Value::Null,
    };
    let client = args.admin.client()?;
    let answer = match &args.verb {
        ConsumerVerb::List => {
            return listed(&args.admin, &CONSUMER_COLUMNS, client.list("consumers")?);
        }
        ConsumerVerb::Create { .. } => client.post("consumers", &body)?,
        ConsumerVerb::Show { consumer } => client.find("consumers", consumer)?,
        ConsumerVerb::Update { consumer, .. } => {
            client.patch(&client.path("consumers", consumer)?, &body)?
        }
        ConsumerVerb::Delete { consumer } => client.delete(&client.path("consumers", consumer)?)?,
    };
    shown(&args.admin, &answer)
}

/// A list, as JSON or as a table.
pub(super) fn listed(
    admin: &AdminArgs,
    columns: &[Column],
    rows: Vec<Value>,
) -> Result<String, CommandError> {
    Ok(match admin.json {
        true => render::json(&json!({ "data": rows })),
        false => render::objects(columns, &rows),
    })
}

/// One object, as JSON or as a table.
pub(super) fn shown(admin: &AdminArgs, object: &Value) -> Result<String, CommandError> {
    Ok(match admin.json {
        true => render::json(object),
        false => render::object(object),
    })
}

/// The body of an update, which has to change something.
pub(super) fn changes(body: Value) -> Result<Value, CommandError> {
    match body.as_object().is_some_and(|fields| !fields.is_empty()) {
        true => Ok(body),
        false => Err(CommandError::WrongUse("nothing to change: see --help".to_string())),
    }
}
