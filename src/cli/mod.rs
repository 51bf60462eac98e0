//! The command line: what can be asked for, and how an answer or a failure leaves the process.
//!
//! Results go to stdout, logs and failures to stderr; 0 is done, 1 failed, 2 wrong use. Commands
//! answer with text and never print by themselves, except those that have something to say while
//! they run: `demo`, `upstream` and `journal`.

mod catalog;
mod check;
mod client;
mod completions;
mod demo;
mod demo_file;
mod demo_text;
mod export;
mod input;
mod journal;
mod keys;
mod log;
mod migrate;
mod price;
mod render;
mod secrets;
mod serve;
mod services;
mod store;
mod upstream;
mod usage;

#[cfg(test)]
mod fake_admin;

use crate::config;
use clap::{CommandFactory, Parser, Subcommand};
use log::LogArgs;
use std::io::{self, Write};
use std::process::ExitCode;

/// A gateway that authenticates, limits, relays, meters and bills calls to LLM services.
#[derive(Parser)]
#[command(name = "tollgate", version, after_help = "Example:\n  tollgate demo")]
pub(crate) struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole marketplace on this machine, with keys and curl lines to try
    Demo(demo::DemoArgs),
    /// Run an instance
    Serve(serve::ServeArgs),
    /// Validate a configuration
    Check(check::CheckArgs),
    /// Plans: rates and quotas
    Plan(catalog::PlanArgs),
    /// Consumers: who pays
    Consumer(catalog::ConsumerArgs),
    /// API keys
    Key(keys::KeyArgs),
    /// Services: the models for sale
    Service(services::ServiceArgs),
    /// Prices of services
    Price(services::PriceArgs),
    /// Metered usage and its cost
    Usage(usage::UsageArgs),
    /// The usage journal, offline
    Journal(journal::JournalArgs),
    /// The whole of an embedded store into Postgres, offline
    Migrate(migrate::MigrateArgs),
    /// The tables of a store in Postgres
    Store(store::StoreArgs),
    /// Keys of what the store keeps secret, offline
    Secrets(secrets::SecretsArgs),
    /// A simulated model server
    Upstream(upstream::UpstreamArgs),
    /// What a shell needs to complete these commands
    Completions(completions::CompletionsArgs),
    /// Manual pages
    Man(completions::ManArgs),
}

/// Why a command did not do what was asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CommandError {
    /// What was asked cannot be asked: exit 2.
    WrongUse(String),
    /// It could be asked, and failed: exit 1.
    Failed(String),
}

impl From<String> for CommandError {
    fn from(message: String) -> Self {
        Self::Failed(message)
    }
}

/// Parses the arguments, does what they say, and returns the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done =
        cli.start_log().and_then(|()| run(&cli.command, &cli.log)).and_then(|text| emit(&text));
    let (message, code) = match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(CommandError::WrongUse(message)) => (message, 2),
        Err(CommandError::Failed(message)) => (message, 1),
    };
    // Without a stderr there is nobody left to tell; the code says it.
    let _ = writeln!(io::stderr(), "error: {message}");
    ExitCode::from(code)
}

impl Cli {
    /// Starts the log, except for commands that read a configuration: these start it by that.
    fn start_log(&self) -> Result<(), CommandError> {
        match self.command {
            Command::Demo(_) | Command::Serve(_) => Ok(()),
            _ => self.log.start(&config::Log::default()).map(drop),
        }
    }
}

fn run(command: &Command, log: &LogArgs) -> Result<String, CommandError> {
    match command {
        Command::Demo(args) => demo::run(args, log),
        Command::Serve(args) => serve::run(args, log),
        Command::Check(args) => check::run(args),
        Command::Plan(args) => catalog::plan(args),
        Command::Consumer(args) => catalog::consumer(args),
        Command::Key(args) => keys::run(args),
        Command::Service(args) => services::service(args),
        Command::Price(args) => services::price(args),
        Command::Usage(args) => usage::run(args),
        Command::Journal(args) => journal::run(args),
        Command::Migrate(args) => migrate::run(args),
        Command::Store(args) => store::run(args),
        Command::Secrets(args) => secrets::run(args),
        Command::Upstream(args) => upstream::run(args),
        Command::Completions(args) => Ok(completions::script(args, Cli::command())),
        Command::Man(args) => completions::man(args, Cli::command()),
    }
}

/// Writes a result to stdout. A reader that has seen enough, such as `head`, is no failure.
fn emit(text: &str) -> Result<(), CommandError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CommandError::Failed(format!("stdout: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::fake_admin::FakeAdmin;
    use super::{Cli, Command, CommandError, run};
    use clap::{CommandFactory, Parser};
    use serde_json::{Value, json};

    /// What a command line answers, with `fake` for the admin API.
    fn answer(fake: &FakeAdmin, line: &str) -> Result<String, CommandError> {
        let url = fake.start();
        let words = ["tollgate"].into_iter().chain(line.split(' '));
        let admin = ["--admin-url", &url, "--admin-token", "secret"];
        let cli = Cli::try_parse_from(words.chain(admin)).unwrap();
        run(&cli.command, &cli.log)
    }

    #[test]
    fn what_is_created_is_listed_page_after_page() {
        let fake = FakeAdmin::default();
        for name in ["one", "two", "three", "four", "five"] {
            let line = "plan create --rate-per-s 1k --burst 5 --quota-tokens 10M --name";
            assert!(answer(&fake, &format!("{line} {name}")).unwrap().contains(name));
        }
        let table = answer(&fake, "plan list").unwrap();
        assert_eq!(table.lines().count(), 5 + 4);
        assert!(table.contains("┆ three ┆  1,000 ┆     5 ┆   10,000,000 ┆ -         │"), "{table}");
        let listed: Value =
            serde_json::from_str(&answer(&fake, "plan list --json").unwrap()).unwrap();
        assert_eq!(listed["data"][4]["name"], "five");
    }

    #[test]
    fn an_object_is_found_by_id_or_by_its_one_name() {
        let fake = FakeAdmin::default();
        for line in ["--name acme", "--name twin", "--name twin"] {
            answer(&fake, &format!("consumer create --plan basic {line}")).unwrap();
        }
        for given in ["acme", "consumers-0"] {
            let update = format!("consumer update {given} --name {given} --plan premium --json");
            answer(&fake, &update).unwrap();
            assert_eq!(fake.rows("consumers")[0]["name"], given);
            assert_eq!(fake.rows("consumers")[0]["plan"], "premium");
        }
        for (given, expected) in [
            ("twin", "several consumers are named twin: give the id [409]"),
            ("nobody", "none of the consumers has the id or name nobody [404]"),
        ] {
            let refused = answer(&fake, &format!("consumer show {given}"));
            assert_eq!(refused, Err(CommandError::Failed(expected.to_string())));
        }
    }

    #[test]
    fn a_key_is_for_a_consumer_and_its_services_by_name() {
        let fake = FakeAdmin::default();
        answer(&fake, "consumer create --name acme --plan basic").unwrap();
        answer(&fake, "service create --name chat --base-url http://up --per-token 1,2").unwrap();
        let shown = answer(&fake, "key create --consumer acme --service chat").unwrap();
        assert!(shown.contains("tg_keys-0000002") && shown.contains("not shown again"), "{shown}");
        let key = &fake.rows("keys")[0];
        assert_eq!(key["consumer_id"], "consumers-0");
        assert_eq!(key["services"], json!(["services-1"]));
        let rotated = answer(&fake, "key rotate keys-0000002 --grace-s 60 --json").unwrap();
        assert_eq!(serde_json::from_str::<Value>(&rotated).unwrap()["grace_s"], 60);
        let revoked = answer(&fake, "key revoke keys-0000002 --json").unwrap();
        assert_eq!(serde_json::from_str::<Value>(&revoked).unwrap()["revoked"], true);
        assert!(fake.rows("keys").is_empty());
    }

    #[test]
    fn what_is_deleted_is_gone_by_its_name() {
        let fake = FakeAdmin::default();
        for (kind, terms) in [
            ("plan", "--rate-per-s 1 --burst 1 --quota-tokens 1"),
            ("consumer", "--plan basic"),
            ("service", "--base-url http://up --per-token 1,2"),
        ] {
            answer(&fake, &format!("{kind} create {kind}-name {terms}")).unwrap();
            answer(&fake, &format!("{kind} delete {kind}-name")).unwrap();
        }
        assert_eq!(fake.len(), 0);
    }

    #[test]
    fn what_cannot_be_asked_is_wrong_use() {
        for line in [
            "plan create --name x --rate-per-s 1 --burst 1",
            "plan update x",
            "consumer update x",
            "service update x",
            "service create --name x --base-url http://up",
            "price add x",
        ] {
            let refused = answer(&FakeAdmin::default(), line);
            assert!(matches!(refused, Err(CommandError::WrongUse(_))), "{line}: {refused:?}");
        }
    }

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }

    /// Walks every command: each has an example in its help, and the example names it.
    #[test]
    fn every_command_has_an_example() {
        fn walk(command: &clap::Command, name: &str) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example") && help.contains(name), "{name}: {help:?}");
            for inner in command.get_subcommands() {
                walk(inner, &format!("{name} {}", inner.get_name()));
            }
        }
        walk(&Cli::command(), "tollgate");
    }

    /// Each example is itself a command line that parses.
    #[test]
    fn every_example_parses() {
        fn walk(command: &clap::Command, examples: &mut Vec<String>) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let lines = help.lines().map(str::trim).filter(|line| line.starts_with("tollgate "));
            examples.extend(lines.map(str::to_string));
            for inner in command.get_subcommands() {
                walk(inner, examples);
            }
        }
        let mut examples = Vec::new();
        walk(&Cli::command(), &mut examples);
        assert!(examples.len() > 20);
        for example in examples {
            let line = example.split(['>', '|']).next().unwrap_or_default();
            let words = line.split_whitespace().map(|word| word.trim_matches('\''));
            let parsed = Cli::try_parse_from(words).map(|_| ());
            assert!(parsed.is_ok(), "{example}: {parsed:?}");
        }
    }

    #[test]
    fn options_of_the_admin_api_stand_before_and_after_the_verb() {
        for line in ["tollgate plan --json list", "tollgate plan list --json --log-format json"] {
            let cli = Cli::try_parse_from(line.split(' ')).ok();
            assert!(matches!(cli.map(|cli| cli.command), Some(Command::Plan(_))), "{line}");
        }
    }
}
