//! A feed: a source that can be sent again from its start, and changes nothing then (P10).

mod port;

use crate::{
    cluster::Caller,
    entity::{Entity, EntityId, EntityRef, Handle},
    error::Refusal,
    feeds::{FEED_NAME_LEN_MAX, FeedIdentity},
    message::{self, Envelope, Message},
    node::Front,
};
use bytes::BytesMut;
use port::{FeedPort, UNDURABLE_BYTES_MAX, UNDURABLE_MAX};
use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

/// Why a feed cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// The name is empty or too long.
    #[error("a feed's name has 1 to {FEED_NAME_LEN_MAX} bytes, this one {0}")]
    Name(usize),
    /// Own numbers must rise, so that another input under the name can be told.
    #[error("the feed's own number {own} does not rise above {before}")]
    NotRising {
        /// The number given.
        own: u64,
        /// The one before.
        before: u64,
    },
    /// Another input was sent under this name before. Nothing of this one is applied from where they part on; of one that
    /// begins with another message nothing at all.
    #[error("feed `{name}` was used for another input before: {parting}; give this input a name of its own")]
    Collision {
        /// Name of the feed.
        name: String,
        /// Where the two part.
        parting: Parting,
    },
    /// The message cannot be sent, or the runtime takes no more.
    #[error("feed `{name}` cannot go on: {refusal}")]
    Refused {
        /// Name of the feed.
        name: String,
        /// Why.
        refusal: Refusal,
    },
    /// The runtime has failed; what was not acknowledged may be durable or not. Send the input again from its start.
    #[error("feed `{name}` was cut off: {why}; start again and send the input from its start")]
    CutOff {
        /// Name of the feed.
        name: String,
        /// Why.
        why: String,
    },
}

/// Where an input parts from the one that was sent under its name before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// They begin with different messages.
    First {
        /// How the input began that has the name.
        holder: FeedIdentity,
        /// How this one begins.
        this: FeedIdentity,
    },
    /// Later.
    At {
        /// The feed's own number there.
        own: u64,
    },
}

impl fmt::Display for Parting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First { holder, this } => write!(f, "that one began with {holder}, this one with {this}"),
            Self::At { own } => write!(f, "its message {own} is not what was sent then"),
        }
    }
}

/// A client with a stable name that numbers its messages, so that sending the whole input again changes nothing.
///
/// Messages take effect in the order sent per entity. Nothing need be kept by the sender: after any crash it opens the
/// feed of the same name and sends its input again from the start, with the same own numbers (rows, offsets). A source
/// that cannot be read from its start again is opened by [`Client::resume_feed`](super::Client::resume_feed).
///
/// The first message waits until the name is claimed for this input, which takes one commit; from then on another input
/// under the name is refused before any of it is applied.
pub struct Feed {
    port: Arc<FeedPort>,
    chunk: BytesMut,
    scratch: Vec<u8>,
    /// Keeps it connected where it is in no node's process.
    _caller: Option<Arc<Caller>>,
}

impl Feed {
    pub(super) fn open(
        shared: &Arc<Front>,
        name: &str,
        caller: Option<Arc<Caller>>,
    ) -> Result<Self, FeedError> {
        if name.is_empty() || FEED_NAME_LEN_MAX < name.len() {
            return Err(FeedError::Name(name.len()));
        }
        let port = FeedPort::open(shared, name);
        Ok(Self { port, chunk: BytesMut::new(), scratch: Vec::new(), _caller: caller })
    }

    /// As [`Feed::open`], and goes on behind what is durable.
    pub(super) async fn resume(
        shared: &Arc<Front>,
        name: &str,
        caller: Option<Arc<Caller>>,
    ) -> Result<Self, FeedError> {
        let feed = Self::open(shared, name, caller)?;
        feed.port.ask_all();
        // Its port is open by now: should the runtime stop later, the port is told.
        if shared.stopping.load(Ordering::SeqCst) {
            return Err(FeedError::Refused { name: name.to_owned(), refusal: Refusal::Stopping });
        }
        loop {
            let progress = feed.port.progress.notified();
            {
                let state = feed.port.state();
                if let Some(error) = &state.error {
                    return Err(error.clone());
                }
                if state.unanswered.is_empty() {
                    break;
                }
            }
            progress.await;
        }
        Ok(feed)
    }

    /// Name of the feed.
    pub fn name(&self) -> &str {
        &self.port.name
    }

    /// Sends one message. `own` is the feed's own number of it (the row, the offset) and rises from message to message.
    /// Returns at once while there is room for more undurable messages, and waits for some to become durable otherwise.
    ///
    /// # Errors
    /// See [`FeedError`]; after one the feed takes no more, and what it sent before stays applied.
    pub async fn send<E: Entity + Handle<M>, M: Message>(
        &mut self,
        own: u64,
        target: EntityRef<E>,
        message: M,
    ) -> Result<(), FeedError> {
        let (hash, envelope) = self.envelope(&target, &message)?;
        loop {
            let progress = self.port.progress.notified();
            {
                let mut state = self.port.state();
                if let Some(error) = &state.error {
                    return Err(error.clone());
                }
                if state.undurable < UNDURABLE_MAX && state.undurable_bytes < UNDURABLE_BYTES_MAX {
                    return self.port.push(&mut state, own, hash, envelope);
                }
                self.port.hand_all(&mut state);
            }
            progress.await;
        }
    }

    /// How many of the messages sent through this value are known to be durable, those found durable already included.
    pub fn durable(&self) -> u64 {
        self.port.state().durable
    }

    /// The own number of the first message sent that is not known to be durable; `None` where all are. What comes before it
    /// a queue need not deliver again.
    pub fn undurable_from(&self) -> Option<u64> {
        self.port.state().undurable_from()
    }

    /// Waits until everything sent is durable.
    ///
    /// # Errors
    /// See [`FeedError`].
    pub async fn flush(&mut self) -> Result<(), FeedError> {
        loop {
            let progress = self.port.progress.notified();
            {
                let mut state = self.port.state();
                if let Some(error) = &state.error {
                    return Err(error.clone());
                }
                self.port.hand_all(&mut state);
                if state.undurable == 0 {
                    return Ok(());
                }
            }
            progress.await;
        }
    }

    fn envelope<E: Entity, M: Message>(
        &mut self,
        target: &EntityRef<E>,
        message: &M,
    ) -> Result<(u64, Envelope), FeedError> {
        let refused = |refusal| FeedError::Refused { name: self.port.name.to_string(), refusal };
        EntityId::check(E::KIND, target.key()).map_err(refused)?;
        self.scratch.clear();
        Envelope::write_head(E::KIND, target.key(), M::NAME, None, &mut self.scratch);
        message::encode(message, &mut self.scratch).map_err(Refusal::Unencodable).map_err(refused)?;
        let (len, max) = (self.scratch.len(), self.port.shared.limits.message_len_max);
        if max < len {
            return Err(refused(Refusal::TooLarge { what: "the message", len, max }));
        }
        // Many messages share one allocation.
        if self.chunk.capacity() < len {
            self.chunk = BytesMut::with_capacity(len.max(1 << 16));
        }
        self.chunk.extend_from_slice(&self.scratch);
        let envelope = Envelope::from_bytes(self.chunk.split().freeze()).expect("just written");
        Ok((crate::placement::hash(E::KIND, target.key()), envelope))
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let port = &self.port;
        let mut state = port.state();
        if state.error.is_none() {
            port.hand_all(&mut state);
        }
        // A tick that is under way on another thread must not hand anything after the close: a feed opened next under
        // the same name would be told what becomes of it.
        state.closed = true;
        drop(state);
        port.close();
    }
}
