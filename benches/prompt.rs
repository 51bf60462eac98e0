//! A long prompt as people send them: prose, code and JSON, with an escape every seven bytes.

const BEGIN: &str = r#"{"model":"demo-chat","messages":[{"role":"user","content":""#;
const END: &str = r#""}]}"#;
/// The text as it stands between a string's quotes.
const TEXT: &str = concat!(
    r#"Why does this panic?\n\n```rust\nfn main() {\n    let names = vec![\"Ada\", \"Grace\"];"#,
    r#"\n    for name in &names {\n\t\tprintln!(\"{name}\");\n    }\n}\n```\n\n"#,
    r#"{\"id\": 17, \"tags\": [\"a\", \"longer\"],\n \"path\": \"C:\\temp\\x\"}\n\n"#,
    r#"| what | cost |\n|---|---|\n| the first of them | 3 \u20ac |\n\nIt says \"index out of"#,
    r#" bounds\"; the log is below.\r\n\tat \"main.rs\", line 7\r\n\tat \"lib.rs\"\r\n"#,
);

/// The body of a model's call, of exactly so many bytes.
pub fn body(bytes: usize) -> String {
    let room = bytes.saturating_sub(BEGIN.len() + END.len());
    format!("{BEGIN}{}{END}", text(room))
}

/// So many bytes of that text.
pub fn text(bytes: usize) -> String {
    let text = TEXT.repeat(bytes / TEXT.len());
    let rest = ".".repeat(bytes - text.len());
    text + &rest
}
