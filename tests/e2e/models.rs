//! The services that a key may use, as models: the list and each of it, in both dialects.

use crate::shared::{Own, shared, unique};
use crate::support::admin::per_token;
use crate::support::http::{Answer, Request};
use crate::support::poll;
use serde_json::{Value, json};

fn get(path: &str, key: &str) -> Answer {
    shared().instance.call(&Request::get(path).key(key))
}

/// The same as Anthropic's SDKs ask.
fn get_as_anthropic(path: &str, key: &str) -> Answer {
    let request = Request::get(path).header("x-api-key", key);
    shared().instance.call(&request.header("anthropic-version", "2023-06-01"))
}

/// A service with a slash in its name, once it is sold, and a key for it and two others.
fn three_services() -> ([String; 3], String) {
    let instance = &shared().instance;
    let own = Own::new(&per_token(1, 1, 1), &[]);
    let slashed = format!("openai/{}", unique("gpt"));
    instance.admin().service(&slashed, &own.upstream.url, &per_token(1, 1, 1));
    let models = [slashed, instance.model("tiered").to_owned(), own.model];
    let admin = instance.admin();
    let key = admin.key_of(&admin.key("enterprise").consumer_id, &json!({ "services": models }));
    poll::until("the services on every shard", || {
        let all = || get("/v1/models", &key.text).json()["data"].as_array().unwrap().len() == 3;
        (0..16).all(|_| all()).then_some(())
    });
    (models, key.text)
}

#[test]
fn a_model_is_shown_as_in_the_list() {
    let ([slashed, _, plain], key) = three_services();
    let list = get("/v1/models", &key).expect(200).json();
    for (path, id) in [
        (plain.clone(), &plain),
        (slashed.clone(), &slashed),
        (slashed.replace('/', "%2F"), &slashed),
        (slashed.replace('/', "%2f"), &slashed),
    ] {
        let model = get(&format!("/v1/models/{path}"), &key).expect(200).json();
        assert_eq!(model["id"], **id);
        assert!(list["data"].as_array().unwrap().contains(&model), "{model} is not in {list}");
    }
    let head = Request::new("HEAD", &format!("/v1/models/{plain}")).key(&key);
    shared().instance.call(&head).expect(200);
    let post = Request::new("POST", &format!("/v1/models/{plain}")).key(&key);
    assert_eq!(shared().instance.call(&post).expect(404).code(), "not_found");
}

#[test]
fn a_model_that_the_key_may_not_use_is_not_there() {
    let instance = &shared().instance;
    let (_, key) = three_services();
    for id in [instance.model("per_token"), "no-such-model", "no/such", "%00", "%", "a?b"] {
        let path = format!("/v1/models/{id}");
        assert_eq!(get(&path, &key).expect(404).code(), "model_not_found", "{id}");
        let answer = get_as_anthropic(&path, &key).expect(404);
        assert_eq!(answer.json()["error"]["type"], "not_found_error", "{id}");
    }
    get(&format!("/v1/models/{}", instance.model("per_token")), instance.key("bench")).expect(200);
    assert_eq!(get("/v1/models/", &key).expect(404).code(), "not_found");
    assert_eq!(get("/v1/models/x", "tg_nonsense").expect(401).code(), "invalid_api_key");
}

#[test]
fn anthropic_s_clients_see_their_own_shape() {
    let (models, key) = three_services();
    let answer = get_as_anthropic("/v1/models", &key).expect(200);
    assert!(answer.head.header("request-id").is_some());
    let list = answer.json();
    let data = list["data"].as_array().unwrap();
    assert_eq!((data.len(), &list["has_more"]), (3, &json!(false)), "{list}");
    assert_eq!((&list["first_id"], &list["last_id"]), (&data[0]["id"], &data[2]["id"]));
    for model in &models {
        let path = format!("/v1/models/{}", model.replace('/', "%2F"));
        let shown = get_as_anthropic(&path, &key).expect(200).json();
        assert!(data.contains(&shown), "{shown} is not in {list}");
        assert_eq!((&shown["type"], &shown["display_name"]), (&json!("model"), &json!(model)));
        let created_at = shown["created_at"].as_str().unwrap();
        assert!(created_at.len() == 27 && created_at.ends_with('Z'), "{created_at}");
    }
    let refused = get_as_anthropic("/v1/models", "tg_nonsense").expect(401);
    assert_eq!(refused.json()["error"]["type"], "authentication_error");
    assert_eq!(refused.json()["type"], "error");
    assert!(refused.head.header("request-id").is_some());
}

#[test]
fn anthropic_s_list_comes_in_pages() {
    let (_, key) = three_services();
    let page = |query: &str| {
        let list = get_as_anthropic(&format!("/v1/models{query}"), &key).expect(200).json();
        let data = list["data"].as_array().unwrap().clone();
        let ids: Vec<String> =
            data.iter().map(|model| model["id"].as_str().unwrap().replace('/', "%2F")).collect();
        (ids, list["has_more"] == true, list["last_id"].clone())
    };
    let (all, _, _) = page("");
    let (first, second, third) = (&all[0], &all[1], &all[2]);
    for (query, ids, has_more) in [
        ("?limit=2".to_owned(), &all[..2], true),
        ("?limit=3".to_owned(), &all[..], false),
        (format!("?after_id={second}&limit=2"), &all[2..], false),
        (format!("?limit=1&after_id={first}"), &all[1..2], true),
        (format!("?before_id={third}&limit=1"), &all[1..2], true),
        (format!("?before_id={second}"), &all[..1], false),
        (format!("?after_id={third}"), &[][..], false),
    ] {
        let (given, more, last) = page(&query);
        assert_eq!((&given[..], more), (ids, has_more), "{query}");
        assert_eq!(last == Value::Null, ids.is_empty(), "{query}");
    }
    for query in ["?limit=0", "?limit=1001", "?limit=x", "?limit=", "?after_id=x", "?before_id="] {
        let answer = get_as_anthropic(&format!("/v1/models{query}"), &key).expect(400);
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error", "{query}");
    }
}
