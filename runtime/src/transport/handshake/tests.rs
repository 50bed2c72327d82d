use super::*;
use crate::transport::frame::Frame;
use tokio::io::{DuplexStream, duplex};

fn node(name: &str, nonce: u128) -> Hello {
    Hello {
        protocols: Protocols::own(),
        cluster: Some(Cluster {
            id: 7,
            layout: 0,
            shards: 256,
            placement_digest: 5,
            placement: "256 virtual nodes".into(),
        }),
        node: Some(NodeIdentity { name: name.parse().unwrap(), store: 1, boot: 2, durable: 3 }),
        kinds: vec![KnownKind { kind: "account".into(), version: 1, messages: vec!["deposit".into()] }],
        frame_len_max: 1 << 20,
        window: 1 << 20,
        nonce,
    }
}

const LINGER: Duration = Duration::from_secs(1);

fn with(change: impl FnOnce(&mut Hello)) -> Hello {
    let mut hello = node("n2", 2);
    change(&mut hello);
    hello
}

async fn meet(stream: DuplexStream, own: &Hello, expected: Expected<'_>) -> Result<Agreed, HandshakeError> {
    greet(stream, &mut BytesMut::new(), own, expected, LINGER, |_| Ok(())).await
}

/// Both ends of one connection.
async fn both(one: &Hello, other: &Hello) -> [Result<Agreed, HandshakeError>; 2] {
    // Little room on the way: neither may wait for the other to read first.
    let (left, right) = duplex(16);
    tokio::join!(meet(left, one, Expected::default()), meet(right, other, Expected::default())).into()
}

#[tokio::test]
async fn two_nodes_of_one_cluster_agree() {
    let (one, other) = (node("n1", 1), with(|other| other.protocols.highest += 1));
    let [one, other] = both(&one, &other).await.map(|agreed| agreed.expect("they agree"));
    assert_eq!(one.other.node.unwrap().name.as_str(), "n2");
    assert_eq!(other.other, node("n1", 1));
    assert_eq!((one.protocol, other.protocol), (1, 1));
}

#[tokio::test]
async fn a_client_and_a_joining_node_need_no_cluster() {
    let client = with(|client| {
        client.cluster = None;
        client.node = None;
    });
    assert!(both(&node("n1", 1), &client).await.iter().all(Result::is_ok));
    let joining = with(|joining| joining.cluster = None);
    assert!(both(&node("n1", 1), &joining).await.iter().all(Result::is_ok));
    let [one, other] = both(&client, &with(|other| (other.cluster, other.nonce) = (None, 3))).await;
    for end in [one, other] {
        assert!(matches!(end, Err(HandshakeError::Refused(HelloRefusal::Unfounded))));
    }
}

#[tokio::test]
async fn a_refusal_says_what_differs_to_both_ends() {
    let cluster = |change: fn(&mut Cluster)| with(|other| change(other.cluster.as_mut().unwrap()));
    let cases = [
        (
            with(|other| other.protocols = Protocols { lowest: 8, highest: 9 }),
            "protocols 1 to 1 are spoken here and 8 to 9",
        ),
        (cluster(|cluster| cluster.id = 8), "not 00000000000000000000000000000008"),
        (cluster(|cluster| cluster.layout = 1), "layout 0 here and 1 there"),
        (cluster(|cluster| cluster.shards = 512), "256 shards here and 512 there"),
        (
            cluster(|cluster| (cluster.placement_digest, cluster.placement) = (6, "64 virtual nodes".into())),
            "by \"256 virtual nodes\" here and by \"64 virtual nodes\" there",
        ),
        (with(|other| other.nonce = 1), "repeats what was said"),
        (with(|other| other.window = 0), "no room for a frame"),
        (with(|other| other.kinds[0].kind = "k".repeat(65)), "a kind or message without a name"),
    ];
    for (other, says) in cases {
        let own = node("n1", 1);
        let (left, mut right) = duplex(1 << 16);
        let there = async {
            let hello = Greeting::Hello(Box::new(other));
            let mut buffer = BytesMut::new();
            say(&mut right, &hello).await.unwrap();
            hear(&mut right, &mut buffer).await.unwrap();
            let verdict = hear(&mut right, &mut buffer).await.unwrap();
            drop(right);
            verdict
        };
        let (here, there) = tokio::join!(meet(left, &own, Expected::default()), there);
        let Err(HandshakeError::Refused(here)) = here else { panic!("{says}: {here:?}") };
        assert!(here.to_string().contains(says), "{here}");
        assert_eq!(there, Greeting::Refused(here), "the other end reads the same");
    }
}

#[tokio::test]
async fn an_end_that_is_refused_knows_it() {
    let (left, right) = duplex(64);
    let (one, other) = (node("n1", 1), node("n2", 2));
    let unknown = || HelloRefusal::Identity("n2 is bound to another store; forget it first".into());
    let mut buffer = BytesMut::new();
    let here = greet(left, &mut buffer, &one, Expected::default(), LINGER, |_| Err(unknown()));
    let (here, there) = tokio::join!(here, meet(right, &other, Expected::default()));
    assert!(matches!(here, Err(HandshakeError::Refused(refusal)) if refusal == unknown()));
    assert!(matches!(there, Err(HandshakeError::RefusedHere(refusal)) if refusal == unknown()));
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_refused_and_says_nothing_more_is_not_waited_for() {
    let (left, mut right) = duplex(1 << 16);
    say(&mut right, &Greeting::Hello(Box::new(node("n1", 2)))).await.unwrap();
    let error = meet(left, &node("n1", 1), Expected::default()).await.expect_err("a namesake");
    assert!(matches!(&error, HandshakeError::Refused(HelloRefusal::Namesake(_))), "{error}");
}

#[tokio::test]
async fn who_answers_must_be_who_was_dialled() {
    let expected = "n3".parse().unwrap();
    let (left, right) = duplex(64);
    let (one, other) = (node("n1", 1), node("n2", 2));
    let expected = Expected { name: Some(&expected), certified: None };
    let (here, _) = tokio::join!(meet(left, &one, expected), meet(right, &other, Expected::default()));
    let error = here.expect_err("another name").to_string();
    assert!(error.contains("node n3 was expected and n2 answered"), "{error}");
}

#[tokio::test]
async fn bytes_of_an_earlier_connection_are_refused() {
    // Everything n2 said on its first connection.
    let mut said = BytesMut::new();
    let mut writer = Vec::new();
    say(&mut writer, &Greeting::Hello(Box::new(node("n2", 2)))).await.unwrap();
    say(&mut writer, &Greeting::Welcome(1)).await.unwrap();
    Frame::HandOff(b"shard"[..].into()).encode(&mut said, 1_000).unwrap();
    writer.extend_from_slice(&said);
    let replayed = async |nonce| {
        let (left, mut right) = duplex(1 << 16);
        right.write_all(&writer).await.unwrap();
        meet(left, &node("n1", nonce), Expected::default()).await
    };
    assert!(replayed(1).await.is_ok(), "as it was said the first time");
    let error = replayed(11).await.expect_err("the nonce is another");
    assert!(matches!(error, HandshakeError::Refused(HelloRefusal::Replayed)), "{error}");
}

#[tokio::test]
async fn what_is_no_greeting_is_refused() {
    let mut deep = Vec::new();
    deep.extend(std::iter::repeat_n(0x91, 10_000));
    deep.push(0xc0);
    let sealed = |body: &[u8]| {
        let mut out = BytesMut::new();
        seal(&mut out, 1 << 20, |mut writer| io::Write::write_all(&mut writer, body).unwrap()).unwrap();
        out.to_vec()
    };
    let mut long = sealed(b"");
    long[1..5].copy_from_slice(&(1_u32 << 30).to_le_bytes());
    for (bytes, says) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "not this protocol"),
        (sealed(&deep), "nested deeper"),
        (long, "the limit is 262144"),
        (sealed(b"\xa4ping"), "ping"),
        (sealed(b"\x81\xa7welcome\x01"), "does not begin with a hello"),
    ] {
        let (left, mut right) = duplex(1 << 16);
        right.write_all(&bytes).await.unwrap();
        let error = meet(left, &node("n1", 1), Expected::default()).await.expect_err(says);
        assert!(matches!(&error, HandshakeError::Greeting(why) if why.contains(says)), "{error}");
    }
    let (left, right) = duplex(1 << 16);
    drop(right);
    let error = meet(left, &node("n1", 1), Expected::default()).await.expect_err("nobody");
    assert!(matches!(error, HandshakeError::Vanished(_)), "{error}");
}

#[tokio::test]
async fn a_refusal_that_cannot_be_shown_is_not() {
    for words in ["w".repeat(5_000), "\x1b[2J".into()] {
        let (left, mut right) = duplex(1 << 16);
        say(&mut right, &Greeting::Hello(Box::new(node("n2", 2)))).await.unwrap();
        say(&mut right, &Greeting::Refused(HelloRefusal::Identity(words))).await.unwrap();
        let error = meet(left, &node("n1", 1), Expected::default()).await.expect_err("refused");
        assert!(matches!(error, HandshakeError::Greeting(_)), "{error}");
    }
}

#[test]
fn the_bytes_of_a_hello_never_change() {
    // Golden bytes: a build that writes others cannot even be refused by those that run.
    let mut body = Vec::new();
    let mut hello = node("n2", 2);
    hello.cluster = None;
    codec::encode(&Greeting::Hello(Box::new(hello)), &mut body).unwrap();
    let expected = b"\x81\xa5hello\x87\xa9protocols\x82\xa6lowest\x01\xa7highest\x01\xa7cluster\xc0\xa4node\x84\xa4name\xa2n2\
        \xa5store\xc4\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\xa4boot\x02\xa7durable\x03\xa5kinds\x91\x83\xa4kind\xa7account\
        \xa7version\x01\xa8messages\x91\xa7deposit\xadframe_len_max\xce\0\x10\0\0\xa6window\xce\0\x10\0\0\xa5nonce\
        \xc4\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02";
    assert_eq!(body, expected, "{:?}", String::from_utf8_lossy(&body));
}

#[test]
fn a_hello_of_a_later_build_may_say_more() {
    #[derive(Serialize)]
    struct More {
        #[serde(flatten)]
        hello: Hello,
        moon: &'static str,
    }
    let mut body = Vec::new();
    codec::encode(&More { hello: node("n2", 2), moon: "full" }, &mut body).unwrap();
    assert_eq!(codec::decode::<Hello>(&body), Ok(node("n2", 2)));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_heard_without_a_panic(bytes: Vec<u8>) {
        let _ = codec::decode::<Greeting>(&bytes);
    }
}
