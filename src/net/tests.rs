//! The halves of a socket, each in the hands of somebody else.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::{Listener, Peer, Stream, bind, peers, run, spawn};
use std::cell::Cell;
use std::rc::Rc;

/// Both ends of a connection.
async fn connection() -> (Stream, Stream) {
    let listener = bind(([127, 0, 0, 1], 0).into()).unwrap();
    let stream = Stream::connect(listener.local_addr().unwrap()).await.unwrap();
    (stream, Listener::from_std(listener).unwrap().accept().await.unwrap().0)
}

/// What comes next, as a text; empty at the end.
async fn read(peer: &mut Stream) -> String {
    let mut input = Vec::with_capacity(16);
    peer.reader.read(&mut input).await.unwrap();
    String::from_utf8(input).unwrap()
}

#[test]
fn a_reader_and_a_writer_of_one_socket_are_tasks_of_their_own() {
    let heard = run(async {
        let (Stream { mut reader, mut writer }, mut peer) = connection().await;
        let is_read = Rc::new(Cell::new(false));
        let (sees, told) = flume::bounded(1);
        let reads = Rc::clone(&is_read);
        spawn(async move {
            let mut input = Vec::with_capacity(16);
            reader.read(&mut input).await.unwrap();
            reads.set(true);
            sees.send(input).unwrap();
        });
        // The read is under way meanwhile, and is so still when the write has ended.
        writer.write_all(&mut b"ping".to_vec()).await.unwrap();
        assert_eq!(read(&mut peer).await, "ping");
        assert!(!is_read.get());
        peer.writer.write_all(&mut b"pong".to_vec()).await.unwrap();
        let heard = told.recv_async().await.unwrap();
        // The reader is gone, and the socket is open still.
        writer.write_all(&mut b"more".to_vec()).await.unwrap();
        assert_eq!(read(&mut peer).await, "more");
        drop(writer);
        assert_eq!(read(&mut peer).await, "");
        heard
    });
    assert_eq!(heard.unwrap(), b"pong");
}

#[test]
fn a_handle_on_a_closed_socket_does_nothing() {
    let (closed, known) = run(async {
        let ((closed, _other), (open, _another)) = (connection().await, connection().await);
        let handles = [closed.reader.handle(), open.reader.handle()];
        drop(closed);
        // Its descriptor's number may be that of another socket now.
        handles[0].end();
        let known = peers(&handles.each_ref()).unwrap();
        let [closed, _] = handles;
        (closed, known)
    })
    .unwrap();
    assert!(closed.send_now(b"x").is_err() && closed.unacknowledged_bytes().is_err());
    assert_eq!(known, [Peer::Gone, Peer::Open]);
}
