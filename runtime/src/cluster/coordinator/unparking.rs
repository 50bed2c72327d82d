//! An operator asks for parked streams, and accepts what they have lost. The workers are asked beside the coordinator, which has
//! others to see to.

use super::{Asker, Coordinator};
use crate::{
    cluster::CommandAnswer,
    kernel::{Event, Outcome, ParkedPage, ParkedState},
    node::Front,
};
use std::{sync::Arc, time::Duration};

/// How long the workers have for their answers. Shorter than operators wait for theirs.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);
/// Most streams of one answer; and so, of those that are unparked at once.
const STREAMS_MAX: usize = 1_000;

impl Coordinator {
    /// One operator at a time is answered.
    pub(super) fn unpark(&mut self, asker: Asker, accepts_loss: bool) {
        if 0 < self.unparking.strong_count() {
            let why = format!("{} is asked for its parked streams already: try again", self.config.name);
            return asker.tell(CommandAnswer::Refused(why));
        }
        let front = Arc::clone(&self.shared.front);
        let running = Arc::new(());
        self.unparking = Arc::downgrade(&running);
        let asking = async move {
            let answer = tokio::time::timeout(ANSWERED_WITHIN, answer(&front, accepts_loss)).await;
            let silent = || {
                let may_go_on = if accepts_loss { ", and some streams may go on" } else { "" };
                Err(format!("its workers did not answer in time{may_go_on}: ask again"))
            };
            // Whoever hears the answer may ask again at once.
            drop(running);
            asker.tell(answer.unwrap_or_else(|_| silent()).unwrap_or_else(CommandAnswer::Refused));
        };
        self.network.spawn(asking);
    }
}

async fn answer(front: &Front, accepts_loss: bool) -> Result<CommandAnswer, String> {
    let workers = (0..front.intakes.len()).map(|worker| (worker, ()));
    let mut found = read(front.ask_workers(workers, |(), to| Event::ListParked { to }).await)?;
    found.streams.sort_by_key(|stream| (stream.state != ParkedState::Ready, stream.target, stream.source));
    found.more |= STREAMS_MAX < found.streams.len();
    found.streams.truncate(STREAMS_MAX);
    if accepts_loss {
        let (ready, mut others): (Vec<_>, Vec<_>) =
            found.streams.into_iter().partition(|stream| stream.state == ParkedState::Ready);
        let streams = ready.into_iter().map(|shown| (front.worker_of(shown.target), shown));
        let answers = front.ask_workers(streams, |shown, to| Event::Unpark { shown, to }).await;
        let settled = read(answers)?;
        found.more |= settled.more;
        found.streams = settled.streams;
        found.streams.append(&mut others);
    }
    found.streams.sort_by_key(|stream| (stream.target, stream.source));
    let streams = found.streams.into_iter().map(Into::into).collect();
    Ok(CommandAnswer::Parked { streams, more: found.more })
}

/// All pages in one. Where something was set going that is told first, and what could not be the next time; else why not.
fn read(outcomes: Vec<Outcome>) -> Result<ParkedPage, String> {
    let mut all = ParkedPage::default();
    let mut refused = None;
    for outcome in outcomes {
        match outcome {
            Outcome::Done(reply) => {
                let page = ParkedPage::decode(&reply.body).expect("just encoded");
                all.more |= page.more;
                all.streams.extend(page.streams);
            }
            // Its shard has gone elsewhere: what is not told is asked for again.
            Outcome::Elsewhere => all.more = true,
            Outcome::Refused(why) => refused = Some(why.to_string()),
            Outcome::Unknown(why) => return Err(format!("some streams may go on: {why}")),
            Outcome::Waiting => unreachable!("only a message waits"),
        }
    }
    let has_done_some = all.streams.iter().any(|stream| stream.state == ParkedState::Unparked);
    all.more |= refused.is_some();
    refused.filter(|_| !has_done_some).map_or(Ok(all), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::Refusal,
        kernel::ParkedStream,
        placement::ShardId,
        requests::{Reply, ReplyClass},
    };

    #[test]
    fn what_cannot_be_done_is_told_with_its_reason() {
        let page_of = |more, streams| {
            let mut body = Vec::new();
            ParkedPage { more, streams }.encode(&mut body);
            Outcome::Done(Reply { class: ReplyClass::Applied, body: body.into() })
        };
        let page = |more| page_of(more, Vec::new());
        let more = |outcomes| read(outcomes).map(|page| page.more);
        assert_eq!(more(vec![page(false), page(false)]), Ok(false));
        assert_eq!(more(vec![page(true), page(false)]), Ok(true));
        assert_eq!(more(vec![page(false), Outcome::Elsewhere]), Ok(true));
        let full = more(vec![page(false), Outcome::Refused(Refusal::StorageFull)]);
        assert_eq!(full, Err(Refusal::StorageFull.to_string()));
        let stopped = more(vec![Outcome::Unknown("it has stopped".into())]);
        assert_eq!(stopped, Err("some streams may go on: it has stopped".into()));
        // What was given up is told first.
        let (source, target, state) = (ShardId(3), ShardId(7), ParkedState::Unparked);
        let stream = ParkedStream { source, target, lost_by_sender: None, lost_by_receiver: None, state };
        let both = read(vec![Outcome::Refused(Refusal::StorageFull), page_of(false, vec![stream])]);
        assert_eq!(both, Ok(ParkedPage { more: true, streams: vec![stream] }));
    }
}
