//! What perf's samples say, counted: pure text work over the output of `perf script`.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

const ROWS_MAX: usize = 40;
/// Names of ours and of what we stand on, among all inclusive times.
const OURS: &[&str] =
    &["tollgate", "shard::", "monoio", "httparse", "blake3", "flume", "mi_", "vdso"];

/// Kernel time by purpose: the first of these whose functions are all on a sample's stack.
const PURPOSES: &[(&[&str], &str)] = &[
    (&["sendmsg", "softirq", "sock_def_readable"], "send: the receiving end: wake its reader"),
    (&["sendmsg", "softirq", "tcp_ack"], "send: the receiving end: take the acknowledgement"),
    (&["sendmsg", "softirq"], "send: the receiving end: loopback, ip, tcp"),
    (&["sendmsg", "__tcp_transmit_skb"], "send: down through tcp and ip"),
    (&["sendmsg"], "send: copy, buffers, locks of the socket"),
    (&["recvmsg"], "receive: copy, free buffers"),
    (&["io_submit_sqes"], "io_uring: submit"),
    (&["__io_run_local_work"], "io_uring: completions"),
    (&["schedule"], "wait"),
    (&["page_fault"], "page faults"),
    (&[], "other"),
];

struct Frame {
    name: String,
    in_kernel: bool,
}

/// Stacks, each from the innermost frame out.
pub struct Profile {
    samples: Vec<Vec<Frame>>,
}

impl Profile {
    /// Reads `perf script -F ip,sym,dso`.
    pub fn read(text: &str) -> Self {
        let stacks = text.split("\n\n").map(|block| block.lines().filter_map(frame).collect());
        Self { samples: stacks.filter(|stack: &Vec<Frame>| !stack.is_empty()).collect() }
    }

    /// Stacks with their counts, as inferno takes them.
    pub fn folded(&self) -> String {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for stack in &self.samples {
            let names: Vec<String> = stack.iter().rev().map(Frame::marked).collect();
            *counts.entry(names.join(";")).or_default() += 1;
        }
        counts.iter().fold(String::new(), |text, (stack, count)| format!("{text}{stack} {count}\n"))
    }

    /// The tables, in shares and in microseconds of a call that costs `us_per_call`.
    pub fn text(&self, us_per_call: f64) -> String {
        let count_all = self.samples.len();
        let in_kernel = |stack: &&Vec<Frame>| stack[0].in_kernel;
        let kernel = self.samples.iter().filter(in_kernel);
        let kernel_share = kernel.clone().count() as f64 / count_all.max(1) as f64;
        let mut text = format!(
            "{count_all} samples; a call costs the shard's thread {us_per_call:.2} us: kernel \
             {:.2} us ({:.1} %), user {:.2} us\n",
            kernel_share * us_per_call,
            kernel_share * 100.0,
            (1.0 - kernel_share) * us_per_call,
        );
        let user = self.samples.iter().filter(|stack| !in_kernel(stack));
        let inclusive = self.samples.iter().flat_map(|stack| {
            let names: HashSet<&str> = stack.iter().map(|frame| frame.name.as_str()).collect();
            names.into_iter().filter(|name| OURS.iter().any(|ours| name.contains(ours)))
        });
        let tables: [(&str, Vec<(String, usize)>); 4] = [
            ("kernel, by purpose", count(kernel.map(|stack| purpose(stack)))),
            ("self time (_[k]: kernel)", count(self.samples.iter().map(|stack| stack[0].marked()))),
            ("self time, user only", count(user.map(|stack| stack[0].name.as_str()))),
            ("inclusive, of the program", count(inclusive)),
        ];
        for (title, rows) in tables {
            text += &format!("\n== {title}\n");
            for (name, count) in rows.into_iter().take(ROWS_MAX) {
                let share = count as f64 / count_all as f64;
                // Writing into a String cannot fail.
                let _ = writeln!(
                    text,
                    "{:6.2} % {:8.3} us  {name}",
                    share * 100.0,
                    share * us_per_call
                );
            }
        }
        text
    }
}

impl Frame {
    fn marked(&self) -> String {
        if self.in_kernel { format!("{}_[k]", self.name) } else { self.name.clone() }
    }
}

/// `address name (object)`
fn frame(line: &str) -> Option<Frame> {
    let (_, rest) = line.trim().split_once(' ')?;
    let (name, object) = rest.rsplit_once(" (")?;
    Some(Frame { name: name.replace(';', ":"), in_kernel: object.starts_with("[kernel") })
}

fn purpose(stack: &[Frame]) -> &'static str {
    let on_stack = |part: &&str| stack.iter().any(|frame| frame.name.contains(*part));
    let found = PURPOSES.iter().find(|(parts, _)| parts.iter().all(on_stack));
    found.map_or("other", |(_, purpose)| purpose)
}

/// How often each comes, the most frequent first.
fn count<T: Into<String>>(names: impl Iterator<Item = T>) -> Vec<(String, usize)> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for name in names {
        *counts.entry(name.into()).or_default() += 1;
    }
    let mut rows: Vec<(String, usize)> = counts.into_iter().collect();
    rows.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    rows
}

#[cfg(test)]
mod tests {
    use super::Profile;

    const SCRIPT: &str = "\
ffffffff8 tcp_ack ([kernel.kallsyms])\n ffffffff7 handle_softirqs ([kernel.kallsyms])\n \
ffffffff6 sock_sendmsg ([kernel.kallsyms])\n 5555 shard::run (/a/tollgate)\n\n\
    5556 tollgate::wire::x<a; b> (/a/tollgate)\n    5555 shard::run (/a/tollgate)\n\n";

    #[test]
    fn samples_are_counted_by_what_they_are_for() {
        let profile = Profile::read(SCRIPT);
        let text = profile.text(10.0);
        assert!(text.starts_with("2 samples; a call costs the shard's thread 10.00 us: kernel 5"));
        assert!(text.contains(" 50.00 %    5.000 us  send: the receiving end: take the ack"));
        assert!(text.contains("100.00 %   10.000 us  shard::run"));
        let mut folded: Vec<String> = profile.folded().lines().map(str::to_owned).collect();
        folded.sort();
        assert_eq!(
            folded,
            [
                "shard::run;sock_sendmsg_[k];handle_softirqs_[k];tcp_ack_[k] 1",
                "shard::run;tollgate::wire::x<a: b> 1"
            ]
        );
    }
}
