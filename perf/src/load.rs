//! One load: wrk with a number of connections for some seconds, and what it counted. wrk reports
//! to us through its own script, so that nothing is read off its prose.

use crate::process::read;
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What wrk says at its end, as one line of JSON behind a mark.
const REPORT: &str = r#"
done = function(summary, latency, requests)
    local e = summary.errors
    io.write(string.format('RESULT {"requests":%d,"us":%d,"bytes":%d,"refused":%d,' ..
        '"broken":%d,"p50_us":%d,"p99_us":%d}\n', summary.requests, summary.duration,
        summary.bytes, e.status, e.connect + e.read + e.write + e.timeout,
        latency:percentile(50), latency:percentile(99)))
end
"#;

/// The body of a model's call.
pub const REQUEST_BODY: &str =
    r#"{"model":"demo-chat","messages":[{"role":"user","content":"Hello"}]}"#;

/// A request to be made again and again.
pub struct Script {
    path: PathBuf,
}

impl Script {
    /// A call of a model by `key`, as an OpenAI client makes it.
    pub fn post(folder: &Path, name: &str, path: &str, key: &str) -> Result<Self, String> {
        let text = format!(
            "wrk.method = \"POST\"\nwrk.path = \"{path}\"\nwrk.body = '{REQUEST_BODY}'\n\
             wrk.headers[\"content-type\"] = \"application/json\"\n\
             wrk.headers[\"authorization\"] = \"Bearer {key}\"\n{REPORT}"
        );
        Self::write(folder, name, &text)
    }

    /// The same call by one key after another, each connection so long after its last one.
    pub fn many(
        folder: &Path,
        name: &str,
        path: &str,
        keys: &[String],
        between_ms: u64,
    ) -> Result<Self, String> {
        let list = folder.join(format!("{name}.keys"));
        fs::write(&list, keys.join("\n")).map_err(|error| error.to_string())?;
        let text = format!(
            "local requests, at = {{}}, 0\n\
             function init()\n\
             for key in io.lines(\"{}\") do\n\
             requests[#requests + 1] = wrk.format(\"POST\", \"{path}\", \
             {{[\"content-type\"] = \"application/json\", \
             authorization = \"Bearer \" .. key}}, '{REQUEST_BODY}')\n\
             end\nend\n\
             function request()\nat = at % #requests + 1\nreturn requests[at]\nend\n\
             function delay()\nreturn {between_ms}\nend\n{REPORT}",
            list.display()
        );
        Self::write(folder, name, &text)
    }

    /// A bare GET of a path, with `key`.
    pub fn get(folder: &Path, name: &str, path: &str, key: &str) -> Result<Self, String> {
        let text = format!(
            "wrk.path = \"{path}\"\nwrk.headers[\"authorization\"] = \"Bearer {key}\"\n{REPORT}"
        );
        Self::write(folder, name, &text)
    }

    fn write(folder: &Path, name: &str, text: &str) -> Result<Self, String> {
        let path = folder.join(format!("{name}.lua"));
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { path })
    }
}

/// What came of a load.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Whole answers.
    pub requests: u64,
    /// Of them, those with a status of 400 or more.
    pub refused: u64,
    /// Bytes of the answers.
    pub bytes: u64,
    /// How long it took.
    pub span_us: u64,
    /// Median latency.
    pub p50_us: f64,
    /// 99th percentile of latency.
    pub p99_us: f64,
}

/// How many connections, how long, on which core.
#[derive(Clone, Copy)]
pub struct Shape {
    /// wrk's core.
    pub core: usize,
    /// Connections.
    pub connections: u32,
    /// Length.
    pub span_s: u32,
}

/// Puts a load on a server. A connection that breaks or an answer that does not come is an error.
pub fn run(server: SocketAddr, script: &Script, shape: Shape) -> Result<Outcome, String> {
    let Shape { core, connections, span_s } = shape;
    let output = Command::new("taskset")
        .args(["-c", &core.to_string(), "wrk", "-t1", "--timeout", "10s"])
        .args([format!("-c{connections}"), format!("-d{span_s}s"), "-s".to_owned()])
        .arg(&script.path)
        .arg(format!("http://{server}"))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("wrk: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().find_map(|line| line.strip_prefix("RESULT "));
    let line = line.ok_or_else(|| format!("wrk failed: {said}"))?;
    let report: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let number = |name: &str| report[name].as_u64().unwrap_or(0);
    if number("broken") > 0 || number("requests") == 0 {
        let script = read(&script.path)?;
        let request = script.lines().next().unwrap_or_default();
        return Err(format!("{server} broke connections ({request}): {line}"));
    }
    Ok(Outcome {
        requests: number("requests"),
        refused: number("refused"),
        bytes: number("bytes"),
        span_us: number("us"),
        p50_us: number("p50_us") as f64,
        p99_us: number("p99_us") as f64,
    })
}
