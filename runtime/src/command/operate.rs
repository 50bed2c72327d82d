//! What an operator asks of a running cluster: `leave`, `reopen`, `forget`.

use super::{
    Failure,
    args::ConnectArgs,
    environment::{self, Lookup},
    reach::{Answers, Dial, Reach, Target, ask_all, status_of},
    say,
    settings::{self, LISTEN_DEFAULT},
};
use crate::{
    cluster::{Command, CommandAnswer, MemberStatus, NodeStatus},
    placement::NodeName,
};
use std::time::Duration;

/// How often a node that leaves is asked how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// How often in a row neither it nor anybody else may say that it has left, before it is given up.
const SILENT_MAX: u32 = 20;

/// Which nodes are asked, and how.
pub(super) fn way(args: ConnectArgs, lookup: Lookup<'_>) -> Result<(Dial, Vec<String>), Failure> {
    let security = settings::security(args.security, lookup)?;
    let mut addresses = args.connect;
    if addresses.is_empty() {
        addresses = environment::connect(lookup)?.unwrap_or_default();
    }
    let mut addresses: Vec<String> = addresses.into_iter().map(Into::into).collect();
    if addresses.is_empty() {
        addresses.push(LISTEN_DEFAULT.into());
    }
    Ok((Dial { security }, addresses))
}

/// How far a node is that leaves, in words.
pub(super) fn progress(status: &NodeStatus, name: &NodeName) -> String {
    let left = status.shards.iter().filter(|shard| shard.owner == *name).count();
    let takes_shards =
        |member: &MemberStatus| member.name != *name && member.state == "up" && lives(status, &member.name);
    let is_stuck = 0 < left && !status.nodes.iter().any(takes_shards);
    let stuck = match &status.shared {
        _ if !is_stuck => "",
        None => ", and every other node leaves as well: start one that joins, or this one again to keep them",
        Some(_) => {
            ", and no other node lives that takes them: start one, or stop this one, and whoever starts next takes them"
        }
    };
    format!("node {name} hands its shards over: {left} left{stuck}")
}

/// Where a store is shared only those take shards whose leases run; elsewhere one that is down takes them when it is back.
fn lives(status: &NodeStatus, node: &NodeName) -> bool {
    status.shared.as_ref().is_none_or(|shared| {
        let mut leases = shared.servers.iter().flat_map(|server| &server.leases);
        leases.any(|lease| lease.node == *node && lease.runs)
    })
}

/// Why a node is not among those who answered.
pub(super) fn unknown(answers: &Answers, wanted: &NodeName) -> String {
    if let Some(silent) = answers.unreachable.iter().find(|one| one.node.as_ref() == Some(wanted)) {
        return format!("node {wanted} does not answer at {}: {}", silent.address, silent.why);
    }
    let members = answers.members();
    if members.get(wanted).is_some_and(|seen| seen.iter().any(|seen| seen.member.state == "left")) {
        return format!("node {wanted} has left the cluster");
    }
    let known: Vec<_> = members.keys().map(ToString::to_string).collect();
    format!("no node of this cluster is called {wanted}; there are {}", known.join(", "))
}

/// Lets a node leave, and waits until it has.
pub(super) async fn leave(
    reach: &impl Reach,
    addresses: &[String],
    node: Option<NodeName>,
) -> Result<(), Failure> {
    let Some((target, name)) = who_leaves(reach, addresses, node).await? else { return Ok(()) };
    // Before it is asked: it may be gone before it can be asked anything else.
    let status = status_of(reach, &target).await.map_err(|why| silent(&name, &target.address, &why))?;
    let others = status.nodes.iter().filter(|member| member.name != name && member.state != "left");
    let others: Vec<_> = others
        .map(|member| Target { node: Some(member.name.clone()), address: member.address.clone() })
        .collect();
    if state_in(&status, &name) == Some("up") {
        say(&done(reach.ask(&target, Command::Leave).await, &target)?);
    }
    let is_shared = status.shared.is_some();
    Leaving { reach, name, target, others, is_shared }.wait().await
}

/// The node, and where it answers; `None` where it has left already.
async fn who_leaves(
    reach: &impl Reach,
    addresses: &[String],
    node: Option<NodeName>,
) -> Result<Option<(Target, NodeName)>, Failure> {
    let Some(name) = node else {
        let [address] = addresses else {
            return Err(Failure::Usage(format!(
                "{} are several nodes: say by --node which of them is to leave",
                addresses.join(", ")
            )));
        };
        let target = Target { node: None, address: address.clone() };
        let status = status_of(reach, &target).await;
        let name =
            status.map_err(|why| Failure::Failed(format!("no node answers at {address}: {why}")))?.name;
        return Ok(Some((Target { node: Some(name.clone()), ..target }, name)));
    };
    let answers = ask_all(reach, addresses, Some(&name)).await;
    if answers.nodes.is_empty() {
        return Err(Failure::Failed(answers.silence("--connect")));
    }
    if let Some(answer) = answers.nodes.get(&name) {
        return Ok(Some((Target { node: Some(name.clone()), address: answer.address.clone() }, name)));
    }
    if answers.nodes.values().any(|answer| state_in(&answer.status, &name) == Some("left")) {
        say(&format!("node {name} has left the cluster"));
        return Ok(None);
    }
    Err(Failure::Failed(unknown(&answers, &name)))
}

/// A node on its way out.
struct Leaving<'l, R> {
    reach: &'l R,
    name: NodeName,
    target: Target,
    /// Who knows when it has left and is gone.
    others: Vec<Target>,
    /// What it has lies in a store that all nodes share.
    is_shared: bool,
}

impl<R: Reach> Leaving<'_, R> {
    async fn wait(self) -> Result<(), Failure> {
        let Self { reach, name, target, others, is_shared } = &self;
        let mut told = None;
        let mut silence = 0;
        loop {
            match status_of(*reach, target).await {
                Ok(status) if state_in(&status, name) == Some("left") => break,
                Ok(status) => {
                    silence = 0;
                    let progress = progress(&status, name);
                    if told.as_ref() != Some(&progress) {
                        say(&progress);
                        told = Some(progress);
                    }
                }
                Err(why) => {
                    if has_left(*reach, others, name).await {
                        break;
                    }
                    silence += 1;
                    if SILENT_MAX <= silence {
                        return Err(if *is_shared {
                            gone(name, &why)
                        } else {
                            silent(name, &target.address, &why)
                        });
                    }
                }
            }
            tokio::time::sleep(PROGRESS_EVERY).await;
        }
        say(&format!("node {name} has left the cluster"));
        Ok(())
    }
}

/// Whether one of the others has heard that it has. The first that answers is believed.
async fn has_left(reach: &impl Reach, others: &[Target], name: &NodeName) -> bool {
    for other in others {
        if let Ok(status) = status_of(reach, other).await {
            return state_in(&status, name) == Some("left");
        }
    }
    false
}

fn state_in<'s>(status: &'s NodeStatus, name: &NodeName) -> Option<&'s str> {
    status.nodes.iter().find(|member| member.name == *name).map(|member| member.state.as_str())
}

fn silent(name: &NodeName, address: &str, why: &str) -> Failure {
    Failure::Failed(format!(
        "node {name} does not answer at {address} ({why}), and nobody knows that it has left: start it again and repeat this \
         command, or hand its directory over by `adopt`"
    ))
}

/// A node that ended before it had left, where nothing is lost by that.
fn gone(name: &NodeName, why: &str) -> Failure {
    Failure::Failed(format!(
        "node {name} ended ({why}) before anybody heard that it has left; the others take its shards when its lease has run out, and \
         `status` shows that"
    ))
}

/// Owns shards again that were on their way to a disk that is destroyed.
pub(super) async fn reopen(
    reach: &impl Reach,
    addresses: &[String],
    destroyed: NodeName,
    is_sure: bool,
) -> Result<(), Failure> {
    if !is_sure {
        return Err(Failure::Usage(format!(
            "what node {destroyed} had accepted for the shards on their way to it, and nobody else has, will be lost for good. Where its data \
             directory is there, start it or use `adopt`, which lose nothing. If its disk is destroyed, say --yes"
        )));
    }
    tell(reach, addresses, Command::Reopen { destroyed }).await
}

/// Frees a name.
pub(super) async fn forget(reach: &impl Reach, addresses: &[String], name: NodeName) -> Result<(), Failure> {
    tell(reach, addresses, Command::Forget(name)).await
}

/// Tells the first of these nodes that can be reached. Where one was reached the next is not tried: it may have done it.
async fn tell(reach: &impl Reach, addresses: &[String], command: Command) -> Result<(), Failure> {
    let mut silence = Answers::default();
    for address in addresses {
        let target = Target { node: None, address: address.clone() };
        if let Err(why) = status_of(reach, &target).await {
            silence.unreachable.push(super::reach::Unreachable { node: None, address: address.clone(), why });
            continue;
        }
        say(&done(reach.ask(&target, command).await, &target)?);
        return Ok(());
    }
    Err(Failure::Failed(silence.silence("--connect")))
}

/// What a node says has been done.
fn done(answer: Result<CommandAnswer, String>, target: &Target) -> Result<String, Failure> {
    let address = &target.address;
    match answer {
        Ok(CommandAnswer::Done(words)) => Ok(words),
        Ok(CommandAnswer::Refused(why)) => {
            Err(Failure::Failed(format!("refused by the node at {address}: {why}")))
        }
        Ok(CommandAnswer::Status(_) | CommandAnswer::Newer(_) | CommandAnswer::Parked { .. }) => {
            Err(Failure::Failed(format!("the node at {address} answered another question")))
        }
        Err(why) => Err(Failure::Failed(format!(
            "the node at {address} was asked and did not answer ({why}): it may have done it, see `status`"
        ))),
    }
}

#[cfg(test)]
mod tests;
