//! Asking nodes, by their address and perhaps their name.

use crate::{
    client::Client,
    cluster::{Command, CommandAnswer, MemberStatus, NodeStatus, Security},
    placement::NodeName,
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    time::Duration,
};
use tokio::{task::JoinSet, time::timeout};

/// How long a node has to be reached and to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How many nodes are asked at once; the others wait for their turn.
const ASKED_AT_ONCE: usize = 64;

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    /// Who is to answer there, if that is known.
    pub(super) node: Option<NodeName>,
    pub(super) address: String,
}

/// The way to a node.
pub(super) trait Reach: Clone + Send + Sync + 'static {
    /// Asks it; or why it does not answer.
    fn ask(
        &self,
        target: &Target,
        command: Command,
    ) -> impl Future<Output = Result<CommandAnswer, String>> + Send;
}

/// A connection for each question: a few questions are asked, and nodes come and go between them.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) security: Security,
}

impl Reach for Dial {
    async fn ask(&self, target: &Target, command: Command) -> Result<CommandAnswer, String> {
        let asked = async {
            let client = Client::connect_with([target.address.clone()], &self.security)
                .await
                .map_err(|why| why.to_string())?;
            client.command(target.node.as_ref(), command).await.map_err(|why| why.to_string())
        };
        timeout(ANSWER_WITHIN, asked)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs())))
    }
}

/// What a node says of itself; or why not.
pub(super) async fn status_of(reach: &impl Reach, target: &Target) -> Result<NodeStatus, String> {
    match reach.ask(target, Command::Status).await? {
        CommandAnswer::Status(status) => Ok(*status),
        CommandAnswer::Refused(why) => Err(why),
        CommandAnswer::Done(_) | CommandAnswer::Newer(_) | CommandAnswer::Parked { .. } => {
            Err("it gave no status".into())
        }
    }
}

/// A node that has answered.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// Where.
    pub(super) address: String,
    pub(super) status: NodeStatus,
}

/// A node that has not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Unreachable {
    /// Its name; of an address that was given, it is not known.
    pub(super) node: Option<NodeName>,
    pub(super) address: String,
    pub(super) why: String,
}

/// A node, as one that answered sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'s> {
    pub(super) by: &'s NodeName,
    pub(super) member: &'s MemberStatus,
}

/// What came back.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers {
    pub(super) nodes: BTreeMap<NodeName, Answer>,
    pub(super) unreachable: Vec<Unreachable>,
}

impl Answers {
    /// All nodes that those who answered know, each by name with what they say of it.
    pub(super) fn members(&self) -> BTreeMap<&NodeName, Vec<Seen<'_>>> {
        let mut members: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (by, answer) in &self.nodes {
            for member in &answer.status.nodes {
                members.entry(&member.name).or_default().push(Seen { by, member });
            }
        }
        members
    }

    /// Nobody has answered, in words; `option` is how another address is given.
    pub(super) fn silence(&self, option: &str) -> String {
        let tried = self.unreachable.iter().map(|one| format!("\n  {}: {}", one.address, one.why));
        format!("no node answers:{}\nname one that runs by {option}", tried.collect::<String>())
    }
}

/// Asks the nodes at these addresses, all they know, all those know, and so on; of these only `wanted`, where one is.
pub(super) async fn ask_all(reach: &impl Reach, seeds: &[String], wanted: Option<&NodeName>) -> Answers {
    let mut answers = Answers::default();
    let seed = |address: &String| Target { node: None, address: address.clone() };
    let mut wave: BTreeSet<Target> = seeds.iter().map(seed).collect();
    let mut asked = wave.clone();
    while !wave.is_empty() {
        let mut heard = Vec::new();
        for (target, outcome) in ask_each(reach, wave).await {
            match outcome {
                Ok(status) => {
                    heard.extend(status.nodes.iter().cloned());
                    answers.nodes.insert(status.name.clone(), Answer { address: target.address, status });
                }
                Err(why) => {
                    answers.unreachable.push(Unreachable { node: target.node, address: target.address, why });
                }
            }
        }
        let targets = heard
            .into_iter()
            .filter(|member| member.state != "left" && wanted.is_none_or(|wanted| *wanted == member.name))
            .filter(|member| !answers.nodes.contains_key(&member.name))
            .map(|member| Target { node: Some(member.name), address: member.address });
        wave = targets.filter(|target| asked.insert(target.clone())).collect();
    }
    answers.tidy();
    answers
}

impl Answers {
    /// Says of each node once that it does not answer, and not of one that does under another address.
    fn tidy(&mut self) {
        let named: BTreeSet<String> =
            self.unreachable.iter().filter(|one| one.node.is_some()).map(|one| one.address.clone()).collect();
        self.unreachable.retain(|one| match &one.node {
            Some(node) => !self.nodes.contains_key(node),
            None => !named.contains(&one.address),
        });
        self.unreachable.sort();
    }
}

/// Asks each for its status, some of them at once.
pub(super) async fn ask_each(
    reach: &impl Reach,
    targets: BTreeSet<Target>,
) -> Vec<(Target, Result<NodeStatus, String>)> {
    let mut targets = targets.into_iter();
    let mut asking = JoinSet::new();
    let mut outcomes = Vec::new();
    loop {
        for target in targets.by_ref().take(ASKED_AT_ONCE - asking.len()) {
            let reach = reach.clone();
            asking.spawn(async move {
                let outcome = status_of(&reach, &target).await;
                (target, outcome)
            });
        }
        let Some(asked) = asking.join_next().await else { return outcomes };
        outcomes.push(asked.expect("a question neither panics nor is cancelled"));
    }
}

#[cfg(test)]
pub(super) mod tests;
