//! A call that makes sense, and the request that its upstream gets of it. No I/O.

use super::call::Call;
use super::downstream::Request;
use super::presence::Presence;
use super::route::Route;
use super::service_handles::ServiceHandle;
use super::upstream;
use crate::wire::call::{CallFields, with_include_usage};
use crate::wire::pass;
use crate::wire::write::{write_header, write_header_u64};
use shard::catalog::Service;
use shard::units::Nanos;
use std::rc::Rc;

/// A call that makes sense.
pub(super) struct Wanted {
    /// Index of the service.
    pub service: u32,
    /// Tokens to reserve: the prompt's estimate and the answer's bound.
    pub reserve_tokens: u64,
    /// The caller bounded the answer itself: reserve all or refuse.
    pub strict: bool,
    /// Of the prompt, estimated from its length.
    pub input_estimate: u32,
    /// The caller did not ask for the usage chunk that we ask the upstream for.
    pub hide_usage: bool,
    pub(super) fields: Option<CallFields>,
    pub(super) is_head: bool,
    /// When the caller's own patience ends; `NEVER`: it has not named any.
    pub(super) deadline: Nanos,
    pub(super) handle: Rc<ServiceHandle>,
}

impl Wanted {
    /// The call as the pools see it.
    pub(super) fn request(&self, client: Presence) -> upstream::UpstreamRequest<'_> {
        let (index, service, is_head) = (self.service, self.service(), self.is_head);
        upstream::UpstreamRequest { index, service, is_head, client, deadline: self.deadline }
    }

    /// Did the caller ask for a stream?
    pub(super) fn streams(&self) -> bool {
        self.fields.as_ref().is_some_and(|fields| fields.stream)
    }

    /// Whom the call goes to, as far as it decides what passes.
    pub(super) fn upstream(&self) -> pass::PassTarget<'_> {
        let service = self.service();
        let credential_line = service.credential_header.as_ref().map(|line| line.as_bytes());
        pass::PassTarget { authority: service.authority.as_bytes(), credential_line }
    }

    /// Its service's name.
    pub(super) fn service_name(&self) -> &str {
        &self.service().name
    }

    fn service(&self) -> &Service {
        &self.handle
    }

    /// Writes the upstream's request.
    pub(super) fn compose(&self, out: &mut Vec<u8>, request: &Request<'_>, call: &Call) {
        let service = self.service();
        let (head, bytes) = (request.head, request.bytes);
        out.extend_from_slice(request.method());
        out.push(b' ');
        let path = target_path(request, call, service);
        out.extend_from_slice(service.base_path.as_bytes());
        out.extend_from_slice(below(service.base_path.as_bytes(), path));
        if let Some(query) = head.query {
            out.push(b'?');
            out.extend_from_slice(query.of(bytes));
        }
        out.extend_from_slice(b" HTTP/1.1\r\n");
        write_header(out, b"host", service.authority.as_bytes());
        let (upstream, key) = (self.upstream(), request.credential());
        for (name, value) in request.fields() {
            if head.is_forwarded(bytes, name) && upstream.takes(name, value, key) {
                write_header(out, name, value);
            }
        }
        if let Some(credential) = &service.credential_header {
            out.extend_from_slice(credential.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        write_header(out, b"x-request-id", call.beginning.request_id.as_bytes());
        // Usage is read from the answer, so it must not be compressed.
        write_header(out, b"accept-encoding", b"identity");
        self.write_body(out, request);
    }

    fn write_body(&self, out: &mut Vec<u8>, request: &Request<'_>) {
        let parts = match &self.fields {
            Some(fields) if self.hide_usage => with_include_usage(request.body, fields),
            _ => [request.body, b"", b""],
        };
        if request.has_body() {
            let length: usize = parts.iter().map(|part| part.len()).sum();
            write_header_u64(out, b"content-length", length as u64);
        }
        out.extend_from_slice(b"\r\n");
        parts.iter().for_each(|part| out.extend_from_slice(part));
    }
}

/// The path that the upstream gets, without the service's `base_path`.
pub(super) fn target_path<'a>(
    request: &Request<'a>,
    call: &Call,
    service: &'a Service,
) -> &'a [u8] {
    let path = request.path();
    match call.route {
        Route::Consume { rest_at, .. } => match &path[rest_at..] {
            b"" | b"/" => service.default_path.as_bytes(),
            rest => rest,
        },
        _ => path,
    }
}

/// What follows `base_path` of a path. SDKs write a base URL with its `/v1`, callers of the gateway
/// write paths with theirs: the upstream gets one of the two.
fn below<'a>(base_path: &[u8], path: &'a [u8]) -> &'a [u8] {
    match path.strip_prefix(b"/v1") {
        Some(rest) if base_path.ends_with(b"/v1") && matches!(rest, [] | [b'/', ..]) => rest,
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::below;

    #[test]
    fn the_version_stands_once_in_a_path() {
        for (base, path, expected) in [
            ("/v1", "/v1/chat/completions", "/chat/completions"),
            ("/api/v1", "/v1/models", "/models"),
            ("/v1", "/v1", ""),
            ("/v1", "/v10/x", "/v10/x"),
            ("/v1", "/models", "/models"),
            ("", "/v1/models", "/v1/models"),
            ("/v2", "/v1/models", "/v1/models"),
        ] {
            assert_eq!(
                below(base.as_bytes(), path.as_bytes()),
                expected.as_bytes(),
                "{base}{path}"
            );
        }
    }
}
