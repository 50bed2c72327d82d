//! What is true of all memberships together once nothing disturbs them: they agree, and every shard is where they name it.

use super::Sim;
use crate::{membership::NodeState, store::Ownership};
use std::fmt::Write;

impl Sim {
    /// Whether all running nodes agree on who is there, nobody is still going, and every shard is where the view names it. Always,
    /// where there is no membership.
    pub fn has_settled(&self) -> bool {
        if self.is_shared() {
            return self.is_shared_out();
        }
        if !self.has_members() {
            return true;
        }
        let mut members = Vec::new();
        for at in (0..self.machines.len()).filter(|at| !self.machines[*at].is_away) {
            let Some(member) = self.member(at) else { return false };
            members.push(member);
        }
        let Some(first) = members.first() else { return false };
        let known = first.membership.known().digest();
        if members.iter().any(|member| member.membership.known().digest() != known) {
            return false;
        }
        let table = first.membership.view().table(self.layout);
        let all_see_it = members.iter().all(|member| {
            let view = member.membership.view();
            self.machines.iter().all(|machine| match view.get(&machine.name) {
                Some(node) if machine.is_away => node.entry.state == NodeState::Left && !node.is_alive,
                // It had said so, and then a shard came that was sealed for it; there is nobody left who takes it.
                Some(node) if node.entry.state == NodeState::Left => table.is_none(),
                Some(node) => node.is_alive,
                // It has never come.
                None => machine.is_away,
            })
        });
        let Some(table) = table else {
            // Nobody takes shards, so nobody can go.
            return all_see_it;
        };
        let nobody_goes = members.iter().all(|member| !member.leaving.is_going());
        let is_placed = table.iter().all(|(shard, node)| {
            self.owners.of(shard).is_some_and(|owner| self.machines[owner].name == *node)
        });
        all_see_it && nobody_goes && is_placed
    }

    /// What every node that is there holds of the others, for whoever is to find out why they do not agree.
    pub(super) fn disagreement(&self) -> String {
        let mut text = String::new();
        for (at, machine) in self.machines.iter().enumerate() {
            if let Some(common) = self.common(at) {
                let sharing = &common.sharing;
                let _ = write!(
                    text,
                    "\nn{at} gives {}, settled {}, says {:?}, sees {:?}",
                    sharing.running(),
                    sharing.is_settled(),
                    common.says.presence,
                    sharing.nodes(0)
                );
                continue;
            }
            let Some(member) = self.member(at) else {
                let _ = write!(text, "\nn{at} is away: {}", machine.is_away);
                continue;
            };
            let view = member.membership.view();
            let nodes: Vec<_> = view
                .nodes()
                .map(|(name, node)| (name.as_str(), node.entry.boot, node.entry.state, node.is_alive))
                .collect();
            let holdings = &machine.node.as_ref().expect("it has a member").holdings;
            let (known, leaving) = (member.membership.known().digest(), &member.leaving);
            let links: Vec<_> = member.links.keys().collect();
            let _ = write!(
                text,
                "\nn{at} {leaving:?} knows {known:x}, links {links:?}, moves {:?}, sees {nodes:?}",
                holdings.running()
            );
        }
        for shard in self.layout.iter() {
            let owner = self.owner_of(shard);
            let node = owner.and_then(|at| self.machines[at].node.as_ref());
            let serves = node
                .is_some_and(|node| node.hosts(shard) && node.kernels[self.worker_of(shard)].is_serving());
            let _ = write!(text, "\n{shard} is with {owner:?}, served: {serves}");
        }
        text
    }

    /// No shard is with a node that has left, or on its way there.
    pub(super) fn check_nobody_waits_for_who_left(&self) {
        for (at, machine) in self.machines.iter().enumerate() {
            let Some(node) = &machine.node else { continue };
            for (shard, ownership) in node.store.ownership().expect("an open store knows what it owns") {
                if let Ownership::Sealed { to, .. } = ownership
                    && self.machines[self.machine_named(&to)].is_away
                {
                    self.fail(&format!("n{at} has sealed {shard} for {to}, which has left"));
                }
            }
        }
    }
}
