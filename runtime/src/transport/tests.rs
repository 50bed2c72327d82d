//! One suite for every transport: what a connection does must not depend on what carries it.

use super::{
    frame::{HEADER_LEN, StreamMessage},
    handshake::{Cluster, Expected, HandshakeError, NodeIdentity, Protocols, greet},
    *,
};
use crate::{
    message::Envelope,
    placement::{NodeName, ShardId},
};
use bytes::BytesMut;
use std::time::Duration;
use tempfile::TempDir;

/// The transports under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Memory,
    Tcp,
    Tls,
}

/// Where nodes `n1` to `n3` can meet.
struct World {
    carrier: Carrier,
    network: MemoryNetwork,
    certificates: Option<(TempDir, DevelopmentCertificates)>,
}

const NAMES: [&str; 3] = ["n1", "n2", "n3"];

fn limits() -> TransportLimits {
    TransportLimits { frame_len_max: 20_000, window: 10_000, ..TransportLimits::default() }
}

fn introduction(name: &str) -> Introduction {
    let cluster =
        Cluster { id: 7, layout: 0, shards: 256, placement_digest: 5, placement: "256 virtual nodes".into() };
    let node = NodeIdentity { name: name.parse().unwrap(), store: 1, boot: 1, durable: 0 };
    Introduction { cluster: Some(cluster), node: Some(node), kinds: Vec::new() }
}

impl World {
    fn new(carrier: Carrier) -> Self {
        let certificates = (carrier == Carrier::Tls).then(|| {
            let directory = tempfile::tempdir().unwrap();
            let names = NAMES.map(|name| name.parse::<NodeName>().unwrap());
            let written = development_certificates(directory.path(), &names).unwrap();
            (directory, written)
        });
        Self { carrier, network: MemoryNetwork::new(), certificates }
    }

    fn transport(&self, name: &str) -> Box<dyn Transport> {
        match self.carrier {
            Carrier::Memory => Box::new(self.network.host(name)),
            Carrier::Tcp => Box::new(Tcp::loopback()),
            Carrier::Tls => {
                let (_, written) = self.certificates.as_ref().unwrap();
                let at = NAMES.iter().position(|known| *known == name).unwrap();
                let issued = &written.nodes[at];
                let files = TlsFiles {
                    authority: written.authority.clone(),
                    certificate: issued.certificate.clone(),
                    key: issued.key.clone(),
                };
                Box::new(Tls::from_files(&files, Some(&name.parse().unwrap())).unwrap())
            }
        }
    }

    /// A node that says it is `introduction`, and has the certificate of `name`.
    fn endpoint_as(&self, name: &str, limits: TransportLimits, introduction: Introduction) -> Endpoint {
        Endpoint::new(self.transport(name), limits, move || introduction.clone(), |_| Ok(()))
    }

    fn endpoint(&self, name: &str) -> Endpoint {
        self.endpoint_as(name, limits(), introduction(name))
    }

    async fn listen(&self, endpoint: &Endpoint) -> Listening {
        let address = if self.carrier == Carrier::Memory { "n1" } else { "127.0.0.1:0" };
        endpoint.listen(address).await.unwrap()
    }
}

/// `n2` has dialled `n1`.
async fn connected(from: &Endpoint, listening: &mut Listening) -> (Connection, Connection) {
    let address = listening.address().to_owned();
    let name = "n1".parse().unwrap();
    let (near, far) = tokio::join!(from.dial(&address, Some(&name)), listening.accept());
    (near.unwrap(), far.unwrap())
}

fn data(number: u32, len: usize) -> Frame {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(len.max(4), 7);
    Frame::HandOff(bytes.into())
}

/// Sends however long it takes.
async fn send(link: &Link, mut frame: Frame) {
    loop {
        match link.send(frame) {
            Ok(()) => return,
            Err(SendError::Full(back)) => frame = back,
            Err(error) => panic!("{error}"),
        }
        link.ready().await;
    }
}

/// Until another task has done it.
pub(super) async fn until(done: impl Fn() -> bool) {
    while !done() {
        tokio::task::yield_now().await;
    }
}

fn node_of(hello: &Hello) -> &str {
    hello.node.as_ref().unwrap().name.as_str()
}

async fn frames_arrive_in_order_both_ways(world: World) {
    let (one, two) = (world.endpoint("n1"), world.endpoint("n2"));
    let mut listening = world.listen(&one).await;
    let (near, far) = connected(&two, &mut listening).await;
    assert_eq!((node_of(&near.other), node_of(&far.other)), ("n1", "n2"));
    assert_eq!((near.protocol, far.protocol), (1, 1));
    let talk = |connection: Connection| async move {
        let Connection { link, mut incoming, .. } = connection;
        let sending = async {
            for number in 0..500 {
                send(&link, data(number, number as usize * 17 % 9_000)).await;
            }
        };
        let hearing = async {
            for number in 0..500 {
                let delivery = incoming.recv().await.unwrap();
                assert_eq!(delivery.frame, data(number, number as usize * 17 % 9_000));
            }
        };
        tokio::join!(sending, hearing);
        (link, incoming)
    };
    let (near, far) = tokio::join!(talk(near), talk(far));
    assert_eq!((near.0.ended(), far.0.ended()), (None, None));
    assert_eq!((one.counters().opened(), one.counters().logged()), (1, 0));
}

async fn a_batch_arrives_whole(world: World) {
    let (one, two) = (world.endpoint("n1"), world.endpoint("n2"));
    let mut listening = world.listen(&one).await;
    let (near, mut far) = connected(&two, &mut listening).await;
    let mut bytes = Vec::new();
    Envelope::write_head("account", "alice", "deposit", None, &mut bytes);
    let envelope = Envelope::from_bytes(bytes.into()).unwrap();
    let messages = (1..=200).map(|number| StreamMessage {
        source: ShardId(1),
        target: ShardId(2),
        number,
        envelope: envelope.clone(),
    });
    let batch = Frame::Messages(messages.collect());
    near.link.send(batch.clone()).unwrap();
    assert_eq!(far.incoming.recv().await.unwrap().frame, batch);
}

async fn a_receiver_that_consumes_nothing_holds_the_sender_at_the_window(world: World) {
    let (one, two) = (world.endpoint("n1"), world.endpoint("n2"));
    let mut listening = world.listen(&one).await;
    let (near, mut far) = connected(&two, &mut listening).await;
    for number in 0..100 {
        near.link.send(data(number, 1_000)).unwrap();
    }
    let mut held = Vec::new();
    let mut bytes = 0;
    for number in 0..9 {
        let delivery = far.incoming.recv().await.unwrap();
        assert_eq!(delivery.frame, data(number, 1_000));
        bytes += delivery.credit.bytes();
        held.push(delivery);
    }
    assert!(bytes <= 10_000 && 10_000 < bytes + held[0].credit.bytes(), "the window is full");
    // What is outside of credit still comes; the tenth frame does not, though it was sent long before.
    near.link.send(Frame::Membership(b"ping"[..].into())).unwrap();
    assert_eq!(far.incoming.recv().await.unwrap().frame, Frame::Membership(b"ping"[..].into()));
    assert_eq!(near.link.in_flight(), bytes);
    assert!(91 * 1_000 <= near.link.waiting());
    held.clear();
    for number in 9..100 {
        assert_eq!(far.incoming.recv().await.unwrap().frame, data(number, 1_000));
    }
    assert_eq!(near.link.waiting(), 0);
}

async fn what_either_end_does_not_take_is_refused_where_it_is_sent(world: World) {
    let small = TransportLimits { frame_len_max: 5_000, ..limits() };
    let (one, two) = (world.endpoint_as("n1", small, introduction("n1")), world.endpoint("n2"));
    let mut listening = world.listen(&one).await;
    let (near, mut far) = connected(&two, &mut listening).await;
    for link in [&near.link, &far.link] {
        let error = link.send(data(0, 5_000)).unwrap_err();
        assert!(matches!(error, SendError::TooLong { max: 5_000, .. }), "{error}");
    }
    near.link.send(data(0, 4_900)).unwrap();
    assert_eq!(far.incoming.recv().await.unwrap().frame, data(0, 4_900));
}

/// `n2` is refused, twice, with this; then all is well, and nothing of what was refused has come through.
async fn refused(world: World, faults: [Fault; 2], says: &str, other: Introduction, expected: &str) {
    let (one, bad) = (world.endpoint("n1"), world.endpoint_as("n2", limits(), other));
    let mut listening = world.listen(&one).await;
    let expected: NodeName = expected.parse().unwrap();
    for _ in 0..2 {
        let error = bad.dial(listening.address(), Some(&expected)).await.expect_err("refused").to_string();
        assert!(error.contains(says), "{error}");
    }
    until(|| one.counters().faults(faults[0]) == 2).await;
    assert_eq!(bad.counters().faults(faults[1]), 2);
    if world.carrier != Carrier::Memory {
        assert_eq!((one.counters().logged(), bad.counters().logged()), (1, 1));
    }
    let (_, far) = connected(&world.endpoint("n3"), &mut listening).await;
    assert_eq!(node_of(&far.other), "n3", "the first that came through");
}

async fn another_cluster_is_refused(world: World) {
    let mut other = introduction("n2");
    other.cluster.as_mut().unwrap().id = 8;
    let says = "cluster 00000000000000000000000000000008 and not 00000000000000000000000000000007";
    refused(world, [Fault::Cluster; 2], says, other, "n1").await;
}

async fn another_name_than_was_dialled_is_refused(world: World) {
    let faults = [Fault::RefusedHere, Fault::Name];
    refused(world, faults, "node n3 was expected and n1 answered", introduction("n2"), "n3").await;
}

async fn another_protocol_is_refused(world: World) {
    let one = world.endpoint("n1");
    let mut listening = world.listen(&one).await;
    let Introduction { cluster, node, kinds } = introduction("n2");
    let protocols = Protocols { lowest: 8, highest: 9 };
    let hello = Hello { protocols, cluster, node, kinds, frame_len_max: 1 << 20, window: 1 << 20, nonce: 1 };
    let opening = world.transport("n2").dial(listening.address()).await.unwrap();
    let stream = opening.secured.await.unwrap();
    let error =
        greet(stream.io, &mut BytesMut::new(), &hello, Expected::default(), limits().close_deadline, |_| {
            Ok(())
        })
        .await;
    let Err(HandshakeError::Refused(HelloRefusal::Protocol { expected, found })) = error else {
        panic!("{error:?}");
    };
    assert_eq!((expected, found), (protocols, Protocols::own()));
    until(|| one.counters().faults(Fault::Protocol) == 1).await;
    let (_, far) = connected(&world.endpoint("n3"), &mut listening).await;
    assert_eq!(node_of(&far.other), "n3", "the first that came through");
}

async fn whom_the_membership_refuses_is_told_why(world: World) {
    let says = "n2 is bound to another store; forget that first";
    let judge = |hello: &Hello| match node_of(hello) {
        "n2" => Err(HelloRefusal::Identity(says.into())),
        _ => Ok(()),
    };
    let one = Endpoint::new(world.transport("n1"), limits(), || introduction("n1"), judge);
    let mut listening = world.listen(&one).await;
    let two = world.endpoint("n2");
    let error = two.dial(listening.address(), None).await.expect_err("refused").to_string();
    assert!(error.contains(says), "{error}");
    until(|| one.counters().faults(Fault::Identity) == 1).await;
    assert_eq!(two.counters().faults(Fault::RefusedHere), 1);
    let (_, far) = connected(&world.endpoint("n3"), &mut listening).await;
    assert_eq!(node_of(&far.other), "n3");
}

async fn a_close_tells_both_and_what_came_before_it_is_heard(world: World) {
    let (one, two) = (world.endpoint("n1"), world.endpoint("n2"));
    let mut listening = world.listen(&one).await;
    let (near, mut far) = connected(&two, &mut listening).await;
    // The other direction is busy: the last word must not be lost with what comes towards it.
    for number in 0..5 {
        far.link.send(data(number, 1_000)).unwrap();
        near.link.send(data(number, 1_000)).unwrap();
    }
    near.link.close(frame::CloseReason::Replaced);
    assert_eq!(near.link.closed().await, Ended::Here(frame::CloseReason::Replaced));
    for number in 0..5 {
        assert_eq!(far.incoming.recv().await.unwrap().frame, data(number, 1_000));
    }
    assert!(far.incoming.recv().await.is_none());
    assert_eq!(far.link.closed().await, Ended::There(frame::CloseReason::Replaced));
    for endpoint in [&one, &two] {
        assert_eq!(endpoint.counters().logged(), 0, "nothing is wrong with it");
    }
}

async fn an_end_that_comes_back_is_let_in_again(world: World) {
    let (one, two) = (world.endpoint("n1"), world.endpoint("n2"));
    let mut listening = world.listen(&one).await;
    for number in 0..5 {
        let (near, mut far) = connected(&two, &mut listening).await;
        near.link.send(data(number, 10)).unwrap();
        assert_eq!(far.incoming.recv().await.unwrap().frame, data(number, 10));
    }
    let address = listening.address().to_owned();
    drop(listening);
    // Whoever listened comes back too; its last listener is still on its way out.
    let mut listening = loop {
        match one.listen(&address).await {
            Ok(listening) => break listening,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse),
        }
        tokio::task::yield_now().await;
    };
    let (near, mut far) = connected(&two, &mut listening).await;
    near.link.send(data(5, 10)).unwrap();
    assert_eq!(far.incoming.recv().await.unwrap().frame, data(5, 10));
    assert_eq!((one.counters().opened(), two.counters().opened()), (6, 6));
}

async fn a_node_that_dials_itself_is_refused(world: World) {
    let one = world.endpoint("n1");
    let listening = world.listen(&one).await;
    let error = one.dial(listening.address(), None).await.expect_err("itself").to_string();
    assert!(error.contains("both ends are node n1"), "{error}");
}

async fn beyond_their_number_connections_are_closed_at_once(world: World) {
    let one = world.endpoint_as("n1", TransportLimits { connections_max: 1, ..limits() }, introduction("n1"));
    let mut listening = world.listen(&one).await;
    let (near, far) = connected(&world.endpoint("n2"), &mut listening).await;
    let three = world.endpoint("n3");
    assert!(three.dial(listening.address(), None).await.is_err());
    assert_eq!(one.counters().faults(Fault::TooMany), 1);
    drop((near, far));
    // The place is free once both its tasks have ended.
    let dialled = loop {
        match three.dial(listening.address(), None).await {
            Ok(dialled) => break dialled,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(node_of(&dialled.other), "n1");
}

/// Every test of the suite for every transport.
macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        suite!(@ memory Memory $($test)*);
        suite!(@ tcp Tcp $($test)*);
        suite!(@ tls Tls $($test)*);
    };
    (@ $module:ident $carrier:ident $($test:ident)*) => {
        mod $module {
            use super::{Carrier, World};
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(World::new(Carrier::$carrier)).await;
                }
            )*
        }
    };
}

suite! {
    frames_arrive_in_order_both_ways,
    a_batch_arrives_whole,
    a_receiver_that_consumes_nothing_holds_the_sender_at_the_window,
    what_either_end_does_not_take_is_refused_where_it_is_sent,
    another_cluster_is_refused,
    another_name_than_was_dialled_is_refused,
    another_protocol_is_refused,
    whom_the_membership_refuses_is_told_why,
    a_close_tells_both_and_what_came_before_it_is_heard,
    an_end_that_comes_back_is_let_in_again,
    a_node_that_dials_itself_is_refused,
    beyond_their_number_connections_are_closed_at_once,
}

#[tokio::test]
async fn nobody_at_an_address_is_an_error_at_once() {
    let world = World::new(Carrier::Tcp);
    let two = world.endpoint("n2");
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = two.dial(&address, None).await.expect_err("nobody");
    assert!(
        matches!(&error, DialError::Unreachable { why, .. } if why.kind() == io::ErrorKind::ConnectionRefused)
    );
    assert!(error.to_string().contains(&format!("cannot connect to {address}")), "{error}");
    let memory = World::new(Carrier::Memory).endpoint("n2").dial("n1", None).await;
    assert!(matches!(memory, Err(DialError::Unreachable { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_cut_is_noticed_by_both_ends_and_healed_by_another_connection() {
    let world = World::new(Carrier::Memory);
    let (one, two) = (world.endpoint("n1"), world.endpoint("n2"));
    let mut listening = world.listen(&one).await;
    let (near, far) = connected(&two, &mut listening).await;
    world.network.cut("n1", "n2");
    for link in [&near.link, &far.link] {
        assert!(matches!(link.closed().await, Ended::Fault(Fault::IdleDeadline, _)));
    }
    let error = two.dial("n1", None).await.expect_err("cut");
    assert!(matches!(error, DialError::Silent { what: "a connection", .. }), "{error}");
    world.network.heal("n2", "n1");
    let (near, mut far) = connected(&two, &mut listening).await;
    near.link.send(data(1, 10)).unwrap();
    assert_eq!(far.incoming.recv().await.unwrap().frame, data(1, 10));
}

#[tokio::test(start_paused = true)]
async fn a_cut_one_way_ends_the_connection_too() {
    let world = World::new(Carrier::Memory);
    let (one, two) = (world.endpoint("n1"), world.endpoint("n2"));
    let mut listening = world.listen(&one).await;
    let (near, mut far) = connected(&two, &mut listening).await;
    // n2 no longer hears n1; n1 hears all that n2 says.
    world.network.cut_one_way("n1", "n2");
    near.link.send(data(1, 10)).unwrap();
    assert_eq!(far.incoming.recv().await.unwrap().frame, data(1, 10));
    assert!(matches!(near.link.closed().await, Ended::Fault(Fault::IdleDeadline, _)));
    let ended = far.link.closed().await;
    assert!(
        matches!(&ended, Ended::There(frame::CloseReason::Violation(why)) if why.contains("15s")),
        "{ended}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_cut_that_heals_in_time_loses_nothing() {
    let world = World::new(Carrier::Memory);
    let (one, two) = (world.endpoint("n1"), world.endpoint("n2"));
    let mut listening = world.listen(&one).await;
    let (near, mut far) = connected(&two, &mut listening).await;
    world.network.cut("n1", "n2");
    for number in 0..100 {
        near.link.send(data(number, 1_000)).unwrap();
    }
    tokio::time::advance(Duration::from_secs(9)).await;
    world.network.heal("n1", "n2");
    for number in 0..100 {
        assert_eq!(far.incoming.recv().await.unwrap().frame, data(number, 1_000));
    }
}

#[tokio::test(start_paused = true)]
async fn who_never_says_hello_is_closed_in_time() {
    let world = World::new(Carrier::Memory);
    let one = world.endpoint_as("n1", TransportLimits { handshakes_max: 1, ..limits() }, introduction("n1"));
    let mut listening = world.listen(&one).await;
    let silent = world.transport("n2").dial("n1").await.unwrap();
    let mut silent = silent.secured.await.unwrap().io;
    let began = tokio::time::Instant::now();
    until_word_is_over(&mut silent).await;
    assert!(limits().handshake_deadline <= began.elapsed());
    assert_eq!(one.counters().faults(Fault::HandshakeDeadline), 1);
    let (_, far) = connected(&world.endpoint("n3"), &mut listening).await;
    assert_eq!(node_of(&far.other), "n3");
}

/// Hears the hello of an end, and then nothing more.
async fn until_word_is_over(io: &mut Box<dyn Io>) {
    let mut heard = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(io, &mut heard).await.unwrap();
    assert!(HEADER_LEN < heard.len(), "it said hello");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_a_hello_is_given_up() {
    let world = World::new(Carrier::Memory);
    let mut silent = world.network.host("n1").listen("n1").await.unwrap();
    let (dialled, _opening) = {
        let two = world.endpoint("n2");
        let (dialled, opening) = tokio::join!(async { two.dial("n1", None).await }, silent.accept());
        (dialled, opening)
    };
    let error = dialled.expect_err("silent");
    assert!(matches!(error, DialError::Silent { what: "a hello", .. }), "{error}");
}
