//! Which route a request's path names. Pure.

use crate::metrics::Endpoint;
use crate::wire::error::Shape;
use shard::units::{ServiceId, id_from_text};

/// A route of the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/api/v1/consume/{service_id}[/{path…}]`
    Consume {
        /// `None`: not an identity, so no service has it.
        service: Option<ServiceId>,
        /// Where in the path begins what follows the service, with its slash.
        rest_at: usize,
    },
    /// The body's `model` names the service; relayed to the same path.
    Model(Endpoint),
    /// `GET /v1/models`
    Models,
    /// `GET /v1/models/{id}`: one of them.
    OneModel,
    /// `GET /api/v1/account`
    Account,
    /// `GET /healthz`
    Healthz,
    /// `GET /readyz`
    Readyz,
    /// No such route.
    Unknown,
}

const CONSUME: &[u8] = b"/api/v1/consume/";

/// The route that `path` names.
pub(super) fn route(path: &[u8]) -> Route {
    if let Some(after) = path.strip_prefix(CONSUME) {
        let end = memchr::memchr(b'/', after).unwrap_or(after.len());
        let service = id_from_text(&after[..end]).map(ServiceId);
        return Route::Consume { service, rest_at: CONSUME.len() + end };
    }
    match path {
        b"/v1/chat/completions" => Route::Model(Endpoint::ChatCompletions),
        b"/v1/completions" => Route::Model(Endpoint::Completions),
        b"/v1/embeddings" => Route::Model(Endpoint::Embeddings),
        b"/v1/responses" => Route::Model(Endpoint::Responses),
        b"/v1/messages" => Route::Model(Endpoint::Messages),
        b"/v1/models" => Route::Models,
        b"/api/v1/account" => Route::Account,
        b"/healthz" => Route::Healthz,
        b"/readyz" => Route::Readyz,
        _ if model_id(path).is_some_and(|id| !id.is_empty()) => Route::OneModel,
        _ => Route::Unknown,
    }
}

/// What follows `/v1/models/` in a path, as sent. Names have slashes (`openai/gpt-4o`), which come
/// encoded or not.
pub(super) fn model_id(path: &[u8]) -> Option<&[u8]> {
    path.strip_prefix(b"/v1/models/")
}

impl Route {
    /// Its name in metrics.
    pub(super) const fn endpoint(self) -> Endpoint {
        match self {
            Self::Consume { .. } => Endpoint::Consume,
            Self::Model(endpoint) => endpoint,
            Self::Models | Self::OneModel => Endpoint::Models,
            Self::Account => Endpoint::Account,
            Self::Healthz => Endpoint::Healthz,
            Self::Readyz => Endpoint::Readyz,
            Self::Unknown => Endpoint::Other,
        }
    }

    /// The array that every answer on it has, where its answers are known: not on the consume
    /// route, where an upstream may answer anything.
    pub(super) const fn answer_array(self) -> Option<&'static str> {
        let Self::Model(endpoint) = self else { return None };
        match endpoint {
            Endpoint::ChatCompletions | Endpoint::Completions => Some("choices"),
            Endpoint::Embeddings => Some("data"),
            Endpoint::Responses => Some("output"),
            Endpoint::Messages => Some("content"),
            _ => None,
        }
    }

    /// How its errors look. The list of models is at the same place in both dialects, so the
    /// request tells: `names_anthropic` where it has the header that Anthropic's SDKs always send.
    pub(super) const fn shape(self, names_anthropic: bool) -> Shape {
        match self {
            Self::Model(Endpoint::Messages) => Shape::Anthropic,
            Self::Models | Self::OneModel if names_anthropic => Shape::Anthropic,
            _ => Shape::OpenAi,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consume_takes_the_service_and_the_rest_of_the_path() {
        let id = ServiceId(77);
        for (rest, expected) in [("", ""), ("/", "/"), ("/v1/x/y", "/v1/x/y")] {
            let path = format!("/api/v1/consume/{id}{rest}");
            let Route::Consume { service, rest_at } = route(path.as_bytes()) else {
                unreachable!("{path}")
            };
            assert_eq!(service, Some(id));
            assert_eq!(&path[rest_at..], expected);
        }
        let nonsense = Route::Consume { service: None, rest_at: 24 };
        assert_eq!(route(b"/api/v1/consume/nonsense"), nonsense);
        assert_eq!(route(b"/api/v1/consume"), Route::Unknown);
        assert_eq!(route(b"/v1/chat/completions/"), Route::Unknown);
        assert_eq!(route(b"/v1/messages").shape(false), Shape::Anthropic);
    }

    #[test]
    fn a_model_is_found_by_all_that_follows() {
        for (path, id) in [("/v1/models/a", "a"), ("/v1/models/openai/gpt-4o", "openai/gpt-4o")] {
            assert_eq!(route(path.as_bytes()), Route::OneModel);
            assert_eq!(model_id(path.as_bytes()), Some(id.as_bytes()));
        }
        assert_eq!(route(b"/v1/models/"), Route::Unknown);
        assert_eq!(route(b"/v1/models/a").shape(true), Shape::Anthropic);
        assert_eq!(route(b"/v1/models/a").shape(false), Shape::OpenAi);
        assert_eq!(route(b"/v1/chat/completions").shape(true), Shape::OpenAi);
    }
}
