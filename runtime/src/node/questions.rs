//! Questions to the workers of this node, by whoever is not a client.

use super::{Front, Port, Ports};
use crate::{
    activation::ReplyTo,
    kernel::{Event, FeedReceipt, Outcome},
};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Where the answers come to.
struct Answers(mpsc::UnboundedSender<Outcome>);

impl Port for Answers {
    fn reply(&self, outcomes: &mut dyn Iterator<Item = (u64, Outcome)>) {
        for (_, outcome) in outcomes {
            // Whoever asked may have given up.
            let _ = self.0.send(outcome);
        }
    }

    fn feed(&self, receipts: &mut dyn Iterator<Item = FeedReceipt>) {
        receipts.for_each(drop);
    }

    fn tick(&self) {}

    fn fail(&self, why: &str) {
        let _ = self.0.send(Outcome::Unknown(why.to_owned()));
    }
}

/// A port that is closed however the asking ends, for its future may be dropped.
struct Open<'f>(&'f Ports, u32);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.close(self.1);
    }
}

impl Front {
    /// Tells workers something each, and gives their answers, in the order in which they come. Where the node ends meanwhile, the
    /// last is `Unknown` and others may be missing.
    pub(crate) async fn ask_workers<T>(
        &self,
        of: impl IntoIterator<Item = (usize, T)>,
        event: impl Fn(T, ReplyTo) -> Event,
    ) -> Vec<Outcome> {
        let (tell, mut told) = mpsc::unbounded_channel();
        let connection = self.ports.next();
        self.ports.open(connection, Arc::new(Answers(tell)));
        let _open = Open(&self.ports, connection);
        let mut asked = 0;
        for (worker, of) in of {
            self.intakes[worker].push(event(of, ReplyTo { connection, slot: asked }));
            asked += 1;
        }
        let mut outcomes = Vec::new();
        while (outcomes.len() as u64) < asked
            && let Some(outcome) = told.recv().await
        {
            let has_ended = matches!(outcome, Outcome::Unknown(_));
            outcomes.push(outcome);
            if has_ended {
                break;
            }
        }
        outcomes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        limits::Limits,
        node::{Intake, Links},
        placement::Shards,
    };

    #[tokio::test]
    async fn whoever_asks_hears_that_the_node_has_ended_and_leaves_nothing_behind() {
        let layout = Shards::new(2).unwrap();
        let intakes = vec![Arc::new(Intake::new(1)), Arc::new(Intake::new(1))];
        let front = Front::new(Limits::default(), Links::alone(layout), layout, intakes);
        let asked = front.ask_workers([(0, ()), (1, ())], |(), to| Event::ListParked { to });
        let fail = async { front.ports.fail("it has stopped") };
        let (outcomes, ()) = tokio::join!(asked, fail);
        assert_eq!(outcomes, [Outcome::Unknown("it has stopped".into())]);
        assert_eq!(front.ports.len(), 0);
    }
}
