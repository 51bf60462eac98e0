//! Streamed answers: the events of each service's shape, one at a time by number, so that a
//! stream of any length needs the memory of one event.

use super::answer;
use super::model::{Model, ModelCall};
use super::put::Put;
use super::request::ModelRoute;

/// The events of one stream.
pub(super) struct Events<'call> {
    call: &'call ModelCall,
    model: &'call Model,
}

impl<'call> Events<'call> {
    /// The events of this call, which must be of a shape that streams.
    pub(super) const fn new(call: &'call ModelCall, model: &'call Model) -> Self {
        Self { call, model }
    }

    /// How many events open the stream; then comes one for each token.
    pub(super) const fn opening(&self) -> u32 {
        match self.call.endpoint {
            ModelRoute::Chat => 1,
            ModelRoute::Responses => 4,
            ModelRoute::Messages => 3,
            _ => 0,
        }
    }

    /// How many events there are.
    pub(super) const fn count(&self) -> u32 {
        let closing = match self.call.endpoint {
            ModelRoute::Responses => 4,
            ModelRoute::Messages => 3,
            _ => 2 + self.shows_usage() as u32,
        };
        self.opening() + self.call.tokens + closing
    }

    /// The event in the middle of the tokens.
    pub(super) const fn middle(&self) -> u32 {
        self.opening() + self.call.tokens / 2
    }

    const fn shows_usage(&self) -> bool {
        self.call.include_usage && self.call.usage
    }

    /// Appends event `step`.
    pub(super) fn put(&self, out: &mut Vec<u8>, step: u32) {
        match self.call.endpoint {
            ModelRoute::Responses => self.put_response(out, step),
            ModelRoute::Messages => self.put_message(out, step),
            _ => self.put_completion(out, step),
        }
        out.text("\n\n");
    }

    /// Appends an event that says that the stream failed at `step`.
    pub(super) fn put_error(&self, out: &mut Vec<u8>, step: u32) {
        const MESSAGE: &str = r#""message":"The simulated model server failed.""#;
        match self.call.endpoint {
            ModelRoute::Responses => out
                .text("event: error\ndata: {\"type\":\"error\",\"code\":\"server_error\",")
                .text(MESSAGE)
                .text(r#","param":null,"sequence_number":"#)
                .number(step.into())
                .text("}\n\n"),
            ModelRoute::Messages => out
                .text("event: error\ndata: {\"type\":\"error\",")
                .text(r#""error":{"type":"overloaded_error","#)
                .text(MESSAGE)
                .text("}}\n\n"),
            _ => out
                .text(r#"data: {"error":{"type":"server_error","param":null,"code":null,"#)
                .text(MESSAGE)
                .text("}}\n\n"),
        };
    }

    /// The chat and the older completion interface.
    fn put_completion(&self, out: &mut Vec<u8>, step: u32) {
        let (call, chat) = (self.call, self.call.endpoint == ModelRoute::Chat);
        let after_tokens = (step + 1).saturating_sub(self.opening() + call.tokens);
        if step + 1 == self.count() {
            out.text("data: [DONE]");
            return;
        }
        out.text_if(chat, r#"data: {"id":"chatcmpl-"#).text_if(!chat, r#"data: {"id":"cmpl-"#);
        out.id(call.id)
            .text_if(chat, r#"","object":"chat.completion.chunk","#)
            .text_if(!chat, r#"","object":"text_completion","#);
        answer::put_created(out, call);
        if after_tokens == 2 {
            out.text(r#","choices":[]"#);
            answer::put_usage(out, call);
            out.text("}");
            return;
        }
        out.text_if(chat, r#","choices":[{"index":0,"delta":{"#)
            .text_if(!chat, r#","choices":[{"index":0,"text":""#);
        if step < self.opening() {
            out.text(r#""role":"assistant","content":"","refusal":null"#);
        } else if after_tokens == 0 {
            out.text_if(chat, r#""content":""#);
            self.model.words.put_one(out, call.text_start(), step - self.opening());
            out.text_if(chat, "\"");
        }
        out.text(if chat { "}" } else { "\"" }).text(r#","logprobs":null,"finish_reason":"#);
        if after_tokens == 1 {
            out.text("\"").text(answer::finish_reason(call)).text("\"");
        } else {
            out.text("null");
        }
        out.text("}]").text_if(self.shows_usage(), r#","usage":null"#).text("}");
    }

    fn put_response(&self, out: &mut Vec<u8>, step: u32) {
        let (call, model, tokens_end) = (self.call, self.model, self.opening() + self.call.tokens);
        let name = match step {
            0 => "response.created",
            1 => "response.in_progress",
            2 => "response.output_item.added",
            3 => "response.content_part.added",
            _ if step < tokens_end => "response.output_text.delta",
            _ if step == tokens_end => "response.output_text.done",
            _ if step == tokens_end + 1 => "response.content_part.done",
            _ if step == tokens_end + 2 => "response.output_item.done",
            _ if call.capped => "response.incomplete",
            _ => "response.completed",
        };
        out.text("event: ").text(name).text("\ndata: {\"type\":\"").text(name);
        out.text(r#"","sequence_number":"#).number(step.into());
        let done = step >= tokens_end;
        match step.checked_sub(tokens_end) {
            None if step < 2 => {
                answer::put_response(out.text(r#","response":"#), call, model, false);
            }
            Some(3..) => answer::put_response(out.text(r#","response":"#), call, model, true),
            None if step == 2 => self.put_item(out, done),
            Some(2) => self.put_item(out, done),
            place => {
                out.text(r#","item_id":"msg_"#).id(call.id);
                out.text(r#"","output_index":0,"content_index":0"#);
                match place {
                    None if step > 3 => {
                        out.text(r#","delta":""#);
                        model.words.put_one(out, call.text_start(), step - self.opening());
                        out.text(r#"","logprobs":[]"#);
                    }
                    Some(0) => {
                        out.text(r#","text":""#);
                        model.words.put_all(out, call.text_start(), call.tokens);
                        out.text(r#"","logprobs":[]"#);
                    }
                    _ => answer::put_response_part(out.text(r#","part":"#), call, model, done),
                }
            }
        }
        out.text("}");
    }

    fn put_item(&self, out: &mut Vec<u8>, done: bool) {
        out.text(r#","output_index":0,"item":"#);
        answer::put_response_item(out, self.call, self.model, done);
    }

    fn put_message(&self, out: &mut Vec<u8>, step: u32) {
        let (call, tokens_end) = (self.call, self.opening() + self.call.tokens);
        let name = match step {
            0 => "message_start",
            1 => "content_block_start",
            2 => "ping",
            _ if step < tokens_end => "content_block_delta",
            _ if step == tokens_end => "content_block_stop",
            _ if step == tokens_end + 1 => "message_delta",
            _ => "message_stop",
        };
        out.text("event: ").text(name).text("\ndata: {\"type\":\"").text(name).text("\"");
        match name {
            "message_start" => {
                out.text(r#","message":{"id":"msg_"#).id(call.id);
                out.text(r#"","type":"message","role":"assistant","model":""#).bytes(&call.name);
                out.text(r#"","content":[],"stop_reason":null,"stop_sequence":null"#);
                if call.usage {
                    answer::put_message_usage(out, call, 1);
                }
                out.text("}");
            }
            "content_block_start" => {
                out.text(r#","index":0,"content_block":{"type":"text","text":""}"#);
            }
            "content_block_delta" => {
                out.text(r#","index":0,"delta":{"type":"text_delta","text":""#);
                self.model.words.put_one(out, call.text_start(), step - self.opening());
                out.text("\"}");
            }
            "content_block_stop" => {
                out.text(r#","index":0"#);
            }
            "message_delta" => {
                out.text(r#","delta":{"stop_reason":""#).text(answer::stop_reason(call));
                out.text(r#"","stop_sequence":null}"#);
                if call.usage {
                    out.text(r#","usage":{"output_tokens":"#).number(call.tokens.into()).text("}");
                }
            }
            _ => {}
        }
        out.text("}");
    }
}
