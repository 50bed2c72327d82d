//! What waits for one connection: gathered into frames, and the questions whose answers are still to come.

use super::Slots;
use crate::{
    activation::ReplyTo,
    error::Refusal,
    kernel::{Arrival, Opening, Outcome, Provenance, Receipt},
    message::Envelope,
    placement::{NodeName, ShardId},
    transport::{
        CloseReason, Frame, Link, SendError,
        frame::{
            Answer, FeedAnswer, FeedMessage, Request, StreamMessage, StreamOpening, StreamReceipt,
            VolatileMessage, Way,
        },
    },
};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::{Notify, oneshot};

/// Items of one frame. What comes one by one leaves in lists as long as the connection is slow.
const ITEMS_MAX: usize = 512;
/// Bytes of one frame, but one item always fits: short enough that nobody behind it waits for long.
const FRAME_BYTES_MAX: usize = 256 << 10;
/// Bytes that wait for a connection before messages, receipts and feeds' messages are dropped: their senders still have them,
/// and send them again.
const DROPPED_BEYOND: usize = 8 << 20;
/// Bytes that wait for a connection at all. Beyond them requests are refused as busy, and a connection whose other end does
/// not take its answers is closed.
const BYTES_MAX: usize = 64 << 20;
/// What an item counts with beside its message.
const ITEM_BYTES: usize = 64;
/// Requests and commands of one connection that wait for an answer. Further ones are refused as busy.
const ASKED_MAX: usize = 1 << 20;

/// The sending end of one connection. Frames are encoded by the task that empties it, and never by a worker.
pub(crate) struct Outbound {
    /// Who is at the other end; `None`: a client.
    pub(crate) node: Option<NodeName>,
    /// UUID of its store, as its hello said.
    pub(crate) store: Option<u128>,
    link: Link,
    gathered: Mutex<Gathered>,
    filled: Notify,
    asked: Mutex<Asked>,
    /// How far this node's log is durable; `None`: there is no log, or the other end has nothing to do with it.
    durable: Option<Arc<AtomicU64>>,
    /// How far the log of the other end is durable, as it has said.
    durable_there: AtomicU64,
}

#[derive(Default)]
struct Gathered {
    /// Each with the bytes it counts with.
    frames: VecDeque<(Frame, usize)>,
    bytes: usize,
    /// What was last said of the own log.
    durable_said: u64,
    has_ended: bool,
}

impl Gathered {
    fn takes(&self, bytes_max: usize) -> Result<(), NotSent> {
        match self {
            Self { has_ended: true, .. } => Err(NotSent::Ended),
            Self { bytes, .. } if bytes_max < *bytes => Err(NotSent::Full),
            _ => Ok(()),
        }
    }

    /// Adds an item to the list of the last frame, where that is of its kind and not full, or begins a frame.
    fn add<T>(
        &mut self,
        item: T,
        len: usize,
        bytes_max: usize,
        list: impl for<'f> FnOnce(&'f mut Frame) -> Option<&'f mut Vec<T>>,
        begin: impl FnOnce(Vec<T>) -> Frame,
    ) -> Result<(), NotSent> {
        let len = len + ITEM_BYTES;
        self.takes(bytes_max)?;
        self.bytes += len;
        if let Some((last, bytes)) = self.frames.back_mut()
            && *bytes + len <= FRAME_BYTES_MAX
            && let Some(items) = list(last).filter(|items| items.len() < ITEMS_MAX)
        {
            items.push(item);
            *bytes += len;
            return Ok(());
        }
        self.frames.push_back((begin(vec![item]), len));
        Ok(())
    }
}

/// Who waits for an answer.
enum Asker {
    Request(ReplyTo),
    Command(oneshot::Sender<Bytes>),
}

/// The questions that are not answered. `None`: the connection has ended.
struct Asked(Option<Slots<Asker>>);

/// Why something does not go out on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotSent {
    /// Too much waits for it.
    Full,
    /// There is no connection any more.
    Ended,
}

impl Outbound {
    /// `node`: with the UUID of its store. `durable`: of the node's own log, where the other end is to hear of it.
    pub(crate) fn new(
        node: Option<(NodeName, u128)>,
        link: Link,
        durable: Option<Arc<AtomicU64>>,
    ) -> Arc<Self> {
        let (node, store) = node.unzip();
        Arc::new(Self {
            node,
            store,
            durable,
            durable_there: AtomicU64::new(0),
            link,
            gathered: Mutex::default(),
            filled: Notify::new(),
            asked: Mutex::new(Asked(Some(Slots::default()))),
        })
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame of its own.
    pub(crate) fn frame(&self, frame: Frame, len: usize) -> Result<(), NotSent> {
        let mut gathered = self.gathered();
        gathered.takes(BYTES_MAX)?;
        let len = len + ITEM_BYTES;
        gathered.bytes += len;
        gathered.frames.push_back((frame, len));
        drop(gathered);
        self.flush();
        Ok(())
    }

    /// Whether all that was added is on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.gathered().frames.is_empty() && self.link.waiting() == 0
    }

    /// What was added leaves soon. Told once for many items.
    pub(crate) fn flush(&self) {
        self.filled.notify_one();
    }

    /// A message of a stream, or without a number. Where there is no room it stays in its sender's outbox, or is lost if it has
    /// none (P5).
    pub(crate) fn message(&self, arrival: Arrival) {
        let (target, len, envelope) = (arrival.shard, arrival.envelope.len(), arrival.envelope);
        let _ = match arrival.from {
            Provenance::Stream { source, number, .. } => {
                let message = StreamMessage { source, target, number, envelope };
                self.gathered().add(
                    message,
                    len,
                    DROPPED_BEYOND,
                    |frame| match frame {
                        Frame::Messages(list) => Some(list),
                        _ => None,
                    },
                    Frame::Messages,
                )
            }
            _ => self.gathered().add(
                VolatileMessage { target, envelope },
                len,
                DROPPED_BEYOND,
                |frame| match frame {
                    Frame::Volatile(list) => Some(list),
                    _ => None,
                },
                Frame::Volatile,
            ),
        };
    }

    pub(crate) fn receipt(&self, receipt: Receipt) {
        let _ = self.gathered().add(
            StreamReceipt(receipt),
            0,
            DROPPED_BEYOND,
            |frame| match frame {
                Frame::Receipts(list) => Some(list),
                _ => None,
            },
            Frame::Receipts,
        );
    }

    pub(crate) fn opening(&self, opening: Opening) {
        let _ = self.gathered().add(
            StreamOpening(opening),
            0,
            DROPPED_BEYOND,
            |frame| match frame {
                Frame::Openings(list) => Some(list),
                _ => None,
            },
            Frame::Openings,
        );
    }

    /// Passes a request on, and remembers who is to be told. The answer comes to `to`, whatever happens to the connection.
    pub(crate) fn request(
        &self,
        shard: ShardId,
        hops: u8,
        way: Way,
        envelope: Envelope,
        to: ReplyTo,
    ) -> Result<(), NotSent> {
        let slot = self.remember(Asker::Request(to))?;
        let len = envelope.len();
        let request = Request { slot, shard, hops, way, envelope };
        let added = self.gathered().add(
            request,
            len,
            BYTES_MAX,
            |frame| match frame {
                Frame::Requests(list) => Some(list),
                _ => None,
            },
            Frame::Requests,
        );
        self.flush();
        // Where the end of the connection has come between the two, it has told the asker already.
        added.or_else(|why| if self.forget(slot).is_some() { Err(why) } else { Ok(()) })
    }

    /// Puts a command to the other end. The receiver fails when the connection ends before its answer.
    pub(crate) fn command(&self, command: Bytes) -> Result<oneshot::Receiver<Bytes>, NotSent> {
        let (tell, answer) = oneshot::channel();
        let slot = self.remember(Asker::Command(tell))?;
        let len = command.len();
        match self.frame(Frame::Command { slot, command }, len) {
            Ok(()) => Ok(answer),
            Err(why) => {
                self.forget(slot);
                Err(why)
            }
        }
    }

    /// The answer to a request of the other end.
    pub(crate) fn answer(&self, slot: u64, outcome: Outcome) {
        self.answers([Answer { slot, outcome }]);
    }

    /// The answers to requests of the other end.
    pub(crate) fn answers(&self, answers: impl IntoIterator<Item = Answer>) {
        let mut gathered = self.gathered();
        let all_taken = answers.into_iter().try_for_each(|answer| {
            let len = match &answer.outcome {
                Outcome::Done(reply) => reply.body.len(),
                _ => 0,
            };
            gathered.add(
                answer,
                len,
                BYTES_MAX,
                |frame| match frame {
                    Frame::Replies(list) => Some(list),
                    _ => None,
                },
                Frame::Replies,
            )
        });
        drop(gathered);
        if all_taken.is_err() {
            // They would wait for an answer that never comes; without the connection they ask again.
            self.link.close(CloseReason::Violation("it does not take its answers".into()));
        }
    }

    pub(crate) fn feed_message(&self, slot: u64, feed: crate::feeds::FeedId, message: FeedMessage) {
        let len = message.envelope.len();
        let begin = |messages| Frame::FeedMessages { slot, feed, messages };
        let _ = self.gathered().add(
            message,
            len,
            DROPPED_BEYOND,
            |frame| match frame {
                Frame::FeedMessages { slot: of, feed: named, messages } if (*of, *named) == (slot, feed) => {
                    Some(messages)
                }
                _ => None,
            },
            begin,
        );
    }

    pub(crate) fn feed_answer(&self, answer: FeedAnswer) {
        let _ = self.gathered().add(
            answer,
            0,
            DROPPED_BEYOND,
            |frame| match frame {
                Frame::FeedReceipts(list) => Some(list),
                _ => None,
            },
            Frame::FeedReceipts,
        );
    }

    fn remember(&self, asker: Asker) -> Result<u64, NotSent> {
        let mut waiting = self.asked();
        let waiting = waiting.0.as_mut().ok_or(NotSent::Ended)?;
        if ASKED_MAX <= waiting.len() {
            return Err(NotSent::Full);
        }
        Ok(waiting.insert(asker))
    }

    fn forget(&self, slot: u64) -> Option<Asker> {
        self.asked().0.as_mut()?.remove(slot)
    }

    /// Who waits for the answers to these requests, with what they are told.
    pub(crate) fn answered(&self, answers: Vec<Answer>) -> Vec<(ReplyTo, Outcome)> {
        let mut asked = self.asked();
        let Some(asked) = asked.0.as_mut() else { return Vec::new() };
        let told = answers.into_iter().filter_map(|Answer { slot, outcome }| match asked.remove(slot)? {
            Asker::Request(to) => Some((to, outcome)),
            // An answer of the wrong kind is none.
            Asker::Command(_) => None,
        });
        told.collect()
    }

    pub(crate) fn command_answered(&self, slot: u64, answer: Bytes) {
        if let Some(Asker::Command(tell)) = self.forget(slot) {
            // Whoever asked may have given up.
            let _ = tell.send(answer);
        }
    }

    /// The connection has ended: nothing is taken any more. Returns who waits for an answer that will not come.
    pub(crate) fn end(&self) -> Vec<ReplyTo> {
        let mut gathered = self.gathered();
        *gathered = Gathered { has_ended: true, ..Gathered::default() };
        drop(gathered);
        self.flush();
        let asked = self.asked().0.take().unwrap_or_default();
        let requests = asked.into_values().filter_map(|asker| match asker {
            Asker::Request(to) => Some(to),
            Asker::Command(_) => None,
        });
        requests.collect()
    }

    /// The other end says how far its log is durable. Which store that is, and in which of its runs, its hello has said.
    pub(crate) fn durable_there_is(&self, position: u64) {
        self.durable_there.fetch_max(position, Ordering::Relaxed);
    }

    /// How far the log of the other end is durable, as it has said on this connection.
    pub(crate) fn durable_there(&self) -> u64 {
        self.durable_there.load(Ordering::Relaxed)
    }

    /// The next frame to send. An error: there is none any more.
    fn next(&self) -> Result<Option<Frame>, NotSent> {
        let mut gathered = self.gathered();
        // Read after what is gathered has become durable, and said before it: whoever acts on a receipt knows the position
        // that must not be lost again. It rises once for each sync, however many items that has made durable.
        let durable = self.durable.as_ref().map_or(0, |durable| durable.load(Ordering::Acquire));
        if gathered.durable_said < durable && !gathered.has_ended {
            gathered.durable_said = durable;
            return Ok(Some(Frame::Durable(durable)));
        }
        match gathered.frames.pop_front() {
            Some((frame, len)) => {
                gathered.bytes -= len;
                Ok(Some(frame))
            }
            None if gathered.has_ended => Err(NotSent::Ended),
            None => Ok(None),
        }
    }

    /// Sends what is gathered until the connection ends. `told` gets the outcomes of requests that can never be sent.
    pub(crate) async fn run(&self, mut told: impl FnMut(ReplyTo, Outcome)) {
        loop {
            let filled = self.filled.notified();
            let mut frame = match self.next() {
                Ok(Some(frame)) => Some(frame),
                Ok(None) => {
                    filled.await;
                    continue;
                }
                Err(_) => return,
            };
            while let Some(next) = frame.take() {
                match self.link.send(next) {
                    Ok(()) => {}
                    Err(SendError::Full(back)) => {
                        self.link.ready().await;
                        frame = Some(back);
                    }
                    Err(SendError::Ended(_)) => return,
                    Err(SendError::TooLong { frame, max, .. }) => self.too_long(frame, max, &mut told),
                }
            }
        }
    }

    /// A frame of one item is longer than the other end takes: nobody is to wait for it.
    fn too_long(&self, frame: Frame, max: usize, told: &mut impl FnMut(ReplyTo, Outcome)) {
        match frame {
            Frame::Requests(requests) => {
                for request in requests {
                    let (what, len) = ("the message", request.envelope.len());
                    if let Some(Asker::Request(to)) = self.forget(request.slot) {
                        told(to, Outcome::Refused(Refusal::TooLarge { what, len, max }));
                    }
                }
            }
            Frame::Replies(answers) => {
                for Answer { slot, .. } in answers {
                    let why = format!("its reply is longer than the {max} bytes that the connection takes");
                    self.answer(slot, Outcome::Unknown(why));
                }
            }
            frame => {
                let address = self.link.address();
                tracing::error!(
                    address,
                    max,
                    "a frame is longer than the other end takes: give both nodes the same limits"
                );
                drop(frame);
            }
        }
    }
}
