//! How two ends agree: each says who it is, and judges what the other says.
//!
//! ```text
//!   one end                       other end
//!   hello, a fresh nonce   ───►
//!                          ◄───   hello, a fresh nonce
//!   welcome, their nonce   ───►
//!                          ◄───   welcome, their nonce      or: refused, with what differs
//! ```
//!
//! # Invariants
//! * Nothing that comes behind the hello is looked at before both ends have said welcome.
//! * A welcome names the nonce of the other's hello, so bytes of an earlier connection are never agreed with. Below TLS
//!   they do not get so far: both sides put fresh randomness into its keys, and each proves with them that it has its
//!   certificate's key. In the plain form the nonce keeps old bytes away, not an attacker who can write new ones; that is
//!   why it is for loopback.

use super::{
    frame::{FRAME_LEN_LEAST, FrameError, HEADER_LEN, front, seal},
    identity::Certified,
};
use crate::{codec, entity::NAME_LEN_MAX, placement::NodeName};
use bytes::{Buf, BytesMut};
use serde::{Deserialize, Serialize};
use std::{fmt, io, ops::RangeInclusive, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

/// The protocols this build speaks.
pub const PROTOCOLS: RangeInclusive<u16> = 1..=1;
/// Longest hello or verdict. Taken before anything is known of the other end, so it has a limit of its own.
pub const GREETING_LEN_MAX: usize = 1 << 18;
/// Longest words about the placement.
const PLACEMENT_LEN_MAX: usize = 1_024;
/// Longest refusal that is shown.
const WORDS_LEN_MAX: usize = 4 * PLACEMENT_LEN_MAX;

/// What an end says of itself when a connection begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The protocols it speaks.
    pub protocols: Protocols,
    /// The cluster it belongs to; `None` for a client, and for a node that is to learn it by joining.
    pub cluster: Option<Cluster>,
    /// Which node it is; `None` for a client.
    pub node: Option<NodeIdentity>,
    /// The kinds its build knows. They may differ, as they do while nodes are replaced by newer ones one by one: who takes
    /// a shard over is asked for them.
    pub kinds: Vec<KnownKind>,
    /// Longest frame it takes, with its header.
    pub frame_len_max: u64,
    /// Bytes of frames it takes before it gives credit back.
    pub window: u64,
    /// A number it has never used before.
    pub nonce: u128,
}

/// A range of protocol numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocols {
    /// The oldest.
    pub lowest: u16,
    /// The newest.
    pub highest: u16,
}

impl Protocols {
    /// What this build speaks.
    pub fn own() -> Self {
        Self { lowest: *PROTOCOLS.start(), highest: *PROTOCOLS.end() }
    }

    /// The newest that both speak.
    pub fn common(self, other: Self) -> Option<u16> {
        let highest = self.highest.min(other.highest);
        (self.lowest.max(other.lowest) <= highest).then_some(highest)
    }
}

impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.lowest, self.highest)
    }
}

/// What all nodes of a cluster share since it was founded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its id.
    pub id: u128,
    /// How shards are cut (P17).
    pub layout: u32,
    /// How many there are.
    pub shards: u32,
    /// Digest of what places them on nodes.
    pub placement_digest: u64,
    /// The same in words, for people.
    pub placement: String,
}

/// Who a node is (P19).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// Its configured name.
    pub name: NodeName,
    /// UUID of its store.
    pub store: u128,
    /// How often the store was opened.
    pub boot: u64,
    /// Log position up to which it is durable.
    pub durable: u64,
}

/// A kind a build knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownKind {
    /// Its name.
    pub kind: String,
    /// Version of its state.
    pub version: u32,
    /// Names of the messages and queries it takes.
    pub messages: Vec<String>,
}

/// Why an end refuses the other: what it expected, what it found, and what to do. Both ends read the same words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum HelloRefusal {
    /// No protocol in common.
    #[error("protocols {expected} are spoken here and {found} there: replace the older build first")]
    Protocol {
        /// Of the refusing end.
        expected: Protocols,
        /// Of the refused end.
        found: Protocols,
    },
    /// Another cluster.
    #[error(
        "this is cluster {expected:032x} and not {found:032x}: correct the address, or the data directory, of the node that came"
    )]
    Cluster {
        /// Id of the refusing end's cluster.
        expected: u128,
        /// Id of the refused end's.
        found: u128,
    },
    /// Neither end knows the cluster.
    #[error("neither end belongs to a cluster yet: found one with one node, and join it with the others")]
    Unfounded,
    /// The cluster's shards are cut in another way.
    #[error(
        "shards are cut by layout {expected} here and {found} there: a newer build splits them; replace the older one"
    )]
    Layout {
        /// Of the refusing end.
        expected: u32,
        /// Of the refused end.
        found: u32,
    },
    /// Another number of shards.
    #[error(
        "the cluster has {expected} shards here and {found} there, though its id is the same: one of the two stores was not made by it"
    )]
    Shards {
        /// Of the refusing end.
        expected: u32,
        /// Of the refused end.
        found: u32,
    },
    /// Shards are placed by other rules.
    #[error(
        "shards are placed by {expected:?} here and by {found:?} there: give both nodes the same settings"
    )]
    Placement {
        /// Of the refusing end.
        expected: String,
        /// Of the refused end.
        found: String,
    },
    /// It is not the node that was dialled.
    #[error("node {expected} was expected and {} answered: correct the address or the name", or_client(found.as_ref()))]
    Name {
        /// Who was dialled.
        expected: NodeName,
        /// Who answered; `None` for a client.
        found: Option<NodeName>,
    },
    /// Both ends have one name.
    #[error("both ends are node {0}: a node has dialled its own address, or two nodes have one name")]
    Namesake(NodeName),
    /// Its certificate is for another.
    #[error(
        "it says that it is node {claimed}, and its certificate is for {certified:?}: give it the certificate of its name, or the name of its certificate"
    )]
    Certificate {
        /// The name it gave.
        claimed: NodeName,
        /// The names in its certificate.
        certified: String,
    },
    /// Its bytes are those of an earlier connection, or this end's own.
    #[error(
        "it repeats what was said before on another connection, or by this end itself: nothing to do, unless a node dials its own address"
    )]
    Replayed,
    /// The membership refuses it: store, boot counter or log position are not what is known of the name.
    #[error("{0}")]
    Identity(String),
    /// The store is an older state of one that was seen: who is told so checks it against its own store, and ends.
    #[error("{why}")]
    Past {
        /// It was seen after so many starts.
        boot: u64,
        /// Its log was durable up to here.
        position: u64,
        /// What to do.
        why: String,
    },
    /// A value it cannot have.
    #[error("its hello cannot be: {0}")]
    Unsound(String),
}

fn or_client(name: Option<&NodeName>) -> &str {
    name.map_or("a client", NodeName::as_str)
}

/// Why two ends did not agree.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// This end refused the other.
    #[error("refused: {0}")]
    Refused(HelloRefusal),
    /// The other end refused this one.
    #[error("the other end refused: {0}")]
    RefusedHere(HelloRefusal),
    /// What was said was no hello and no verdict.
    #[error("the two ends do not speak as nodes do: {0}")]
    Greeting(String),
    /// The other end went away, or the network did.
    #[error("the connection ended before both ends had agreed: {0}")]
    Vanished(#[from] io::Error),
}

impl From<FrameError> for HandshakeError {
    fn from(error: FrameError) -> Self {
        Self::Greeting(error.to_string())
    }
}

/// What both ends know when they have agreed.
#[derive(Debug, Clone)]
pub struct Agreed {
    /// What the other end said of itself.
    pub other: Hello,
    /// The protocol both speak from now on.
    pub protocol: u16,
}

/// What is said before there are frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Greeting {
    Hello(Box<Hello>),
    Welcome(u128),
    Refused(HelloRefusal),
}

/// What the other end must be.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Expected<'e> {
    /// Who was dialled.
    pub(super) name: Option<&'e NodeName>,
    /// What its certificate says, where it has one.
    pub(super) certified: Option<&'e Certified>,
}

/// Says hello and hears one, judges, and hears the judgement. What came behind the other's verdict stays in `buffer`. An
/// end that was refused has `linger` to say its own verdict.
pub(super) async fn greet<S: AsyncRead + AsyncWrite>(
    stream: S,
    buffer: &mut BytesMut,
    own: &Hello,
    expected: Expected<'_>,
    linger: Duration,
    judge: impl Fn(&Hello) -> Result<(), HelloRefusal>,
) -> Result<Agreed, HandshakeError> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let hello = Greeting::Hello(Box::new(own.clone()));
    // At once: two long hellos would wait for each other's room for ever.
    let ((), heard) = tokio::try_join!(say(&mut writer, &hello), hear(&mut reader, buffer))?;
    let Greeting::Hello(other) = heard else {
        return Err(HandshakeError::Greeting("it does not begin with a hello".into()));
    };
    let verdict = check(own, &other, expected).and_then(|protocol| judge(&other).map(|()| protocol));
    let (word, protocol) = match verdict {
        Ok(protocol) => (Greeting::Welcome(other.nonce), protocol),
        Err(refusal) => {
            // It may have gone already: that it cannot be told changes nothing.
            drop(say(&mut writer, &Greeting::Refused(refusal.clone())).await);
            // The other's verdict is heard before this end goes, or the network may take the refusal back. What it says
            // changes nothing any more.
            drop(timeout(linger, hear(&mut reader, buffer)).await);
            return Err(HandshakeError::Refused(refusal));
        }
    };
    let ((), heard) = tokio::try_join!(say(&mut writer, &word), hear(&mut reader, buffer))?;
    match heard {
        Greeting::Welcome(nonce) if nonce == own.nonce => Ok(Agreed { other: *other, protocol }),
        Greeting::Welcome(_) => Err(HandshakeError::Refused(HelloRefusal::Replayed)),
        Greeting::Refused(refusal) => {
            // It will be shown to people.
            let words = refusal.to_string();
            if WORDS_LEN_MAX < words.len() || words.chars().any(char::is_control) {
                return Err(HandshakeError::Greeting("a refusal that cannot be shown".into()));
            }
            Err(HandshakeError::RefusedHere(refusal))
        }
        Greeting::Hello(_) => Err(HandshakeError::Greeting("a second hello".into())),
    }
}

async fn say(writer: &mut (impl AsyncWrite + Unpin), greeting: &Greeting) -> Result<(), HandshakeError> {
    let mut out = BytesMut::new();
    let mut body = Vec::new();
    codec::encode(greeting, &mut body).map_err(HandshakeError::Greeting)?;
    seal(&mut out, GREETING_LEN_MAX, |mut writer| {
        io::Write::write_all(&mut writer, &body).expect("memory takes all that is written");
    })
    .map_err(|error| HandshakeError::Greeting(format!("this end has too much to say: {error}")))?;
    writer.write_all(&out).await?;
    Ok(writer.flush().await?)
}

async fn hear(
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> Result<Greeting, HandshakeError> {
    loop {
        if let Some(len) = front(buffer, GREETING_LEN_MAX)? {
            let greeting = codec::decode(&buffer[HEADER_LEN..len]).map_err(HandshakeError::Greeting)?;
            buffer.advance(len);
            return Ok(greeting);
        }
        // Memory grows with what has come and not with what a header promises.
        buffer.reserve(4_096);
        if reader.read_buf(buffer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// What can be judged without knowing the members. Returns the protocol both speak.
fn check(own: &Hello, other: &Hello, expected: Expected<'_>) -> Result<u16, HelloRefusal> {
    let Some(protocol) = own.protocols.common(other.protocols) else {
        return Err(HelloRefusal::Protocol { expected: own.protocols, found: other.protocols });
    };
    if own.nonce == other.nonce {
        return Err(HelloRefusal::Replayed);
    }
    sound(other)?;
    match (&own.cluster, &other.cluster) {
        (Some(ours), Some(theirs)) => same_cluster(ours, theirs)?,
        (None, None) => return Err(HelloRefusal::Unfounded),
        (Some(_), None) | (None, Some(_)) => {}
    }
    let name = other.node.as_ref().map(|node| &node.name);
    if let (Some(name), Some(ours)) = (name, &own.node)
        && *name == ours.name
    {
        return Err(HelloRefusal::Namesake(name.clone()));
    }
    if let Some(expected) = expected.name
        && name != Some(expected)
    {
        return Err(HelloRefusal::Name { expected: expected.clone(), found: name.cloned() });
    }
    if let (Some(name), Some(certified)) = (name, expected.certified)
        && !certified.is_for(name)
    {
        return Err(HelloRefusal::Certificate { claimed: name.clone(), certified: certified.to_string() });
    }
    Ok(protocol)
}

fn same_cluster(ours: &Cluster, theirs: &Cluster) -> Result<(), HelloRefusal> {
    if ours.id != theirs.id {
        return Err(HelloRefusal::Cluster { expected: ours.id, found: theirs.id });
    }
    if ours.layout != theirs.layout {
        return Err(HelloRefusal::Layout { expected: ours.layout, found: theirs.layout });
    }
    if ours.shards != theirs.shards {
        return Err(HelloRefusal::Shards { expected: ours.shards, found: theirs.shards });
    }
    if ours.placement_digest != theirs.placement_digest {
        let (expected, found) = (ours.placement.clone(), theirs.placement.clone());
        return Err(HelloRefusal::Placement { expected, found });
    }
    Ok(())
}

/// Whether the values are ones a build could have said.
fn sound(hello: &Hello) -> Result<(), HelloRefusal> {
    let is_name = |name: &str| (1..=NAME_LEN_MAX).contains(&name.len());
    let why = if hello.cluster.as_ref().is_some_and(|cluster| PLACEMENT_LEN_MAX < cluster.placement.len()) {
        "its placement takes too many words"
    } else if hello.window == 0 || hello.frame_len_max < FRAME_LEN_LEAST as u64 {
        "it has no room for a frame"
    } else if !hello
        .kinds
        .iter()
        .all(|known| is_name(&known.kind) && known.messages.iter().all(|name| is_name(name)))
    {
        "a kind or message without a name, or with a longer one than is allowed"
    } else {
        return Ok(());
    };
    Err(HelloRefusal::Unsound(why.into()))
}

#[cfg(test)]
mod tests;
