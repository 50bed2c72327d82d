//! Clients' request ids and stored replies: why a repeat gets the same answer, byte for byte (P11).
//!
//! # Invariants
//! * A request without a record runs only if it is younger than the horizon and above its client's floor.
//! * The horizon only rises, and never faster than time passes; a record is dropped only when it is at or below the
//!   horizon or its client said that it has the reply.

use crate::{
    message::{ClientId, RequestId},
    store::row::{put_varint, take, take_u64, take_u128, take_varint},
    timestamp::Timestamp,
};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

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
    /// The client has all replies up to here.
    floor: u64,
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
}

/// The requests of one shard.
#[derive(Debug, Default)]
pub struct Requests {
    horizon: Timestamp,
    clients: BTreeMap<ClientId, Client>,
    records: usize,
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
            if id.number <= client.floor {
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

    /// Stores the reply and appends its row value to `out`. A request whose record is gone (its client gave it up and
    /// the horizon passed while it waited) stores nothing; returns whether it did.
    pub fn complete(&mut self, id: RequestId, reply: &Reply, out: &mut Vec<u8>) -> bool {
        let Some(client) = self.clients.get_mut(&id.client) else { return false };
        let Ok(at) = client.find(id.number) else { return false };
        let record = &mut client.records[at];
        assert!(record.reply.is_none(), "a request is answered once");
        put_varint(record.issued_at.as_micros(), out);
        out.extend_from_slice(&record.digest.to_be_bytes());
        out.push(reply.class as u8);
        out.extend_from_slice(&reply.body);
        record.reply = Some(reply.clone());
        true
    }

    /// The client has every reply up to `floor`: drops them, `most` at a time, naming each number to `dropped`. The floor
    /// rises as far as they are dropped. Returns whether there was anything to do.
    pub fn acknowledge(
        &mut self,
        client: ClientId,
        floor: u64,
        most: usize,
        mut dropped: impl FnMut(u64),
    ) -> bool {
        let Some(client) = self.clients.get_mut(&client) else { return false };
        if floor <= client.floor || most == 0 {
            return false;
        }
        let mut left = most;
        let before = std::mem::replace(&mut client.floor, floor);
        // One that is on its way stays until it is done; those behind it need not wait for that.
        let below = client.records.partition_point(|record| record.number <= floor);
        let mut at = 0;
        for _ in 0..below {
            let record = &client.records[at];
            if record.reply.is_none() {
                at += 1;
                continue;
            }
            dropped(record.number);
            left -= 1;
            if left == 0 {
                client.floor = before.max(record.number);
            }
            client.records.remove(at);
            self.records -= 1;
            if left == 0 {
                break;
            }
        }
        true
    }

    /// Row value of a client: floor and youngest request.
    pub fn encode_client(&self, id: ClientId, out: &mut Vec<u8>) {
        let client = &self.clients[&id];
        put_varint(client.floor, out);
        put_varint(client.youngest.as_micros(), out);
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
        let records = &mut self.records;
        self.clients.retain(|id, client| {
            while let Some(record) = client.records.front() {
                if left == 0 || horizon < record.issued_at || record.reply.is_none() {
                    break;
                }
                reply_dropped(*id, record.number);
                client.records.pop_front();
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
        let Some(id) = take_u128(&mut key) else { return false };
        let (Some(floor), Some(youngest)) = (take_varint(&mut value), take_varint(&mut value)) else {
            return false;
        };
        let client = self.clients.entry(ClientId(id)).or_default();
        client.floor = floor;
        client.youngest = client.youngest.max(Timestamp::from_micros(youngest));
        true
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
        assert!(requests.acknowledge(ClientId(7), 2, 9, |number| dropped.push(number)));
        assert_eq!(dropped, [1, 2]);
        assert_eq!(requests.judge(id(2, 20), 1), RequestVerdict::Expired);
        assert!(requests.expire(Timestamp::from_millis(30), 9, |_, _| {}, |_| {}));
        assert_eq!((requests.len(), requests.clients()), (0, 0));
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
        assert!(requests.acknowledge(ClientId(7), 2, 9, |number| dropped.push(number)));
        assert_eq!((dropped, requests.len()), (vec![2], 2));
        assert_eq!(requests.judge(id(1, 10), 1), RequestVerdict::Pending { waits: false });
        assert_eq!(requests.judge(id(2, 10), 1), RequestVerdict::Expired);
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
