//! Nodes that are made up, for all who ask nodes.

use super::*;
use crate::cluster::{MoveStatus, NodeCounters, ShardStatus};
use std::sync::{Arc, Mutex};

pub(in crate::command) fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

const GONE: &str = "it is gone";

/// A node as others see it, at an address that is its name with a port.
pub(in crate::command) fn member(text: &str, state: &str, is_alive: bool) -> MemberStatus {
    MemberStatus {
        name: name(text),
        address: format!("{text}:7001"),
        state: state.into(),
        weight: 1,
        is_alive,
        is_connected: is_alive,
        boot: 1,
        build: "app 1.0".into(),
    }
}

/// A node that knows these nodes, and who owns the shards from 0 on.
pub(in crate::command) fn status(text: &str, nodes: &[MemberStatus], owners: &[&str]) -> NodeStatus {
    let shards = (0..).zip(owners).map(|(shard, owner)| ShardStatus { shard, epoch: 1, owner: name(owner) });
    NodeStatus {
        name: name(text),
        cluster: "c1a5".into(),
        boot: 1,
        build: "app 1.0".into(),
        view: 3,
        view_digest: 0xabcd_ef01_0000_0002,
        nodes: nodes.to_vec(),
        shards_total: 256,
        shards: shards.collect(),
        going: 0,
        coming: 0,
        stranded: Vec::new(),
        moves: MoveStatus::default(),
        counters: NodeCounters::default(),
        uptime_ms: 1_000,
        activations: (0, 0),
        is_quiet: true,
        refused: None,
        shared: None,
    }
}

/// Answers by script: to each question at an address the next answer, and the last one from then on.
#[derive(Clone, Default)]
pub(in crate::command) struct Script {
    answers: Arc<Mutex<BTreeMap<String, Vec<CommandAnswer>>>>,
    asked: Arc<Mutex<Vec<(Target, Command)>>>,
}

impl Script {
    /// Nobody answers elsewhere.
    pub(in crate::command) fn at(
        self,
        address: &str,
        answers: impl IntoIterator<Item = CommandAnswer>,
    ) -> Self {
        let mut answers: Vec<_> = answers.into_iter().collect();
        answers.reverse();
        self.answers.lock().unwrap().insert(address.into(), answers);
        self
    }

    /// A node that answers with its status.
    pub(in crate::command) fn node(self, status: NodeStatus) -> Self {
        let address = format!("{}:7001", status.name);
        self.at(&address, [CommandAnswer::Status(Box::new(status))])
    }

    /// Whoever has answered as often as it can is gone.
    pub(in crate::command) fn until_gone(self) -> Self {
        for answers in self.answers.lock().unwrap().values_mut() {
            answers.insert(0, CommandAnswer::Refused(GONE.into()));
        }
        self
    }

    /// Every question but those for the status.
    pub(in crate::command) fn commands(&self) -> Vec<(String, Command)> {
        let asked = self.asked.lock().unwrap();
        let commands = asked.iter().filter(|(_, command)| *command != Command::Status);
        commands.map(|(target, command)| (target.address.clone(), command.clone())).collect()
    }
}

impl Reach for Script {
    async fn ask(&self, target: &Target, command: Command) -> Result<CommandAnswer, String> {
        self.asked.lock().unwrap().push((target.clone(), command));
        let mut answers = self.answers.lock().unwrap();
        let answers = answers.get_mut(&target.address).ok_or("connection refused")?;
        let answer = if answers.len() > 1 { answers.pop() } else { answers.last().cloned() };
        match answer {
            Some(CommandAnswer::Refused(why)) if why == GONE => Err(why),
            answer => Ok(answer.expect("a script has an answer")),
        }
    }
}

#[tokio::test]
async fn every_node_is_found_through_one() {
    let nodes = ["a", "b", "c"].map(|text| member(text, "up", true));
    // `a` has not heard of `c` yet.
    let script = Script::default()
        .node(status("a", &nodes[..2], &[]))
        .node(status("b", &nodes, &[]))
        .node(status("c", &nodes, &[]));
    let answers = ask_all(&script, &["a:7001".into()], None).await;
    assert_eq!(answers.nodes.keys().map(NodeName::as_str).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(answers.unreachable, []);
    assert_eq!(script.asked.lock().unwrap().len(), 3, "each is asked once");
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_told_once_and_one_that_has_left_is_not_asked() {
    let nodes = [member("a", "up", true), member("b", "up", false), member("c", "left", false)];
    let script = Script::default().node(status("a", &nodes, &[]));
    let answers = ask_all(&script, &["a:7001".into(), "b:7001".into()], None).await;
    let b = Unreachable { node: Some(name("b")), address: "b:7001".into(), why: "connection refused".into() };
    assert_eq!(answers.unreachable, [b]);
    assert!(script.asked.lock().unwrap().iter().all(|(target, _)| target.address != "c:7001"));
}

#[tokio::test]
async fn of_those_heard_of_only_the_wanted_one_is_asked() {
    let nodes = ["a", "b", "c"].map(|text| member(text, "up", true));
    let script = nodes
        .iter()
        .fold(Script::default(), |script, node| script.node(status(node.name.as_str(), &nodes, &[])));
    let answers = ask_all(&script, &["a:7001".into()], Some(&name("c"))).await;
    assert_eq!(answers.nodes.keys().map(NodeName::as_str).collect::<Vec<_>>(), ["a", "c"]);
}

#[tokio::test]
async fn more_nodes_than_are_asked_at_once_are_all_asked() {
    let nodes: Vec<_> = (0..200).map(|at| member(&format!("n{at}"), "up", true)).collect();
    let script = nodes
        .iter()
        .fold(Script::default(), |script, node| script.node(status(node.name.as_str(), &nodes, &[])));
    let answers = ask_all(&script, &["n7:7001".into()], None).await;
    assert_eq!(answers.nodes.len(), 200);
}

#[tokio::test]
async fn where_nobody_answers_each_address_is_told_with_its_reason() {
    let answers = ask_all(&Script::default(), &["a:7001".into(), "b:7001".into()], None).await;
    let silence = "no node answers:\n  a:7001: connection refused\n  b:7001: connection refused\n\
                   name one that runs by --connect";
    assert_eq!(answers.silence("--connect"), silence);
}
