//! A client that is broken or lies: it costs its own connection, and reaches no entity it may not reach.

use entity_runtime::{
    Refusal,
    cluster::Begin,
    entity::EntityId,
    error::Bound,
    feeds::{FeedId, FeedQuestion},
    kernel::{FeedNews, Outcome},
    message::{ClientId, Envelope, RequestId},
    placement::{self, ShardId, Shards},
    prelude::*,
    timestamp::Timestamp,
    transport::{
        Connection, Endpoint, Frame, Introduction, Tcp, TransportLimits,
        frame::{FeedAnswer, FeedMessage, Request, Route, StreamMessage, Way},
    },
};
use entity_runtime_tests::{
    nodes::{addresses, node},
    running::{Counts, Ledger, Note},
};
use std::time::Duration;

/// As many as the nodes of the tests have.
const SHARDS: u32 = 32;

/// A connection of a client that says whatever it likes.
async fn stranger(address: &str) -> Connection {
    let introduce = || Introduction { cluster: None, node: None, kinds: Vec::new() };
    let endpoint = Endpoint::new(Tcp::loopback(), TransportLimits::default(), introduce, |_| Ok(()));
    endpoint.dial(address, None).await.unwrap()
}

fn envelope(key: &str) -> (ShardId, Envelope) {
    let mut bytes = Vec::new();
    Envelope::write_head("ledger", key, Note::NAME, None, &mut bytes);
    entity_runtime::message::encode(&Note { number: 1, mirror: None }, &mut bytes).unwrap();
    let shard = Shards::new(SHARDS).unwrap().place(placement::hash("ledger", key));
    (shard, Envelope::from_bytes(bytes.into()).unwrap())
}

fn request(slot: u64, shard: ShardId, envelope: Envelope) -> Request {
    let id = RequestId { client: ClientId(7), number: slot, issued_at: Timestamp::EPOCH };
    Request {
        slot,
        shard,
        hops: 0,
        way: Way::Ask(id, entity_runtime::requests::Acknowledged::default()),
        envelope,
    }
}

/// What the node answers to a request.
async fn answer(connection: &mut Connection) -> Outcome {
    let answered = async {
        loop {
            let delivery = connection.incoming.recv().await.expect("the connection is open");
            if let Frame::Replies(answers) = delivery.frame {
                return answers.into_iter().next().expect("a list has an item").outcome;
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), answered).await.expect("it is answered")
}

/// Waits until the node has closed the connection.
async fn closed(mut connection: Connection) {
    let closed = async { while connection.incoming.recv().await.is_some() {} };
    tokio::time::timeout(Duration::from_mins(1), closed).await.expect("it is closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_no_row_has_room_for_is_refused() {
    let node = node("a", Begin::Found, None).await;
    let address = addresses(&[&node]).remove(0);
    let mut connection = stranger(&address).await;
    for (slot, len) in [513, 4_097, 65_000].into_iter().enumerate() {
        let (shard, envelope) = envelope(&"k".repeat(len));
        connection.link.send(Frame::Requests(vec![request(slot as u64, shard, envelope)])).unwrap();
        let outcome = answer(&mut connection).await;
        assert!(matches!(outcome, Outcome::Refused(Refusal::TooLarge { .. })), "{len}: {outcome:?}");
    }
    let max = "k".repeat(512);
    assert!(EntityId::check("ledger", &max).is_ok());
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_nodes_may_say_ends_the_connection_of_a_client_and_nothing_else() {
    let node = node("a", Begin::Found, None).await;
    let address = addresses(&[&node]).remove(0);
    let client = Client::connect([address.clone()]).await.unwrap();
    let (shard, message) = envelope("victim");
    let source = ShardId(0);
    let stream = StreamMessage { source, target: shard, number: 1, envelope: message.clone() };
    let route = Route { shard, epoch: placement::Epoch(1 << 40), owner: "liar".parse().unwrap() };
    let elsewhere = ShardId((shard.0 + 1) % SHARDS);
    let lies = [
        Frame::Messages(vec![stream]),
        Frame::Moved(vec![route]),
        Frame::HandOff(b"a shard"[..].into()),
        Frame::Members(b"a node"[..].into()),
        Frame::Membership(b"a packet"[..].into()),
        Frame::LastQuestion { boot: 1, emptied: 1 },
        Frame::LastAnswer { boot: 1, emptied: 1, coming: 0 },
        // For an entity that lies in another shard, and for a shard there is not.
        Frame::Requests(vec![request(1, elsewhere, message.clone())]),
        Frame::Requests(vec![request(1, ShardId(SHARDS), message)]),
    ];
    for lie in lies {
        let connection = stranger(&address).await;
        connection.link.send(lie).unwrap();
        closed(connection).await;
    }
    // Nobody has heard anything of it, and everybody else goes on.
    assert!(client.ask(Ledger::at("victim"), Counts).await.unwrap().is_empty());
    client.ask(Ledger::at("victim"), Note { number: 2, mirror: None }).await.unwrap();
    node.shutdown().await;
}

/// What the node tells a feed next.
async fn told(connection: &mut Connection) -> FeedAnswer {
    let told = async {
        loop {
            let delivery = connection.incoming.recv().await.expect("the connection is open");
            if let Frame::FeedReceipts(answers) = delivery.frame {
                return answers.into_iter().next().expect("a list has an item");
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), told).await.expect("the feed is told")
}

fn open(slot: u64) -> Frame {
    Frame::OpenFeed { slot, name: format!("f{slot}") }
}

fn fed(slot: u64, feed: FeedId, key: &str) -> Frame {
    let (shard, envelope) = envelope(key);
    let messages = vec![FeedMessage { shard, number: 1, own: 1, envelope }];
    Frame::FeedMessages { slot, feed, messages }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_was_not_opened_is_told_so_and_not_believed() {
    let node = node("a", Begin::Found, None).await;
    let address = addresses(&[&node]).remove(0);
    let mut connection = stranger(&address).await;
    let feed = FeedId::of("f1");
    let (shard, _) = envelope("victim");
    // They have overtaken the word that opens it.
    connection.link.send(fed(1, feed, "victim")).unwrap();
    let answer = told(&mut connection).await;
    assert_eq!((answer.slot, answer.feed, answer.shard), (1, feed, shard));
    assert_eq!(answer.news, FeedNews::Lost);
    let question = FeedQuestion::Resume;
    connection.link.send(Frame::AskFeed { slot: 1, feed, shard, question }).unwrap();
    assert_eq!(told(&mut connection).await.news, FeedNews::Lost);
    let client = Client::connect([address]).await.unwrap();
    assert!(client.ask(Ledger::at("victim"), Counts).await.unwrap().is_empty(), "it was taken");

    // The same connection goes on.
    connection.link.send(open(1)).unwrap();
    connection.link.send(Frame::AskFeed { slot: 1, feed, shard, question }).unwrap();
    let answer = told(&mut connection).await.news;
    assert!(!matches!(answer, FeedNews::Lost | FeedNews::Refused(_)), "{answer:?}");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_beyond_those_of_a_connection_is_refused_and_the_others_go_on() {
    const FEEDS: u64 = 1_024;
    let node = node("a", Begin::Found, None).await;
    let mut connection = stranger(&addresses(&[&node]).remove(0)).await;
    for slot in 0..=FEEDS {
        let mut frame = open(slot);
        while let Err(entity_runtime::transport::SendError::Full(back)) = connection.link.send(frame) {
            connection.link.ready().await;
            frame = back;
        }
    }
    connection.link.send(fed(FEEDS, FeedId::of(&format!("f{FEEDS}")), "victim")).unwrap();
    let answer = told(&mut connection).await;
    assert_eq!((answer.slot, answer.news), (FEEDS, FeedNews::Refused(Refusal::Busy(Bound::Clients))));
    let (shard, _) = envelope("victim");
    for slot in [0, FEEDS - 1] {
        let (feed, question) = (FeedId::of(&format!("f{slot}")), FeedQuestion::Resume);
        connection.link.send(Frame::AskFeed { slot, feed, shard, question }).unwrap();
        let answer = told(&mut connection).await;
        assert_eq!(answer.slot, slot);
        assert!(!matches!(answer.news, FeedNews::Lost | FeedNews::Refused(_)), "{answer:?}");
    }
    node.shutdown().await;
}
