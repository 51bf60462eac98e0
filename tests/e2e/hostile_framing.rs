//! Bytes that two readers could read apart, against an upstream that keeps the exact bytes it
//! gets: what is relayed is one well-framed request, what is not is refused and the rest of its
//! connection unread.

use crate::support::bystander::beside;
use crate::support::http::Answer;
use crate::support::target::target;

const CASES_OF_HEADS: &[(&str, &[u8])] = &[
    ("TE before CL in capitals", b"<POST>TRANSFER-ENCODING: CHUNKED\r\nCONTENT-LENGTH: 5\r\n\r\n"),
    ("CL before TE", b"<POST>content-length: 5\r\n<TE>\r\n<0>"),
    ("TE twice", b"<POST><TE><TE>\r\n<0>"),
    ("TE, then another", b"<POST><TE>transfer-encoding: x\r\n\r\n<0>"),
    ("another TE, then it", b"<POST>transfer-encoding: x\r\n<TE>\r\n<0>"),
    ("TE identity", b"<POST>transfer-encoding: identity\r\n<2>"),
    ("TE list", b"<POST>transfer-encoding: identity, chunked\r\n\r\n<0>"),
    ("TE list with an empty item", b"<POST>transfer-encoding: chunked,\r\n\r\n<0>"),
    ("TE with a parameter", b"<POST>transfer-encoding: chunked;q=1\r\n\r\n<0>"),
    ("TE in quotes", b"<POST>transfer-encoding: \"chunked\"\r\n\r\n<0>"),
    ("TE with a vertical tab", b"<POST>transfer-encoding: \x0bchunked\r\n\r\n<0>"),
    ("TE with a form feed", b"<POST>transfer-encoding: chunked\x0c\r\n\r\n<0>"),
    ("TE with a NUL", b"<POST>transfer-encoding: chunked\0\r\n\r\n<0>"),
    ("TE empty", b"<POST>transfer-encoding:\r\n\r\n<0>"),
    ("TE folded", b"<POST>transfer-encoding:\r\n chunked\r\n\r\n<0>"),
    ("TE with a space before the colon", b"<POST>transfer-encoding : chunked\r\n\r\n<0>"),
    ("TE with a tab before the colon", b"<POST>transfer-encoding\t: chunked\r\n\r\n<0>"),
    ("TE after a space", b"<POST> <TE>\r\n<0>"),
    ("TE in HTTP/1.0", b"POST PATH HTTP/1.0\r\nx-api-key: KEY\r\n<TE>\r\n<0>"),
    ("CL twice, the same", b"<POST>content-length: 2\r\n<2>"),
    ("CL twice, different", b"<POST>content-length: 2\r\nContent-Length: 0\r\n\r\n{}"),
    ("CL list", b"<POST>content-length: 2, 2\r\n\r\n{}"),
    ("CL with a plus", b"<POST>content-length: +2\r\n\r\n{}"),
    ("CL with a minus", b"<POST>content-length: -0\r\n\r\n{}"),
    ("CL hexadecimal", b"<POST>content-length: 0x2\r\n\r\n{}"),
    ("CL with an exponent", b"<POST>content-length: 2e0\r\n\r\n{}"),
    ("CL with a point", b"<POST>content-length: 2.0\r\n\r\n{}"),
    ("CL with a space inside", b"<POST>content-length: 2 0\r\n\r\n{}"),
    ("CL with an underscore", b"<POST>content-length: 0_2\r\n\r\n{}"),
    ("CL in quotes", b"<POST>content-length: \"2\"\r\n\r\n{}"),
    ("CL in wide digits", b"<POST>content-length: \xef\xbc\x92\r\n\r\n{}"),
    ("CL with a vertical tab", b"<POST>content-length: \x0b2\r\n\r\n{}"),
    ("CL empty", b"<POST>content-length:\r\n\r\n{}"),
    ("CL that wraps around", b"<POST>content-length: 18446744073709551618\r\n\r\n{}"),
    ("CL folded", b"<POST>content-length:\r\n\t2\r\n\r\n{}"),
    ("a folded field", b"<POST>x: a\r\n <2>"),
    ("a bare CR in a value", b"<POST>x: a\r<2>"),
    ("a bare CR before CRLF", b"<POST>x: a\r\r\n<2>"),
    ("a bare LF after a field", b"<POST>x: a\n<2>"),
    ("a bare LF at the end", b"<POST>x: a\r\n\n"),
    ("LF CR", b"<POST>x: a\n\r\r\n\r\n"),
    ("a NUL in a value", b"<POST>x: a\0b\r\n\r\n"),
    ("a NUL in a name", b"<POST>x\0y: a\r\n\r\n"),
    ("a DEL in a value", b"<POST>x: \x7f\r\n\r\n"),
    ("an escape in a value", b"<POST>x: \x1b[2J\r\n\r\n"),
    ("a name in UTF-8", "<POST>é: a\r\n\r\n".as_bytes()),
    ("a name of obs-text", b"<POST>x\x80: a\r\n\r\n"),
    ("a space in a name", b"<POST>x y: a\r\n\r\n"),
    ("no name", b"<POST>: a\r\n\r\n"),
    ("no colon", b"<POST>content-length 2\r\n\r\n{}"),
    ("no Host", b"GET PATH HTTP/1.1\r\nx-api-key: KEY\r\n\r\n"),
    ("Host twice, the same", b"<POST>Host: x\r\n\r\n"),
    ("a Host of two", b"GET PATH HTTP/1.1\r\nhost: x, y\r\nx-api-key: KEY\r\n\r\n"),
    ("a Host with a user", b"GET PATH HTTP/1.1\r\nhost: u@x\r\nx-api-key: KEY\r\n\r\n"),
    ("a Host with a path", b"GET PATH HTTP/1.1\r\nhost: x/y\r\nx-api-key: KEY\r\n\r\n"),
    ("two keys", b"<POST>x-api-key: KEY\r\n\r\n"),
    ("two Authorizations", b"<POST>authorization: Bearer KEY\r\nauthorization: Bearer x\r\n\r\n"),
    ("an unknown Expect", b"<POST>expect: 103-early\r\n\r\n"),
    ("an Expect of two", b"<POST>expect: 100-continue, 100-continue\r\n\r\n"),
    ("an asterisk", b"OPTIONS *<REST>"),
    ("an authority", b"CONNECT x:443 HTTP/1.1\r\nhost: x:443\r\nx-api-key: KEY\r\n\r\n"),
    ("an https address", b"GET https://xPATH<REST>"),
    ("an address of no host", b"GET http://PATH<REST>"),
    ("a relative target", b"GET api/v1<REST>"),
    ("a fragment", b"GET PATH#a<REST>"),
    ("a target in UTF-8", "GET PATH/é<REST>".as_bytes()),
    ("a space in the target", b"GET PATH/a b<REST>"),
    ("a tab in the target", b"GET PATH/a\tb<REST>"),
    ("a NUL in the target", b"GET PATH/\0<REST>"),
    ("two spaces", b"GET  PATH<REST>"),
    ("tabs for spaces", b"GET\tPATH\tHTTP/1.1\r\nhost: x\r\nx-api-key: KEY\r\n\r\n"),
    ("a space behind the version", b"GET PATH HTTP/1.1 \r\nhost: x\r\nx-api-key: KEY\r\n\r\n"),
    ("a version in small letters", b"GET PATH http/1.1\r\nhost: x\r\nx-api-key: KEY\r\n\r\n"),
    ("a version of two digits", b"GET PATH HTTP/1.10\r\nhost: x\r\nx-api-key: KEY\r\n\r\n"),
    ("HTTP/0.9", b"GET PATH\r\n\r\n"),
    ("HTTP/2 in the clear", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    ("SOCKS", b"\x05\x01\x00\x03\x0bexample.com\x00\x50"),
    ("zeros", &[0; 512]),
    ("high bytes", &[0xff; 512]),
    ("empty lines", b"\r\n\r\n\r\n\r\n"),
    ("a method of 40 letters", b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA PATH<REST>"),
    (
        "Connection of many",
        b"<POST>connection: a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,\
        a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a\r\n\r\n",
    ),
];

const CASES_OF_CHUNKS: &[(&str, &[u8])] = &[
    ("no size", b"\r\n{}\r\n<0>"),
    ("a size of no digits", b";a=b\r\n{}\r\n<0>"),
    ("a size with a sign", b"+2\r\n{}\r\n<0>"),
    ("a negative size", b"-2\r\n{}\r\n<0>"),
    ("a size with a prefix", b"0x2\r\n{}\r\n<0>"),
    ("a space before the size", b" 2\r\n{}\r\n<0>"),
    ("a space behind the size", b"2 \r\n{}\r\n<0>"),
    ("an underscore in the size", b"0_2\r\n{}\r\n<0>"),
    ("a size that wraps around", b"10000000000000002\r\n{}\r\n<0>"),
    ("a size of 17 digits", b"00000000000000002\r\n{}\r\n<0>"),
    ("a bare LF behind the size", b"2\n{}\r\n<0>"),
    ("a bare CR behind the size", b"2\r{}\r\n<0>"),
    ("data past its size", b"2\r\n{}x\r\n<0>"),
    ("data without its end", b"2\r\n{}<0>"),
    ("a bare LF behind the data", b"2\r\n{}\n<0>"),
    ("an extension with a bare LF", b"2;a\n{}\r\n<0>"),
    ("an extension with a bare CR", b"2;a\rb\r\n{}\r\n<0>"),
    ("an extension with a NUL", b"2;\0\r\n{}\r\n<0>"),
    ("a trailer with a bare LF", b"2\r\n{}\r\n0\r\na: b\n\r\n"),
    ("a trailer with a NUL", b"2\r\n{}\r\n0\r\na: \0\r\n\r\n"),
    ("an end with a bare LF", b"2\r\n{}\r\n0\r\n\n"),
    ("a Content-Length body", b"{\"messages\":[]}"),
];

#[test]
fn ambiguous_messages_are_refused_and_the_rest_unread() {
    let target = target();
    beside(target.instance(), "ambiguous messages", |turn| {
        for (name, bytes) in turn.part(CASES_OF_HEADS) {
            target.refuses(name, bytes, b"", 400);
        }
        for (name, chunks) in turn.part(CASES_OF_CHUNKS) {
            let head = &b"<POST>transfer-encoding: chunked\r\n\r\n"[..];
            target.refuses(name, &[head, chunks].concat(), b"", 400);
        }
    });
    target.instance().balance_books();
}

/// Each is one POST of `{}`.
const ONE_CALL: &[(&str, &[u8])] = &[
    ("a length with zeros", b"<POST>content-length: 0000000000000000000000000002\r\n\r\n{}"),
    ("a length in blanks", b"<POST>content-length: \t2\t \r\n\r\n{}"),
    ("chunked in blanks", b"<POST>Transfer-Encoding:\tChUnKeD\t\r\n\r\n2\r\n{}\r\n<0>"),
    ("chunks of all kinds", b"<POST><TE>\r\n0000000000000001;a=\"b\"\r\n{\r\n1\r\n}\r\n00<0>"),
    (
        "trailers that lie",
        b"<POST><TE>trailer: host\r\n\r\n2\r\n{}\r\n0\r\ncontent-length: 9\r\n<TE>\
          authorization: Bearer KEY\r\nhost: y\r\n\r\n",
    ),
    ("an address", b"POST http://y:1PATH/case HTTP/1.1\r\nhost: x\r\nx-api-key: KEY\r\n<2>"),
    ("an address in HTTP/1.0", b"POST http://yPATH/case HTTP/1.0\r\nx-api-key: KEY\r\n<2>"),
    ("empty lines before", b"\r\n\r\n<POST><2>"),
    ("a body sent with its Expect", b"<POST>expect: 100-continue\r\n<2>"),
    (
        "a Connection that names all",
        b"<POST>connection: content-length, host, x-request-id, accept-encoding, x-api-key\r\n<2>",
    ),
    (
        "a Connection that upgrades",
        b"<POST>connection: upgrade, http2-settings\r\nupgrade: h2c\r\n\
          http2-settings: AAMAAABkAAQAAP__\r\n<2>",
    ),
    (
        "fields of one hop",
        b"<POST>te: trailers\r\nkeep-alive: x\r\nproxy-connection: x\r\ntrailer: x\r\n\
          proxy-authorization: Basic x\r\n<2>",
    ),
    ("obs-text and nothing", b"<POST>x: \x80\xff\r\ny:\r\n<2>"),
    ("keys both ways", b"<POST>authorization: Bearer KEY\r\n<2>"),
];

#[test]
fn what_is_relayed_is_well_framed() {
    let target = target();
    let (post, empty) = ("POST /case", &b""[..]);
    for (name, template) in ONE_CALL {
        target.relays(name, template, &[(post, b"{}")]);
    }
    target.relays("no body", b"<POST>\r\n", &[(post, empty)]);
    target.relays("an empty body", b"<POST>content-length: <0>", &[(post, empty)]);
    target.relays("no chunk", b"<POST><TE>\r\n<0>", &[(post, empty)]);
    target.relays("an Expect alone", b"<POST>expect: 100-continue\r\n\r\n", &[(post, empty)]);
    let get = b"GET PATH/case?a HTTP/1.1\r\nhost: x\r\nx-api-key: KEY\r\n<2>";
    target.relays("a GET with a body", get, &[("GET /case?a", b"{}")]);
    let pipeline = b"<POST><2><GET><POST><TE>\r\n2\r\n{}\r\n<0>\r\n<POST>\r\n";
    let calls: [(&str, &[u8]); 4] =
        [(post, b"{}"), ("GET /case", empty), (post, b"{}"), (post, empty)];
    target.relays("a pipeline", pipeline, &calls);
    let inner: &[u8] = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
    let length = format!("<POST>content-length: {}\r\n\r\n", inner.len());
    let outer = [length.as_bytes(), inner].concat();
    target.relays("a request in a body", &outer, &[(post, inner)]);
    target.instance().balance_books();
}

#[test]
fn a_bad_message_ends_a_pipeline_behind_the_good_ones() {
    let target = target();
    let pipeline = b"<POST><2><POST><2><POST><TE><2><GET>";
    let answers = target.answers(&target.fill(pipeline));
    assert_eq!(answers.iter().map(Answer::status).collect::<Vec<_>>(), [200, 200, 400]);
    assert_eq!(target.recorder.take().len(), 2);
    target.instance().balance_books();
}
