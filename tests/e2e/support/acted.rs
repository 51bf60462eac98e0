//! Answers of an upstream in parts, and the service of one that writes such to whatever it reads.

use super::admin::per_token;
use super::http::Request;
use super::instance::Instance;
use super::poll;
use super::scripted::{self, Then};
use std::net::TcpStream;

/// The head of an event stream.
pub const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
/// The end of a chunked body.
pub const LAST_CHUNK: &str = "0\r\n\r\n";

/// A text as one chunk.
pub fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// A whole answer of this type.
pub fn whole(content_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// A service whose upstream answers with what `act` writes: its id, once it is sold by one shard.
/// A connection on which `act` fails is closed.
pub fn service(
    instance: &Instance,
    name: &str,
    act: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> String {
    let url = scripted::start(move |call| {
        call.read_body();
        act(&mut call.output).map_or(Then::Close, |()| Then::Next)
    });
    let id = instance.admin().service(name, &url, &per_token(1_000_000, 1_000_000, 1_000_000));
    let models = Request::get("/v1/models").key(instance.key("bench"));
    poll::until("the service to be sold", || {
        instance.call(&models).text().contains(&id).then_some(())
    });
    id
}
