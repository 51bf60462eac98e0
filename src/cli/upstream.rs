//! `tollgate upstream`: the simulated model server as a program of its own.

use super::CommandError;
use super::input::address;
use crate::model_server::{self, Behaviour, PlannedFault};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::net::SocketAddr;
use std::num::NonZeroUsize;

const AFTER_HELP: &str = "\
Paths: /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses, /v1/messages,
/v1/models; a bare GET is answered too. /mock/stats counts requests, streams, aborted streams and
connections; /mock/last shows the last request as it came.

A request can ask for its own behaviour by headers: x-mock-fault, x-mock-tokens (not capped by
the request's maximum), x-mock-latency-ms, x-mock-ttft-ms, x-mock-inter-token-ms,
x-mock-prompt-tokens, x-mock-cached-tokens, x-mock-body-bytes (pads a whole answer to at least
so many bytes); or by ?fault=KIND.

Example:
  tollgate upstream --listen 127.0.0.1:9000 --ttft-ms 200 --inter-token-ms 20 --tokens 64
  curl -N 127.0.0.1:9000/v1/chat/completions -d '{\"model\":\"m\",\"stream\":true,\"messages\":[]}'
  curl -i 127.0.0.1:9000/v1/models -H 'x-mock-fault: status-429'";

/// Run a simulated model server: OpenAI and Anthropic shapes, streaming, faults on demand
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct UpstreamArgs {
    /// Address to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000", value_parser = address)]
    pub listen: SocketAddr,
    /// Threads, each with a listener of its own on the same port
    #[arg(long, default_value = "1")]
    pub threads: NonZeroUsize,
    /// Wait before an answer's head
    #[arg(long, default_value_t = 0)]
    pub latency_ms: u32,
    /// Up to this much more latency, drawn for each request
    #[arg(long, default_value_t = 0)]
    pub jitter_ms: u32,
    /// Streams: wait between the opening events and the first token
    #[arg(long, default_value_t = 0)]
    pub ttft_ms: u32,
    /// Streams: wait between tokens; if not 0, each event is a write of its own
    #[arg(long, default_value_t = 0)]
    pub inter_token_ms: u32,
    /// Share of requests answered with status 500
    #[arg(long, default_value_t = 0.0, value_parser = parse_share, value_name = "0..1")]
    pub fail_rate: f64,
    /// Output tokens of an answer; a request's own maximum caps it
    #[arg(long, default_value_t = 16)]
    pub tokens: u32,
    /// Prompt tokens to report [default: a quarter of the body's bytes, at least 1]
    #[arg(long)]
    pub prompt_tokens: Option<u32>,
    /// Share of the prompt tokens to report as cached
    #[arg(long, default_value_t = 0.0, value_parser = parse_share, value_name = "0..1")]
    pub cached_fraction: f64,
    /// Never report usage
    #[arg(long)]
    pub no_usage: bool,
    /// What goes wrong
    #[arg(long, value_name = "KIND", value_parser = fault_parser())]
    pub fault: Option<PlannedFault>,
    /// Share of requests with which it goes wrong
    #[arg(long, default_value_t = 1.0, value_parser = parse_share, value_name = "0..1")]
    pub fault_rate: f64,
    /// Text, failures and jitter are a function of this and of the count of requests so far
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// Runs the server until it fails.
pub(super) fn run(args: &UpstreamArgs) -> Result<String, CommandError> {
    let (listen, threads) = (args.listen, args.threads);
    let ready = |address| eprintln!("ready http://{address}");
    model_server::run(listen, threads, behaviour(args), ready)
        .map_err(|error| CommandError::Failed(format!("cannot serve on {listen}: {error}")))?;
    Ok(String::new())
}

fn behaviour(args: &UpstreamArgs) -> Behaviour {
    Behaviour {
        latency_ms: args.latency_ms,
        jitter_ms: args.jitter_ms,
        ttft_ms: args.ttft_ms,
        inter_token_ms: args.inter_token_ms,
        fail_rate: args.fail_rate,
        tokens: args.tokens,
        prompt_tokens: args.prompt_tokens,
        cached_fraction: args.cached_fraction,
        usage: !args.no_usage,
        fault: args.fault,
        fault_rate: args.fault_rate,
        seed: args.seed,
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("must be a number from 0 to 1".to_owned()),
    }
}

fn fault_parser() -> impl TypedValueParser<Value = PlannedFault> {
    PossibleValuesParser::new(PlannedFault::NAMES)
        .try_map(|name| PlannedFault::named(name.as_bytes()).ok_or("no such fault"))
}
