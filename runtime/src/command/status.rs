//! `status`: what the nodes of a cluster say of themselves and of each other.

mod shared;

use super::{
    Failure,
    operate::unknown,
    reach::{Answer, Answers, Reach, Seen, Target, Unreachable, ask_all, ask_each},
    say,
    table::{aligned, millis, number, ranges, shown},
};
use crate::{
    cluster::{MemberStatus, NodeStatus},
    placement::NodeName,
};
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write, time::Duration};

/// Over which time turns are counted.
const RATE_OVER: Duration = Duration::from_secs(1);

/// Shows the nodes, or one of them alone.
pub(super) async fn status(
    reach: &impl Reach,
    addresses: &[String],
    wanted: Option<&NodeName>,
    json: bool,
) -> Result<(), Failure> {
    let mut answers = ask_all(reach, addresses, wanted).await;
    if answers.nodes.is_empty() {
        return Err(Failure::Failed(answers.silence("--connect")));
    }
    if let Some(wanted) = wanted {
        if !answers.nodes.contains_key(wanted) {
            return Err(Failure::Failed(unknown(&answers, wanted)));
        }
        answers.nodes.retain(|name, _| name == wanted);
        answers.unreachable.clear();
    }
    if let Some(why) = strangers(&answers) {
        return Err(Failure::Failed(why));
    }
    if json {
        say(&object(&answers));
        return Ok(());
    }
    tokio::time::sleep(RATE_OVER).await;
    let rates = again(reach, &mut answers).await;
    say(render(&answers, wanted, &rates).trim_end());
    Ok(())
}

/// Nodes of two clusters, whose shards and names have nothing to do with each other.
fn strangers(answers: &Answers) -> Option<String> {
    let mut all = answers.nodes.values();
    let first = all.next()?;
    let other = all.find(|other| other.status.cluster != first.status.cluster)?;
    let of = |answer: &Answer| format!("{} ({})", answer.status.name, answer.address);
    Some(format!("{} and {} are of different clusters: ask one cluster at a time", of(first), of(other)))
}

/// What `--json` prints. The fields of a node are those of [`NodeStatus`].
fn object(answers: &Answers) -> String {
    #[derive(Serialize)]
    struct Object<'o> {
        nodes: Vec<&'o NodeStatus>,
        unreachable: &'o [Unreachable],
    }
    let nodes = answers.nodes.values().map(|answer| &answer.status).collect();
    serde_json::to_string(&Object { nodes, unreachable: &answers.unreachable })
        .expect("names, texts and numbers can be encoded")
}

/// Asks those who answered a second time, keeps what they say now, and returns their turns per second in between.
async fn again(reach: &impl Reach, answers: &mut Answers) -> BTreeMap<NodeName, u64> {
    let targets = answers
        .nodes
        .iter()
        .map(|(name, answer)| Target { node: Some(name.clone()), address: answer.address.clone() });
    let mut rates = BTreeMap::new();
    for (_, outcome) in ask_each(reach, targets.collect()).await {
        // One that ended meanwhile is shown as it was.
        let Ok(now) = outcome else { continue };
        let Some(answer) = answers.nodes.get_mut(&now.name) else { continue };
        if let Some(rate) = rate(&answer.status, &now) {
            rates.insert(now.name.clone(), rate);
        }
        answer.status = now;
    }
    rates
}

/// Turns per second between two answers of one run.
fn rate(before: &NodeStatus, now: &NodeStatus) -> Option<u64> {
    let turns = now.counters.applied.checked_sub(before.counters.applied)?;
    let millis = now.uptime_ms.checked_sub(before.uptime_ms)?;
    let rate = (u128::from(turns) * 1_000).checked_div(millis.into())?;
    (before.boot == now.boot).then_some(rate as u64)
}

/// A shard's owner under the highest epoch anybody has heard of, and another one under the same epoch, which must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owned<'s> {
    epoch: u64,
    owner: &'s NodeName,
    rival: Option<&'s NodeName>,
}

/// A route yields to a higher epoch only (P22), here as everywhere.
fn owners(answers: &Answers) -> BTreeMap<u32, Owned<'_>> {
    let mut owners: BTreeMap<u32, Owned<'_>> = BTreeMap::new();
    for shard in answers.nodes.values().flat_map(|answer| &answer.status.shards) {
        let said = Owned { epoch: shard.epoch, owner: &shard.owner, rival: None };
        let known = owners.entry(shard.shard).or_insert(said);
        if known.epoch < said.epoch {
            *known = said;
        } else if known.epoch == said.epoch && known.owner != said.owner {
            known.rival = Some(said.owner);
        }
    }
    owners
}

fn render(answers: &Answers, wanted: Option<&NodeName>, rates: &BTreeMap<NodeName, u64>) -> String {
    let owners = owners(answers);
    let mut out = String::new();
    let cluster = answers.nodes.values().next().map(|answer| shown(&answer.status.cluster));
    let members = answers.members();
    let who = match wanted {
        Some(name) => format!("as node {name} sees it, {} nodes", members.len()),
        None => format!("{} of {} nodes answer", answers.nodes.len(), members.len()),
    };
    let _ = writeln!(
        out,
        "Cluster {}: {who}, {} shards",
        cluster.unwrap_or_default(),
        number(owners.len() as u64)
    );
    let mut lines = vec![
        [
            "node",
            "address",
            "state",
            "alive",
            "view",
            "shards",
            "turns/s",
            "going",
            "coming",
            "moved",
            "mean stall",
            "max stall",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for (name, seen) in &members {
        let owned = owners.values().filter(|owned| owned.owner == *name).count();
        lines.push(node(name, seen, owned, answers, rates));
    }
    out.push_str(&aligned(5, &lines));
    out.push('\n');
    shards(&mut out, &owners);
    shared::shared(&mut out, answers);
    silent(&mut out, &answers.unreachable);
    stranded(&mut out, answers);
    disagreements(&mut out, answers, &owners);
    out
}

/// The line of a node.
fn node(
    name: &NodeName,
    seen: &[Seen<'_>],
    owned: usize,
    answers: &Answers,
    rates: &BTreeMap<NodeName, u64>,
) -> Vec<String> {
    let answer = answers.nodes.get(name).map(|answer| &answer.status);
    let newest = newest(name, seen);
    let unsaid = || "-".to_owned();
    let said = |figure: fn(&NodeStatus) -> u64| answer.map_or_else(unsaid, |status| number(figure(status)));
    let moves = answer.map(|status| status.moves).filter(|moves| moves.moved > 0);
    vec![
        name.to_string(),
        shown(&newest.address),
        shown(&newest.state),
        alive(name, seen, answer.is_some()),
        answer.map_or_else(unsaid, |status| format!("{} ({})", status.view, digest(status.view_digest))),
        number(owned as u64),
        rates.get(name).map_or_else(unsaid, |rate| number(*rate)),
        said(|status| status.going),
        said(|status| status.coming),
        said(|status| status.moves.moved),
        moves.map_or_else(unsaid, |moves| millis(moves.stall_us_sum / moves.moved)),
        moves.map_or_else(unsaid, |moves| millis(moves.stall_us_max)),
    ]
}

/// What a node says of itself, or else what is said of its latest run.
fn newest<'s>(name: &NodeName, seen: &[Seen<'s>]) -> &'s MemberStatus {
    let newest = seen.iter().max_by_key(|seen| (seen.by == name, seen.member.boot));
    newest.expect("a member is one that somebody sees").member
}

/// Who sees it alive: whoever answers has that from the others, not from itself.
fn alive(name: &NodeName, seen: &[Seen<'_>], answers: bool) -> String {
    let others = seen.iter().filter(|seen| seen.by != name);
    let (count, alive) =
        others.fold((0, 0), |(count, alive), seen| (count + 1, alive + usize::from(seen.member.is_alive)));
    match alive {
        _ if count == 0 => if answers { "yes" } else { "no" }.into(),
        _ if alive == count => "yes".into(),
        0 if answers => "to us only".into(),
        0 => "no".into(),
        _ => format!("to {alive} of {count}"),
    }
}

/// Enough of a digest to tell it from another.
fn digest(digest: u64) -> String {
    format!("{:08x}", digest >> 32)
}

fn shards(out: &mut String, owners: &BTreeMap<u32, Owned<'_>>) {
    let mut of_owner: BTreeMap<&NodeName, Vec<(u32, u64)>> = BTreeMap::new();
    for (shard, owned) in owners {
        of_owner.entry(owned.owner).or_default().push((*shard, owned.epoch));
    }
    let mut lines = vec![["owner", "which", "shards", "epochs"].map(str::to_owned).to_vec()];
    for (owner, shards) in of_owner {
        let epochs = || shards.iter().map(|(_, epoch)| *epoch);
        let (lowest, highest) = (epochs().min().unwrap_or(0), epochs().max().unwrap_or(0));
        let epochs = if lowest == highest { lowest.to_string() } else { format!("{lowest}-{highest}") };
        let which = ranges(shards.iter().map(|(shard, _)| *shard));
        lines.push(vec![owner.to_string(), which, number(shards.len() as u64), epochs]);
    }
    out.push_str(&aligned(2, &lines));
}

fn silent(out: &mut String, unreachable: &[Unreachable]) {
    if unreachable.is_empty() {
        return;
    }
    let mut lines = vec![["no answer from", "address", "why"].map(str::to_owned).to_vec()];
    for one in unreachable {
        let name = one.node.as_ref().map_or_else(|| "-".into(), ToString::to_string);
        lines.push(vec![name, shown(&one.address), shown(&one.why)]);
    }
    out.push('\n');
    out.push_str(&aligned(3, &lines));
}

fn stranded(out: &mut String, answers: &Answers) {
    for (name, answer) in &answers.nodes {
        for one in &answer.status.stranded {
            let _ = writeln!(out, "\nNode {name}: {}.", shown(&one.to_string()));
        }
    }
}

fn disagreements(out: &mut String, answers: &Answers, owners: &BTreeMap<u32, Owned<'_>>) {
    let mut views: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for (name, answer) in &answers.nodes {
        views.entry(answer.status.view_digest).or_default().push(name.as_str());
    }
    if views.len() > 1 {
        let views = views.iter().map(|(view, names)| format!("{} at {}", digest(*view), names.join(", ")));
        let _ = writeln!(
            out,
            "\nThe nodes have different views: {}. For seconds after a change that is as it should be; where it stays, some \
             of them cannot reach each other.",
            views.collect::<Vec<_>>().join("; ")
        );
    }
    let do_what = if shared::is_shared(answers) {
        "a server that failed over to a standby that lagged may have given the epoch twice, which the next beats settle; if it \
         stays, report it"
    } else {
        "stop one of them, keep both data directories, and report it"
    };
    for (shard, Owned { epoch, owner, rival }) in owners {
        if let Some(rival) = rival {
            let _ = writeln!(
                out,
                "\nShard {shard} has two owners under epoch {epoch}, {owner} and {rival}. That must not be: {do_what}."
            );
        }
    }
}

#[cfg(test)]
mod tests;
