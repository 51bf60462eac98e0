//! One HTTP request on a connection of its own or a kept one: for looking, never for load.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Opens a connection.
pub fn connect(server: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect_timeout(&server, PATIENCE);
    let stream = stream.map_err(|error| format!("{server}: {error}"))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    Ok(stream)
}

/// Sends a request and reads its whole answer, which must say its length: head and body.
pub fn exchange(stream: &mut TcpStream, request: &str) -> Result<(String, String), String> {
    stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    let mut piece = [0; 16 * 1_024];
    while answer.len() < ANSWER_BYTES_MAX {
        let count = stream.read(&mut piece).map_err(|error| error.to_string())?;
        answer.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && content_length(head).is_some_and(|length| body.len() >= length)
        {
            return Ok((head.to_owned(), body.to_owned()));
        }
        if count == 0 {
            return Err(format!("an answer broke off: {text}"));
        }
    }
    Err("an answer is too long".to_owned())
}

/// Asks once.
pub fn get(server: SocketAddr, path: &str, token: &str) -> Result<String, String> {
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {token}\r\n\r\n");
    let (head, body) = exchange(&mut connect(server)?, &request)?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body),
        _ => Err(format!("{path}: {head}")),
    }
}

/// Posts JSON to the admin API over a kept connection.
pub fn post(
    stream: &mut TcpStream,
    path: &str,
    token: &str,
    body: &Value,
) -> Result<Value, String> {
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (head, answer) = exchange(stream, &request)?;
    match head.split(' ').nth(1) {
        Some("200" | "201") => serde_json::from_str(&answer).map_err(|error| error.to_string()),
        _ => Err(format!("{path}: {head}: {answer}")),
    }
}

fn content_length(head: &str) -> Option<usize> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    })
}
