//! What an operator sees and does: dead letters, waiting messages, stuck entities, feeds.

mod listed;
mod rows;

pub use listed::{DeadLetter, FeedProgress, LetterId, ParseLetterIdError, StuckEntity, WaitingMessage};

use super::pending::Pending;
use crate::{
    activation::ReplyTo,
    clock::random_u128,
    entity::EntityId,
    error::Refusal,
    feeds::{Claim, DropStep, Feed, FeedId},
    kernel::{Event, Outcome, StuckPage},
    message::{ClientId, Envelope},
    node::{Front, Ports},
    placement::ShardId,
    shard::{self, FEED_CLAIM, FEED_MARKS, FEED_NAME, decode_waiting},
    store::{LoadError, RowType, Store},
};
use rows::row_key;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Most rows of one page.
pub const PAGE_MAX: usize = 1_000;
/// How long an operation may take before its outcome is given back as unknown.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// Nothing happened.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// It may have happened. List again to find out.
    #[error("outcome unknown: {0}; list again")]
    Unknown(String),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] LoadError),
    /// A row is not what this build writes.
    #[error("{0} has a row that this build cannot read; it may be a newer build's")]
    Row(ShardId),
}

impl From<Refusal> for OperatorError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The operator's view of a running runtime.
///
/// A listing brings the checkpoint up to date and reads it, so it shows everything that was acknowledged before, and costs
/// as much as a checkpoint: it is for people, not for every second. The turns go on beside it.
///
/// ```
/// # use entity_runtime::prelude::*;
/// # #[derive(Entity, Default, Serialize, Deserialize)]
/// # #[entity(kind = "fuse", handles(Blow))]
/// # struct Fuse;
/// # #[derive(Message, Serialize, Deserialize)]
/// # #[message(reply = ())]
/// # struct Blow;
/// # impl Handle<Blow> for Fuse {
/// #     fn handle(&mut self, _: Blow, _: &mut Context<'_, Self>) { panic!("blown") }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> anyhow::Result<()> {
/// # let mut limits = entity_runtime::Limits::default();
/// # limits.tries_max = 1;
/// let runtime = Runtime::builder().entity::<Fuse>().in_memory().limits(limits).start().await?;
/// assert!(runtime.client().ask(Fuse::at("kitchen"), Blow).await.is_err());
///
/// let operator = runtime.operator();
/// let letters = operator.dead_letters(None, 100).await?;
/// assert_eq!(letters[0].target.to_string(), "fuse/kitchen");
/// assert!(letters[0].reason.contains("blown"));
/// operator.drop_letter(letters[0].id).await?;
/// assert!(operator.dead_letters(None, 100).await?.is_empty());
/// # runtime.shutdown().await;
/// # Ok(())
/// # }
/// ```
pub struct Operator<'r> {
    front: &'r Arc<Front>,
    store: &'r Arc<dyn Store>,
}

impl<'r> Operator<'r> {
    pub(crate) fn new(front: &'r Arc<Front>, store: &'r Arc<dyn Store>) -> Self {
        Self { front, store }
    }

    /// Lists dead letters in the order of their ids, from behind `after` on, [`PAGE_MAX`] at the most. The last id of a
    /// page asks for the next.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn dead_letters(
        &self,
        after: Option<LetterId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, OperatorError> {
        self.page(after, limit, RowType::DeadLetter, |id, value| {
            let letter = shard::LetterRow::decode(value)?;
            let view = letter.envelope.view();
            Some(DeadLetter {
                id,
                at: letter.at,
                tries: letter.tries,
                target: letter.envelope.target(),
                message: view.name.to_owned(),
                body: view.body.to_vec(),
                reason: letter.reason,
            })
        })
        .await
    }

    /// Lists the messages that wait for entities which are parked or keep failing, paged as dead letters are.
    /// [`Operator::stuck`] says why each entity waits; a message for a kind that is not registered waits too.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn waiting(
        &self,
        after: Option<LetterId>,
        limit: usize,
    ) -> Result<Vec<WaitingMessage>, OperatorError> {
        self.page(after, limit, RowType::Waiting, |id, value| {
            let envelope = decode_waiting(value)?.envelope;
            let message = envelope.view().name.to_owned();
            Some(WaitingMessage { id, target: envelope.target(), message, len: envelope.len() })
        })
        .await
    }

    /// Lists the entities that are parked or keep failing, those for longest first, `limit` or [`PAGE_MAX`] at the most.
    /// Answered out of memory: it costs no checkpoint and shows what is so now.
    ///
    /// # Errors
    /// The runtime is stopping, or a worker does not answer.
    pub async fn stuck(&self, limit: usize) -> Result<Vec<StuckEntity>, OperatorError> {
        let mut stuck = Vec::new();
        for worker in 0..self.front.intakes.len() {
            let mut from = 0;
            loop {
                let told = self.ask([(worker, from)], |from, to| Event::ListStuck { from, to }).await?;
                let page = told.into_iter().next().map(|outcome| match outcome {
                    Outcome::Done(reply) => Ok(StuckPage::decode(&reply.body).expect("just encoded")),
                    Outcome::Refused(refusal) => Err(refusal.into()),
                    Outcome::Elsewhere => Err(Refusal::Unavailable.into()),
                    Outcome::Unknown(why) => Err(OperatorError::Unknown(why)),
                    Outcome::Waiting => unreachable!("only a message waits"),
                });
                let page = page.expect("one was asked")?;
                stuck.extend(page.entities.into_iter().map(|stuck| StuckEntity {
                    target: EntityId::new(stuck.kind, stuck.key),
                    is_parked: stuck.is_parked,
                    reason: stuck.reason,
                    since: stuck.since,
                    tries: stuck.tries,
                    waiting: stuck.waiting,
                }));
                // Bounded after each page, and not at the end: those for longest are kept.
                stuck.sort_by(|one, other| {
                    (one.since, one.target.key()).cmp(&(other.since, other.target.key()))
                });
                stuck.truncate(limit.min(PAGE_MAX));
                if page.next == 0 {
                    break;
                }
                from = page.next;
            }
        }
        Ok(stuck)
    }

    /// Lists the feeds, by name. Their number is bounded by
    /// [`Limits::clients_max`](crate::Limits::clients_max).
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn feeds(&self) -> Result<Vec<FeedProgress>, OperatorError> {
        self.make_loadable().await?;
        let layout = self.front.layout;
        let feeds = self.read(move |rows| {
            let mut feeds: BTreeMap<Vec<u8>, FeedProgress> = BTreeMap::new();
            for shard in layout.iter() {
                let (from, below) = ([RowType::Feed as u8], [RowType::Feed as u8 + 1]);
                rows.visit(shard, &from..&below, |key, value| {
                    let (id, &[part]) = key[1..].split_last_chunk()?;
                    let feed = feeds.entry(id.to_vec()).or_default();
                    match part {
                        FEED_MARKS => {
                            let marks = Feed::decode(value)?;
                            feed.applied += marks.floor();
                            feed.own = feed.own.max(marks.own_at_floor());
                            feed.shards += 1;
                        }
                        FEED_NAME => feed.name = String::from_utf8_lossy(value).into_owned(),
                        FEED_CLAIM => feed.dropping = Claim::decode(value)? == Claim::Dropping,
                        _ => return None,
                    }
                    Some(true)
                })?;
            }
            Ok(feeds)
        });
        let mut feeds: Vec<FeedProgress> = feeds.await?.into_values().collect();
        feeds.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(feeds)
    }

    /// Tries a dead letter again, as a new message behind the others of its entity. It is no dead letter any more when
    /// this returns; should it fail again it becomes a new one. Whoever asked the message first keeps the answer it got.
    ///
    /// # Errors
    /// There is no such letter, or the store has no room; or the outcome is unknown.
    pub async fn retry(&self, id: LetterId) -> Result<(), OperatorError> {
        self.check(id)?;
        self.make_loadable().await?;
        let letter = self.read(move |rows| {
            let mut letter = None;
            let key = row_key(RowType::DeadLetter, id.number);
            let below = [&key[..], &[0]].concat();
            rows.visit(id.shard, &key..&below, |_, value| {
                letter = Some(shard::LetterRow::decode(value)?);
                Some(false)
            })?;
            Ok(letter)
        });
        let letter = letter.await?.ok_or(Refusal::NoDeadLetter(id.number))?;
        self.tell(id, Some(letter.envelope)).await
    }

    /// Drops a dead letter for good.
    ///
    /// # Errors
    /// As [`Operator::retry`].
    pub async fn drop_letter(&self, id: LetterId) -> Result<(), OperatorError> {
        self.tell(id, None).await
    }

    /// Forgets a feed in every shard, durably: its name is free for another input, and its place among
    /// [`Limits::clients_max`](crate::Limits::clients_max) for another feed.
    ///
    /// What it has applied stays applied. Nothing is left to know its input by: **sent again, it is applied again.** From the
    /// first word on nobody gets the name until all is done. An attempt that was cut short, by a crash or because messages
    /// were still on their way, is gone on with by the next; until then [`FeedProgress::dropping`] shows it.
    ///
    /// ```
    /// # use entity_runtime::prelude::*;
    /// # #[derive(Entity, Default, Serialize, Deserialize)]
    /// # #[entity(kind = "box", handles(Put))]
    /// # struct Basket;
    /// # #[derive(Message, Serialize, Deserialize)]
    /// # #[message(reply = ())]
    /// # struct Put;
    /// # impl Handle<Put> for Basket {
    /// #     fn handle(&mut self, _: Put, _: &mut Context<'_, Self>) {}
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> anyhow::Result<()> {
    /// # let runtime = Runtime::builder().entity::<Basket>().in_memory().start().await?;
    /// let mut feed = runtime.client().feed("2024.csv").await?;
    /// feed.send(1, Basket::at("b"), Put).await?;
    /// feed.flush().await?;
    /// drop(feed);
    ///
    /// runtime.operator().drop_feed("2024.csv").await?;
    /// assert!(runtime.operator().feeds().await?.is_empty());
    /// # runtime.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// There is no such feed, somebody has it open or its messages are on their way ([`Refusal::FeedOpen`]), or the store
    /// has no room; or the outcome is unknown.
    pub async fn drop_feed(&self, name: &str) -> Result<(), OperatorError> {
        let layout = self.front.layout;
        let (home, name) = (layout.place(FeedId::of(name).hash()), Arc::<str>::from(name));
        let step = |step| {
            let name = Arc::clone(&name);
            move |shard, to| Event::DropFeed { shard, name: Arc::clone(&name), step, to }
        };
        // One at a time: the marks that another's late step forgets could be those of the next input under the name. The
        // steps of one that was cut short lie before the next one's in the queue of each worker.
        let _turn = self.front.dropping_feed.lock().await;
        self.tell_each([home], step(DropStep::Begin)).await?;
        self.tell_each(layout.iter(), step(DropStep::Marks)).await?;
        self.tell_each([home], step(DropStep::End)).await
    }

    /// There is such a shard.
    fn check(&self, id: LetterId) -> Result<(), Refusal> {
        if id.shard.0 < self.front.layout.count() { Ok(()) } else { Err(Refusal::NoDeadLetter(id.number)) }
    }

    async fn tell(&self, id: LetterId, retry: Option<Envelope>) -> Result<(), OperatorError> {
        self.check(id)?;
        let event = |shard, to| Event::DeadLetter { shard, number: id.number, retry: retry.clone(), to };
        self.tell_each([id.shard], event).await
    }

    /// Tells shards something each, and waits for all of them; the first that fails says why.
    async fn tell_each(
        &self,
        shards: impl IntoIterator<Item = ShardId>,
        event: impl Fn(ShardId, ReplyTo) -> Event,
    ) -> Result<(), OperatorError> {
        let events = shards.into_iter().map(|shard| (self.front.worker_of(shard), shard));
        let told = self.ask(events, event).await?;
        told.into_iter().try_for_each(|outcome| match outcome {
            Outcome::Done(_) | Outcome::Waiting => Ok(()),
            Outcome::Refused(refusal) => Err(refusal.into()),
            Outcome::Elsewhere => Err(Refusal::Unavailable.into()),
            Outcome::Unknown(why) => Err(OperatorError::Unknown(why)),
        })
    }

    /// Puts a question to workers, and gives back the answers in the order asked.
    async fn ask<T>(
        &self,
        of: impl IntoIterator<Item = (usize, T)>,
        event: impl Fn(T, ReplyTo) -> Event,
    ) -> Result<Vec<Outcome>, OperatorError> {
        if self.front.stopping.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Refusal::Stopping.into());
        }
        let pending =
            Arc::new(Pending::new(ClientId(random_u128()), self.front.clock.clone(), Duration::ZERO));
        let port = OpenPort { ports: &self.front.ports, connection: self.front.ports.next() };
        port.ports.open(port.connection, pending.clone());
        let until = self.front.clock.now() + TIMEOUT;
        let mut waiters = Vec::new();
        for (worker, of) in of {
            let waiter = pending.wait(None, false, until);
            let to = ReplyTo { connection: port.connection, slot: waiter.slot };
            self.front.intakes[worker].push(event(of, to));
            waiters.push(waiter);
        }
        let mut outcomes = Vec::with_capacity(waiters.len());
        for waiter in waiters {
            outcomes.push(waiter.await);
        }
        Ok(outcomes)
    }
}

/// The port that the answers to a question come to. It is closed however the asking ends, for its future may be dropped.
struct OpenPort<'f> {
    ports: &'f Ports,
    connection: u32,
}

impl Drop for OpenPort<'_> {
    fn drop(&mut self) {
        self.ports.close(self.connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        limits::Limits,
        node::{Intake, Links},
        placement::{Epoch, Shards},
        requests::{Reply, ReplyClass},
        store::{Batch, LaneId, batch::put, memory::MemoryStore},
        timestamp::Timestamp,
    };
    use std::{
        future::Future,
        task::{Context, Poll, Waker},
    };

    fn letter() -> Vec<u8> {
        let mut bytes = Vec::new();
        Envelope::write_head("kind", "key", "Message", None, &mut bytes);
        let envelope = Envelope::from_bytes(bytes.into()).unwrap();
        let letter = shard::LetterRow { at: Timestamp::EPOCH, tries: 1, reason: "why".into(), envelope };
        let mut row = Vec::new();
        letter.encode(&mut row);
        row
    }

    /// Two shards, each with this many dead letters from number 1 on, and as many rows of other kinds around them.
    fn letters(letters: u64) -> (Arc<Front>, MemoryStore) {
        let layout = Shards::new(2).unwrap();
        let store = MemoryStore::new(layout, 1);
        let mut batch = Batch::new();
        for shard in layout.iter() {
            batch.section(shard, Epoch(1), 1, |out| {
                for number in 1..=letters {
                    put(&[&row_key(RowType::Waiting, number)], &[b"other"], out);
                    put(&[&row_key(RowType::DeadLetter, number)], &[&letter()], out);
                }
            });
        }
        store.open_lane(LaneId(0)).commit(&[batch]).unwrap();
        let front =
            Front::new(Limits::default(), Links::alone(layout), layout, vec![Arc::new(Intake::new(1))]);
        (Arc::new(front), store)
    }

    #[tokio::test]
    async fn a_page_reads_no_more_rows_than_it_has() {
        let (front, memory) = letters(100);
        let store: Arc<dyn Store> = Arc::new(memory.clone());
        let operator = Operator::new(&front, &store);
        let (mut after, mut listed) = (None, Vec::new());
        loop {
            let before = memory.rows_visited();
            let page = operator.dead_letters(after, 7).await.unwrap();
            assert_eq!(memory.rows_visited() - before, page.len() as u64);
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            listed.extend(page.iter().map(|letter| (letter.id.shard.0, letter.id.number)));
        }
        let all: Vec<_> = (0..2).flat_map(|shard| (1..=100).map(move |number| (shard, number))).collect();
        assert_eq!(listed, all);
        let behind = LetterId { shard: ShardId(0), number: u64::MAX };
        assert_eq!(operator.dead_letters(Some(behind), 1).await.unwrap()[0].id.to_string(), "1-1");
    }

    #[tokio::test]
    async fn a_question_that_is_dropped_leaves_no_port_behind() {
        let (front, memory) = letters(1);
        let store: Arc<dyn Store> = Arc::new(memory);
        let operator = Operator::new(&front, &store);
        {
            let mut stuck = Box::pin(operator.stuck(1));
            assert!(stuck.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            assert_eq!(front.ports.len(), 1);
        }
        assert_eq!(front.ports.len(), 0);
    }

    /// Does what the worker was asked to do for feeds, and says what it was.
    fn work(front: &Front) -> Vec<DropStep> {
        let mut events = Vec::new();
        front.intakes[0].take(&mut events);
        let steps = events.into_iter().map(|event| {
            let Event::DropFeed { step, to, .. } = event else { unreachable!("nothing else was asked") };
            let reply = Reply { class: ReplyClass::Applied, body: bytes::Bytes::new() };
            front.ports.reply(vec![(to, Outcome::Done(reply))]);
            step
        });
        steps.collect()
    }

    #[tokio::test]
    async fn a_feed_is_dropped_by_one_at_a_time() {
        let (front, memory) = letters(1);
        let store: Arc<dyn Store> = Arc::new(memory);
        let operator = Operator::new(&front, &store);
        let mut cx = Context::from_waker(Waker::noop());
        let [mut one, mut other, mut third] = [(); 3].map(|()| Box::pin(operator.drop_feed("f")));
        for steps in [&[DropStep::Begin][..], &[DropStep::Marks; 2], &[DropStep::End]] {
            assert!(one.as_mut().poll(&mut cx).is_pending() && other.as_mut().poll(&mut cx).is_pending());
            assert_eq!(work(&front), steps);
        }
        assert!(matches!(one.as_mut().poll(&mut cx), Poll::Ready(Ok(()))));
        // The next begins from the start, and should nobody wait for it any longer, so does the one behind.
        assert!(other.as_mut().poll(&mut cx).is_pending() && third.as_mut().poll(&mut cx).is_pending());
        assert_eq!(work(&front), [DropStep::Begin]);
        drop(other);
        assert!(third.as_mut().poll(&mut cx).is_pending());
        assert_eq!(work(&front), [DropStep::Begin]);
    }

    #[tokio::test]
    async fn a_letter_is_found_without_the_others() {
        let (front, memory) = letters(100);
        let store: Arc<dyn Store> = Arc::new(memory.clone());
        let operator = Operator::new(&front, &store);
        let missing = |number, shard| LetterId { shard: ShardId(shard), number };
        for missing in [missing(0, 0), missing(101, 1), missing(1, 2)] {
            let refused = operator.retry(missing).await;
            assert!(matches!(refused, Err(OperatorError::Refused(Refusal::NoDeadLetter(_)))), "{refused:?}");
        }
        assert_eq!(memory.rows_visited(), 0);
        let worker = async {
            loop {
                let mut events = Vec::new();
                front.intakes[0].take(&mut events);
                if let Some(event) = events.pop() {
                    let Event::DeadLetter { number: 50, retry: Some(_), to, .. } = event else {
                        panic!("asked for something else")
                    };
                    let reply = Reply { class: ReplyClass::Applied, body: bytes::Bytes::new() };
                    return front.ports.reply(vec![(to, Outcome::Done(reply))]);
                }
                tokio::task::yield_now().await;
            }
        };
        let (retried, ()) = tokio::join!(operator.retry(missing(50, 1)), worker);
        assert!(retried.is_ok(), "{retried:?}");
        assert_eq!(memory.rows_visited(), 1);
    }
}
