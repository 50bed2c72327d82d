//! What a test asks of the entities of a simulation, and what it is answered.

use super::{FeedState, FeedTicket, Sim, Ticket, client::Way};
use crate::{
    entity::{Answers, Entity, EntityRef, Handle, Query},
    error::AskError,
    kernel::Outcome,
    message::{Envelope, Message},
    requests::ReplyClass,
};

impl Sim {
    /// Asks, and runs until the reply is there. Asked again, with the same id, as long as the outcome is unknown.
    ///
    /// # Errors
    /// The message was refused for good or dead-lettered.
    pub fn ask<E: Entity + Handle<M>, M: Message>(
        &mut self,
        target: &EntityRef<E>,
        message: &M,
    ) -> Result<M::Reply, AskError> {
        let ticket = self.begin_ask(0, target, message);
        self.finish::<M>(ticket)
    }

    /// Answers a query, and runs until the answer is there.
    ///
    /// # Errors
    /// The query was refused for good.
    pub fn query<E, M>(&mut self, target: &EntityRef<E>, message: &M) -> Result<M::Reply, AskError>
    where
        E: Entity + Query<M> + Answers<M, crate::entity::way::Queried>,
        M: Message,
    {
        let envelope = envelope(E::KIND, target.key(), message)?;
        let ticket = self.call(0, Way::Query, envelope);
        self.finish::<M>(ticket)
    }

    /// Begins a query of one of several callers; [`Sim::answered`] tells its answer.
    ///
    /// # Panics
    /// The message does not encode.
    pub fn begin_query<E, M>(&mut self, caller: usize, target: &EntityRef<E>, message: &M) -> Ticket
    where
        E: Entity + Query<M> + Answers<M, crate::entity::way::Queried>,
        M: Message,
    {
        let envelope = envelope(E::KIND, target.key(), message).expect("a test's message encodes");
        self.call(caller, Way::Query, envelope)
    }

    /// Begins an ask of one of several callers; [`Sim::answered`] tells its outcome.
    ///
    /// # Panics
    /// The message does not encode.
    pub fn begin_ask<E: Entity + Handle<M>, M: Message>(
        &mut self,
        caller: usize,
        target: &EntityRef<E>,
        message: &M,
    ) -> Ticket {
        let envelope = envelope(E::KIND, target.key(), message).expect("a test's message encodes");
        self.call(caller, Way::Ask, envelope)
    }

    /// Begins a send of the first caller. It goes on until the message is durably accepted, through every crash.
    ///
    /// # Panics
    /// The message does not encode.
    pub fn send<E: Entity + Handle<M>, M: Message>(&mut self, target: &EntityRef<E>, message: &M) -> Ticket {
        self.begin_send(0, target, message)
    }

    /// As [`Sim::send`], of one of several callers.
    ///
    /// # Panics
    /// The message does not encode.
    pub fn begin_send<E: Entity + Handle<M>, M: Message>(
        &mut self,
        caller: usize,
        target: &EntityRef<E>,
        message: &M,
    ) -> Ticket {
        let envelope = envelope(E::KIND, target.key(), message).expect("a test's message encodes");
        self.call(caller, Way::Send, envelope)
    }

    /// The outcome of a call; `None` while it is not known.
    pub fn outcome(&self, ticket: Ticket) -> Option<&Outcome> {
        self.calls[ticket.0].outcome.as_ref()
    }

    /// The decoded reply of a call; `None` while it is not known or where there is none.
    ///
    /// # Errors
    /// It was refused for good or dead-lettered.
    pub fn answered<M: Message>(&self, ticket: Ticket) -> Option<Result<M::Reply, AskError>> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match self.outcome(ticket)? {
            Outcome::Done(reply) if reply.class == ReplyClass::DeadLettered => {
                Some(Err(AskError::DeadLettered(text(&reply.body))))
            }
            // A rejection is a reply like any other: the handler's `Err`.
            Outcome::Done(reply) => Some(crate::codec::decode(&reply.body).map_err(AskError::Reply)),
            Outcome::Refused(refusal) => Some(Err(AskError::Refused(refusal.clone()))),
            Outcome::Waiting | Outcome::Elsewhere | Outcome::Unknown(_) => None,
        }
    }

    fn finish<M: Message>(&mut self, ticket: Ticket) -> Result<M::Reply, AskError> {
        let until = self.now + 600_000_000;
        while self.calls[ticket.0].outcome.is_none() && self.now < until {
            self.step();
        }
        self.answered::<M>(ticket).unwrap_or_else(|| self.fail("a call had no outcome in ten minutes"))
    }

    /// Feeds rows under a name: each with its own number, its entity and its message. Own numbers must rise.
    ///
    /// # Panics
    /// A message does not encode.
    pub fn feed<E: Entity + Handle<M>, M: Message>(
        &mut self,
        name: &str,
        rows: impl IntoIterator<Item = (u64, EntityRef<E>, M)>,
    ) -> FeedTicket {
        let rows = rows.into_iter().map(|(own, target, message)| {
            (own, envelope(E::KIND, target.key(), &message).expect("a test's message encodes"))
        });
        let rows = rows.collect();
        self.begin_feed(name, rows)
    }

    /// How a feed stands.
    pub fn feed_state(&self, feed: FeedTicket) -> FeedState {
        self.feeds[feed.0].state
    }
}

pub(super) fn envelope<M: Message>(kind: &str, key: &str, message: &M) -> Result<Envelope, AskError> {
    crate::entity::EntityId::check(kind, key)?;
    let mut bytes = Vec::new();
    Envelope::write_head(kind, key, M::NAME, None, &mut bytes);
    crate::message::encode(message, &mut bytes)
        .map_err(|error| AskError::Refused(crate::error::Refusal::Unencodable(error)))?;
    Ok(Envelope::from_bytes(bytes.into()).expect("it was written as one"))
}
