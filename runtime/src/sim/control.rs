//! What a simulated node says to the servers of a store that it shares: one thing at a time to each, in order, as a thread of its own
//! would.

use super::{Chore, Sim, sharing::Common};
use crate::{
    placement::{Epoch, ShardId},
    sharing::SharingEvent,
    store::{Ledger, OwnedShard, SharedError},
};
use std::collections::VecDeque;

/// Beats in a lease.
const BEATS_PER_LEASE: u64 = 6;

/// What is asked of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    Beat,
    Take(Vec<(ShardId, Epoch)>),
}

/// What a server has answered.
#[derive(Debug)]
pub(super) enum Answer {
    Ledger(Ledger),
    Taken(Vec<OwnedShard>),
    NotTaken(SharedError),
    Failed(SharedError),
}

impl Answer {
    /// For the trace. Ledgers are long, and say what was told before.
    fn in_short(&self) -> String {
        match self {
            Self::Ledger(ledger) => format!("generation {}", ledger.generation),
            Self::Taken(shards) => format!("{shards:?}"),
            Self::NotTaken(error) | Self::Failed(error) => error.to_string(),
        }
    }
}

/// The line to one server.
#[derive(Default)]
pub(super) struct Line {
    asks: VecDeque<Ask>,
    is_busy: bool,
}

impl Sim {
    /// A node begins to beat.
    pub(super) fn begin_beats(&mut self, at: usize) {
        for server in 0..self.servers() {
            self.chore(at, 0, Chore::Beat { server });
        }
    }

    /// It is time for a beat.
    pub(super) fn beat(&mut self, at: usize, server: u32) {
        let lease = self.shared.as_ref().expect("it beats").lease;
        self.chore(at, lease / BEATS_PER_LEASE, Chore::Beat { server });
        self.ask_server(at, server, Ask::Beat);
    }

    pub(super) fn ask_server(&mut self, at: usize, server: u32, ask: Ask) {
        let line = self.common_mut(at).line(server);
        if ask != Ask::Beat || !line.asks.contains(&ask) {
            line.asks.push_back(ask);
        }
        self.ask_next(at, server);
    }

    fn ask_next(&mut self, at: usize, server: u32) {
        let line = self.common_mut(at).line(server);
        if line.is_busy {
            return;
        }
        let Some(ask) = line.asks.pop_front() else { return };
        line.is_busy = true;
        let (begun, pause) = (self.now, self.server_pause(at));
        self.chore(at, pause, Chore::Asked { server, ask, begun });
    }

    /// A question is there.
    pub(super) fn asked(&mut self, at: usize, server: u32, ask: Ask, begun: u64) {
        if let Some(pause) = self.stalled(server) {
            let pause = pause + self.random.below(self.commit_pause);
            self.chore(at, pause, Chore::Asked { server, ask, begun });
            return;
        }
        let store = std::sync::Arc::clone(&self.machines[at].node.as_ref().expect("it asks").store);
        let store = store.shared().expect("it has servers");
        let says = self.common_mut(at).says.clone();
        let answer = match &ask {
            Ask::Beat => store.beat(server, &says).map_or_else(Answer::Failed, Answer::Ledger),
            Ask::Take(shards) => store.take(server, shards).map_or_else(Answer::NotTaken, Answer::Taken),
        };
        self.trace.note(self.now, format_args!("n{at} asks server {server} {ask:?}: {}", answer.in_short()));
        self.check_rows();
        let pause = self.server_pause(at);
        self.chore(at, pause, Chore::Answered { server, answer, begun });
    }

    /// The answer is back.
    pub(super) fn answered_by(&mut self, at: usize, server: u32, answer: Answer, begun: u64) {
        self.common_mut(at).line(server).is_busy = false;
        let took = std::time::Duration::from_micros(self.now - begun);
        match answer {
            Answer::Ledger(ledger) => self.tell_sharing(at, SharingEvent::Ledger { ledger, took }),
            Answer::Taken(shards) => {
                self.seen.shards_taken += shards.len() as u64;
                self.tell_sharing(at, SharingEvent::Taken { server, shards });
            }
            Answer::NotTaken(error) => {
                self.tell_sharing(at, SharingEvent::NotTaken { server });
                self.failed_by(at, error);
            }
            Answer::Failed(error) => self.failed_by(at, error),
        }
        if self.machines[at].node.is_some() {
            self.ask_next(at, server);
        }
    }

    fn failed_by(&mut self, at: usize, error: SharedError) {
        match error {
            SharedError::Later(_) => self.seen.servers_refused += 1,
            // Whoever runs it starts it again.
            SharedError::Replaced => {
                self.seen.nodes_shut_out += 1;
                self.kill(at, false);
            }
            error => self.fail(&format!("n{at} was shut out: {error}")),
        }
    }

    fn server_pause(&mut self, at: usize) -> u64 {
        let pause = self.commit_pause(at);
        self.random.below(pause)
    }
}

impl Common {
    fn line(&mut self, server: u32) -> &mut Line {
        &mut self.lines[server as usize]
    }
}
