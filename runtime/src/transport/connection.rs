//! One connection: two tasks around any stream of bytes, a bounded queue out, and credit both ways.
//!
//! ```text
//!   send ──► Outgoing ──► writer ═══════► reader ──► recv ──► handler
//!              ▲  what the window allows     │  no more than    │
//!              │                             ▼  the window      ▼
//!              └──────── reader ◄═══════ writer ◄──── credit, when it is consumed
//! ```
//!
//! The reader never waits for the handler: what it has read lies in a queue that the window bounds, so a slow handler holds
//! back the other end's data and neither credit nor the signs of life. Whatever is wrong ends this connection, is counted,
//! and leaves one line in the log.

use super::{
    counters::{Fault, TransportCounters},
    frame::{CloseReason, Frame},
    handshake::{Agreed, Hello},
    limits::{TransportLimits, piece},
    outgoing::Outgoing,
};
use bytes::{Buf, BytesMut};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, WriteHalf},
    sync::{Notify, mpsc, watch},
    time::{sleep, timeout},
};

mod reader;

pub use super::outgoing::SendError;

/// A connection on which both ends have agreed.
#[derive(Debug)]
pub struct Connection {
    /// What the other end said of itself.
    pub other: Hello,
    /// The protocol both speak.
    pub protocol: u16,
    /// To send.
    pub link: Link,
    /// To receive.
    pub incoming: Incoming,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// This end closed it.
    Here(CloseReason),
    /// The other end closed it.
    There(CloseReason),
    /// Something was wrong.
    Fault(Fault, String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(reason) => write!(f, "closed here: {reason}"),
            Self::There(reason) => write!(f, "closed by the other end: {reason}"),
            Self::Fault(fault, why) => write!(f, "{fault}: {why}"),
        }
    }
}

/// Sends on a connection. The clones are one; dropping them ends nothing, see [`Link::close`].
#[derive(Clone)]
pub struct Link(Arc<Shared>);

impl Link {
    /// Queues a frame. It leaves with everything else that waits, in order, when the other end has room for it.
    ///
    /// # Errors
    /// The frame was not taken, and nothing of it will be sent. A frame that was taken may still be lost with the
    /// connection.
    ///
    /// # Panics
    /// The frame is one the connection says by itself: credit, ping, pong, close.
    pub fn send(&self, frame: Frame) -> Result<(), SendError> {
        let is_own = frame.is_control() && !matches!(frame, Frame::Membership(_));
        assert!(!is_own, "{frame:?} is said by the connection itself");
        let mut outgoing = self.0.outgoing();
        outgoing.push(frame)?;
        drop(outgoing);
        self.0.to_write.notify_one();
        Ok(())
    }

    /// Waits until half of the queue is free, or the connection has ended.
    pub async fn ready(&self) {
        loop {
            // Made before the look, so that nothing is missed in between.
            let room = self.0.room.notified();
            if self.0.outgoing().is_ready() {
                return;
            }
            room.await;
        }
    }

    /// Ends the connection, behind what waits and may go. The other end is told the reason.
    pub fn close(&self, reason: CloseReason) {
        self.0.end(Ended::Here(reason));
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<Ended> {
        self.0.ended.borrow().clone()
    }

    /// Waits for its end.
    pub async fn closed(&self) -> Ended {
        let mut ended = self.0.ended.subscribe();
        let ended = ended.wait_for(Option::is_some).await.expect("the link holds the sender");
        ended.clone().expect("it was waited for")
    }

    /// Address of the other end.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// Bytes that wait for credit or for the network.
    pub fn waiting(&self) -> usize {
        self.0.outgoing().waiting()
    }

    /// Bytes the other end has not consumed yet.
    pub fn in_flight(&self) -> usize {
        self.0.outgoing().in_flight()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("address", &self.0.address).field("ended", &self.ended()).finish()
    }
}

/// What comes in on a connection. Dropped, it closes the connection: nobody would take what the other end sends.
#[derive(Debug)]
pub struct Incoming {
    frames: mpsc::UnboundedReceiver<Delivery>,
    link: Link,
}

impl Incoming {
    /// The next frame in order. `None`: the connection has ended, and everything that came before has been given out.
    pub async fn recv(&mut self) -> Option<Delivery> {
        self.frames.recv().await
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.link.close(CloseReason::Stopping);
    }
}

/// A frame that came in.
#[derive(Debug)]
pub struct Delivery {
    /// The frame.
    pub frame: Frame,
    /// Keep it until the frame is consumed.
    pub credit: Credit,
}

/// Room a frame takes of the window. Dropped, it goes back to the other end, which may then send as much again.
#[derive(Debug)]
#[must_use = "dropped at once, it tells the other end that the frame has been consumed"]
pub struct Credit {
    link: Link,
    bytes: usize,
    is_packet: bool,
}

impl Credit {
    /// Bytes of the frame.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.link.0.consume(self.bytes, self.is_packet);
    }
}

/// What came in and is not consumed.
#[derive(Debug, Default)]
struct Intake {
    /// Bytes of frames the handler has not consumed.
    held: usize,
    /// Bytes it has consumed, and that were not given back yet.
    due: usize,
    /// Bytes of membership packets.
    packets: usize,
}

struct Shared {
    address: String,
    limits: TransportLimits,
    counters: Arc<TransportCounters>,
    outgoing: Mutex<Outgoing>,
    intake: Mutex<Intake>,
    /// The writer has something to look at.
    to_write: Notify,
    /// There is room in the queue.
    room: Notify,
    ended: watch::Sender<Option<Ended>>,
}

impl Shared {
    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn intake(&self) -> MutexGuard<'_, Intake> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a word of the connection itself, which finds room always.
    fn say(&self, frame: Frame) {
        // After the end there is nobody to say it to.
        drop(self.outgoing().push(frame));
        self.to_write.notify_one();
    }

    fn consume(&self, bytes: usize, is_packet: bool) {
        let mut intake = self.intake();
        if is_packet {
            intake.packets -= bytes;
            return;
        }
        intake.held -= bytes;
        intake.due += bytes;
        if piece(self.limits.window) <= intake.due {
            let due = std::mem::take(&mut intake.due);
            drop(intake);
            self.say(Frame::Credit(due as u64));
        }
    }

    /// Ends the connection unless it has ended.
    fn end(&self, mut ended: Ended) {
        // Bytes of the other end may be in it.
        if let Ended::Fault(_, why) | Ended::There(CloseReason::Violation(why)) = &mut ended {
            why.truncate(why.floor_char_boundary(WHY_LEN_MAX));
        }
        let is_first = self.ended.send_if_modified(|slot| {
            let is_first = slot.is_none();
            if is_first {
                *slot = Some(ended.clone());
            }
            is_first
        });
        if !is_first {
            return;
        }
        match ended {
            Ended::Here(reason) => drop(self.outgoing().push(Frame::Close(reason))),
            Ended::There(reason) => {
                if let CloseReason::Violation(why) = &reason {
                    self.counters.note(Fault::RefusedHere, &self.address, why);
                }
                self.outgoing().break_off(None);
            }
            Ended::Fault(fault, why) => {
                self.counters.note(fault, &self.address, &why);
                self.outgoing().break_off(Some(CloseReason::Violation(why)));
            }
        }
        self.to_write.notify_one();
        self.room.notify_waiters();
    }

    /// Until what is said at the end is said, or it takes too long.
    async fn last_moment(&self) {
        let mut ended = self.ended.subscribe();
        // The sender is in `self`; it cannot be gone.
        drop(ended.wait_for(Option::is_some).await);
        sleep(self.limits.close_deadline).await;
    }
}

/// Longest reason that is kept and told to the other end, in bytes.
const WHY_LEN_MAX: usize = 512;

/// Starts the two tasks of a connection. `kept` is kept until both have ended.
pub(super) fn start<S>(
    stream: S,
    buffer: BytesMut,
    agreed: Agreed,
    address: String,
    limits: TransportLimits,
    counters: Arc<TransportCounters>,
    kept: impl Send + Sync + 'static,
) -> Connection
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let Agreed { other, protocol } = agreed;
    counters.open();
    let shared = Arc::new(Shared {
        address,
        outgoing: Mutex::new(Outgoing::new(&limits, other.window, other.frame_len_max)),
        limits,
        counters,
        intake: Mutex::default(),
        to_write: Notify::new(),
        room: Notify::new(),
        ended: watch::Sender::new(None),
    });
    let (reader, writer) = tokio::io::split(stream);
    let (deliver, frames) = mpsc::unbounded_channel();
    let kept = Arc::new(kept);
    let link = Link(shared.clone());
    tokio::spawn({
        let (link, kept) = (link.clone(), kept.clone());
        async move {
            reader::run(reader, buffer, link, deliver).await;
            drop(kept);
        }
    });
    tokio::spawn(async move {
        write(writer, &shared).await;
        drop(kept);
    });
    Connection { other, protocol, incoming: Incoming { frames, link: link.clone() }, link }
}

/// Writes whatever may go, all of it at once, until the last word.
async fn write<S: AsyncWrite>(mut writer: WriteHalf<S>, shared: &Shared) {
    let mut last_moment = std::pin::pin!(shared.last_moment());
    loop {
        let wake = shared.to_write.notified();
        let Some(written) = shared.outgoing().next() else {
            wake.await;
            continue;
        };
        let data_len = written.data.len();
        let mut bytes = written.control.chain(written.data);
        let writing = async {
            writer.write_all_buf(&mut bytes).await?;
            writer.flush().await
        };
        let result = tokio::select! {
            result = timeout(shared.limits.write_deadline, writing) => result,
            // What is stuck in a connection that has ended is not waited for much longer.
            () = &mut last_moment => return,
        };
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return shared.end(Ended::Fault(Fault::Lost, error.to_string())),
            Err(_) => {
                let why = format!("it did not take {data_len} bytes of frames in time");
                return shared.end(Ended::Fault(Fault::WriteDeadline, why));
            }
        }
        shared.room.notify_waiters();
        if written.is_last {
            // The other end reads all of it and then the end; its own end follows.
            drop(timeout(shared.limits.close_deadline, writer.shutdown()).await);
            return;
        }
    }
}

#[cfg(test)]
mod tests;
