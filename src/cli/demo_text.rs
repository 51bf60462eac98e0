//! What `tollgate demo` says once it serves: the keys, and lines that work as they are pasted.

use super::client::token_in;
use super::demo_file::{DemoFile, FILE_NAME};
use super::render::table;
use std::path::Path;

/// The text; `program` is how this program was started. A model server of the user's own
/// (`is_own_upstream`) knows none of the demo's models, so only lines that it can answer are there.
pub(super) fn welcome(
    demo: &DemoFile,
    data_dir: &Path,
    program: &str,
    is_own_upstream: bool,
) -> String {
    let DemoFile { data_url, admin_url, keys, upstream_url, .. } = demo;
    let bearer = format!("-H 'authorization: Bearer {}'", keys.premium);
    let calls = match living(demo) {
        Some((_, service_id)) if is_own_upstream => own_calls(demo, service_id, &bearer),
        Some((model, service_id)) => demo_calls(demo, model, service_id, &bearer),
        None => String::new(),
    };
    let admin = quoted(&format!("authorization: Bearer {}", demo.admin_token));
    let usage = usage_command(demo, data_dir, program);
    format!(
        "Tollgate demo: a marketplace of three services and four consumers.\n\
         \n  calls         {data_url}\
         \n  admin API     {admin_url}\
         \n  model server  {upstream_url}\
         \n  kept in       {data_dir}   ({file} has all of this, for scripts)\n\n\
         {keys}{services}\n\
         {calls}\
         See what the caller has left:\n  \
         curl {data_url}/api/v1/account {bearer}\n\n\
         See what it cost:\n  \
         {usage}\n\n\
         Administer:\n  \
         curl {admin_url}/admin/v1/plans -H {admin}\n\n\
         Ctrl-C ends it; the same keys are good at the next start.\n",
        data_dir = data_dir.display(),
        file = FILE_NAME,
        keys = key_table(demo),
        services = service_table(demo),
    )
}

/// Model and id of the first service that nobody has deleted.
fn living(demo: &DemoFile) -> Option<(&str, &str)> {
    let (models, services) = (&demo.models, &demo.services);
    [
        (&models.per_token, &services.per_token),
        (&models.tiered, &services.tiered),
        (&models.subscription, &services.subscription),
    ]
    .into_iter()
    .find(|(_, id)| !demo.deleted.contains(id))
    .map(|(model, id)| (model.as_str(), id.as_str()))
}

/// Lines for the simulated model server, which answers to any model.
fn demo_calls(demo: &DemoFile, model: &str, service_id: &str, bearer: &str) -> String {
    let data_url = &demo.data_url;
    let json = "-H 'content-type: application/json'";
    let body = format!(
        "{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]"
    );
    format!(
        "Call a model:\n  \
         curl {data_url}/v1/chat/completions {bearer} {json} -d '{body}}}'\n\n\
         Stream it:\n  \
         curl -N {data_url}/v1/chat/completions {bearer} {json} -d '{body},\"stream\":true}}'\n\n\
         Call a service by its id; a bare GET will do:\n  \
         curl {data_url}/api/v1/consume/{service_id} {bearer}\n\n"
    )
}

/// Lines for a model server whose models nobody here knows.
fn own_calls(demo: &DemoFile, service_id: &str, bearer: &str) -> String {
    let data_url = &demo.data_url;
    format!(
        "See which models your server has:\n  \
         curl {data_url}/api/v1/consume/{service_id}/v1/models {bearer}\n\n\
         Call one of them: POST to {data_url}/api/v1/consume/{service_id}/v1/chat/completions\n\
         with its name as \"model\". A service named like the model is called at {data_url}/v1.\n\n"
    )
}

fn key_table(demo: &DemoFile) -> String {
    let keys = &demo.keys;
    let row = |plan: &str, rate: &str, quota: &str, key: &str| {
        [plan, rate, quota, key].map(str::to_string).to_vec()
    };
    table(
        &["PLAN", "RATE/S", "TOKENS/MONTH", "KEY"],
        &[
            row("basic", "10", "100,000", &keys.basic),
            row("premium", "100", "10,000,000", &keys.premium),
            row("enterprise", "1,000", "1,000,000,000", &keys.enterprise),
            row("bench", "10,000,000", "1,000,000,000,000,000", &keys.bench),
        ],
    )
}

fn service_table(demo: &DemoFile) -> String {
    let row = |pricing: &str, model: &str, id: &String| {
        let id = if demo.deleted.contains(id) { "deleted" } else { id };
        [pricing, model, id].map(str::to_string).to_vec()
    };
    let (models, services) = (&demo.models, &demo.services);
    table(
        &["PRICED", "MODEL", "SERVICE ID"],
        &[
            row("per token", &models.per_token, &services.per_token),
            row("tiered", &models.tiered, &services.tiered),
            row("subscription", &models.subscription, &services.subscription),
        ],
    )
}

/// The command with just the options that it needs to reach this instance.
fn usage_command(demo: &DemoFile, data_dir: &Path, program: &str) -> String {
    let program = if program.contains('/') { program } else { "tollgate" };
    let mut command = format!("{} usage --by consumer,service", quoted(program));
    if demo.admin_url != "http://127.0.0.1:3001" {
        command.push_str(&format!(" --admin-url {}", quoted(&demo.admin_url)));
    }
    match token_in(data_dir).as_deref() == Some(&demo.admin_token) {
        true if data_dir == Path::new("./tollgate-data") => {}
        true => command.push_str(&format!(" --data-dir {}", quoted(&data_dir.to_string_lossy()))),
        false => command.push_str(&format!(" --admin-token {}", quoted(&demo.admin_token))),
    }
    command
}

/// The word, quoted for a shell where it has to be.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::{quoted, usage_command, welcome};
    use crate::cli::demo_file::tests::example;
    use std::path::Path;

    #[test]
    fn every_key_service_and_line_is_there() {
        let text = welcome(&example(), Path::new("/data"), "target/release/tollgate", false);
        for expected in [
            "│ premium    ┆        100 ┆            10,000,000 ┆ tg_premium    │",
            "│ tiered       ┆ demo-chat-tiered ┆ s-tiered       │",
            "tg_basic",
            "tg_enterprise",
            "tg_bench",
            "  curl http://127.0.0.1:3000/v1/chat/completions -H 'authorization: \
             Bearer tg_premium' -H 'content-type: application/json' -d \
             '{\"model\":\"demo-chat\",\"messages\":\
             [{\"role\":\"user\",\"content\":\"Hello\"}]}'\n",
            "\"content\":\"Hello\"}],\"stream\":true}'\n",
            "  curl http://127.0.0.1:3000/api/v1/consume/s-per-token -H 'authorization: Bearer ",
            "  curl http://127.0.0.1:3000/api/v1/account -H 'authorization: Bearer tg_premium'\n",
            "  target/release/tollgate usage --by consumer,service --admin-token secret\n",
            "  curl http://127.0.0.1:3001/admin/v1/plans -H 'authorization: Bearer secret'\n",
        ] {
            assert!(text.contains(expected), "{expected} is not in:\n{text}");
        }
    }

    #[test]
    fn a_deleted_service_is_marked_and_another_called() {
        let mut demo = example();
        demo.deleted = vec![demo.services.per_token.clone()];
        let text = |demo: &_| welcome(demo, Path::new("/data"), "tollgate", false);
        let (some, expected) = (text(&demo), "│ per token    ┆ demo-chat        ┆ deleted");
        assert!(some.contains(expected) && !some.contains("s-per-token"), "{some}");
        assert!(
            some.contains("\"model\":\"demo-chat-tiered\"") && some.contains("consume/s-tiered")
        );
        demo.deleted.extend([demo.services.tiered.clone(), demo.services.subscription.clone()]);
        let none = text(&demo);
        assert!(!none.contains("consume/") && none.contains("/api/v1/account"), "{none}");
    }

    #[test]
    fn of_a_users_own_model_server_only_what_it_knows_is_called() {
        let text = welcome(&example(), Path::new("/data"), "tollgate", true);
        let calls: Vec<&str> =
            text.lines().filter(|line| line.contains("curl") && line.contains(":3000")).collect();
        assert_eq!(
            calls,
            [
                "  curl http://127.0.0.1:3000/api/v1/consume/s-per-token/v1/models \
                 -H 'authorization: Bearer tg_premium'",
                "  curl http://127.0.0.1:3000/api/v1/account -H 'authorization: Bearer tg_premium'",
            ]
        );
    }

    #[test]
    fn the_usage_command_has_the_options_that_it_needs() {
        let dir = tempfile::tempdir().unwrap_or_else(|error| unreachable!("{error}"));
        let written = std::fs::write(dir.path().join("admin.token"), "secret\n");
        assert!(written.is_ok());
        let mut demo = example();
        demo.admin_url = "http://127.0.0.1:4001".to_string();
        assert_eq!(
            usage_command(&demo, dir.path(), "tollgate"),
            format!(
                "tollgate usage --by consumer,service --admin-url http://127.0.0.1:4001 \
                 --data-dir {}",
                dir.path().display()
            )
        );
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("target/release/tollgate"), "target/release/tollgate");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("$HOME"), "'$HOME'");
        assert_eq!(quoted(""), "''");
    }
}
