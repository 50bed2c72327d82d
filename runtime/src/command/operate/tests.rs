use super::{
    super::reach::tests::{Script, member, name, status},
    *,
};
use crate::cluster::{LeaseStatus, MemberStatus, ServerStatus, SharedStatus};

fn said(status: NodeStatus) -> CommandAnswer {
    CommandAnswer::Status(Box::new(status))
}

fn begun() -> CommandAnswer {
    CommandAnswer::Done("node b leaves".into())
}

fn nodes(b: &str) -> [MemberStatus; 2] {
    [member("a", "up", true), member("b", b, true)]
}

/// `b` as it says it is, with this many shards of its own.
fn b(state: &str, shards: usize) -> CommandAnswer {
    said(status("b", &nodes(state), &vec!["b"; shards]))
}

/// `a`, which says that `b` is in this state.
fn a(state: &str) -> CommandAnswer {
    said(status("a", &nodes(state), &[]))
}

async fn leaves(script: &Script, addresses: &[&str], node: Option<&str>) -> Result<(), Failure> {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    leave(script, &addresses, node.map(name)).await
}

#[tokio::test(start_paused = true)]
async fn a_node_is_asked_to_leave_and_waited_for() {
    let steps = [b("up", 2), b("up", 2), begun(), b("leaving", 2), b("leaving", 1), b("left", 0)];
    let script = Script::default().at("b:7001", steps);
    assert_eq!(leaves(&script, &["b:7001"], None).await, Ok(()));
    assert_eq!(script.commands(), [("b:7001".into(), Command::Leave)]);
}

#[test]
fn a_node_that_nobody_can_follow_says_what_to_do() {
    let status = |members: &[MemberStatus], owners: &[&str]| status("b", members, owners);
    let both = |a| [member("a", a, true), member("b", "leaving", true)];
    assert_eq!(progress(&status(&both("up"), &["b"; 2]), &name("b")), "node b hands its shards over: 2 left");
    let stuck = progress(&status(&both("leaving"), &["b"; 2]), &name("b"));
    assert!(stuck.ends_with("start one that joins, or this one again to keep them"), "{stuck}");
    assert!(!progress(&status(&both("left"), &[]), &name("b")).contains("start"));
}

#[test]
fn where_a_store_is_shared_a_dead_node_takes_nothing() {
    let up = [member("a", "up", true), member("b", "leaving", true)];
    let progress_with = |runs| {
        let lease = LeaseStatus { node: name("a"), state: "up".into(), runs, steady_ms: 0 };
        let server = ServerStatus { leases: vec![lease], ..ServerStatus::default() };
        let shared = SharedStatus { lease_ms: 3_000, lost_commits: 0, servers: vec![server] };
        progress(&NodeStatus { shared: Some(shared), ..status("b", &up, &["b"; 2]) }, &name("b"))
    };
    assert_eq!(progress_with(true), "node b hands its shards over: 2 left");
    assert!(progress_with(false).ends_with("or stop this one, and whoever starts next takes them"));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_gone_before_it_says_so_has_left_if_another_says_so() {
    let gone = Script::default().at("b:7001", [b("up", 1), b("up", 1), begun()]).until_gone();
    let script = gone.at("a:7001", [a("up"), a("leaving"), a("left")]);
    assert_eq!(leaves(&script, &["a:7001"], Some("b")).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_only_went_silent_has_not_left() {
    let gone = Script::default().at("b:7001", [b("up", 1), b("up", 1), begun()]).until_gone();
    let script = gone.at("a:7001", [a("leaving")]);
    let Err(Failure::Failed(why)) = leaves(&script, &["a:7001"], Some("b")).await else { panic!("it left") };
    assert!(
        why.starts_with("node b does not answer at b:7001 (it is gone), and nobody knows that it has left")
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_already_is_only_waited_for() {
    let script = Script::default().at("b:7001", [b("leaving", 3), b("leaving", 3), b("left", 0)]);
    assert_eq!(leaves(&script, &["b:7001"], None).await, Ok(()));
    let script = Script::default().at("a:7001", [a("left")]);
    assert_eq!(leaves(&script, &["a:7001"], Some("b")).await, Ok(()));
    assert_eq!(script.commands(), []);
}

#[tokio::test]
async fn who_is_to_leave_is_not_guessed() {
    let script = Script::default().at("a:7001", [a("up")]);
    let two = leaves(&script, &["a:7001", "b:7001"], None).await;
    let why = "a:7001, b:7001 are several nodes: say by --node which of them is to leave";
    assert_eq!(two, Err(Failure::Usage(why.into())));
    let unknown = leaves(&script, &["a:7001"], Some("z")).await;
    let why = "no node of this cluster is called z; there are a, b";
    assert_eq!(unknown, Err(Failure::Failed(why.into())));
    let silent = leaves(&script, &["x:7001"], None).await;
    let why = "no node answers at x:7001: connection refused";
    assert_eq!(silent, Err(Failure::Failed(why.into())));
}

#[tokio::test]
async fn a_refusal_is_a_failure_in_the_words_of_the_node() {
    let refused = CommandAnswer::Refused("it is the only node".into());
    let script = Script::default().at("b:7001", [b("up", 1), b("up", 1), refused]);
    let failed = Failure::Failed("refused by the node at b:7001: it is the only node".into());
    assert_eq!(leaves(&script, &["b:7001"], None).await, Err(failed));
}

#[tokio::test]
async fn what_may_lose_something_is_done_only_by_who_says_so() {
    let script = Script::default().at("a:7001", [a("up"), CommandAnswer::Done("3 shards".into())]);
    let addresses = ["x:7001".into(), "a:7001".into()];
    let unsure = reopen(&script, &addresses, name("b"), false).await;
    let Err(Failure::Usage(why)) = unsure else { panic!("it was done") };
    assert!(why.starts_with("what node b had accepted") && why.ends_with("say --yes"), "{why}");
    assert_eq!(script.commands(), []);
    assert_eq!(reopen(&script, &addresses, name("b"), true).await, Ok(()));
    assert_eq!(script.commands(), [("a:7001".into(), Command::Reopen { destroyed: name("b") })]);
}

#[tokio::test]
async fn a_name_is_freed_by_the_first_node_that_answers_and_no_second() {
    let script = Script::default()
        .at("a:7001", [a("up"), CommandAnswer::Refused("it is alive".into())])
        .at("b:7001", [b("up", 0), begun()]);
    let addresses = ["a:7001".into(), "b:7001".into()];
    let refused = Failure::Failed("refused by the node at a:7001: it is alive".into());
    assert_eq!(forget(&script, &addresses, name("c")).await, Err(refused));
    assert_eq!(script.commands(), [("a:7001".into(), Command::Forget(name("c")))]);
    let silent = forget(&Script::default(), &addresses, name("c")).await.unwrap_err();
    assert!(matches!(&silent, Failure::Failed(why) if why.starts_with("no node answers:\n  a:7001: ")));
}

#[test]
fn nodes_are_looked_for_where_it_is_said_or_at_the_usual_place() {
    let connect = |args: &[&str], said: &'static str| {
        let args = ConnectArgs {
            connect: args.iter().map(|address| address.parse().unwrap()).collect(),
            ..ConnectArgs::default()
        };
        way(args, &move |variable| (variable == "ENTITY_CONNECT").then(|| said.into())).unwrap().1
    };
    assert_eq!(connect(&["a:1", "b:1"], "c:1"), ["a:1", "b:1"]);
    assert_eq!(connect(&[], "c:1,d:1"), ["c:1", "d:1"]);
    assert_eq!(connect(&[], ""), [LISTEN_DEFAULT]);
}
