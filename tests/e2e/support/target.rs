//! An instance with one service on a recording upstream, and messages as templates: what is
//! refused must be the last of its connection and never reach the upstream.

use super::http::{Answer, Connection};
use super::instance::{Instance, Setup};
use super::recorder::{Recorded, Recorder};
use crate::shared::Shared;
use std::io::ErrorKind;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Words that stand for what messages have in common; a word may use those after it.
const WORDS: [(&str, &str); 6] = [
    ("<POST>", "POST PATH/case HTTP/1.1\r\nhost: x\r\nx-api-key: KEY\r\n"),
    ("<GET>", "GET PATH/case<REST>"),
    ("<REST>", " HTTP/1.1\r\nhost: x\r\nx-api-key: KEY\r\n\r\n"),
    ("<TE>", "transfer-encoding: chunked\r\n"),
    ("<2>", "content-length: 2\r\n\r\n{}"),
    ("<0>", "0\r\n\r\n"),
];

/// See the module.
pub struct Target {
    shared: Shared,
    /// The upstream.
    pub recorder: Recorder,
    words: Vec<(&'static str, String)>,
}

/// The one target, for one test at a time.
pub fn target() -> MutexGuard<'static, Target> {
    static TARGET: OnceLock<Mutex<Target>> = OnceLock::new();
    let target = TARGET.get_or_init(|| Mutex::new(Target::start()));
    target.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Target {
    fn start() -> Self {
        let shared = Shared::start(Setup::default().shards(1));
        let (instance, recorder) = (&shared.instance, Recorder::start());
        let path = format!("/api/v1/consume/{}", recorder.service(instance, "recorded"));
        let key = instance.key("bench").to_owned();
        let mut words: Vec<_> = WORDS.map(|(word, text)| (word, text.to_owned())).into();
        words.extend([("PATH", path), ("KEY", key), ("MODEL", "recorded".to_owned())]);
        Self { shared, recorder, words }
    }

    /// The instance, of one shard.
    pub fn instance(&self) -> &Instance {
        &self.shared.instance
    }

    /// The template with its words filled in.
    pub fn fill(&self, template: &[u8]) -> Vec<u8> {
        let mut bytes = template.to_vec();
        for (word, text) in &self.words {
            let mut filled = Vec::new();
            while let Some(at) = bytes.windows(word.len()).position(|it| it == word.as_bytes()) {
                filled.extend(bytes.drain(..at));
                filled.extend_from_slice(text.as_bytes());
                bytes.drain(..word.len());
            }
            filled.append(&mut bytes);
            bytes = filled;
        }
        bytes
    }

    /// Every answer to these bytes, up to where the server closes.
    pub fn answers(&self, bytes: &[u8]) -> Vec<Answer> {
        let mut connection = self.instance().open();
        // It may refuse, and close, before all has been sent.
        let _ = connection.send(bytes);
        let _ = connection.end_writes();
        all_answers(&mut connection)
    }

    /// The message is refused with this status, the last on its connection, and not relayed;
    /// nor is the good one behind it. `flood` follows the template as it is.
    pub fn refuses(&self, name: &str, template: &[u8], flood: &[u8], status: u16) {
        let (head, tail) = (self.fill(template), self.fill(b"GET PATH/smuggled<REST>"));
        let answers = self.answers(&[&head, flood, &tail].concat());
        let statuses: Vec<u16> = answers.iter().map(Answer::status).collect();
        assert_eq!(statuses, [status], "{name}");
        assert_eq!(answers[0].head.must("connection"), "close", "{name}");
        assert!(!answers[0].code().is_empty(), "{name}: {}", answers[0].text());
        assert_eq!(self.recorder.take(), [], "{name} went on to the upstream");
    }

    /// The template is relayed as these requests: line below `PATH`, body.
    pub fn relays(&self, name: &str, template: &[u8], expected: &[(&str, &[u8])]) {
        let answers = self.answers(&self.fill(template));
        let statuses: Vec<u16> = answers.iter().map(Answer::status).collect();
        assert_eq!(statuses, vec![200; expected.len()], "{name}: {answers:?}");
        let recorded = self.recorder.take();
        let found: Vec<(&str, &[u8])> = recorded.iter().map(Recorded::line_and_body).collect();
        assert_eq!(found, expected, "{name}");
    }
}

fn all_answers(connection: &mut Connection) -> Vec<Answer> {
    let mut answers = Vec::new();
    loop {
        match connection.answer("GET") {
            Ok(answer) if answer.status() == 100 => {}
            Ok(answer) => answers.push(answer),
            Err(error) if error.kind() == ErrorKind::InvalidData => panic!("{error}"),
            Err(_) => return answers,
        }
    }
}
