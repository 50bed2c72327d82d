use super::*;
use crate::{
    error::{Bound, Refusal},
    feeds::FeedIdentity,
    kernel::OpeningWord,
    message::ClientId,
    requests::{Reply, ReplyClass},
    timestamp::Timestamp,
};
use proptest::{collection::vec, prelude::*};

const LEN_MAX: usize = 1 << 20;

fn sealed(frame: &Frame) -> BytesMut {
    let mut out = BytesMut::new();
    let len = frame.encode(&mut out, LEN_MAX).expect("short enough");
    assert_eq!(len, out.len());
    out
}

fn back(bytes: &[u8]) -> Result<Frame, FrameError> {
    let len = front(bytes, LEN_MAX)?.expect("a whole frame");
    Frame::decode(&bytes[HEADER_LEN..len])
}

fn message(key: &str, body: &[u8]) -> Envelope {
    let mut bytes = Vec::new();
    Envelope::write_head("account", key, "deposit", None, &mut bytes);
    bytes.extend_from_slice(body);
    Envelope::from_bytes(bytes.into()).unwrap()
}

#[test]
fn the_bytes_of_a_frame_never_change() {
    // Golden bytes: a build that writes others cannot talk to those that run. See docs/wire.md, "Version changes".
    let stream = StreamMessage {
        source: ShardId(3),
        target: ShardId(300),
        number: 7,
        envelope: Envelope::from_bytes(Bytes::from_static(b"\x01\x01\x01\x00\x01\x00\x00\x00aka")).unwrap(),
    };
    let request = Request {
        slot: 5,
        shard: ShardId(1),
        hops: 2,
        way: Way::Ask(
            RequestId { client: ClientId(0x0102), number: 9, issued_at: Timestamp::from_micros(70_000) },
            Acknowledged { floor: 8, open: Some([4_u64, 6].into()) },
        ),
        envelope: stream.envelope.clone(),
    };
    let body = |frame: Frame| sealed(&frame)[HEADER_LEN..].to_vec();
    assert_eq!(sealed(&Frame::Ping).to_vec(), b"\xe1\x05\0\0\0\x41\xcf\xc6\xeb\xa4ping");
    assert_eq!(body(Frame::Credit(70_000)), b"\x81\xa6credit\xce\x00\x01\x11\x70");
    let says = OpeningWord::Sender { first: 2, last: 9, parks: false };
    let opening =
        StreamOpening(Opening { source: ShardId(3), target: ShardId(4), number: 7, voids: None, says });
    assert_eq!(
        body(Frame::Openings(vec![opening])),
        b"\x81\xa8openings\x91\x94\x03\x04\x07\x81\xa6sender\x93\x02\x09\xc2"
    );
    assert_eq!(body(Frame::Durable(70_000)), b"\x81\xa7durable\xce\x00\x01\x11\x70");
    assert_eq!(body(Frame::LastQuestion { boot: 3, emptied: 1 }), b"\x81\xadlast_question\x92\x03\x01");
    assert_eq!(
        body(Frame::LastAnswer { boot: 3, emptied: 1, coming: 2 }),
        b"\x81\xablast_answer\x93\x03\x01\x02"
    );
    assert_eq!(
        body(Frame::Messages(vec![stream])),
        b"\x81\xa8messages\x91\x94\x03\xcd\x01\x2c\x07\xc4\x0b\x01\x01\x01\0\x01\0\0\0aka"
    );
    assert_eq!(
        body(Frame::Requests(vec![request])),
        b"\x81\xa8requests\x91\x95\x05\x01\x02\x81\xa3ask\x92\x93\xc4\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x02\
          \x09\xce\0\x01\x11\x70\x92\x08\x92\x04\x06\xc4\x0b\x01\x01\x01\0\x01\0\0\0aka"
    );
    let refused = Answer { slot: 5, outcome: Outcome::Refused(Refusal::Busy(Bound::LogTail)) };
    let done = Reply { class: ReplyClass::Rejected, body: Bytes::from_static(b"no") };
    assert_eq!(
        body(Frame::Replies(vec![refused, Answer { slot: 6, outcome: Outcome::Done(done) }])),
        b"\x81\xa7replies\x92\x92\x05\x81\xa7refused\x81\xa4busy\xa8log_tail\x92\x06\x81\xa4done\x92\xa8rejected\xc4\x02no"
    );
}

fn text() -> impl Strategy<Value = String> {
    "[a-z ]{0,9}"
}

fn shard() -> impl Strategy<Value = ShardId> {
    (0..crate::placement::SHARDS_MAX).prop_map(ShardId)
}

fn envelope() -> impl Strategy<Value = Envelope> {
    ("\\PC{0,9}", vec(any::<u8>(), 0..300)).prop_map(|(key, body)| message(&key, &body))
}

fn settled() -> impl Strategy<Value = Acknowledged> {
    (any::<u64>(), proptest::collection::btree_set(any::<u64>(), 0..5)).prop_map(|(floor, open)| {
        let open: Vec<u64> = open.into_iter().filter(|number| *number <= floor).collect();
        Acknowledged { floor, open: (!open.is_empty()).then(|| open.into()) }
    })
}

fn way() -> impl Strategy<Value = Way> {
    let id = (any::<u128>(), any::<u64>(), any::<u64>()).prop_map(|(client, number, at)| RequestId {
        client: ClientId(client),
        number,
        issued_at: Timestamp::from_micros(at),
    });
    prop_oneof![
        (id.clone(), settled()).prop_map(|(id, settled)| Way::Ask(id, settled)),
        (id, settled()).prop_map(|(id, settled)| Way::Send(id, settled)),
        Just(Way::Query),
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        prop_oneof![Just(Bound::Intake), Just(Bound::DeadLetters)].prop_map(Refusal::Busy),
        Just(Refusal::Unavailable),
        text().prop_map(Refusal::OwnerUnavailable),
        text().prop_map(Refusal::Expired),
        (text(), text()).prop_map(|(kind, name)| Refusal::UnknownMessage { kind, name }),
        (any::<usize>(), any::<usize>()).prop_map(|(len, max)| Refusal::TooLarge {
            what: "the message",
            len,
            max
        }),
        any::<u64>().prop_map(Refusal::NoDeadLetter),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let class =
        prop_oneof![Just(ReplyClass::Applied), Just(ReplyClass::Rejected), Just(ReplyClass::DeadLettered)];
    prop_oneof![
        (class, vec(any::<u8>(), 0..300))
            .prop_map(|(class, body)| Outcome::Done(Reply { class, body: body.into() })),
        Just(Outcome::Waiting),
        refusal().prop_map(Outcome::Refused),
        text().prop_map(Outcome::Unknown),
    ]
}

fn news() -> impl Strategy<Value = FeedNews> {
    let numbers = (any::<u64>(), any::<u64>(), any::<bool>());
    prop_oneof![
        any::<u64>().prop_map(|through| FeedNews::Durable { through }),
        any::<u64>().prop_map(FeedNews::SendFrom),
        Just(FeedNews::Lost),
        Just(FeedNews::Claimed),
        numbers.prop_map(|(own, digest, _)| FeedNews::ClaimedBy(FeedIdentity { own, digest })),
        numbers.prop_map(|(floor, own, claimed)| FeedNews::Resumed { floor, own, claimed }),
        numbers.prop_map(|(number, own, _)| FeedNews::Collision { number, own }),
        refusal().prop_map(FeedNews::Refused),
    ]
}

/// What nodes say to each other about the cluster, and about a connection.
fn control() -> impl Strategy<Value = Frame> {
    let bytes = || vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    let route = (shard(), any::<u64>(), "[a-z0-9.:-]{1,20}").prop_map(|(shard, epoch, owner)| Route {
        shard,
        epoch: Epoch(epoch),
        owner: owner.parse().unwrap(),
    });
    let heard = proptest::option::of((any::<u64>(), "[a-z0-9.:-]{1,20}"));
    let known = (shard(), any::<u64>(), heard, any::<bool>());
    let known = known.prop_map(|(shard, held, heard, is_accepting)| KnownEpoch {
        shard,
        held: Epoch(held),
        heard: heard.map(|(epoch, owner)| Route {
            shard,
            epoch: Epoch(epoch),
            owner: owner.parse().unwrap(),
        }),
        is_accepting,
    });
    let closing = prop_oneof![
        Just(CloseReason::Stopping),
        Just(CloseReason::Replaced),
        text().prop_map(CloseReason::Violation)
    ];
    prop_oneof![
        any::<u64>().prop_map(Frame::Credit),
        Just(Frame::Ping),
        Just(Frame::Pong),
        closing.prop_map(Frame::Close),
        bytes().prop_map(Frame::Membership),
        bytes().prop_map(Frame::Members),
        bytes().prop_map(Frame::HandOff),
        (any::<u64>(), bytes()).prop_map(|(slot, command)| Frame::Command { slot, command }),
        (any::<u64>(), bytes()).prop_map(|(slot, answer)| Frame::CommandAnswer { slot, answer }),
        vec(route, 0..4).prop_map(Frame::Moved),
        (any::<u64>(), any::<u64>()).prop_map(|(boot, emptied)| Frame::LastQuestion { boot, emptied }),
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(boot, emptied, coming)| Frame::LastAnswer {
            boot,
            emptied,
            coming
        }),
        (any::<u64>(), vec(shard(), 0..4)).prop_map(|(slot, shards)| {
            let shards = shards.into_iter().map(AskedShard).collect();
            Frame::AskEpochs { slot, shards }
        }),
        (any::<u64>(), vec(known, 0..4)).prop_map(|(slot, epochs)| Frame::Epochs { slot, epochs }),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    let feed = || (any::<u64>(), any::<u128>().prop_map(FeedId));
    let streamed = (shard(), shard(), any::<u64>(), envelope())
        .prop_map(|(source, target, number, envelope)| StreamMessage { source, target, number, envelope });
    let says = (any::<u64>(), any::<u64>(), any::<bool>(), any::<bool>()).prop_map(
        |(low, high, parks, is_sender)| {
            if is_sender {
                OpeningWord::Sender { first: low, last: high, parks }
            } else {
                OpeningWord::Receiver { floor: low, mark: high, parks }
            }
        },
    );
    let opening = (shard(), shard(), any::<u64>(), says).prop_map(|(source, target, number, says)| {
        StreamOpening(Opening { source, target, number, voids: None, says })
    });
    let receipt = (shard(), shard(), any::<u64>(), any::<Option<u64>>(), any::<bool>()).prop_map(
        |(source, target, through, refused_from, go_on)| {
            StreamReceipt(Receipt { source, target, through, refused_from, go_on })
        },
    );
    let request = (any::<u64>(), shard(), any::<u8>(), way(), envelope())
        .prop_map(|(slot, shard, hops, way, envelope)| Request { slot, shard, hops, way, envelope });
    let fed_message = (shard(), any::<u64>(), any::<u64>(), envelope())
        .prop_map(|(shard, number, own, envelope)| FeedMessage { shard, number, own, envelope });
    let question = prop_oneof![
        (any::<u64>(), any::<u64>())
            .prop_map(|(own, digest)| FeedQuestion::Claim(FeedIdentity { own, digest })),
        Just(FeedQuestion::Resume),
    ];
    let feeds = prop_oneof![
        (any::<u64>(), "[a-z]{1,9}").prop_map(|(slot, name)| Frame::OpenFeed { slot, name }),
        (feed(), shard(), question).prop_map(|((slot, feed), shard, question)| Frame::AskFeed {
            slot,
            feed,
            shard,
            question
        }),
        (feed(), vec(fed_message, 0..4)).prop_map(|((slot, feed), messages)| Frame::FeedMessages {
            slot,
            feed,
            messages
        }),
        vec((feed(), shard(), news()), 0..4).prop_map(|answers| Frame::FeedReceipts(
            answers
                .into_iter()
                .map(|((slot, feed), shard, news)| FeedAnswer { slot, feed, shard, news })
                .collect()
        )),
        feed().prop_map(|(slot, feed)| Frame::CloseFeed { slot, feed }),
    ];
    prop_oneof![
        control(),
        feeds,
        vec(streamed, 0..4).prop_map(Frame::Messages),
        vec((shard(), envelope()), 0..4).prop_map(|messages| Frame::Volatile(
            messages.into_iter().map(|(target, envelope)| VolatileMessage { target, envelope }).collect()
        )),
        vec(receipt, 0..4).prop_map(Frame::Receipts),
        any::<u64>().prop_map(Frame::Durable),
        vec(opening, 0..4).prop_map(Frame::Openings),
        vec(request, 0..4).prop_map(Frame::Requests),
        vec((any::<u64>(), outcome()), 0..4).prop_map(|answers| Frame::Replies(
            answers.into_iter().map(|(slot, outcome)| Answer { slot, outcome }).collect()
        )),
    ]
}

proptest! {
    #[test]
    fn every_frame_comes_back(one in frame(), other in frame()) {
        let mut bytes = sealed(&one);
        let first = bytes.len();
        bytes.extend_from_slice(&sealed(&other));
        prop_assert_eq!(front(&bytes, LEN_MAX), Ok(Some(first)));
        prop_assert_eq!(back(&bytes), Ok(one));
        prop_assert_eq!(back(&bytes[first..]), Ok(other));
    }

    #[test]
    fn a_part_of_a_frame_waits_for_the_rest(one in frame(), part in any::<prop::sample::Index>()) {
        let bytes = sealed(&one);
        prop_assert_eq!(front(&bytes[..part.index(bytes.len())], LEN_MAX), Ok(None));
    }

    #[test]
    fn a_changed_byte_is_noticed(one in frame(), at in any::<prop::sample::Index>(), by in 1_u8..) {
        let mut bytes = sealed(&one);
        let at = at.index(bytes.len());
        bytes[at] ^= by;
        // A changed length may also ask for bytes that have not come.
        prop_assert!(!matches!(front(&bytes, LEN_MAX), Ok(Some(_))));
    }

    #[test]
    fn any_bytes_are_judged_without_a_panic(bytes: Vec<u8>) {
        let _ = front(&bytes, LEN_MAX);
        let _ = Frame::decode(&bytes);
    }

    #[test]
    fn a_frame_with_any_damage_is_judged_without_a_panic(
        one in frame(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut body = sealed(&one)[HEADER_LEN..].to_vec();
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let _ = Frame::decode(&body);
    }

    #[test]
    fn an_item_is_not_longer_than_is_said(
        way in way(), envelope in envelope(), slot: u64, open in proptest::collection::btree_set(any::<u64>(), 64),
    ) {
        let way = match way {
            Way::Query => Way::Query,
            Way::Ask(id, _) | Way::Send(id, _) => Way::Ask(id, Acknowledged {
                floor: u64::MAX,
                open: Some(open.into_iter().collect()),
            }),
        };
        let len = envelope.len() + ITEM_LEN_MAX;
        let request = Request { slot, shard: ShardId(4_095), hops: 255, way, envelope };
        let one = sealed(&Frame::Requests(vec![request.clone()])).len();
        let two = sealed(&Frame::Requests(vec![request.clone(), request])).len();
        prop_assert!(two - one <= len);
    }
}

#[test]
fn lies_about_lengths_take_no_memory() {
    let mut lie = sealed(&Frame::Ping);
    lie[1..5].copy_from_slice(&u32::MAX.to_le_bytes());
    // The header is enough: nothing waits for four gigabytes.
    let refused = front(&lie[..HEADER_LEN], LEN_MAX);
    assert_eq!(refused, Err(FrameError::TooLong { len: u32::MAX as usize + HEADER_LEN, max: LEN_MAX }));
    for lie in
        [&b"\x81\xa8messages\xdd\xff\xff\xff\xff\x01"[..], b"\x81\xaamembership\xc6\xff\xff\xff\xff\x01"]
    {
        assert!(matches!(Frame::decode(lie), Err(FrameError::Unreadable(_))), "{lie:x?}");
    }
}

#[test]
fn hostile_nesting_is_refused_before_serde_sees_it() {
    let mut body = b"\x81\xa7replies".to_vec();
    body.extend(std::iter::repeat_n(0x91, 100_000));
    body.push(0xc0);
    let error = Frame::decode(&body).expect_err("too deep").to_string();
    assert!(error.contains("nested deeper"), "{error}");
}

#[test]
fn values_that_cannot_be_are_refused() {
    let refused = |body: &[u8], why: &str| {
        let error = Frame::decode(body).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    };
    refused(b"\x81\xa8volatile\x91\x92\xcd\x10\x00\xc4\x08\x01\0\0\0\0\0\0\0", "there is no shard 4096");
    refused(b"\x81\xa8volatile\x91\x92\x00\xc4\x08\x02\0\0\0\0\0\0\0", "not an envelope");
    refused(b"\x81\xa9open_feed\x92\x01\xa0", "a feed's name of 0 bytes");
    refused(b"\x81\xa5moved\x91\x93\x01\x01\xa3a b", "cannot name a node");
    refused(b"\xa4pong\xa4pong", "bytes behind its end");
    refused(b"\xa4gong", "gong");
    refused(b"", "truncated");
}

#[test]
fn exceptions_of_a_floor_are_few_rising_and_below_it() {
    let decodes = |floor: u64, open: &[u64]| {
        let id = RequestId { client: ClientId(1), number: 9, issued_at: Timestamp::EPOCH };
        let acknowledged = Acknowledged { floor, open: Some(open.into()) };
        let way = Way::Send(id, acknowledged);
        let request = Request { slot: 1, shard: ShardId(0), hops: 0, way, envelope: message("k", b"") };
        back(&sealed(&Frame::Requests(vec![request]))).is_ok()
    };
    let rising: Vec<u64> = (1..=65).collect();
    assert!(decodes(70, &rising[..64]));
    assert!(!decodes(70, &rising));
    assert!(!decodes(70, &[3, 3]));
    assert!(!decodes(2, &[3]));
}

#[test]
fn a_frame_over_the_limit_is_not_sent_and_leaves_nothing_behind() {
    let mut out = sealed(&Frame::Ping);
    let before = out.clone();
    let long = Frame::HandOff(vec![0; 100].into());
    assert!(matches!(long.encode(&mut out, 100), Err(FrameError::TooLong { max: 100, .. })));
    assert_eq!(out, before);
}

#[test]
fn words_of_another_build_about_a_length_are_shown_as_something() {
    let refusal = Refusal::TooLarge { what: "a word of tomorrow", len: 2, max: 1 };
    let frame = Frame::Replies(vec![Answer { slot: 1, outcome: Outcome::Refused(refusal) }]);
    let read = back(&sealed(&frame)).unwrap();
    let refusal = Refusal::TooLarge { what: "something", len: 2, max: 1 };
    assert_eq!(read, Frame::Replies(vec![Answer { slot: 1, outcome: Outcome::Refused(refusal) }]));
}
