//! What is billed where an upstream reports no usage, or a half of it: all that the model read and
//! said, counted. And what is not billed: an answer that is none.

use crate::shared::{Own, shared, unique};
use crate::support::acted::{self, LAST_CHUNK, STREAM, chunk, whole};
use crate::support::admin::per_token;
use crate::support::http::Request;
use crate::support::instance::{Instance, Setup};
use crate::support::ledger::Row;
use serde_json::{Value, json};
use std::io::Write;
use std::ops::Range;

/// A call that brings no usage: its row.
fn estimated(instance: &Instance, path: &str, body: &Value) -> Row {
    let request_id = unique("estimated");
    let request = Request::post(path, body).key(instance.key("bench")).id(&request_id);
    instance.call(&request).expect(200);
    let row = instance.ledger().row(&request_id);
    assert_eq!(row.tokens_source, "estimated", "{row:?}");
    row
}

#[test]
fn prompts_are_counted_and_not_guessed() {
    let own = Own::new(&per_token(1, 1, 1), &["--no-usage"]);
    // Texts far from four bytes to a token: 750, 750 and 270 by their lengths.
    for (text, tokens) in [
        ("hello ".repeat(500), 501),
        ("0".repeat(3_000), 1_000),
        ("お誕生日おめでとう\n".repeat(40), 40 * 9),
    ] {
        let body = own.chat_body(&json!({ "messages": [{ "role": "user", "content": text }] }));
        let row = estimated(&shared().instance, "/v1/chat/completions", &body);
        let found = row.input_tokens;
        println!("{} bytes: {found} tokens, by length {}", text.len(), text.len() / 4);
        assert!((tokens..tokens + 10).contains(&found), "{:.20}: {tokens} {row:?}", text);
    }
}

/// A PNG file of 1024 × 1024 pixels and about a megabyte, in Base64: of its bytes only the first
/// are looked at.
fn image() -> String {
    // Signature, length and name of the first chunk, width, height.
    format!("iVBORw0KGgoAAAANSUhEUgAABAAAAAQA{}", "A".repeat(1_000_000))
}

/// Each call brings no usage, and its prompt has so many tokens.
fn are_counted<const N: usize>(calls: [(&str, &str, Value, Range<u64>); N]) {
    let own = Own::new(&per_token(1, 1, 1), &["--no-usage"]);
    for (name, path, mut body, tokens) in calls {
        body["model"] = json!(own.model);
        body["max_tokens"] = json!(9);
        let row = estimated(&shared().instance, path, &body);
        println!("{name}: {} tokens", row.input_tokens);
        assert!(tokens.contains(&row.input_tokens), "{name}: {tokens:?} {row:?}");
    }
}

const OPENAI: &str = "/v1/chat/completions";
const ANTHROPIC: &str = "/v1/messages";
const RESPONSES: &str = "/v1/responses";

#[test]
fn all_texts_that_a_model_reads_are_counted() {
    let words = "tell me about it ".repeat(500);
    let schema = json!({ "type": "object", "description": words });
    let with = |name: &str, value: Value| {
        let mut body = json!({ "messages": [{ "role": "user", "content": "Hi" }] });
        body[name] = value;
        body
    };
    let function = json!({ "name": "f", "parameters": schema });
    let tool = json!({ "type": "function", "function": function });
    let form = json!({ "type": "json_schema", "json_schema": schema });
    let of_anthropic = json!([{ "name": "f", "input_schema": schema }]);
    let of_responses = json!({ "input": "Hi", "text": { "format": schema } });
    let tokens = || 2_000..2_060;
    are_counted([
        ("tools", OPENAI, with("tools", json!([tool])), tokens()),
        ("functions", OPENAI, with("functions", json!([function])), tokens()),
        ("a form", OPENAI, with("response_format", form), tokens()),
        ("tools of Anthropic's", ANTHROPIC, with("tools", of_anthropic), tokens()),
        ("a system prompt", ANTHROPIC, with("system", json!(words)), tokens()),
        ("a form of a response", RESPONSES, of_responses, tokens()),
    ]);
}

#[test]
fn images_are_counted_by_their_providers_rules() {
    let url = format!("data:image/png;base64,{}", image());
    let chat = |part: Value| json!({ "messages": [{ "role": "user", "content": [part] }] });
    let link = |url: &str| chat(json!({ "type": "image_url", "image_url": { "url": url } }));
    let low = json!({ "type": "image_url", "image_url": { "url": url, "detail": "low" } });
    let source = json!({ "type": "base64", "media_type": "image/png", "data": image() });
    let part = json!({ "type": "input_image", "image_url": url, "detail": "low" });
    let response = json!({ "input": [{ "role": "user", "content": [part] }] });
    let anthropic = chat(json!({ "type": "image", "source": source }));
    are_counted([
        ("an image", OPENAI, link(&url), 765..800),
        ("an image at low detail", OPENAI, chat(low), 85..120),
        ("an image behind a link", OPENAI, link("https://x.test/y"), 765..800),
        ("an image of Anthropic's", ANTHROPIC, anthropic, 1_399..1_430),
        ("an image in a response", RESPONSES, response, 85..120),
    ]);
}

#[test]
fn an_image_reserves_what_it_costs() {
    let instance = &shared().instance;
    // The plan's month has 100 000 tokens, the image a million bytes.
    let url = format!("data:image/png;base64,{}", image());
    let part = json!({ "type": "image_url", "image_url": { "url": url } });
    let messages = json!([{ "role": "user", "content": [part] }]);
    let body = json!({ "messages": messages, "max_tokens": 9 });
    let request = instance.chat(&body).key(instance.key("basic"));
    instance.call(&request).expect(200);
}

#[test]
fn half_a_report_is_kept_and_the_rest_counted() {
    let instance = Setup::default().shards(1).start();
    let start = |usage: &str| {
        format!("data: {{\"type\":\"message_start\",\"message\":{{\"usage\":{usage}}}}}\n\n")
    };
    let text = "data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\" hello hello\"}}\n\n";
    let delta = "data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":77}}\n\n";
    let stop = "data: {\"type\":\"message_stop\"}\n\n";
    let counted = start("{\"input_tokens\":55,\"output_tokens\":1}");
    let body =
        |usage: &str| format!("{{\"content\":[{{\"text\":\" hello hello\"}}],\"usage\":{usage}}}");
    // The prompt is one word in its frame of six tokens.
    for (name, streamed, answer, expected) in [
        ("no prompt", true, [&start("{}"), text, delta, stop].concat(), (7, 77, "estimated")),
        ("no answer", true, [&counted, text, stop].concat(), (55, 2, "estimated")),
        ("neither", true, [&start("null"), text, stop].concat(), (7, 2, "estimated")),
        ("both", true, [&counted, text, delta, stop].concat(), (55, 77, "reported")),
        ("no prompt, whole", false, body("{\"output_tokens\":77}"), (7, 77, "estimated")),
        ("no answer, whole", false, body("{\"input_tokens\":55}"), (55, 2, "estimated")),
        ("whole", false, body("{\"input_tokens\":5,\"output_tokens\":6}"), (5, 6, "reported")),
    ] {
        let model = unique("half");
        acted::service(&instance, &model, move |stream| {
            let bytes = if streamed {
                [STREAM, &chunk(&answer), LAST_CHUNK].concat()
            } else {
                whole("application/json", &answer)
            };
            stream.write_all(bytes.as_bytes())
        });
        let request_id = unique("half");
        let messages = json!([{ "role": "user", "content": "hello" }]);
        let body = json!({ "model": model, "stream": streamed, "messages": messages });
        let request = Request::post("/v1/messages", &body).key(instance.key("bench"));
        instance.call(&request.id(&request_id)).expect(200);
        let row = instance.ledger().row(&request_id);
        let (input, output, source) = expected;
        assert_eq!(row.tokens_source, source, "{name}: {row:?}");
        assert_eq!((row.input_tokens, row.output_tokens), (input, output), "{name}: {row:?}");
    }
    instance.balance_books();
}

#[test]
fn what_is_no_answer_of_its_route_is_not_sold() {
    let instance = Setup::default().shards(1).start();
    let page = "<!DOCTYPE html><title>Welcome</title>".to_owned();
    let large = page.clone() + &" ".repeat(400_000);
    let chunked = |body: &str| {
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned()
            + &body
                .as_bytes()
                .chunks(10_000)
                .map(|it| chunk(&String::from_utf8_lossy(it)))
                .collect::<String>()
            + LAST_CHUNK
    };
    let error =
        "{\"error\":{\"message\":\"no\"},\"usage\":{\"prompt_tokens\":9,\"total_tokens\":9}}";
    for (name, bytes) in [
        ("a page", whole("text/html", &page)),
        ("a page that calls itself JSON", whole("application/json", &page)),
        ("an error", whole("application/json", error)),
        ("nothing", whole("application/json", "")),
        ("half", whole("application/json", "{\"id\":\"x\",")),
        ("an empty stream", whole("text/event-stream", "")),
        ("a large page", whole("text/html", &large)),
        ("a large page in chunks", chunked(&large)),
    ] {
        let model = unique("page");
        let id =
            acted::service(&instance, &model, move |stream| stream.write_all(bytes.as_bytes()));
        for path in ["/v1/chat/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"] {
            let request_id = unique("page");
            let body = json!({ "model": model, "input": "Hi", "messages": [] });
            let request = Request::post(path, &body).key(instance.key("bench")).id(&request_id);
            let answer = instance.call(&request);
            assert_eq!(answer.status(), 502, "{name} {path}");
            let row = instance.ledger().row(&request_id);
            assert_eq!((row.status, row.outcome.as_str()), (502, "upstream_failed"), "{row:?}");
            let amounts = (row.input_tokens, row.output_tokens, row.cost_nanousd);
            assert_eq!(amounts, (0, 0, 0), "{name} {path}: {row:?}");
        }
        // On the consume route an upstream may answer anything.
        let path = format!("/api/v1/consume/{id}/any");
        instance.call(&Request::get(&path).key(instance.key("bench"))).expect(200);
    }
    instance.balance_books();
}
