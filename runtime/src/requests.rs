//! Clients' request ids and stored replies: why a repeat gets the same answer, byte for byte (P11).
//!
//! # Invariants
//! * A request without a record runs only if it is younger than the horizon and not settled: above its client's floor, or
//!   one of the exceptions below it.
//! * What a client has settled stays settled, in whatever order its word arrives: the floor only rises, and a number
//!   becomes an exception only as the floor passes it.
//! * The horizon only rises, and never faster than time passes; a record is dropped only when it is at or below the
//!   horizon or its client said that it has the reply.

use crate::{
    message::{ClientId, RequestId},
    store::row::{put_varint, take, take_u64, take_u128, take_varint},
    timestamp::Timestamp,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// Most numbers below its floor that a client may except. With more that are not settled its floor stays where it is.
pub const OPEN_MAX: usize = 64;

/// Bytes one exception takes in a client's row, at the most.
pub(crate) const OPEN_LEN: usize = 10;

/// Which of its requests a client has settled: it will not ask for their replies again. Sent with each request.
///
/// One that is not settled for long (a slow turn, an id kept for a repeat) would otherwise hold up all behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Everything up to here is settled,
    pub floor: u64,
    /// but for these, by rising number. Shared, because it seldom changes; `None` where there is none.
    pub open: Option<Arc<[u64]>>,
}

impl Acknowledged {
    /// Everything up to `floor`.
    pub fn through(floor: u64) -> Self {
        Self { floor, open: None }
    }

    /// Whether the client will not ask for this reply again.
    pub fn settles(&self, number: u64) -> bool {
        number <= self.floor && self.open().binary_search(&number).is_err()
    }

    fn open(&self) -> &[u64] {
        self.open.as_deref().unwrap_or_default()
    }

    /// Whether the exceptions are what a client may send: few, rising, and below the floor.
    fn is_sound(&self) -> bool {
        are_exceptions(self.open(), self.floor)
    }
}

fn are_exceptions(open: &[u64], floor: u64) -> bool {
    open.len() <= OPEN_MAX
        && open.is_sorted_by(|one, next| one < next)
        && open.last().is_none_or(|last| *last <= floor)
}

/// How a consumed message ended, as its sender is told. The stored form of it answers every repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Applied, rejected or dead-lettered.
    pub class: ReplyClass,
    /// The encoded reply, the encoded error, or the reason as text.
    pub body: Bytes,
}

/// The class of a [`Reply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ReplyClass {
    /// The turn took effect.
    Applied = 0,
    /// The handler answered `Err`; nothing but the answer remains.
    Rejected = 1,
    /// The message was given up.
    DeadLettered = 2,
}

impl ReplyClass {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Applied, Self::Rejected, Self::DeadLettered].into_iter().find(|class| *class as u8 == byte)
    }
}

/// What is to be done with a request that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum RequestVerdict {
    /// Never seen: run it.
    Fresh,
    /// It ran: answer again.
    Done(Reply),
    /// It is on its way; the caller is answered when it is done.
    Pending {
        /// It lies in a waiting queue: durably accepted, which is enough for `send`.
        waits: bool,
    },
    /// Too old to be told from a repeat.
    Expired,
    /// The id was used for other bytes.
    Collision,
}

/// One request that arrived and whose reply is not dropped yet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    number: u64,
    issued_at: Timestamp,
    /// Hash of the envelope, to tell a repeat from a reused id.
    digest: u64,
    /// `None` while it is on its way.
    reply: Option<Reply>,
    /// It is on its way in a waiting queue.
    waits: bool,
}

#[derive(Debug, Default)]
struct Client {
    /// All up to here are settled,
    floor: u64,
    /// but for these, by rising number; at most [`OPEN_MAX`].
    open: Vec<u64>,
    /// The youngest request seen; the floor must be kept until the horizon has passed it.
    youngest: Timestamp,
    /// By rising number.
    records: VecDeque<Record>,
}

impl Client {
    fn find(&self, number: u64) -> Result<usize, usize> {
        // Nearly every request is the newest of its client.
        match self.records.back() {
            Some(last) if last.number < number => Err(self.records.len()),
            _ => self.records.binary_search_by_key(&number, |record| record.number),
        }
    }

    /// Whether the client has said that it will not ask for this reply again.
    fn has_settled(&self, number: u64) -> bool {
        number <= self.floor && self.open.binary_search(&number).is_err()
    }
}

/// The requests of one shard.
#[derive(Debug, Default)]
pub struct Requests {
    horizon: Timestamp,
    clients: BTreeMap<ClientId, Client>,
    records: usize,
    /// Bytes of the stored replies.
    bytes: usize,
}

impl Requests {
    /// Requests at or below this age are refused unless their record is still here.
    pub fn horizon(&self) -> Timestamp {
        self.horizon
    }

    /// Sets the horizon read from the store.
    pub fn set_horizon(&mut self, horizon: Timestamp) {
        self.horizon = self.horizon.max(horizon);
    }

    /// How many records are kept.
    pub fn len(&self) -> usize {
        self.records
    }

    /// Bytes of the replies that are stored.
    pub fn reply_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether no record is kept.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// How many clients are known.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Whether the client has a row or a record here already.
    pub fn knows(&self, client: ClientId) -> bool {
        self.clients.contains_key(&client)
    }

    /// Judges a request that arrived.
    pub fn judge(&self, id: RequestId, digest: u64) -> RequestVerdict {
        if let Some(client) = self.clients.get(&id.client) {
            if let Ok(at) = client.find(id.number) {
                let record = &client.records[at];
                return match &record.reply {
                    _ if record.digest != digest || record.issued_at != id.issued_at => {
                        RequestVerdict::Collision
                    }
                    Some(reply) => RequestVerdict::Done(reply.clone()),
                    None => RequestVerdict::Pending { waits: record.waits },
                };
            }
            if client.has_settled(id.number) {
                return RequestVerdict::Expired;
            }
        }
        if id.issued_at <= self.horizon { RequestVerdict::Expired } else { RequestVerdict::Fresh }
    }

    /// Takes a fresh request into memory.
    pub fn take(&mut self, id: RequestId, digest: u64) {
        let client = self.clients.entry(id.client).or_default();
        let at = client.find(id.number).expect_err("a fresh request has no record");
        client.youngest = client.youngest.max(id.issued_at);
        let record = Record { number: id.number, issued_at: id.issued_at, digest, reply: None, waits: false };
        client.records.insert(at, record);
        self.records += 1;
    }

    /// A taken request goes into a waiting queue.
    pub fn set_waiting(&mut self, id: RequestId) {
        let client = self.clients.get_mut(&id.client).expect("a taken request has a client");
        let at = client.find(id.number).expect("a taken request has a record");
        client.records[at].waits = true;
    }

    /// Forgets a taken request that was refused after all.
    pub fn forget(&mut self, id: RequestId) {
        let client = self.clients.get_mut(&id.client).expect("a taken request has a client");
        let at = client.find(id.number).expect("a taken request has a record");
        client.records.remove(at);
        self.records -= 1;
    }

    /// Whether a commit, durable or not yet, has answered this request.
    pub fn is_done(&self, id: RequestId) -> bool {
        self.clients
            .get(&id.client)
            .and_then(|client| client.find(id.number).ok().map(|at| client.records[at].reply.is_some()))
            .unwrap_or(true)
    }

    /// Stores the reply and appends its row value to `out`. A request that its client has settled meanwhile (nobody waits
    /// for it any more), or whose record is gone, stores nothing; returns whether it did.
    pub fn complete(&mut self, id: RequestId, reply: &Reply, out: &mut Vec<u8>) -> bool {
        let Some(client) = self.clients.get_mut(&id.client) else { return false };
        let Ok(at) = client.find(id.number) else { return false };
        let is_settled = client.has_settled(id.number);
        let record = &mut client.records[at];
        assert!(record.reply.is_none(), "a request is answered once");
        if is_settled {
            client.records.remove(at);
            self.records -= 1;
            return false;
        }
        put_varint(record.issued_at.as_micros(), out);
        out.extend_from_slice(&record.digest.to_be_bytes());
        out.push(reply.class as u8);
        out.extend_from_slice(&reply.body);
        record.reply = Some(reply.clone());
        self.bytes += reply.body.len();
        true
    }

    /// The client has settled these: drops their replies, `most` at a time, naming each number to `dropped`. They count
    /// as settled as far as they are dropped. Returns whether there was anything to do.
    ///
    /// Several requests carry the word of different moments and arrive in any order. A floor below the present one says
    /// nothing new, and an exception counts only where it was not settled before; so nothing settled is ever open again.
    pub fn acknowledge(
        &mut self,
        client: ClientId,
        settled: &Acknowledged,
        most: usize,
        mut dropped: impl FnMut(u64),
    ) -> bool {
        let Some(Client { floor, open, records, .. }) = self.clients.get_mut(&client) else { return false };
        let is_old = settled.floor < *floor || settled.floor == *floor && open.is_empty();
        if is_old || most == 0 || !settled.is_sound() {
            return false;
        }
        let before = (*floor, open.len());
        let mut left = most;
        // Exceptions so far that are none any more.
        open.retain(|number| {
            if left == 0 || settled.open().binary_search(number).is_ok() {
                return true;
            }
            // One that is on its way stays until it is done, and stores nothing then.
            let at = records.binary_search_by_key(number, |record| record.number);
            if let Ok(at) = at
                && let Some(reply) = &records[at].reply
            {
                dropped(*number);
                self.records -= 1;
                self.bytes -= reply.body.len();
                left -= 1;
                records.remove(at);
            }
            false
        });
        // What the floor passes.
        let mut reached = if left == 0 { *floor } else { settled.floor };
        let mut at = records.partition_point(|record| record.number <= *floor);
        while 0 < left
            && let Some(record) = records.get(at)
            && record.number <= settled.floor
        {
            let Some(reply) = record.reply.as_ref().filter(|_| settled.settles(record.number)) else {
                at += 1;
                continue;
            };
            self.bytes -= reply.body.len();
            dropped(record.number);
            left -= 1;
            if left == 0 {
                reached = record.number;
            }
            self.records -= 1;
            records.remove(at);
        }
        open.extend(settled.open().iter().filter(|number| (*floor + 1..=reached).contains(*number)));
        *floor = reached;
        before != (*floor, open.len())
    }

    /// Row value of a client: floor, youngest request, and to the end the exceptions, each as its distance to the one
    /// before.
    pub fn encode_client(&self, id: ClientId, out: &mut Vec<u8>) {
        let client = &self.clients[&id];
        put_varint(client.floor, out);
        put_varint(client.youngest.as_micros(), out);
        let mut before = 0;
        for &number in &client.open {
            put_varint(number - before, out);
            before = number;
        }
    }

    /// Raises the horizon and drops what is at or below it, `most` at a time: each reply and each client is named, for
    /// its row. What is left keeps its record, and goes the next time.
    pub fn expire(
        &mut self,
        horizon: Timestamp,
        most: usize,
        mut reply_dropped: impl FnMut(ClientId, u64),
        mut client_dropped: impl FnMut(ClientId),
    ) -> bool {
        if horizon <= self.horizon {
            return false;
        }
        let mut left = most;
        let (records, bytes) = (&mut self.records, &mut self.bytes);
        self.clients.retain(|id, client| {
            let mut at = 0;
            while 0 < left
                && let Some(record) = client.records.get(at)
                && record.issued_at <= horizon
            {
                let Some(reply) = &record.reply else {
                    // On its way for so long: it holds up none behind it.
                    at += 1;
                    continue;
                };
                *bytes -= reply.body.len();
                reply_dropped(*id, record.number);
                client.records.remove(at);
                *records -= 1;
                left -= 1;
            }
            let keep = left == 0 || !client.records.is_empty() || horizon < client.youngest;
            if !keep {
                client_dropped(*id);
                left -= 1;
            }
            keep
        });
        let changed = left < most;
        // Without anything dropped the old horizon still says all there is to say.
        if changed {
            self.horizon = horizon;
        }
        changed
    }

    /// Puts back a client from its row. Returns false where the row is not one.
    pub fn restore_client(&mut self, mut key: &[u8], mut value: &[u8]) -> bool {
        self.try_restore_client(&mut key, &mut value).is_some()
    }

    fn try_restore_client(&mut self, key: &mut &[u8], value: &mut &[u8]) -> Option<()> {
        let id = ClientId(take_u128(key)?);
        let (floor, youngest) = (take_varint(value)?, Timestamp::from_micros(take_varint(value)?));
        let mut open: Vec<u64> = Vec::new();
        while !value.is_empty() {
            // Looked at before the next is read, so that a row of any length costs no more than this.
            if open.len() == OPEN_MAX {
                return None;
            }
            open.push(open.last().unwrap_or(&0).checked_add(take_varint(value)?)?);
        }
        are_exceptions(&open, floor).then_some(())?;
        let client = self.clients.entry(id).or_default();
        client.floor = floor;
        client.open = open;
        client.youngest = client.youngest.max(youngest);
        Some(())
    }

    /// Puts back a stored reply from its row. Returns false where the row is not one.
    pub fn restore_reply(&mut self, key: &[u8], value: &[u8]) -> bool {
        self.try_restore_reply(key, value).is_some()
    }

    fn try_restore_reply(&mut self, mut key: &[u8], mut value: &[u8]) -> Option<()> {
        let (client, number) = (ClientId(take_u128(&mut key)?), take_u64(&mut key)?);
        let issued_at = Timestamp::from_micros(take_varint(&mut value)?);
        let digest = take_u64(&mut value)?;
        let class = ReplyClass::from_byte(take(&mut value, 1)?[0])?;
        let reply = Some(Reply { class, body: Bytes::copy_from_slice(value) });
        self.restore(client, Record { number, issued_at, digest, reply, waits: false })
    }

    /// Puts back a request that lies in a waiting queue.
    pub fn restore_pending(&mut self, id: RequestId, digest: u64) -> bool {
        let record = Record { number: id.number, issued_at: id.issued_at, digest, reply: None, waits: true };
        self.restore(id.client, record).is_some()
    }

    fn restore(&mut self, client: ClientId, record: Record) -> Option<()> {
        let client = self.clients.entry(client).or_default();
        let at = client.find(record.number).err()?;
        client.youngest = client.youngest.max(record.issued_at);
        self.bytes += record.reply.as_ref().map_or(0, |reply| reply.body.len());
        client.records.insert(at, record);
        self.records += 1;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64, millis: u64) -> RequestId {
        RequestId { client: ClientId(7), number, issued_at: Timestamp::from_millis(millis) }
    }

    fn done(text: &'static str) -> Reply {
        Reply { class: ReplyClass::Applied, body: Bytes::from_static(text.as_bytes()) }
    }

    #[test]
    fn a_repeat_gets_the_first_reply_and_other_bytes_are_a_collision() {
        let mut requests = Requests::default();
        assert_eq!(requests.judge(id(1, 10), 99), RequestVerdict::Fresh);
        requests.take(id(1, 10), 99);
        assert_eq!(requests.judge(id(1, 10), 99), RequestVerdict::Pending { waits: false });
        assert!(requests.complete(id(1, 10), &done("first"), &mut Vec::new()));
        assert_eq!(requests.judge(id(1, 10), 99), RequestVerdict::Done(done("first")));
        assert_eq!(requests.judge(id(1, 10), 98), RequestVerdict::Collision);
    }

    #[test]
    fn what_was_dropped_never_runs_again() {
        let mut requests = Requests::default();
        for number in 1..=3 {
            requests.take(id(number, 10 * number), 1);
            assert!(requests.complete(id(number, 10 * number), &done("r"), &mut Vec::new()));
        }
        let mut dropped = Vec::new();
        assert!(
            requests.acknowledge(ClientId(7), &Acknowledged::through(2), 9, |number| dropped.push(number))
        );
        assert_eq!(dropped, [1, 2]);
        assert_eq!(requests.judge(id(2, 20), 1), RequestVerdict::Expired);
        assert!(requests.expire(Timestamp::from_millis(30), 9, |_, _| {}, |_| {}));
        assert_eq!((requests.len(), requests.clients(), requests.reply_bytes()), (0, 0, 0));
        assert_eq!(requests.judge(id(3, 30), 1), RequestVerdict::Expired);
        assert_eq!(requests.judge(id(4, 31), 1), RequestVerdict::Fresh);
    }

    #[test]
    fn a_request_on_its_way_keeps_no_acknowledged_reply_behind_it() {
        let mut requests = Requests::default();
        for number in 1..=3 {
            requests.take(id(number, 10), 1);
        }
        assert!(requests.complete(id(2, 10), &done("r"), &mut Vec::new()));
        let mut dropped = Vec::new();
        assert!(
            requests.acknowledge(ClientId(7), &Acknowledged::through(2), 9, |number| dropped.push(number))
        );
        assert_eq!((dropped, requests.len()), (vec![2], 2));
        assert_eq!(requests.judge(id(1, 10), 1), RequestVerdict::Pending { waits: false });
        assert_eq!(requests.judge(id(2, 10), 1), RequestVerdict::Expired);
    }

    /// As a client says it.
    fn settled(floor: u64, open: &[u64]) -> Acknowledged {
        Acknowledged { floor, open: (!open.is_empty()).then(|| open.into()) }
    }

    /// Ten requests of one client, all answered.
    fn answered() -> Requests {
        let mut requests = Requests::default();
        for number in 1..=10 {
            requests.take(id(number, 10), 1);
            assert!(requests.complete(id(number, 10), &done("r"), &mut Vec::new()));
        }
        requests
    }

    #[test]
    fn a_number_that_is_not_settled_holds_up_none_behind_it() {
        let mut requests = answered();
        assert!(!requests.acknowledge(ClientId(7), &settled(9, &[2, 12]), 99, |_| {}), "12 is not below 9");
        assert!(requests.acknowledge(ClientId(7), &settled(9, &[2, 4]), 99, |_| {}));
        assert_eq!(requests.len(), 3);
        assert_eq!(requests.judge(id(2, 10), 1), RequestVerdict::Done(done("r")));
        assert_eq!(requests.judge(id(3, 10), 1), RequestVerdict::Expired);
        // The same floor with fewer exceptions frees those.
        assert!(requests.acknowledge(ClientId(7), &settled(9, &[4]), 99, |_| {}));
        assert_eq!((requests.len(), requests.judge(id(2, 10), 1)), (2, RequestVerdict::Expired));
        // An older word says nothing new, and opens nothing.
        assert!(!requests.acknowledge(ClientId(7), &settled(8, &[2, 4]), 99, |_| {}));
        assert!(!requests.acknowledge(ClientId(7), &settled(9, &[2, 4]), 99, |_| {}));
        assert!(requests.acknowledge(ClientId(7), &settled(10, &[1, 2, 4]), 99, |_| {}));
        assert_eq!(requests.judge(id(2, 10), 1), RequestVerdict::Expired);
        assert_eq!(requests.judge(id(4, 10), 1), RequestVerdict::Done(done("r")));
        assert_eq!(requests.len(), 1);
    }

    #[test]
    fn an_exception_that_has_not_arrived_may_still_run() {
        let mut requests = Requests::default();
        requests.take(id(5, 10), 1);
        assert!(requests.acknowledge(ClientId(7), &settled(4, &[3]), 99, |_| {}));
        assert_eq!(requests.judge(id(3, 10), 1), RequestVerdict::Fresh);
        assert_eq!(requests.judge(id(2, 10), 1), RequestVerdict::Expired);
    }

    #[test]
    fn what_is_settled_while_it_is_on_its_way_stores_no_reply() {
        let mut requests = Requests::default();
        requests.take(id(1, 10), 1);
        requests.take(id(2, 10), 1);
        assert!(requests.acknowledge(ClientId(7), &settled(1, &[]), 99, |_| panic!("no reply yet")));
        let mut row = Vec::new();
        assert!(!requests.complete(id(1, 10), &done("r"), &mut row));
        assert_eq!((row.len(), requests.len()), (0, 1));
        assert_eq!(requests.judge(id(1, 10), 1), RequestVerdict::Expired);
    }

    #[test]
    fn a_request_on_its_way_keeps_no_old_reply_behind_it() {
        let mut requests = Requests::default();
        requests.take(id(1, 10), 1);
        requests.take(id(2, 10), 1);
        assert!(requests.complete(id(2, 10), &done("r"), &mut Vec::new()));
        assert!(requests.expire(Timestamp::from_millis(10), 99, |_, _| {}, |_| panic!("in use")));
        assert_eq!(requests.len(), 1);
    }

    proptest::proptest! {
        #[test]
        fn words_in_any_order_open_nothing_again_and_survive_the_row(
            words in proptest::collection::vec((0_u64..12, proptest::collection::btree_set(1_u64..12, 0..5)), 1..12),
            most in 1_usize..4,
        ) {
            let mut requests = answered();
            let mut known: Vec<u64> = Vec::new();
            for (floor, open) in words {
                let open: Vec<u64> = open.into_iter().filter(|number| *number <= floor).collect();
                let word = settled(floor, &open);
                requests.acknowledge(ClientId(7), &word, most, |_| {});
                let mut row = Vec::new();
                requests.encode_client(ClientId(7), &mut row);
                proptest::prop_assert!(requests.restore_client(&7_u128.to_be_bytes(), &row));
                // As the reply's record is there or gone, so is the verdict.
                let expired = |number: &u64| requests.judge(id(*number, 10), 1) == RequestVerdict::Expired;
                proptest::prop_assert!(known.iter().all(expired), "{known:?} were settled before {word:?}");
                known = (1..=10).filter(expired).collect();
                proptest::prop_assert_eq!(known.len() + requests.len(), 10);
                proptest::prop_assert_eq!(requests.reply_bytes(), requests.len(), "a byte each");
            }
        }
    }

    #[test]
    fn a_row_with_too_many_exceptions_or_none_that_can_be_is_refused() {
        let row = |numbers: &[u64]| {
            let mut row = Vec::new();
            for number in numbers {
                put_varint(*number, &mut row);
            }
            Requests::default().restore_client(&7_u128.to_be_bytes(), &row)
        };
        let many = |count| [vec![1_000, 5], vec![1; count]].concat();
        assert!(row(&[9, 5]) && row(&[9, 5, 3, 2]) && row(&many(OPEN_MAX)));
        assert!(!row(&[9, 5, 3, 0]), "not rising");
        assert!(!row(&[9, 5, 3, 7]), "above the floor");
        assert!(!row(&[9, 5, u64::MAX, 1]), "beyond all numbers");
        assert!(!row(&many(OPEN_MAX + 1)));
    }

    #[test]
    fn a_request_on_its_way_outlives_the_horizon() {
        let mut requests = Requests::default();
        requests.take(id(1, 10), 1);
        let _ = requests.expire(
            Timestamp::from_millis(50),
            9,
            |_, _| panic!("nothing to drop"),
            |_| panic!("in use"),
        );
        assert_eq!(requests.judge(id(1, 10), 1), RequestVerdict::Pending { waits: false });
    }

    proptest::proptest! {
        #[test]
        fn any_row_bytes_are_judged_without_a_panic(key: Vec<u8>, value: Vec<u8>) {
            let mut requests = Requests::default();
            let _ = requests.restore_client(&key, &value);
            let _ = requests.restore_reply(&key, &value);
        }
    }
}
