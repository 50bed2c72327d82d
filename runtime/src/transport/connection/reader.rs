//! The reading task of a connection.

use super::{Credit, Delivery, Ended, Link, Shared};
use crate::transport::{
    counters::Fault,
    frame::{Frame, FrameError, HEADER_LEN, front},
    limits::piece,
};
use bytes::{Buf, BytesMut};
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadHalf},
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};

/// Room for one read. Memory grows with what comes, and not with what a header promises.
const READ_LEN: usize = 1 << 16;
/// Most room that is kept between frames.
const KEPT_LEN_MAX: usize = 1 << 20;

/// Reads until the connection ends, by whomever.
pub(super) async fn run<S: AsyncRead>(
    mut reader: ReadHalf<S>,
    mut buffer: BytesMut,
    link: Link,
    deliver: mpsc::UnboundedSender<Delivery>,
) {
    let shared = link.0.clone();
    let mut ended = shared.ended.subscribe();
    tokio::select! {
        // If both are so: what came in order before the end of the stream is still taken.
        biased;
        end = read(&mut reader, &mut buffer, &link, &deliver) => shared.end(end),
        _ = ended.wait_for(Option::is_some) => {}
    }
    drop((deliver, link));
    // An end that goes while something comes towards it takes its own last word back from the network.
    let drain = async {
        buffer.clear();
        while let Ok(1..) = reader.read_buf(&mut buffer).await {
            buffer.clear();
        }
    };
    drop(timeout(shared.limits.close_deadline, drain).await);
}

async fn read<S: AsyncRead>(
    reader: &mut ReadHalf<S>,
    buffer: &mut BytesMut,
    link: &Link,
    deliver: &mpsc::UnboundedSender<Delivery>,
) -> Ended {
    let shared = &*link.0;
    let limits = &shared.limits;
    let mut control = Control { since: Instant::now(), frames: 0 };
    // Of whole frames: one that comes a byte at a time is no sign of life.
    let (mut heard_at, mut has_asked) = (Instant::now(), false);
    loop {
        match front(buffer, limits.frame_len_max) {
            Ok(None) => {}
            Ok(Some(len)) => {
                let frame = Frame::decode(&buffer[HEADER_LEN..len]);
                buffer.advance(len);
                (heard_at, has_asked) = (Instant::now(), false);
                let taken = match frame {
                    Ok(frame) if is_unbounded(&frame) && !control.allows(limits.control_frames_max) => {
                        Err(Ended::Fault(
                            Fault::Flood,
                            format!("more than {} control frames in a second", limits.control_frames_max),
                        ))
                    }
                    Ok(frame) => take(frame, len, link, deliver),
                    Err(error) => Err(unreadable(&error)),
                };
                match taken {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                }
            }
            Err(error) => return unreadable(&error),
        }
        if buffer.is_empty() && KEPT_LEN_MAX < buffer.capacity() {
            // The room of one long frame is not kept for ever.
            *buffer = BytesMut::new();
        }
        buffer.reserve(READ_LEN);
        let wait = if has_asked { limits.idle_deadline } else { limits.ping_after };
        match timeout_at(heard_at + wait, reader.read_buf(buffer)).await {
            Ok(Ok(0)) => return Ended::Fault(Fault::Lost, "it went away without a word".into()),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Ended::Fault(Fault::Lost, error.to_string()),
            Err(_) if has_asked => {
                let why = format!("nothing was heard of it for {:?}", limits.idle_deadline);
                return Ended::Fault(Fault::IdleDeadline, why);
            }
            Err(_) => {
                has_asked = true;
                shared.say(Frame::Ping);
            }
        }
    }
}

/// Whether nothing else bounds how often it is said: it is neither data nor given back for data.
fn is_unbounded(frame: &Frame) -> bool {
    frame.is_control() && !matches!(frame, Frame::Credit(_))
}

/// Acts on a frame of `len` bytes, or gives it to the handler.
fn take(
    frame: Frame,
    len: usize,
    link: &Link,
    deliver: &mpsc::UnboundedSender<Delivery>,
) -> Result<(), Ended> {
    let shared = &*link.0;
    let is_packet = match frame {
        Frame::Credit(bytes) => {
            if !shared.outgoing().credit(bytes) {
                let why = format!("{bytes} bytes of credit: more than was taken, or too little to be said");
                return Err(Ended::Fault(Fault::Credit, why));
            }
            shared.to_write.notify_one();
            return Ok(());
        }
        Frame::Ping => {
            shared.say(Frame::Pong);
            return Ok(());
        }
        Frame::Pong => return Ok(()),
        Frame::Close(reason) => return Err(Ended::There(reason)),
        Frame::Membership(_) => true,
        _ => false,
    };
    if !admit(shared, len, is_packet)? {
        shared.counters.drop_packet();
        return Ok(());
    }
    let delivery = Delivery { frame, credit: Credit { link: link.clone(), bytes: len, is_packet } };
    // Without a handler the connection is about to close; the credit goes back, to nobody.
    drop(deliver.send(delivery));
    Ok(())
}

/// Whether there is room for a frame, which is then taken. A packet may find none; data has been given credit for.
fn admit(shared: &Shared, len: usize, is_packet: bool) -> Result<bool, Ended> {
    let limits = &shared.limits;
    let mut intake = shared.intake();
    if is_packet {
        let has_room = intake.packets == 0 || intake.packets + len <= limits.membership_bytes_max;
        if has_room {
            intake.packets += len;
        }
        return Ok(has_room);
    }
    let before = intake.held + intake.due;
    if piece(limits.window) <= before && limits.window < before + len {
        let why = format!("{} bytes were sent where the window is {}", before + len, limits.window);
        return Err(Ended::Fault(Fault::Overrun, why));
    }
    intake.held += len;
    Ok(true)
}

fn unreadable(error: &FrameError) -> Ended {
    let fault = match error {
        FrameError::Format(_) => Fault::Format,
        FrameError::TooLong { .. } => Fault::TooLong,
        FrameError::Checksum => Fault::Checksum,
        FrameError::Unreadable(_) => Fault::Unreadable,
    };
    Ended::Fault(fault, error.to_string())
}

/// Frames outside of credit that came in this second.
struct Control {
    since: Instant,
    frames: u32,
}

impl Control {
    fn allows(&mut self, frames_max: u32) -> bool {
        let now = Instant::now();
        if Duration::from_secs(1) <= now - self.since {
            *self = Self { since: now, frames: 0 };
        }
        self.frames += 1;
        self.frames <= frames_max
    }
}
