//! Whole answers: heads, bodies in each service's shape, errors.

use super::model::{DEFAULT_NAME, Model, ModelCall};
use super::put::Put;
use super::request::ModelRoute;

/// Always the same, so that a run can be repeated.
pub(super) const CREATED: u64 = 1_735_689_600;
/// Bytes that the fault `huge-head` adds to a head.
const HUGE_BYTES: usize = 128 * 1024;

/// How an answer's body is framed.
pub(super) enum AnswerFraming {
    /// So many bytes.
    Bytes(usize),
    /// In chunks.
    Chunked,
}

/// Appends an answer's head.
pub(super) fn put_head(out: &mut Vec<u8>, call: &ModelCall, length: &AnswerFraming, huge: bool) {
    let content_type = match call.endpoint {
        ModelRoute::Last => "text/plain; charset=utf-8",
        _ if call.stream && call.refusal.is_none() => "text/event-stream; charset=utf-8",
        _ => "application/json",
    };
    put_status(out, call.refusal.unwrap_or(200));
    out.text("content-type: ").text(content_type);
    match length {
        AnswerFraming::Bytes(bytes) => out.text("\r\ncontent-length: ").number(*bytes as u64),
        AnswerFraming::Chunked => {
            out.text("\r\ncache-control: no-cache\r\ntransfer-encoding: chunked")
        }
    };
    out.text("\r\nx-request-id: req_").id(call.id);
    out.text_if(call.refusal == Some(429), "\r\nretry-after: 1");
    out.text_if(call.close, "\r\nconnection: close");
    if huge {
        out.text("\r\nx-huge: ");
        out.resize(out.len() + HUGE_BYTES, b'x');
    }
    out.text("\r\n\r\n");
}

/// Appends the answer to a request that was no proper HTTP; the connection then closes.
pub(super) fn put_refusal(out: &mut Vec<u8>, status: u16) {
    let mut body = Vec::new();
    put_error(&mut body, ModelRoute::Unknown, status);
    put_status(out, status);
    out.text("content-type: application/json\r\nconnection: close\r\ncontent-length: ")
        .number(body.len() as u64)
        .text("\r\n\r\n")
        .bytes(&body);
}

fn put_status(out: &mut Vec<u8>, status: u16) {
    out.text(match status {
        200 => "HTTP/1.1 200 OK\r\n",
        400 => "HTTP/1.1 400 Bad Request\r\n",
        404 => "HTTP/1.1 404 Not Found\r\n",
        413 => "HTTP/1.1 413 Content Too Large\r\n",
        429 => "HTTP/1.1 429 Too Many Requests\r\n",
        431 => "HTTP/1.1 431 Request Header Fields Too Large\r\n",
        501 => "HTTP/1.1 501 Not Implemented\r\n",
        505 => "HTTP/1.1 505 HTTP Version Not Supported\r\n",
        _ => "HTTP/1.1 500 Internal Server Error\r\n",
    });
}

/// Appends the body of an answer.
pub(super) fn put_body(out: &mut Vec<u8>, call: &ModelCall, model: &Model) {
    if let Some(status) = call.refusal {
        return put_error(out, call.endpoint, status);
    }
    match call.endpoint {
        ModelRoute::Chat => put_chat(out, call, model),
        ModelRoute::Completions => put_completion(out, call, model),
        ModelRoute::Embeddings => put_embeddings(out, call),
        ModelRoute::Responses => put_response(out, call, model, true),
        ModelRoute::Messages => put_message(out, call, model),
        ModelRoute::Models => put_models(out),
        ModelRoute::Stats => model.put_stats(out),
        ModelRoute::Last => model.put_last(out),
        ModelRoute::Unknown => put_error(out, call.endpoint, 404),
    }
}

fn put_error(out: &mut Vec<u8>, endpoint: ModelRoute, status: u16) {
    let (kind, message) = match status {
        404 => ("not_found_error", "The simulated model server knows no such path."),
        429 => ("rate_limit_error", "The simulated model server is asked too often."),
        500 => ("api_error", "The simulated model server failed."),
        _ => ("invalid_request_error", "The simulated model server can't read this request."),
    };
    out.text_if(endpoint == ModelRoute::Messages, r#"{"type":"error","error":{"type":""#)
        .text_if(endpoint != ModelRoute::Messages, r#"{"error":{"param":null,"code":null,"type":""#)
        .text(kind)
        .text(r#"","message":""#)
        .text(message)
        .text(r#""}}"#);
}

fn put_chat(out: &mut Vec<u8>, call: &ModelCall, model: &Model) {
    out.text(r#"{"id":"chatcmpl-"#).id(call.id).text(r#"","object":"chat.completion","#);
    put_created(out, call);
    out.text(r#","choices":[{"index":0,"message":{"role":"assistant","content":""#);
    model.words.put_all(out, call.text_start(), call.tokens);
    out.text(r#"","refusal":null},"logprobs":null,"finish_reason":""#)
        .text(finish_reason(call))
        .text(r#""}]"#);
    put_padding(out, call);
    put_usage(out, call);
    out.text("}");
}

fn put_completion(out: &mut Vec<u8>, call: &ModelCall, model: &Model) {
    out.text(r#"{"id":"cmpl-"#).id(call.id).text(r#"","object":"text_completion","#);
    put_created(out, call);
    out.text(r#","choices":[{"index":0,"text":""#);
    model.words.put_all(out, call.text_start(), call.tokens);
    out.text(r#"","logprobs":null,"finish_reason":""#).text(finish_reason(call)).text(r#""}]"#);
    put_padding(out, call);
    put_usage(out, call);
    out.text("}");
}

fn put_embeddings(out: &mut Vec<u8>, call: &ModelCall) {
    out.text(r#"{"object":"list","data":["#);
    for index in 0..call.vectors.count {
        out.text_if(index > 0, ",")
            .text(r#"{"object":"embedding","index":"#)
            .number(index.into())
            .text(r#","embedding":"#);
        call.vectors.put(out, call.id, index);
        out.text("}");
    }
    out.text(r#"],"model":""#).bytes(&call.name).text("\"");
    put_padding(out, call);
    if call.usage {
        out.text(r#","usage":{"prompt_tokens":"#)
            .number(call.prompt_tokens.into())
            .text(r#","total_tokens":"#)
            .number(call.prompt_tokens.into())
            .text("}");
    }
    out.text("}");
}

/// Appends the object of the Responses interface, finished or just begun.
pub(super) fn put_response(out: &mut Vec<u8>, call: &ModelCall, model: &Model, done: bool) {
    let status = if done { response_status(call) } else { "in_progress" };
    out.text(r#"{"id":"resp_"#).id(call.id).text(r#"","object":"response","created_at":"#);
    out.number(CREATED).text(r#","status":""#).text(status).text(r#"","error":null"#);
    out.text(r#","incomplete_details":"#)
        .text(if done && call.capped { r#"{"reason":"max_output_tokens"}"# } else { "null" })
        .text(r#","instructions":null,"metadata":{},"model":""#)
        .bytes(&call.name)
        .text(r#"","output":["#);
    if done {
        put_response_item(out, call, model, true);
    }
    out.text(r#"],"parallel_tool_calls":true,"temperature":1.0,"tool_choice":"auto","tools":[],"#);
    out.text(r#""top_p":1.0"#);
    if done {
        put_padding(out, call);
    }
    if done && call.usage {
        out.text(r#","usage":{"input_tokens":"#)
            .number(call.prompt_tokens.into())
            .text(r#","input_tokens_details":{"cached_tokens":"#)
            .number(call.cached_tokens.into())
            .text(r#"},"output_tokens":"#)
            .number(call.tokens.into())
            .text(r#","output_tokens_details":{"reasoning_tokens":0},"total_tokens":"#)
            .number(u64::from(call.prompt_tokens) + u64::from(call.tokens))
            .text("}}");
    } else {
        out.text(r#","usage":null}"#);
    }
}

/// What a finished response is called.
pub(super) const fn response_status(call: &ModelCall) -> &'static str {
    if call.capped { "incomplete" } else { "completed" }
}

/// Appends the one item of a response's output, finished or just begun.
pub(super) fn put_response_item(out: &mut Vec<u8>, call: &ModelCall, model: &Model, done: bool) {
    out.text(r#"{"type":"message","id":"msg_"#).id(call.id).text(r#"","status":""#);
    out.text(if done { response_status(call) } else { "in_progress" });
    out.text(r#"","role":"assistant","content":["#);
    if done {
        put_response_part(out, call, model, true);
    }
    out.text("]}");
}

/// Appends the one part of a response's item, finished or just begun.
pub(super) fn put_response_part(out: &mut Vec<u8>, call: &ModelCall, model: &Model, done: bool) {
    out.text(r#"{"type":"output_text","annotations":[],"text":""#);
    if done {
        model.words.put_all(out, call.text_start(), call.tokens);
    }
    out.text("\"}");
}

fn put_message(out: &mut Vec<u8>, call: &ModelCall, model: &Model) {
    out.text(r#"{"id":"msg_"#).id(call.id);
    out.text(r#"","type":"message","role":"assistant","model":""#).bytes(&call.name);
    out.text(r#"","content":[{"type":"text","text":""#);
    model.words.put_all(out, call.text_start(), call.tokens);
    out.text(r#""}],"stop_reason":""#).text(stop_reason(call)).text(r#"","stop_sequence":null"#);
    put_padding(out, call);
    if call.usage {
        put_message_usage(out, call, call.tokens);
    }
    out.text("}");
}

fn put_models(out: &mut Vec<u8>) {
    out.text(r#"{"object":"list","data":[{"id":""#)
        .text(DEFAULT_NAME)
        .text(r#"","object":"model","created":"#)
        .number(CREATED)
        .text(r#","owned_by":"tollgate"}]}"#);
}

/// Appends time and model.
pub(super) fn put_created(out: &mut Vec<u8>, call: &ModelCall) {
    out.text(r#""created":"#).number(CREATED).text(r#","model":""#).bytes(&call.name).text("\"");
}

/// Appends the usage as OpenAI's older interfaces report it.
pub(super) fn put_usage(out: &mut Vec<u8>, call: &ModelCall) {
    if !call.usage {
        return;
    }
    out.text(r#","usage":{"prompt_tokens":"#)
        .number(call.prompt_tokens.into())
        .text(r#","completion_tokens":"#)
        .number(call.tokens.into())
        .text(r#","total_tokens":"#)
        .number(u64::from(call.prompt_tokens) + u64::from(call.tokens))
        .text(r#","prompt_tokens_details":{"cached_tokens":"#)
        .number(call.cached_tokens.into())
        .text("}}");
}

/// Appends the usage as Anthropic reports it: cached tokens are not among the input tokens.
pub(super) fn put_message_usage(out: &mut Vec<u8>, call: &ModelCall, output_tokens: u32) {
    out.text(r#","usage":{"input_tokens":"#)
        .number(u64::from(call.prompt_tokens - call.cached_tokens))
        .text(r#","cache_creation_input_tokens":0,"cache_read_input_tokens":"#)
        .number(call.cached_tokens.into())
        .text(r#","output_tokens":"#)
        .number(output_tokens.into())
        .text("}");
}

/// Why an OpenAI answer ends.
pub(super) const fn finish_reason(call: &ModelCall) -> &'static str {
    if call.capped { "length" } else { "stop" }
}

/// Why an Anthropic answer ends.
pub(super) const fn stop_reason(call: &ModelCall) -> &'static str {
    if call.capped { "max_tokens" } else { "end_turn" }
}

/// Appends padding before the usage, so that whoever looks for the usage has to pass it.
fn put_padding(out: &mut Vec<u8>, call: &ModelCall) {
    if call.padded_bytes > out.len() {
        out.text(r#","padding":""#);
        out.resize(call.padded_bytes.max(out.len()), b'x');
        out.text("\"");
    }
}
