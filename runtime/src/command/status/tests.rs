use super::{
    super::reach::tests::{Script, member, name, status as node_status},
    *,
};
use crate::cluster::{
    CommandAnswer, LeaseStatus, MoveStatus, ServerStatus, ShardStatus, SharedStatus, StrandedStatus,
};

/// Three nodes: `a` and `b` answer, `c` is dead.
fn three() -> [NodeStatus; 2] {
    let nodes = [member("a", "up", true), member("b", "leaving", true), member("c", "up", false)];
    let owners = ["a", "a", "b", "a", "c"];
    [node_status("a", &nodes, &owners), node_status("b", &nodes, &owners)]
}

async fn answers_of(statuses: &[NodeStatus]) -> Answers {
    let script = statuses.iter().cloned().fold(Script::default(), Script::node);
    ask_all(&script, &["a:7001".into()], None).await
}

#[tokio::test]
async fn every_node_has_its_line_and_every_shard_its_owner() {
    let [a, mut b] = three();
    b.moves = MoveStatus { moved: 4, stall_us_max: 21_000, stall_us_sum: 50_400, stall_us_p99: 20_000 };
    b.going = 2;
    b.shards[2].epoch = 7;
    let rates = BTreeMap::from([(name("a"), 1_200_000)]);
    let text = render(&answers_of(&[a, b]).await, None, &rates);
    let expected = "\
Cluster c1a5: 2 of 3 nodes answer, 5 shards
  node  address  state    alive  view          shards    turns/s  going  coming  moved  mean stall  max stall
  ────  ───────  ───────  ─────  ────────────  ──────  ─────────  ─────  ──────  ─────  ──────────  ─────────
  a     a:7001   up       yes    3 (abcdef01)       3  1,200,000      0       0      0           -          -
  b     b:7001   leaving  yes    3 (abcdef01)       1          -      2       0      4     12.6 ms    21.0 ms
  c     c:7001   up       no     -                  1          -      -       -      -           -          -

  owner  which   shards  epochs
  ─────  ──────  ──────  ──────
  a      0-1, 3       3       1
  b      2            1       7
  c      4            1       1

  no answer from  address  why
  ──────────────  ───────  ──────────────────
  c               c:7001   connection refused
";
    assert_eq!(text, expected);
}

#[tokio::test]
async fn nodes_that_place_shards_differently_are_named() {
    let [a, mut b] = three();
    b.view_digest = 0x1234_5678_0000_0000;
    let text = render(&answers_of(&[a, b]).await, None, &BTreeMap::new());
    assert!(text.contains("\nThe nodes have different views: 12345678 at b; abcdef01 at a. "), "{text}");
}

#[tokio::test]
async fn the_highest_epoch_owns_and_two_owners_of_one_are_told() {
    let [a, mut b] = three();
    b.shards[0] = ShardStatus { shard: 0, epoch: 2, owner: name("b") };
    b.shards[1].owner = name("b");
    let answers = answers_of(&[a, b]).await;
    let owners = owners(&answers);
    assert_eq!((owners[&0].owner.as_str(), owners[&0].rival), ("b", None));
    let text = render(&answers, None, &BTreeMap::new());
    assert!(text.contains("\nShard 1 has two owners under epoch 1, a and b. That must not be"), "{text}");
    assert!(!text.contains("Shard 0 has"), "{text}");
}

#[tokio::test]
async fn shards_that_wait_for_a_store_that_is_given_up_are_told_with_what_to_do() {
    let [mut a, b] = three();
    a.stranded = vec![StrandedStatus { node: name("c"), store: "0b".into(), shards: 9 }];
    let text = render(&answers_of(&[a, b]).await, None, &BTreeMap::new());
    let told = "\nNode a: 9 of its shards are sealed for store 0b of c, which is given up";
    assert!(text.contains(told) && text.contains("`reopen --destroyed c`"), "{text}");
    assert!(!text.contains("Node b:"), "{text}");
}

#[test]
fn alive_is_what_the_others_see() {
    let said = |by: &[(&str, bool)], answers| {
        let members: Vec<_> = by.iter().map(|(_, is_alive)| member("a", "up", *is_alive)).collect();
        let names: Vec<_> = by.iter().map(|(by, _)| name(by)).collect();
        let seen: Vec<_> = names.iter().zip(&members).map(|(by, member)| Seen { by, member }).collect();
        alive(&name("a"), &seen, answers)
    };
    assert_eq!(said(&[("a", true)], true), "yes");
    assert_eq!(said(&[("a", true), ("b", true), ("c", true)], true), "yes");
    assert_eq!(said(&[("a", true), ("b", true), ("c", false)], true), "to 1 of 2");
    assert_eq!(said(&[("a", true), ("b", false)], true), "to us only");
    assert_eq!(said(&[("b", false)], false), "no");
}

#[test]
fn turns_are_counted_over_the_time_between_two_answers_of_one_run() {
    let [before, _] = three();
    let mut now = before.clone();
    assert_eq!(rate(&before, &now), None, "no time has passed");
    now.uptime_ms += 1_250;
    now.counters.applied += 5_000;
    assert_eq!(rate(&before, &now), Some(4_000));
    assert_eq!(rate(&before, &NodeStatus { boot: 2, ..now.clone() }), None);
    assert_eq!(rate(&now, &before), None);
}

#[tokio::test(start_paused = true)]
async fn a_node_is_asked_again_for_its_rate_and_shown_as_it_is_then() {
    let [before, _] = three();
    let mut now = before.clone();
    now.uptime_ms += 1_000;
    now.counters.applied += 77;
    let [before, now] = [before, now].map(|status| crate::cluster::CommandAnswer::Status(Box::new(status)));
    let script = Script::default().at("a:7001", [before, now]);
    let mut answers = ask_all(&script, &["a:7001".into()], None).await;
    assert_eq!(again(&script, &mut answers).await, BTreeMap::from([(name("a"), 77)]));
    assert_eq!(answers.nodes[&name("a")].status.counters.applied, 77);
}

#[tokio::test]
async fn json_is_one_object_that_reads_back() {
    let [a, b] = three();
    let answers = answers_of(&[a.clone(), b.clone()]).await;
    let read: serde_json::Value = serde_json::from_str(&object(&answers)).unwrap();
    let nodes: Vec<NodeStatus> = serde_json::from_value(read["nodes"].clone()).unwrap();
    assert_eq!(nodes, [a, b]);
    let c = serde_json::json!({ "node": "c", "address": "c:7001", "why": "connection refused" });
    assert_eq!(read["unreachable"], serde_json::json!([c]));
    assert_eq!(read.as_object().unwrap().len(), 2);
}

#[tokio::test]
async fn a_node_that_is_not_there_is_not_shown_as_if_it_were() {
    let [a, b] = three();
    let script = Script::default().node(a).node(b);
    let shown = |wanted: &str| {
        let wanted = name(wanted);
        let script = &script;
        async move { status(script, &["a:7001".into()], Some(&wanted), true).await }
    };
    assert_eq!(shown("b").await, Ok(()));
    let silent = Failure::Failed("node c does not answer at c:7001: connection refused".into());
    assert_eq!(shown("c").await, Err(silent));
    let unknown = Failure::Failed("no node of this cluster is called d; there are a, b, c".into());
    assert_eq!(shown("d").await, Err(unknown));
}

#[tokio::test]
async fn of_one_node_alone_all_that_it_sees_is_shown() {
    let [a, _] = three();
    let answers = answers_of(&[a]).await;
    let text = render(&answers, Some(&name("a")), &BTreeMap::new());
    assert!(text.starts_with("Cluster c1a5: as node a sees it, 3 nodes, 5 shards\n"), "{text}");
}

#[tokio::test]
async fn two_clusters_are_not_shown_as_one() {
    let other = NodeStatus { cluster: "beef".into(), ..node_status("z", &[member("z", "up", true)], &["z"]) };
    let script = Script::default().node(three()[0].clone()).node(other);
    let shown = status(&script, &["a:7001".into(), "z:7001".into()], None, true).await;
    let why = "a (a:7001) and z (z:7001) are of different clusters: ask one cluster at a time";
    assert_eq!(shown, Err(Failure::Failed(why.into())));
}

/// What a node says of two servers, the second of which it has never reached.
fn shared(leases: &[(&str, bool)]) -> SharedStatus {
    let lease = |(node, runs): &(&str, bool)| LeaseStatus {
        node: name(node),
        state: "up".into(),
        runs: *runs,
        steady_ms: if *runs { 61_250 } else { 0 },
    };
    let first = ServerStatus {
        server: "postgres://e@db0:5432/d".into(),
        version: Some("PostgreSQL 15.18".into()),
        timeline: 1,
        synchronous_commit: "on".into(),
        synchronous_standbys: "standby".into(),
        standbys: 1,
        shards: 3,
        lease_runs: true,
        beat_ms_ago: Some(420),
        reached_for_ms: Some(61_000),
        leases: leases.iter().map(lease).collect(),
        ..ServerStatus::default()
    };
    let second =
        ServerStatus { server: "postgres://e@db1:5432/d".into(), shards: 2, ..ServerStatus::default() };
    SharedStatus { lease_ms: 3_000, lost_commits: 0, servers: vec![first, second] }
}

#[tokio::test]
async fn of_a_shared_store_servers_and_leases_are_shown() {
    let [mut a, mut b] = three();
    a.shared = Some(shared(&[("a", true), ("b", true), ("c", false)]));
    let mut old = shared(&[("a", true), ("b", true), ("c", true)]);
    old.servers[0].beat_ms_ago = Some(2_900);
    b.shared = Some(old);
    let text = render(&answers_of(&[a, b]).await, None, &BTreeMap::new());
    let expected = "
The nodes share their state, on 2 servers:
  server  which                    version           acknowledges  timeline  standbys  shards
  ──────  ───────────────────────  ────────────────  ────────────  ────────  ────────  ──────
  0       postgres://e@db0:5432/d  PostgreSQL 15.18  on (standby)         1         1       3
  1       postgres://e@db1:5432/d  never reached     -                    -         -       2

  server  node  state  lease           of  runs for  last beat
  ──────  ────  ─────  ───────────  ─────  ────────  ─────────
  0       a     up     runs         3.0 s    61.2 s  0.4 s ago
  0       b     up     runs         3.0 s    61.2 s  2.9 s ago
  0       c     up     has run out      -         -          -
  1       a     -      -            3.0 s         -          -
  1       b     -      -            3.0 s         -          -
";
    assert!(text.contains(expected), "{text}");
    assert!(!text.contains("ALARM") && !text.contains("Server 0"), "{text}");
}

#[tokio::test]
async fn lost_commits_are_an_alarm_and_each_warning_is_told_once() {
    let [mut a, mut b] = three();
    let warned = |lost_commits| {
        let mut status = shared(&[]);
        status.servers[0].warnings = vec!["fsync is off".into()];
        SharedStatus { lost_commits, ..status }
    };
    (a.shared, b.shared) = (Some(warned(0)), Some(warned(2)));
    let text = render(&answers_of(&[a, b]).await, None, &BTreeMap::new());
    assert_eq!(text.matches("\nServer 0: fsync is off.\n").count(), 1, "{text}");
    assert!(text.contains("\nALARM of node b: 2 of its shards had less than was acknowledged"), "{text}");
    assert!(!text.contains("ALARM of node a"), "{text}");
}

#[test]
fn builds_that_know_of_no_shared_store_read_and_are_read() {
    #[derive(Debug, serde::Deserialize)]
    struct Old {
        name: NodeName,
        uptime_ms: u64,
    }
    let [mut a, _] = three();
    let old = rmp_serde::to_vec_named(&a).unwrap();
    let without: BTreeMap<String, serde_json::Value> = rmp_serde::from_slice(&old).unwrap();
    let without: BTreeMap<_, _> = without.into_iter().filter(|(key, _)| key != "shared").collect();
    let without = rmp_serde::to_vec_named(&without).unwrap();
    assert_eq!(crate::codec::decode::<NodeStatus>(&without).unwrap(), a);

    a.shared = Some(shared(&[("a", true)]));
    let answer = CommandAnswer::Status(Box::new(a.clone())).encode();
    assert_eq!(
        crate::codec::decode::<CommandAnswer>(&answer).unwrap(),
        CommandAnswer::Status(Box::new(a.clone()))
    );
    let read: Old = crate::codec::decode(&rmp_serde::to_vec_named(&a).unwrap()).unwrap();
    assert_eq!((read.name, read.uptime_ms), (a.name, a.uptime_ms));
}
