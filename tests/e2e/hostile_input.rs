//! Floods at the bounds, messages mangled at random, and JSON that is hard to read.

use crate::support::bystander::beside;
use crate::support::held;
use crate::support::http::Request;
use crate::support::target::target;

/// What it is, how a message begins, what follows and how often, and the status that it gets.
const FLOODS: &[(&str, &str, &str, usize, u16)] = &[
    ("many fields", "<POST>", "a: b\r\n", 101, 431),
    ("very many fields", "<POST>", "a:\r\n", 100_000, 431),
    ("a long name", "<POST>", "a", 40_000, 431),
    ("an endless name", "<POST>", "a", 4_000_000, 431),
    ("an endless value", "<POST>a: ", "b", 4_000_000, 431),
    ("many cookies", "<POST>", "cookie: a=b\r\n", 4_000, 431),
    ("an endless target", "GET /", "a", 4_000_000, 414),
    ("an endless method", "", "A", 1_000_000, 400),
    ("endless empty lines", "", "\r\n", 1_000_000, 400),
    ("an endless size", "<POST><TE>\r\n", "0", 1_000_000, 400),
    ("an endless extension", "<POST><TE>\r\n", "1;aaaa", 1_000_000, 400),
    ("many extensions", "<POST><TE>\r\n", "1;aaaaaaaaaa\r\nx\r\n", 9_000, 400),
    ("endless trailers", "<POST><TE>\r\n0\r\n", "a: b\r\n", 9_000, 431),
    ("a length past the bound", "<POST>content-length: 16777217\r\n\r\n", "", 0, 413),
    (
        "a length past all bounds",
        "<POST>content-length: 18446744073709551615\r\n\r\n",
        "x",
        1_000_000,
        413,
    ),
    ("a chunk past the bound", "<POST><TE>\r\nfffffffffffffff\r\n", "x", 17_000_000, 413),
    ("chunks past the bound", "<POST><TE>\r\n", "4\r\nxxxx\r\n", 4_200_000, 413),
];

#[test]
fn floods_are_refused_at_their_bounds() {
    const PEAK_KIB: u64 = 128 * 1024;
    let target = target();
    beside(target.instance(), "oversized parts", |turn| {
        for (name, template, piece, times, status) in turn.part(FLOODS) {
            let flood = piece.repeat(*times);
            target.refuses(name, template.as_bytes(), flood.as_bytes(), *status);
        }
    });
    let peak_kib = held::peak_kib(target.instance());
    assert!(peak_kib < PEAK_KIB, "{peak_kib} KiB");
    target.instance().balance_books();
}

/// A small generator of numbers, the same from the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// What mutations put into a message.
const PIECES: [&[u8]; 24] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"0",
    b"5",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b";",
    b",",
    b"content-length: 3\r\n",
    b"transfer-encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"expect: 100-continue\r\n",
    b"HTTP/1.0",
    b"GET ",
    b"\x80",
    b"host: y\r\n",
    b"\r\n ",
    b"{",
    b"x",
];

fn mutated(message: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = message.to_vec();
    for _ in 0..1 + dice.below(3) {
        let at = dice.below(bytes.len());
        match dice.below(4) {
            0 => drop(bytes.drain(at..(at + 1 + dice.below(8)).min(bytes.len()))),
            1 => bytes[at] = dice.below(256) as u8,
            _ => drop(bytes.splice(at..at, PIECES[dice.below(PIECES.len())].iter().copied())),
        }
    }
    bytes
}

#[test]
fn however_a_message_is_mangled_the_upstream_gets_whole_ones() {
    const SEEDS: u64 = 400;
    let target = target();
    let seeds: [&[u8]; 3] = [
        b"<POST>content-type: text/plain\r\ncontent-length: 5\r\n\r\nhello",
        b"<POST>content-type: text/plain\r\n<TE>\r\n5\r\nhello\r\n<0>",
        b"GET PATH/case?a=b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer KEY\r\n\r\n",
    ];
    let (mut relayed, mut refused) = (0, 0);
    for seed in 0..SEEDS {
        let mut dice = Dice(seed);
        let first = mutated(&target.fill(seeds[seed as usize % 3]), &mut dice);
        let second = target.fill(seeds[dice.below(3)]);
        let answers = target.answers(&[first, second].concat());
        let made = target.recorder.take();
        let done = answers.iter().filter(|answer| answer.status() == 200).count();
        // The model's error answers are not ours: each of these was relayed, the rest was not.
        assert_eq!(made.len(), done, "seed {seed}: {made:?} {answers:?}");
        assert!(done <= 2, "seed {seed}: {made:?}");
        assert!(
            answers.iter().all(|it| [200, 400, 401, 404, 408, 414, 431].contains(&it.status())),
            "seed {seed}: {answers:?}"
        );
        relayed += done;
        refused += answers.len() - done;
    }
    assert!(relayed > 100 && refused > 100, "{relayed} relayed, {refused} refused");
    target.instance().balance_books();
}

#[test]
fn json_that_is_hard_to_read_is_refused_by_name() {
    let target = target();
    let mut connection = target.instance().open();
    let nested =
        |open: &str, times: usize| format!("{{\"model\":\"MODEL\",\"x\":{}", open.repeat(times));
    for (name, body) in [
        ("arrays, deep", nested("[", 100_000).into_bytes()),
        ("objects, deep", nested("{\"a\":", 100_000).into_bytes()),
        ("deep and closed", (nested("[", 80) + &"]".repeat(80) + "}").into_bytes()),
        ("deep at the root", "[".repeat(1_000_000).into_bytes()),
        ("bad UTF-8", b"{\"model\":\"MODEL\",\"x\":\"\xff\xfe\"}".to_vec()),
        ("overlong UTF-8", b"{\"model\":\"MODEL\",\"x\":\"\xc0\xaf\"}".to_vec()),
        ("a surrogate in UTF-8", b"{\"model\":\"MODEL\",\"x\":\"\xed\xa0\x80\"}".to_vec()),
        ("UTF-16", b"\xff\xfe{\0}\0".to_vec()),
        ("a byte order mark", "\u{feff}{\"model\":\"MODEL\"}".into()),
        ("a NUL in a string", b"{\"model\":\"MODEL\",\"x\":\"\0\"}".to_vec()),
        ("a line's end in a string", b"{\"model\":\"MODEL\",\"x\":\"\n\"}".to_vec()),
        ("a short escape", b"{\"model\":\"MODEL\",\"x\":\"\\u12\"}".to_vec()),
        ("an unknown escape", b"{\"model\":\"MODEL\",\"x\":\"\\x41\"}".to_vec()),
        ("single quotes", b"{'model':'MODEL'}".to_vec()),
        ("a comment", b"{\"model\":\"MODEL\"/**/}".to_vec()),
        ("a comma too many", b"{\"model\":\"MODEL\",}".to_vec()),
        ("a leading zero", b"{\"model\":\"MODEL\",\"max_tokens\":01}".to_vec()),
        ("a plus", b"{\"model\":\"MODEL\",\"max_tokens\":+1}".to_vec()),
        ("not a number", b"{\"model\":\"MODEL\",\"max_tokens\":NaN}".to_vec()),
        ("an exponent", b"{\"model\":\"MODEL\",\"max_tokens\":1e400}".to_vec()),
        ("past 64 bits", b"{\"model\":\"MODEL\",\"max_tokens\":99999999999999999999}".to_vec()),
        (
            "a name in escapes",
            b"{\"model\":\"MODEL\",\"str\\u0065am\":true,\"stream\":false}".to_vec(),
        ),
        ("a text behind it", b"{\"model\":\"MODEL\"}\0".to_vec()),
        ("binary", (0..=255).collect()),
        ("a form", b"model=MODEL&stream=true".to_vec()),
    ] {
        let body = target.fill(&body);
        let length = format!("content-length: {}\r\n\r\n", body.len());
        let head =
            target.fill(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-api-key: KEY\r\n");
        connection.send(&[head, length.into_bytes(), body].concat()).unwrap();
        let answer = connection.answer("POST").unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(answer.status(), 400, "{name}: {}", answer.text());
        assert_eq!(answer.code(), "invalid_request", "{name}");
        // The message was whole, so the connection lives on.
        connection.call(&Request::get("/healthz")).unwrap().expect(200);
    }
    assert_eq!(target.recorder.take(), []);
    target.instance().balance_books();
}
