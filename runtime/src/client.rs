//! What a user holds to talk to entities: [`Client`], its [`Ask`]s, and [`Feed`]s.
//!
//! Every request has an id. While the runtime can find out by itself what became of a request it does (a lane that was
//! voided, a shard that was loaded anew): it asks again under the same id. What it cannot find out is [`AskError::Unknown`],
//! and asking again with [`Ask::with_id`] finds out later.

mod feed;
mod operator;
mod pending;

pub use feed::{Feed, FeedError, Parting};
pub use operator::{
    DeadLetter, FeedProgress, LetterId, Operator, OperatorError, PAGE_MAX, ParseLetterIdError, StuckEntity,
    WaitingMessage,
};

use crate::{
    activation::{Listener, ReplyTo},
    clock::random_u128,
    cluster::{self, Caller, Command, CommandAnswer, CommandError, ConnectError, Security},
    codec,
    entity::{Answers, Entity, EntityId, EntityRef},
    error::{AskError, Refusal},
    kernel::{self, Arrival, Outcome},
    message::{self, ClientId, Envelope, Message, RequestId},
    node::Front,
    placement::{self, NodeName},
    requests::{Reply, ReplyClass},
    timestamp::Timestamp,
};
use pending::Pending;
use serde::de::DeserializeOwned;
use std::{
    future::{Future, IntoFuture},
    marker::PhantomData,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// How long an ask waits for its outcome, unless it is told otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// How often a request is asked again by itself before its outcome is given back as unknown.
const TRIES_MAX: u32 = 64;
/// How long a request waits for the node that has its entity to be known and reached, before it is refused. Longer than a
/// hand-off takes, and about what a process takes to start again.
const AWAY_MAX: Duration = Duration::from_secs(3);
/// Then it asks again, or as soon as a shard is heard to have another owner.
const ROUTE_PAUSE: Duration = Duration::from_millis(100);

/// Sends messages to entities of this runtime. Cheap to clone; the clones share one identity.
///
/// Messages of one client to one entity take effect in the order they were sent, while each is sent after the call
/// before it was made; a [`Feed`] keeps its order through restarts too.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Front>,
    connection: u32,
    pending: Arc<Pending>,
    /// Keeps a client connected that is in no node's process.
    caller: Option<Arc<Caller>>,
}

impl Client {
    /// Connects to a cluster whose nodes listen on this machine, over plain TCP; [`Client::connect_with`] to others. One
    /// address that answers is enough: the client hears of the other nodes there, asks each entity's node directly, and
    /// connects again by itself where a connection ends.
    ///
    /// ```no_run
    /// # use entity_runtime::prelude::*;
    /// # #[derive(Entity, Default, Serialize, Deserialize)]
    /// # #[entity(kind = "counter", handles(Add))]
    /// # struct Counter { count: u64 }
    /// # #[derive(Message, Serialize, Deserialize)]
    /// # #[message(reply = u64)]
    /// # struct Add { by: u64 }
    /// # impl Handle<Add> for Counter {
    /// #     fn handle(&mut self, add: Add, _: &mut Context<'_, Self>) -> u64 { self.count += add.by; self.count }
    /// # }
    /// # async fn connect() -> anyhow::Result<()> {
    /// let client = Client::connect(["127.0.0.1:7001", "127.0.0.1:7002"]).await?;
    /// let count = client.ask(Counter::at("visits"), Add { by: 1 }).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(
        addresses: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self, ConnectError> {
        Self::connect_with(addresses, &Security::Loopback).await
    }

    /// As [`Client::connect`], secured as the nodes are.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect_with(
        addresses: impl IntoIterator<Item = impl Into<String>>,
        security: &Security,
    ) -> Result<Self, ConnectError> {
        let addresses = addresses.into_iter().map(Into::into).collect();
        let caller = Arc::new(cluster::connect(addresses, security).await?);
        Ok(Self::new(&Arc::clone(&caller.front), Some(caller)))
    }

    pub(crate) fn open(shared: &Arc<Front>) -> Self {
        Self::new(shared, None)
    }

    fn new(shared: &Arc<Front>, caller: Option<Arc<Caller>>) -> Self {
        let connection = shared.ports.next();
        let pending = Arc::new(Pending::new(
            ClientId(random_u128()),
            shared.clock.clone(),
            shared.limits.reply_retention,
        ));
        shared.ports.open(connection, pending.clone());
        Self { inner: Arc::new(Inner { shared: Arc::clone(shared), connection, pending, caller }) }
    }

    /// The nodes it is connected with, by name. Of a client inside a node: the other nodes.
    pub fn nodes(&self) -> Vec<NodeName> {
        let mut names: Vec<_> =
            self.inner.shared.links.all().iter().filter_map(|outbound| outbound.node.clone()).collect();
        names.sort();
        names
    }

    /// Puts an operator's command to a node, or to whichever is connected.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn command(
        &self,
        node: Option<&NodeName>,
        command: Command,
    ) -> Result<CommandAnswer, CommandError> {
        let links = &self.inner.shared.links;
        let outbound = match node {
            Some(name) => links.to(name),
            None => links.all().into_iter().next(),
        };
        let outbound = outbound.ok_or_else(|| CommandError::NotConnected(node.cloned()))?;
        let asked = outbound.command(command.encode().into());
        let name = outbound.node.as_ref().map_or_else(String::new, ToString::to_string);
        let answer = asked.map_err(|_| CommandError::NotConnected(node.cloned()))?;
        let answer = tokio::time::timeout(TIMEOUT_DEFAULT, answer).await;
        let answer = answer.map_err(|_| CommandError::Silent(name.clone()))?;
        let answer = answer.map_err(|_| CommandError::Cut(name.clone()))?;
        codec::decode(&answer).map_err(|why| CommandError::Unreadable { node: name, why })
    }

    /// Sends a message or asks a query, and waits for the reply: of a message after its commit is durable, of a query
    /// after everything it saw is.
    ///
    /// # Errors
    /// When awaited; [`AskError`] tells the outcomes apart.
    #[expect(clippy::needless_pass_by_value, reason = "a message that is sent is given away")]
    pub fn ask<E: Answers<M, Way>, M: Message, Way>(
        &self,
        target: EntityRef<E>,
        message: M,
    ) -> Ask<M::Reply> {
        self.request(&target, &message, E::IS_QUERY, true)
    }

    /// Sends a message and waits until it is durably accepted: applied, rejected, waiting for an entity that is stuck,
    /// or dead-lettered. The reply is not looked at.
    ///
    /// # Errors
    /// When awaited: refused, or unknown.
    #[expect(clippy::needless_pass_by_value, reason = "a message that is sent is given away")]
    pub fn send<E: Entity + crate::entity::Handle<M>, M: Message>(
        &self,
        target: EntityRef<E>,
        message: M,
    ) -> Ask<()> {
        self.request::<E, M, ()>(&target, &message, false, false)
    }

    /// Opens the feed of this name: a source whose whole input can be sent again and changes nothing (P10).
    ///
    /// # Errors
    /// The name is empty or too long.
    #[expect(clippy::unused_async, reason = "a feed of another node will be waited for")]
    pub async fn feed(&self, name: &str) -> Result<Feed, FeedError> {
        Feed::open(&self.inner.shared, name, self.inner.caller.clone())
    }

    /// Opens the feed of this name behind what of it is durable: for a source that cannot be read from its start again,
    /// such as a queue that forgets what was taken from it (P10).
    ///
    /// Three things are the caller's part. Own numbers (offsets) rise, also over restarts. What is not known to be
    /// durable is delivered again after a restart, the same messages with the same own numbers in the same order: from
    /// [`Feed::undurable_from`] on, or everything since the last [`Feed::flush`]. And one process at a time feeds under the
    /// name. What is delivered again and was durable all the same is skipped.
    ///
    /// ```
    /// # use entity_runtime::prelude::*;
    /// # #[derive(Entity, Default, Serialize, Deserialize)]
    /// # #[entity(kind = "basket", handles(Put), queries(Count))]
    /// # struct Basket { count: u64 }
    /// # #[derive(Message, Serialize, Deserialize)]
    /// # #[message(reply = ())]
    /// # struct Put;
    /// # #[derive(Message, Serialize, Deserialize)]
    /// # #[message(reply = u64)]
    /// # struct Count;
    /// # impl Handle<Put> for Basket {
    /// #     fn handle(&mut self, _: Put, _: &mut Context<'_, Self>) { self.count += 1; }
    /// # }
    /// # impl Query<Count> for Basket {
    /// #     fn query(&self, _: Count) -> u64 { self.count }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> anyhow::Result<()> {
    /// # let runtime = Runtime::builder().entity::<Basket>().in_memory().start().await?;
    /// # let client = runtime.client();
    /// // What the queue still has, by offset: at first everything.
    /// let mut queue: std::collections::VecDeque<u64> = (100..110).collect();
    ///
    /// for _start in 0..2 {
    ///     let mut feed = client.resume_feed("orders").await?;
    ///     for offset in &queue {
    ///         feed.send(*offset, Basket::at(format!("b{}", offset % 3)), Put).await?;
    ///     }
    ///     feed.flush().await?;
    ///     // Only now may the queue forget. Here it forgets less than it might, and delivers the rest again.
    ///     queue.drain(..5);
    /// }
    /// let mut count = 0;
    /// for basket in 0..3 {
    ///     count += client.ask(Basket::at(format!("b{basket}")), Count).await?;
    /// }
    /// assert_eq!(count, 10);
    /// # runtime.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The name is empty or too long, or somebody has the feed open: [`Refusal::FeedOpen`].
    pub async fn resume_feed(&self, name: &str) -> Result<Feed, FeedError> {
        Feed::resume(&self.inner.shared, name, self.inner.caller.clone()).await
    }

    fn request<E: Entity, M: Message, R>(
        &self,
        target: &EntityRef<E>,
        message: &M,
        is_query: bool,
        wants_reply: bool,
    ) -> Ask<R> {
        let envelope = envelope::<E, M>(target, message, self.inner.shared.limits.message_len_max);
        Ask {
            client: self.clone(),
            envelope,
            is_query,
            wants_reply,
            id: None,
            knows: Knows::Nothing,
            slot: None,
            is_open: false,
            timeout: TIMEOUT_DEFAULT,
            reply: PhantomData,
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.ports.close(self.connection);
    }
}

/// Encodes a client's message, once; with the hash of its entity.
fn envelope<E: Entity, M: Message>(
    target: &EntityRef<E>,
    message: &M,
    len_max: usize,
) -> Result<(u64, Envelope), Refusal> {
    EntityId::check(E::KIND, target.key())?;
    let mut bytes = Vec::with_capacity(128);
    Envelope::write_head(E::KIND, target.key(), M::NAME, None, &mut bytes);
    message::encode(message, &mut bytes).map_err(Refusal::Unencodable)?;
    if len_max < bytes.len() {
        return Err(Refusal::TooLarge { what: "the message", len: bytes.len(), max: len_max });
    }
    let envelope = Envelope::from_bytes(bytes.into()).expect("just written");
    Ok((placement::hash(E::KIND, target.key()), envelope))
}

/// What the caller knows of a request's id.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Knows {
    /// Nothing.
    Nothing,
    /// It has taken the id and may ask again, so the stored reply must be kept for it.
    Id,
    /// It has given the id, with which it may have asked before.
    Before,
}

/// A request that is sent when it is awaited.
///
/// Dropped while it is awaited (a `select!`, a time-out of the caller's own) it is not taken back: it takes effect, or not
/// if it had not been accepted yet. Whoever has taken its [`id`](Ask::id) before can ask again and learns which.
#[must_use = "a request is sent when it is awaited"]
pub struct Ask<R> {
    client: Client,
    /// With the hash of its entity.
    envelope: Result<(u64, Envelope), Refusal>,
    is_query: bool,
    wants_reply: bool,
    id: Option<RequestId>,
    knows: Knows,
    /// Where its answer is waited for.
    slot: Option<u64>,
    /// Its number is neither settled nor kept for a repeat: that is left to this value.
    is_open: bool,
    timeout: Duration,
    reply: PhantomData<fn() -> R>,
}

impl<R> Ask<R> {
    /// Asks again under an id used before: the same message gets the stored reply, byte for byte, if it has run. It may
    /// have run though there is no room for it now or its reply is no longer stored: that is [`AskError::Unknown`] here
    /// and not [`AskError::Refused`].
    pub fn with_id(mut self, id: RequestId) -> Self {
        self.let_go();
        self.id = Some(id);
        self.knows = Knows::Before;
        self
    }

    /// The id this request has or will have. Keep it to be able to ask again: the reply to a request whose id was asked
    /// for stays stored for [`Limits::reply_retention`](crate::Limits::reply_retention), also when it has arrived.
    pub fn id(&mut self) -> RequestId {
        if self.knows == Knows::Nothing {
            self.knows = Knows::Id;
        }
        self.allot()
    }

    fn allot(&mut self) -> RequestId {
        *self.id.get_or_insert_with(|| {
            self.is_open = true;
            self.client.inner.pending.allot()
        })
    }

    /// Nobody waits any more.
    fn let_go(&mut self) {
        if self.is_open || self.slot.is_some() {
            let is_kept = self.knows != Knows::Nothing;
            self.client.inner.pending.let_go(self.slot.take(), self.id, is_kept);
            self.is_open = false;
        }
    }

    /// Whether to wait for the shard's owner to be known and reached, and ask again.
    fn waits_for_owner(&self, away_since: &mut Option<Timestamp>, until: Timestamp) -> bool {
        let shared = &self.client.inner.shared;
        let now = shared.clock.now();
        let since = *away_since.get_or_insert(now);
        !shared.links.is_alone()
            && now < until.min(since + AWAY_MAX)
            && !shared.stopping.load(Ordering::SeqCst)
    }

    /// Waits this long at the most, however often it is asked again meanwhile; then the outcome is unknown.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    async fn outcome(mut self) -> Result<Reply, AskError> {
        let (hash, envelope) = self.envelope.clone()?;
        let inner = Arc::clone(&self.client.inner);
        let shard = inner.shared.layout.place(hash);
        // A query is its own repeat: it needs no id.
        let id = if self.is_query { None } else { Some(self.allot()) };
        let until = inner.shared.clock.now() + self.timeout;
        // Whether it may have happened before the try at hand.
        let mut is_again = self.knows == Knows::Before;
        let is_kept = self.knows != Knows::Nothing;
        let mut why = String::new();
        // Since when the shard has been with nobody who can be reached.
        let mut away_since = None;
        let mut tries = 0;
        while tries < TRIES_MAX {
            let mut waiter = inner.pending.wait(id, is_kept, until);
            self.slot = Some(waiter.slot);
            let to = ReplyTo { connection: inner.connection, slot: waiter.slot };
            let from = match id {
                None => kernel::Provenance::Query(to),
                Some(id) => {
                    let listener = Listener { to, wants_reply: self.wants_reply };
                    kernel::Provenance::Request {
                        id,
                        acknowledged: std::mem::take(&mut waiter.settled),
                        listener,
                    }
                }
            };
            let arrival = Arrival { shard, hash, envelope: envelope.clone(), from };
            let outcome = match inner.shared.admit(arrival, 0) {
                Ok(()) => waiter.await,
                Err(refusal) => {
                    inner.pending.take_back(waiter.slot);
                    Outcome::Refused(refusal)
                }
            };
            self.slot = None;
            // Whoever delivered it has settled or kept the number, unless it is still to be found out.
            self.is_open &= !matches!(outcome, Outcome::Done(_) | Outcome::Waiting);
            match outcome {
                Outcome::Done(reply) => return Ok(reply),
                Outcome::Waiting => {
                    return Ok(Reply { class: ReplyClass::Applied, body: bytes::Bytes::new() });
                }
                Outcome::Elsewhere
                | Outcome::Refused(Refusal::Unavailable | Refusal::OwnerUnavailable(_))
                    if self.waits_for_owner(&mut away_since, until) =>
                {
                    // Nothing has happened. The shard is on its way to another node, or its node on its way back.
                    let pause = inner.pending.pause(inner.shared.clock.now() + ROUTE_PAUSE);
                    let _ = pause.await;
                }
                Outcome::Refused(refusal) => {
                    return Err(refused(refusal, id.is_some() && is_again, self.knows));
                }
                Outcome::Elsewhere => {
                    return Err(refused(Refusal::Unavailable, id.is_some() && is_again, self.knows));
                }
                Outcome::Unknown(reason) => {
                    tries += 1;
                    is_again = true;
                    away_since = None;
                    why = reason;
                    let is_late = why == pending::TIMED_OUT || until <= inner.shared.clock.now();
                    if is_late || inner.shared.stopping.load(Ordering::SeqCst) {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
        }
        Err(unknown(&why, self.knows))
    }
}

impl<R> Drop for Ask<R> {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// What a refusal says of the request. It left no mark, but an earlier try may have.
fn refused(refusal: Refusal, is_again: bool, knows: Knows) -> AskError {
    match &refusal {
        Refusal::Busy(_)
        | Refusal::StorageFull
        | Refusal::Unavailable
        | Refusal::OwnerUnavailable(_)
        | Refusal::Stopping
            if is_again =>
        {
            unknown(&refusal.to_string(), knows)
        }
        // No repeat will ever be told more.
        Refusal::Expired(_) if is_again => AskError::Unknown(refusal.to_string()),
        // These hold for every try.
        _ => AskError::Refused(refusal),
    }
}

/// An outcome that asking again finds out, if the caller has the id.
fn unknown(why: &str, knows: Knows) -> AskError {
    let advice = match knows {
        Knows::Nothing => "take an ask's `id()` before you await it to be able to find out",
        Knows::Id | Knows::Before => "ask again with the same request id",
    };
    AskError::Unknown(format!("{why}; {advice}"))
}

/// What a reply is read as.
trait FromReply: Sized {
    fn from_reply(reply: Reply) -> Result<Self, AskError>;
}

impl<R: DeserializeOwned> FromReply for R {
    fn from_reply(reply: Reply) -> Result<Self, AskError> {
        match reply.class {
            ReplyClass::Applied | ReplyClass::Rejected => codec::decode(&reply.body).map_err(AskError::Reply),
            ReplyClass::DeadLettered => {
                Err(AskError::DeadLettered(String::from_utf8_lossy(&reply.body).into_owned()))
            }
        }
    }
}

impl<R: DeserializeOwned + Send + 'static> IntoFuture for Ask<R> {
    type Output = Result<R, AskError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let wants_reply = self.wants_reply;
        Box::pin(async move {
            let reply = self.outcome().await?;
            if wants_reply {
                R::from_reply(reply)
            } else {
                // `send` promises acceptance alone; `()` is what its reply is read as.
                codec::decode(NIL).map_err(AskError::Reply)
            }
        })
    }
}

/// The encoding of `()`.
const NIL: &[u8] = &[0xc0];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        limits::Limits,
        node::{Intake, Links, Port},
        placement::Shards,
    };
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    /// A client whose worker is the test.
    fn client_with(limits: Limits) -> (Client, Arc<Front>) {
        let layout = Shards::new(1).unwrap();
        let front =
            Arc::new(Front::new(limits, Links::alone(layout), layout, vec![Arc::new(Intake::new(1))]));
        (Client::open(&front), front)
    }

    fn client() -> (Client, Arc<Front>) {
        client_with(Limits::default())
    }

    fn ask(client: &Client) -> Ask<()> {
        let mut bytes = Vec::new();
        Envelope::write_head("kind", "key", "Message", None, &mut bytes);
        Ask {
            client: client.clone(),
            envelope: Ok((placement::hash("kind", "key"), Envelope::from_bytes(bytes.into()).unwrap())),
            is_query: false,
            wants_reply: true,
            id: None,
            knows: Knows::Nothing,
            slot: None,
            is_open: false,
            timeout: TIMEOUT_DEFAULT,
            reply: PhantomData,
        }
    }

    /// Gives each of its tries one outcome.
    fn told(client: &Client, front: &Front, ask: Ask<()>, outcomes: Vec<Outcome>) -> AskError {
        let mut asked = pin!(ask.outcome());
        let mut context = Context::from_waker(Waker::noop());
        for outcome in outcomes {
            while front.intakes[0].backlog() == 0 {
                assert!(asked.as_mut().poll(&mut context).is_pending());
            }
            let mut events = Vec::new();
            front.intakes[0].take(&mut events);
            let Some(kernel::Event::Arrived(arrivals)) = events.pop() else { panic!("nothing was asked") };
            let kernel::Provenance::Request { listener, .. } = arrivals[0].from else {
                panic!("not by a client")
            };
            front.intakes[0].taken(arrivals[0].envelope.len(), 0);
            client.inner.pending.reply(&mut std::iter::once((listener.to.slot, outcome)));
        }
        match asked.as_mut().poll(&mut context) {
            Poll::Ready(outcome) => outcome.unwrap_err(),
            Poll::Pending => panic!("there is an outcome"),
        }
    }

    #[test]
    fn a_refusal_is_one_only_where_nothing_can_have_happened() {
        let stopping = || Outcome::Refused(Refusal::Stopping);
        let unknown = |knows| unknown(&Refusal::Stopping.to_string(), knows);
        let acknowledged = |client: &Client| client.inner.pending.acknowledged(ask(client).id()).floor;
        let (one, front) = client();
        let first = told(&one, &front, ask(&one), vec![stopping()]);
        assert_eq!(first, AskError::Refused(Refusal::Stopping));
        assert_eq!(acknowledged(&one), 1);
        let given = ask(&one).id();
        assert_eq!(told(&one, &front, ask(&one).with_id(given), vec![stopping()]), unknown(Knows::Before));

        // It may have happened at the first try and its reply may be asked for: its number is not settled.
        let (other, front) = client();
        let voided = || Outcome::Unknown("the lane was voided".into());
        let mut known = ask(&other);
        known.id();
        assert_eq!(told(&other, &front, known, vec![voided(), stopping()]), unknown(Knows::Id));
        assert!(!other.inner.pending.acknowledged(ask(&other).id()).settles(1));
        // Nobody knows the id of this one.
        assert_eq!(told(&other, &front, ask(&other), vec![voided(), stopping()]), unknown(Knows::Nothing));
        assert!(other.inner.pending.acknowledged(ask(&other).id()).settles(3));
    }

    #[test]
    fn asks_dropped_in_flight_leave_nothing_behind() {
        const ASKS: u64 = 100_000;
        let (client, front) = client_with(Limits { reply_retention: Duration::ZERO, ..Limits::default() });
        let mut context = Context::from_waker(Waker::noop());
        let mut drop_in_flight = |ask: Ask<()>| {
            let mut asked = Box::pin(ask.into_future());
            assert!(asked.as_mut().poll(&mut context).is_pending());
            drop(asked);
            let mut events = Vec::new();
            front.intakes[0].take(&mut events);
            front.intakes[0].taken(front.intakes[0].backlog(), 0);
        };
        for _ in 0..ASKS {
            drop_in_flight(ask(&client));
        }
        let pending = &client.inner.pending;
        assert_eq!(pending.held(), (1, 0, ASKS), "one place that is used again and again");
        // Ids that were taken are kept for the retention, which is over at once here.
        for _ in 0..ASKS {
            let _ = ask(&client).id();
            let mut known = ask(&client);
            known.id();
            drop_in_flight(known);
        }
        pending.tick();
        assert_eq!(pending.held(), (1, 0, 3 * ASKS));
    }

    #[test]
    fn an_id_that_was_taken_stays_open_and_holds_up_no_other() {
        let (client, _front) = client_with(Limits::default());
        let taken = ask(&client).id();
        for _ in 0..10 {
            drop(ask(&client).with_id(taken));
        }
        let pending = &client.inner.pending;
        for _ in 0..10 {
            pending.let_go(None, Some(pending.allot()), false);
        }
        pending.tick();
        let told = pending.acknowledged(taken);
        assert_eq!((told.floor, told.open.as_deref()), (11, Some([taken.number].as_slice())));
    }

    #[test]
    fn asking_again_is_advised_only_where_it_helps() {
        let (client, front) = client();
        let given = ask(&client).id();
        let told = |outcome| told(&client, &front, ask(&client).with_id(given), vec![outcome]).to_string();
        assert!(told(Outcome::Refused(Refusal::Stopping)).ends_with("ask again with the same request id"));
        let expired = told(Outcome::Refused(Refusal::Expired(given.to_string())));
        assert!(expired.starts_with("outcome unknown: ") && !expired.contains("again"), "{expired}");
    }

    #[test]
    fn a_timeout_bounds_all_tries_together() {
        let (client, front) = client();
        let ask = ask(&client).timeout(Duration::ZERO);
        let late = told(&client, &front, ask, vec![Outcome::Unknown("the lane was voided".into())]);
        assert_eq!(late, unknown("the lane was voided", Knows::Nothing));
    }
}
