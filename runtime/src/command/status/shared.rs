//! What `status` shows of a store that nodes share: its servers, the leases they know, and what is wrong.

use super::super::{
    reach::Answers,
    table::{aligned, number, seconds, shown},
};
use crate::{
    cluster::{LeaseStatus, NodeStatus, ServerStatus, SharedStatus},
    placement::NodeName,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

pub(super) fn shared(out: &mut String, answers: &Answers) {
    let all: BTreeMap<&NodeName, &SharedStatus> = answers
        .nodes
        .iter()
        .filter_map(|(name, answer)| Some((name, answer.status.shared.as_ref()?)))
        .collect();
    let Some(first) = all.values().next() else { return };
    let count = first.servers.len();
    let _ = writeln!(
        out,
        "\nThe nodes share their state, on {}:",
        if count == 1 { "one server".into() } else { format!("{count} servers") }
    );
    let heard: Vec<Heard<'_>> = (0..count).map(|at| Heard::of(at, &all)).collect();
    servers(out, &heard);
    out.push('\n');
    leases(out, &heard, &all);
    for heard in &heard {
        for warning in &heard.warnings {
            let _ = writeln!(out, "\nServer {}: {}.", heard.at, shown(warning));
        }
    }
    for (name, status) in all.iter().filter(|(_, status)| 0 < status.lost_commits) {
        let _ = writeln!(
            out,
            "\nALARM of node {name}: {} of its shards had less than was acknowledged, for a server failed over to a standby that \
             lagged, or was restored. Its log names them; what was committed last there is lost, and streams of these shards may \
             be parked (`unpark`). The count is that of its present run.",
            number(status.lost_commits)
        );
    }
}

/// A server as those who answer see it.
struct Heard<'s> {
    at: usize,
    /// As it was met last by the node that heard of it last.
    newest: &'s ServerStatus,
    warnings: BTreeSet<&'s str>,
}

impl<'s> Heard<'s> {
    fn of(at: usize, all: &BTreeMap<&'s NodeName, &'s SharedStatus>) -> Self {
        let seen = || all.values().filter_map(|status| status.servers.get(at));
        let newest = seen().min_by_key(|server| server.beat_ms_ago.unwrap_or(u64::MAX));
        Self {
            at,
            newest: newest.expect("the first node that answers has it"),
            warnings: seen().flat_map(|server| &server.warnings).map(String::as_str).collect(),
        }
    }
}

fn servers(out: &mut String, heard: &[Heard<'_>]) {
    let heads = ["server", "which", "version", "acknowledges", "timeline", "standbys", "shards"];
    let mut lines = vec![heads.map(str::to_owned).to_vec()];
    for Heard { at, newest, .. } in heard {
        let unknown = || "-".to_owned();
        let is_known = newest.version.is_some();
        let known = |cell: &dyn Fn() -> String| if is_known { cell() } else { unknown() };
        let acknowledges = || match newest.synchronous_standbys.as_str() {
            "" => shown(&newest.synchronous_commit),
            standbys => format!("{} ({})", shown(&newest.synchronous_commit), shown(standbys)),
        };
        lines.push(vec![
            at.to_string(),
            shown(&newest.server),
            newest.version.as_deref().map_or_else(|| "never reached".into(), shown),
            known(&acknowledges),
            known(&|| newest.timeline.to_string()),
            known(&|| newest.standbys.to_string()),
            number(newest.shards),
        ]);
    }
    out.push_str(&aligned(4, &lines));
}

/// A line for each node and server: what the server says of the node's lease, and what the node says of the server.
fn leases(out: &mut String, heard: &[Heard<'_>], all: &BTreeMap<&NodeName, &SharedStatus>) {
    let heads = ["server", "node", "state", "lease", "of", "runs for", "last beat"];
    let mut lines = vec![heads.map(str::to_owned).to_vec()];
    for Heard { at, newest, .. } in heard {
        let said: BTreeMap<&NodeName, &LeaseStatus> =
            newest.leases.iter().map(|lease| (&lease.node, lease)).collect();
        let names: BTreeSet<&NodeName> = said.keys().chain(all.keys()).copied().collect();
        for name in names {
            let (lease, own) = (said.get(name), all.get(name));
            let here = own.and_then(|status| status.servers.get(*at));
            let unsaid = || "-".to_owned();
            lines.push(vec![
                at.to_string(),
                name.to_string(),
                lease.map_or_else(unsaid, |lease| shown(&lease.state)),
                lease.map_or_else(unsaid, |lease| if lease.runs { "runs" } else { "has run out" }.into()),
                own.map_or_else(unsaid, |status| seconds(status.lease_ms)),
                lease.filter(|lease| lease.runs).map_or_else(unsaid, |lease| seconds(lease.steady_ms)),
                here.and_then(|server| server.beat_ms_ago)
                    .map_or_else(unsaid, |ago| format!("{} ago", seconds(ago))),
            ]);
        }
    }
    out.push_str(&aligned(4, &lines));
}

/// Whether the nodes that answer share a store.
pub(super) fn is_shared(answers: &Answers) -> bool {
    let is_shared = |status: &NodeStatus| status.shared.is_some();
    answers.nodes.values().any(|answer| is_shared(&answer.status))
}
