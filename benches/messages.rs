//! Messages as they come: what benches and the test of allocations parse.

/// The head of a model's call, as most clients send it.
pub const REQUEST_HEAD: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:3000\r\n\
    content-type: application/json\r\n\
    authorization: Bearer tg_72126rmr1nef1g3vh8z0gx714xqq1eefega7xc1dmkv62\r\n\
    Content-Length: 68\r\n\r\n";

/// Its body.
pub const REQUEST_BODY: &[u8] =
    br#"{"model":"demo-chat","messages":[{"role":"user","content":"Hello"}]}"#;

/// The head of an answer.
pub const ANSWER_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
    content-length: 420\r\nx-request-id: req_bfa9ae8d44b45a35\r\n\r\n";

/// Its body.
pub const ANSWER_BODY: &[u8] = concat!(
    r#"{"id":"chatcmpl-bfa9ae8d44b45a35","object":"chat.completion","created":1735689600,"#,
    r#""model":"demo-chat","choices":[{"index":0,"message":{"role":"assistant","content":"#,
    r#""line house man hour home room part way service hand side end idea right story book","#,
    r#""refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":17,"#,
    r#""completion_tokens":16,"total_tokens":33,"prompt_tokens_details":{"cached_tokens":0}}}"#,
)
.as_bytes();

/// One token of a stream.
pub const DELTA: &[u8] = concat!(
    r#"data: {"id":"chatcmpl-bfa9ae8d44b45a35","object":"chat.completion.chunk","#,
    r#""created":1735689600,"model":"demo-chat","choices":[{"index":0,"delta":"#,
    r#"{"content":" house"},"logprobs":null,"finish_reason":null}],"usage":null}"#,
    "\n\n",
)
.as_bytes();

/// The event that reports a stream's usage.
pub const USAGE_EVENT: &[u8] = concat!(
    r#"data: {"id":"chatcmpl-bfa9ae8d44b45a35","object":"chat.completion.chunk","#,
    r#""created":1735689600,"model":"demo-chat","choices":[],"usage":{"prompt_tokens":17,"#,
    r#""completion_tokens":16,"total_tokens":33,"prompt_tokens_details":{"cached_tokens":0}}}"#,
    "\n\n",
)
.as_bytes();
