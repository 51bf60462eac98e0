//! Tests of `prompt`.

use super::super::image::tests::base64;
use super::*;
use proptest::prelude::*;

fn read(body: &str) -> (String, u64) {
    let mut out = Vec::new();
    let tokens = prompt_text(body.as_bytes(), &mut out);
    (String::from_utf8_lossy(&out).into_owned(), tokens)
}

#[test]
fn prompts_of_all_shapes_are_collected() {
    for (body, text, tokens) in [
        (
            r#"{"model":"no","messages":[{"role":"no","content":"a\n"},{"role":"user","content":
            [{"type":"text","text":"b"},{"type":"x","unknown":{"url":"no","text":"no"}}]},
            {"tool_calls":[{"id":"no","type":"no","function":
            {"name":"f","arguments":"{}"}}]}]}"#,
            "a\n\nb\nf\n{}",
            12,
        ),
        (r#"{"prompt":"a","suffix":"b"}"#, "a\nb", 0),
        (r#"{"prompt":["a","b"]}"#, "a\nb", 0),
        (r#"{"input":["a",["b"],1],"model":"no"}"#, "a\nb", 1),
        (r#"{"input":[[1,2],[3]],"dimensions":9}"#, "", 3),
        (
            r#"{"instructions":"a","input":[{"role":"no","content":
            [{"type":"input_text","text":"b"}]}]}"#,
            "a\nb",
            0,
        ),
        (
            r#"{"system":[{"type":"text","text":"s","cache_control":{"type":"no"}}],
            "messages":[{"role":"user","content":[{"type":"tool_result","content":"r"},
            {"type":"tool_use","id":"no","input":{"city": "Paris","n":[1]}}]}]}"#,
            "s\nr\n{\"city\":\"Paris\",\"n\":[1]}",
            6,
        ),
        (r#"{"messages":[{"content":"a"#, "", 0),
        (r#"{"messages":[]}"#, "", 0),
        ("[]", "", 0),
    ] {
        assert_eq!(read(body), (text.to_owned(), tokens), "{body}");
    }
}

#[test]
fn schemas_are_read_as_they_are() {
    for (body, text) in [
        (
            r#"{"tools": [ {"type": "function", "function": {"name": "a \" b", "x" : 1}} ]}"#,
            "[{\"type\":\"function\",\"function\":{\"name\":\"a \\\" b\",\"x\":1}}]",
        ),
        (r#"{"functions":[{"name":"f"}],"tools":null}"#, "[{\"name\":\"f\"}]"),
        (r#"{"response_format":{"type":"json_object"}}"#, "{\"type\":\"json_object\"}"),
        (r#"{"text":{"format":{"type":"text"},"verbosity":"no"}}"#, "{\"type\":\"text\"}"),
        (r#"{"text":"no","tool_choice":"no"}"#, ""),
    ] {
        assert_eq!(read(body), (text.to_owned(), 0), "{body}");
    }
}

/// A PNG file of this size, in Base64.
fn png(width: u32, height: u32) -> String {
    let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    file.extend_from_slice(&width.to_be_bytes());
    file.extend_from_slice(&height.to_be_bytes());
    file.resize(10_000, 0);
    String::from_utf8(base64(&file)).unwrap_or_default()
}

#[test]
fn media_cost_what_their_providers_say() {
    let image = png(1024, 1024);
    let url = format!("data:image/png;base64,{image}");
    // As some libraries write JSON.
    let escaped = url.replace('/', "\\/");
    let chat = |part: &str| format!("{{\"messages\":[{{\"role\":\"x\",\"content\":[{part}]}}]}}");
    let input = |part: &str| format!("{{\"input\":[{{\"role\":\"x\",\"content\":[{part}]}}]}}");
    for (body, tokens) in [
        (chat(&format!(r#"{{"type":"image_url","image_url":{{"url":"{url}"}}}}"#)), 6 + 765),
        (chat(&format!(r#"{{"image_url":{{"url":"{escaped}","detail":"high"}}}}"#)), 6 + 765),
        (chat(&format!(r#"{{"image_url":{{"detail":"low","url":"{url}"}}}}"#)), 6 + 85),
        (chat(r#"{"type":"image_url","image_url":{"url":"https://x/y.png"}}"#), 6 + 765),
        (input(&format!(r#"{{"type":"input_image","image_url":"{url}","detail":"low"}}"#)), 85),
        (input(&format!(r#"{{"detail":"low","image_url":"{url}"}}"#)), 85),
        (input(&format!(r#"{{"type":"input_image","image_url":"{}"}}"#, png(512, 9))), 255),
        (input(r#"{"type":"input_image","file_id":"x","detail":"low"}"#), 85),
        (input(r#"{"type":"input_file","file_id":"x"}"#), 2_250),
        (
            chat(&format!(
                r#"{{"type":"image","source":{{"type":"base64","data":"{}"}}}}"#,
                png(200, 200)
            )),
            6 + 54,
        ),
        (
            chat(&format!(
                r#"{{"type":"tool_result","content":[{{"source":{{"data":"{image}"}},
                "type":"image"}}]}}"#
            )),
            6 + 1399,
        ),
        (chat(r#"{"type":"image","source":{"type":"url","url":"https://x/y"}}"#), 6 + 1600),
        (chat(r#"{"type":"document","source":{"type":"url","url":"https://x/y"}}"#), 6 + 2_250),
        (chat(&format!(r#"{{"file":{{"file_data":"{}"}}}}"#, "A".repeat(100_000))), 6 + 2 * 2_250),
        (
            chat(&format!(
                r#"{{"input_audio":{{"data":"{}","format":"wav"}}}}"#,
                "A".repeat(64_000)
            )),
            6 + 11,
        ),
    ] {
        let (text, found) = read(&body);
        assert_eq!((text.as_str(), found), ("", tokens), "{:.200}", body);
    }
    let document = r#"{"type":"document","source":{"type":"text","data":"a"},"title":"no"}"#;
    assert_eq!(read(&chat(document)), ("a".to_owned(), 6));
    let search = r#"{"type":"search_result","source":"s","content":[{"text":"a"}]}"#;
    assert_eq!(read(&chat(search)), ("\"s\"\na".to_owned(), 6));
}

proptest! {
    #[test]
    fn nesting_never_confuses_what_is_text(depth in 1usize..40) {
        let (open, close) = (r#"[{"x":["no"],"content":"#.repeat(depth), "}]".repeat(depth));
        let body = format!("{{\"messages\":{open}\"yes\"{close},\"content\":\"no\"}}");
        let expected = if 2 * depth < 64 { "yes" } else { "" };
        prop_assert_eq!(read(&body).0, expected);
    }

    #[test]
    fn any_part_is_survived(
        key in prop::sample::select(vec!["image_url", "source", "file", "input_audio", "input"]),
        value in "[\\[\\]{}:,\"]{0,3}\
            (\"(url|data|type|content|file_data)\":[{}\\[\\]\",:a-z]{0,9}){0,5}",
    ) {
        let body = format!("{{\"messages\":[{{\"content\":[{{\"{key}\":{value}");
        read(&body);
    }
}
