use super::*;
use crate::transport::frame::{HEADER_LEN, front, seal};
use bytes::Bytes;
use std::{io::Write as _, time::Duration};
use tokio::io::{AsyncReadExt, DuplexStream, duplex};

fn limits() -> TransportLimits {
    TransportLimits {
        window: 1_000,
        outgoing_bytes_max: 2_000,
        membership_bytes_max: 100,
        control_frames_max: 50,
        ..TransportLimits::default()
    }
    .sound()
}

fn agreed(limits: &TransportLimits) -> Agreed {
    let other = Hello {
        protocols: crate::transport::handshake::Protocols::own(),
        cluster: None,
        node: None,
        kinds: Vec::new(),
        frame_len_max: limits.frame_len_max as u64,
        window: limits.window as u64,
        nonce: 1,
    };
    Agreed { other, protocol: 1 }
}

/// A connection, and the bare other end.
fn one() -> (Connection, DuplexStream, Arc<TransportCounters>) {
    one_with(1 << 16)
}

fn one_with(room: usize) -> (Connection, DuplexStream, Arc<TransportCounters>) {
    let (left, right) = duplex(room);
    let limits = limits();
    let counters = Arc::new(TransportCounters::new(&limits));
    let agreed = agreed(&limits);
    let connection = start(left, BytesMut::new(), agreed, "there:1".into(), limits, counters.clone(), ());
    (connection, right, counters)
}

fn bytes(frame: &Frame) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame.encode(&mut out, 1 << 24).unwrap();
    out.to_vec()
}

fn data(len: usize) -> Frame {
    Frame::HandOff(vec![7; len].into())
}

/// The next frame the bare end hears.
async fn hear(stream: &mut DuplexStream, buffer: &mut BytesMut) -> Option<Frame> {
    loop {
        if let Some(len) = front(buffer, 1 << 24).unwrap() {
            let frame = Frame::decode(&buffer[HEADER_LEN..len]).unwrap();
            buffer.advance(len);
            return Some(frame);
        }
        if stream.read_buf(buffer).await.unwrap() == 0 {
            return None;
        }
    }
}

/// What an end that speaks these bytes is told, and what is counted.
async fn speak(said: &[u8], fault: Fault) {
    let (mut connection, mut stream, counters) = one();
    stream.write_all(said).await.unwrap();
    let mut buffer = BytesMut::new();
    let word = loop {
        match hear(&mut stream, &mut buffer).await {
            Some(Frame::Close(word)) => break word,
            Some(_) => {}
            None => panic!("{fault}: it ended without a word"),
        }
    };
    assert!(matches!(word, CloseReason::Violation(_)), "{fault}: {word}");
    assert!(matches!(connection.link.closed().await, Ended::Fault(of, _) if of == fault));
    assert_eq!((counters.faults(fault), counters.logged()), (1, 1));
    assert!(matches!(connection.link.send(data(1)), Err(SendError::Ended(_))));
    while let Some(delivery) = connection.incoming.recv().await {
        assert!(matches!(delivery.frame, Frame::HandOff(_)), "{fault}: {:?}", delivery.frame);
    }
}

#[tokio::test]
async fn an_end_that_breaks_the_rules_costs_its_connection_and_a_line() {
    let mut other_format = bytes(&Frame::Ping);
    other_format[0] = b'G';
    let mut long = bytes(&Frame::Ping);
    long[1..5].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut changed = bytes(&data(9));
    *changed.last_mut().unwrap() ^= 1;
    let sealed = |body: &[u8]| {
        let mut out = BytesMut::new();
        seal(&mut out, 1 << 24, |mut writer| writer.write_all(body).unwrap()).unwrap();
        out.to_vec()
    };
    let deep = sealed(&[vec![0x91; 10_000], vec![0xc0]].concat());
    let unknown = sealed(&[b"\xdb\0\0\xff\xff".to_vec(), vec![b'x'; 0xffff]].concat());
    speak(&other_format, Fault::Format).await;
    speak(&long, Fault::TooLong).await;
    speak(&changed, Fault::Checksum).await;
    speak(&deep, Fault::Unreadable).await;
    speak(&unknown, Fault::Unreadable).await;
    speak(&[bytes(&data(600)), bytes(&data(600))].concat(), Fault::Overrun).await;
    speak(&bytes(&Frame::Credit(1)), Fault::Credit).await;
    speak(&bytes(&Frame::Credit(u64::MAX)), Fault::Credit).await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_outside_of_credit_costs_its_connection() {
    speak(&bytes(&Frame::Ping).repeat(51), Fault::Flood).await;
}

#[tokio::test(start_paused = true)]
async fn a_word_now_and_then_is_no_flood() {
    let (connection, mut stream, _) = one();
    let mut buffer = BytesMut::new();
    for _ in 0..200 {
        stream.write_all(&bytes(&Frame::Ping)).await.unwrap();
        assert_eq!(hear(&mut stream, &mut buffer).await, Some(Frame::Pong));
        tokio::time::advance(Duration::from_millis(25)).await;
    }
    assert_eq!(connection.link.ended(), None);
}

#[tokio::test]
async fn a_slow_handler_holds_back_data_and_no_sign_of_life() {
    let (mut connection, mut stream, counters) = one();
    let mut buffer = BytesMut::new();
    stream.write_all(&bytes(&data(900))).await.unwrap();
    let held = connection.incoming.recv().await.unwrap();
    stream.write_all(&bytes(&Frame::Ping)).await.unwrap();
    assert_eq!(hear(&mut stream, &mut buffer).await, Some(Frame::Pong));
    // Packets find room for one hundred bytes, and are dropped beyond.
    for _ in 0..5 {
        stream.write_all(&bytes(&Frame::Membership(Bytes::from_static(&[1; 20])))).await.unwrap();
    }
    stream.write_all(&bytes(&Frame::Ping)).await.unwrap();
    assert_eq!(hear(&mut stream, &mut buffer).await, Some(Frame::Pong));
    assert_eq!(counters.dropped(), 3);
    let len = held.credit.bytes();
    drop(held);
    assert_eq!(hear(&mut stream, &mut buffer).await, Some(Frame::Credit(len as u64)));
    // The packets were none of it, and their room comes back too.
    for _ in 0..2 {
        assert!(matches!(connection.incoming.recv().await.unwrap().frame, Frame::Membership(_)));
    }
    stream.write_all(&bytes(&Frame::Membership(Bytes::from_static(&[1; 90])))).await.unwrap();
    assert!(matches!(connection.incoming.recv().await.unwrap().frame, Frame::Membership(_)));
}

#[tokio::test]
async fn credit_is_given_back_in_large_pieces() {
    let (mut connection, mut stream, _) = one();
    let mut buffer = BytesMut::new();
    let len = bytes(&data(20)).len();
    for _ in 0..10 {
        stream.write_all(&bytes(&data(20))).await.unwrap();
        drop(connection.incoming.recv().await.unwrap());
    }
    // 1,000 / 8 bytes are 4 frames.
    for _ in 0..2 {
        assert_eq!(hear(&mut stream, &mut buffer).await, Some(Frame::Credit(4 * len as u64)));
    }
    // What is left over is no reason to wait for anyone.
    stream.write_all(&bytes(&data(5_000))).await.unwrap();
    let credit = connection.incoming.recv().await.unwrap().credit.bytes();
    assert_eq!(hear(&mut stream, &mut buffer).await, Some(Frame::Credit((2 * len + credit) as u64)));
}

#[tokio::test]
async fn two_ends_never_wait_for_each_other_for_ever() {
    // Frames from nothing to five windows, consumed at once, in any order of sizes.
    let (left, right) = duplex(1 << 16);
    let limits = limits();
    let counters = Arc::new(TransportCounters::new(&limits));
    let [near, mut far] = [left, right].map(|stream| {
        let address = "there:1".to_owned();
        start(stream, BytesMut::new(), agreed(&limits), address, limits.clone(), counters.clone(), ())
    });
    let sizes = || (0..2_000_usize).map(|number| number * 7_919 % 701 * (number * 31 % 8));
    let sending = async {
        for size in sizes() {
            let mut frame = data(size);
            while let Err(SendError::Full(back)) = near.link.send(frame) {
                near.link.ready().await;
                frame = back;
            }
        }
    };
    let hearing = async {
        for size in sizes() {
            assert_eq!(far.incoming.recv().await.unwrap().frame, data(size));
        }
    };
    tokio::join!(sending, hearing);
    assert_eq!(counters.logged(), 0);
}

#[tokio::test]
async fn what_came_before_the_end_is_given_out() {
    let (mut connection, mut stream, _) = one();
    stream.write_all(&bytes(&data(5))).await.unwrap();
    stream.write_all(&bytes(&Frame::Close(CloseReason::Replaced))).await.unwrap();
    assert_eq!(connection.link.closed().await, Ended::There(CloseReason::Replaced));
    assert_eq!(connection.incoming.recv().await.unwrap().frame, data(5));
    assert!(connection.incoming.recv().await.is_none());
}

#[tokio::test]
async fn a_handler_that_goes_closes_the_connection() {
    let (connection, mut stream, _) = one();
    drop(connection.incoming);
    let word = hear(&mut stream, &mut BytesMut::new()).await;
    assert_eq!(word, Some(Frame::Close(CloseReason::Stopping)));
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_silent_is_asked_and_then_given_up() {
    let (connection, mut stream, counters) = one();
    let mut buffer = BytesMut::new();
    let limits = limits();
    let began = tokio::time::Instant::now();
    assert_eq!(hear(&mut stream, &mut buffer).await, Some(Frame::Ping));
    assert!(limits.ping_after <= began.elapsed());
    // An answer counts, and so does half a frame not.
    stream.write_all(&bytes(&Frame::Pong)).await.unwrap();
    stream.write_all(&bytes(&data(50))[..40]).await.unwrap();
    let heard_at = tokio::time::Instant::now();
    assert_eq!(hear(&mut stream, &mut buffer).await, Some(Frame::Ping));
    assert!(matches!(connection.link.closed().await, Ended::Fault(Fault::IdleDeadline, _)));
    assert!(limits.idle_deadline <= heard_at.elapsed());
    assert_eq!(counters.faults(Fault::IdleDeadline), 1);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_does_not_read_is_given_up() {
    let (connection, mut stream, counters) = one_with(64);
    connection.link.send(data(500)).unwrap();
    // It says that it is there for as long as it likes: what it must do is read.
    let signs = async {
        loop {
            stream.write_all(&bytes(&Frame::Pong)).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let ended = tokio::select! {
        ended = connection.link.closed() => ended,
        () = signs => unreachable!("it goes on for ever"),
    };
    assert!(matches!(ended, Ended::Fault(Fault::WriteDeadline, _)), "{ended}");
    assert_eq!(counters.faults(Fault::WriteDeadline), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stuck_connection_lets_go_of_what_is_kept_for_it() {
    let (left, right) = duplex(64);
    let limits = limits();
    let counters = Arc::new(TransportCounters::new(&limits));
    let (kept, gone) = tokio::sync::oneshot::channel::<()>();
    let connection = start(left, BytesMut::new(), agreed(&limits), "there:1".into(), limits, counters, kept);
    connection.link.send(data(500)).unwrap();
    drop(connection);
    assert!(gone.await.is_err(), "dropped, though the other end neither reads nor goes");
    drop(right);
}

#[tokio::test]
async fn an_end_that_vanishes_is_noticed() {
    let (mut connection, stream, counters) = one();
    drop(stream);
    assert!(connection.incoming.recv().await.is_none());
    assert!(matches!(connection.link.closed().await, Ended::Fault(Fault::Lost, _)));
    assert_eq!(counters.faults(Fault::Lost), 1);
}

#[tokio::test]
async fn a_full_queue_gives_the_frame_back_and_tells_when_there_is_room() {
    let (connection, mut stream, _) = one_with(64);
    let mut buffer = BytesMut::new();
    let mut sent = 0;
    // The window lets one of them go; the others wait.
    while connection.link.send(data(900)).is_ok() {
        sent += 1;
        tokio::task::yield_now().await;
    }
    assert_eq!(connection.link.send(data(900)), Err(SendError::Full(data(900))));
    let link = connection.link.clone();
    let ready = tokio::spawn(async move { link.ready().await });
    for _ in 0..sent {
        let frame = loop {
            match hear(&mut stream, &mut buffer).await.unwrap() {
                Frame::Ping => {}
                frame => break frame,
            }
        };
        assert_eq!(frame, data(900));
        stream.write_all(&bytes(&Frame::Credit(bytes(&frame).len() as u64))).await.unwrap();
    }
    ready.await.unwrap();
    connection.link.send(data(900)).unwrap();
}

#[tokio::test]
async fn nobody_waits_for_room_on_a_connection_that_has_ended() {
    let (connection, stream, _) = one_with(64);
    while connection.link.send(data(900)).is_ok() {}
    let link = connection.link.clone();
    let ready = tokio::spawn(async move { link.ready().await });
    drop(stream);
    ready.await.unwrap();
    assert!(matches!(connection.link.send(data(1)), Err(SendError::Ended(_))));
}
