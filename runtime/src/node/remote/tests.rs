use super::*;
use crate::{
    kernel::{Opening, OpeningWord, Provenance},
    limits::Limits,
    message::{ClientId, RequestId},
    node::{Intake, Links},
    placement::{NodeName, Shards},
    requests::Acknowledged,
    timestamp::Timestamp,
    transport::{
        Connection, Endpoint, Incoming, Introduction, MemoryNetwork, TransportLimits,
        handshake::{Cluster, NodeIdentity},
    },
};

const SHARD: ShardId = ShardId(0);

fn layout() -> Shards {
    Shards::new(1).unwrap()
}

fn envelope(body: usize) -> Envelope {
    let mut bytes = Vec::new();
    Envelope::write_head("ledger", "a", "note", None, &mut bytes);
    bytes.resize(bytes.len() + body, 7);
    Envelope::from_bytes(bytes.into()).unwrap()
}

/// A connection to another node, and what keeps it open.
async fn connection() -> (Arc<Outbound>, (Incoming, Connection)) {
    let network = MemoryNetwork::new();
    let endpoint = |host: &str| {
        let (id, placement) = (7, "as everywhere".to_owned());
        let cluster = Cluster { id, layout: 0, shards: 1, placement_digest: 1, placement };
        let node = NodeIdentity { name: host.parse().unwrap(), store: 1, boot: 1, durable: 0 };
        let introduction = Introduction { cluster: Some(cluster), node: Some(node), kinds: Vec::new() };
        let introduce = move || introduction.clone();
        Endpoint::new(network.host(host), TransportLimits::default(), introduce, |_| Ok(()))
    };
    let mut listening = endpoint("b").listen("b").await.unwrap();
    let from = endpoint("a");
    let (near, far) = tokio::join!(from.dial("b", None), listening.accept());
    let Connection { link, incoming, .. } = near.unwrap();
    (Outbound::new(Some((other(), 1)), link, None), (incoming, far.unwrap()))
}

fn other() -> NodeName {
    "b".parse().unwrap()
}

/// A message of the stream from a shard to itself, which is as good as any.
fn messages() -> Frame {
    let message = StreamMessage { source: SHARD, target: SHARD, number: 1, envelope: envelope(100) };
    Frame::Messages(vec![message])
}

#[tokio::test]
async fn a_node_that_stops_leaves_aside_what_others_send_to_it() {
    let (outbound, _open) = connection().await;
    let links = Links::node(layout(), [SHARD]);
    let front = Arc::new(Front::new(Limits::default(), links, layout(), vec![Arc::new(Intake::new(1))]));
    let remote = Remote::open(&front, &outbound);
    remote.take(messages()).await.unwrap();
    let before = front.intakes[0].backlog();
    assert!(0 < before, "a node that serves takes it");

    front.stopping.store(true, Ordering::SeqCst);
    let rest = remote.take(messages()).await.unwrap();
    assert_eq!(front.intakes[0].backlog(), before, "its workers would never come to an end");
    // Nor is it said that the shard is elsewhere.
    assert!(rest.misplaced.is_empty() && rest.frame.is_none());
}

#[tokio::test]
async fn who_opens_a_stream_or_answers_hears_that_its_other_end_is_elsewhere() {
    let (outbound, _open) = connection().await;
    let layout = Shards::new(2).unwrap();
    let (here, gone) = (ShardId(0), ShardId(1));
    let links = Links::node(layout, [here]);
    let front = Arc::new(Front::new(Limits::default(), links, layout, vec![Arc::new(Intake::new(2))]));
    let remote = Remote::open(&front, &outbound);
    let question = OpeningWord::Sender { first: 1, last: 1, parks: false };
    let answer = OpeningWord::Receiver { floor: 0, mark: 0, parks: false };
    for (source, target, says) in [(here, gone, question), (gone, here, answer)] {
        let opening = StreamOpening(Opening { source, target, number: 1, voids: None, says });
        let rest = remote.take(Frame::Openings(vec![opening])).await.unwrap();
        assert_eq!(rest.misplaced, [gone].into());
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_room_when_a_node_stops_waits_no_longer() {
    let (outbound, _open) = connection().await;
    let limits = Limits { intake_bytes_max: 1, ..Limits::default() };
    let links = Links::node(layout(), [SHARD]);
    let front = Arc::new(Front::new(limits, links, layout(), vec![Arc::new(Intake::new(1))]));
    let remote = Remote::open(&front, &outbound);
    remote.take(messages()).await.unwrap();
    let before = front.intakes[0].backlog();
    let mut waiting = std::pin::pin!(remote.take(messages()));
    let waits = tokio::time::timeout(PAUSE * 10, &mut waiting).await;
    assert!(waits.is_err(), "its worker has too much to do");

    front.stopping.store(true, Ordering::SeqCst);
    let ended = tokio::time::timeout(PAUSE * 10, waiting).await;
    assert!(matches!(ended, Ok(Ok(_))), "the connection would never end");
    assert_eq!(front.intakes[0].backlog(), before);
}

/// What a request is told that is to be passed on over this connection.
fn passed_on(front: &Front, number: u64, envelope: Envelope) -> Result<(), Refusal> {
    let id = RequestId { client: ClientId(1), number, issued_at: Timestamp::EPOCH };
    let listener = Listener { to: ReplyTo { connection: 1, slot: number }, wants_reply: true };
    let from = Provenance::Request { id, acknowledged: Acknowledged::default(), listener };
    front.admit(Arrival { shard: SHARD, hash: 0, envelope, from }, 0)
}

#[tokio::test]
async fn a_connection_that_is_full_is_told_from_one_that_has_ended() {
    let (outbound, _open) = connection().await;
    let front = Front::new(Limits::default(), Links::node(layout(), []), layout(), Vec::new());
    front.links.set_there(SHARD, &other());
    front.links.connect(&other(), Arc::clone(&outbound));
    // Nobody empties it.
    let large = envelope(1 << 20);
    let mut passed = 0;
    let refused = loop {
        match passed_on(&front, passed, large.clone()) {
            Ok(()) => passed += 1,
            Err(refusal) => break refusal,
        }
    };
    assert!(0 < passed);
    assert_eq!(refused, Refusal::Busy(Bound::Intake));

    assert_eq!(outbound.end().len() as u64, passed, "whoever waits is told");
    let refused = passed_on(&front, passed, large);
    assert_eq!(refused, Err(Refusal::OwnerUnavailable("node b".into())));
}
