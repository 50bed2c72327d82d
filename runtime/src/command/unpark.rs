//! `unpark`: the streams that a lost disk has parked, and what is given up when they go on.

use super::{
    Failure,
    reach::{Reach, Target, ask_all},
    say,
    table::{aligned, number},
};
use crate::{
    cluster::{Command, CommandAnswer, ParkedState, ParkedStream},
    placement::NodeName,
};

/// Most pages that one node is asked for; the command can be given again.
const PAGES_MAX: usize = 1_000;

/// What one node has said.
type Said = (NodeName, Vec<ParkedStream>, bool);

/// Shows what is parked anywhere; and where the loss is accepted, lets it go on.
pub(super) async fn unpark(
    reach: &impl Reach,
    addresses: &[String],
    accepts_loss: bool,
) -> Result<(), Failure> {
    let answers = ask_all(reach, addresses, None).await;
    if answers.nodes.is_empty() {
        return Err(Failure::Failed(answers.silence("--connect")));
    }
    let (mut said, mut open): (Vec<Said>, Vec<String>) = (Vec::new(), Vec::new());
    for one in &answers.unreachable {
        let name = one.node.as_ref().map_or_else(String::new, |node| format!(" {node}"));
        open.push(format!("node{name} at {} does not answer: {}", one.address, one.why));
    }
    for (name, answer) in answers.nodes {
        let target = Target { node: Some(name.clone()), address: answer.address };
        let mut all = (Vec::new(), false);
        let ended = ask_one(reach, &target, accepts_loss, &mut all).await;
        open.extend(ended.err().map(|why| format!("node {name}: {why}")));
        said.push((name, all.0, all.1));
    }
    let lines = rows(&said);
    if lines.len() > 1 {
        say(aligned(2, &lines).trim_end());
    }
    let streams = said.iter().flat_map(|(_, streams, _)| streams);
    let (done, left): (Vec<_>, Vec<_>) = streams.partition(|stream| stream.state == ParkedState::Unparked);
    let more = said.iter().any(|(_, _, more)| *more);
    if accepts_loss && !done.is_empty() {
        say(&format!("{} set going: what was lost is given up", streams_of(done.len())));
    }
    if accepts_loss && (more || !left.is_empty()) {
        let more = if more { ", and more" } else { "" };
        open.push(format!("{}{more} still parked: give the command again", streams_of(left.len())));
    }
    if done.is_empty() && left.is_empty() && !more && open.is_empty() {
        say("no stream is parked");
    }
    if !accepts_loss && !left.is_empty() {
        let more = if more { ", and more" } else { "" };
        say(&format!(
            "{}{more} parked. Nothing was changed. If a node runs on an old directory and there is a newer one, start it on that. If \
             not, say --accept-loss: they go on, without what was lost",
            streams_of(left.len())
        ));
    }
    if open.is_empty() { Ok(()) } else { Err(Failure::Failed(open.join("\n"))) }
}

/// All that one node says. Where the loss is accepted it is asked again as long as that sets more streams going.
async fn ask_one(
    reach: &impl Reach,
    target: &Target,
    accepts_loss: bool,
    (all, has_more): &mut (Vec<ParkedStream>, bool),
) -> Result<(), String> {
    for _ in 0..PAGES_MAX {
        match reach.ask(target, Command::Unpark { accept_loss: accepts_loss }).await? {
            CommandAnswer::Parked { streams, more } => {
                let goes_on = |stream: &ParkedStream| stream.state == ParkedState::Unparked;
                // What was left to do before is told anew.
                all.retain(goes_on);
                let has_done_some = streams.iter().any(goes_on);
                all.extend(streams);
                *has_more = more;
                if !(accepts_loss && more && has_done_some) {
                    return Ok(());
                }
            }
            CommandAnswer::Refused(why) => return Err(why),
            _ => return Err("it answered another question".to_owned()),
        }
    }
    Ok(())
}

fn streams_of(count: usize) -> String {
    if count == 1 { "1 stream".into() } else { format!("{} streams", number(count as u64)) }
}

/// The table, with its head.
fn rows(said: &[Said]) -> Vec<Vec<String>> {
    let head = ["node", "state", "from shard", "to shard", "lost by sender", "lost by receiver"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for (name, streams, _) in said {
        for stream in streams {
            lines.push(vec![
                name.to_string(),
                in_words(stream.state).to_owned(),
                stream.source.to_string(),
                stream.target.to_string(),
                numbers(stream.lost_by_sender),
                numbers(stream.lost_by_receiver),
            ]);
        }
    }
    lines
}

fn numbers(range: Option<(u64, u64)>) -> String {
    match range {
        None => "-".into(),
        Some((first, last)) if first == last => number(first),
        Some((first, last)) => format!("{} to {}", number(first), number(last)),
    }
}

fn in_words(state: ParkedState) -> &'static str {
    match state {
        ParkedState::Ready => "parked",
        ParkedState::Comparing => "being compared: ask again in a while",
        ParkedState::Handling => "messages are being handled: ask again",
        ParkedState::Unparking => "about to go on",
        ParkedState::Unparked => "goes on",
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::reach::tests::{Script, member, name, status},
        *,
    };

    fn stream(state: ParkedState) -> ParkedStream {
        ParkedStream {
            source: 3,
            target: 17,
            lost_by_sender: Some((4, 1_005)),
            lost_by_receiver: None,
            state,
        }
    }

    fn parked(state: ParkedState) -> CommandAnswer {
        CommandAnswer::Parked { streams: vec![stream(state)], more: false }
    }

    /// `a` and `b`, which answer so; `c` is known and silent where it is up.
    fn nodes(a: CommandAnswer, b: CommandAnswer, c: &str) -> Script {
        let nodes = [member("a", "up", true), member("b", "up", true), member("c", c, false)];
        let status = |text| CommandAnswer::Status(Box::new(status(text, &nodes, &[])));
        Script::default().at("a:7001", [status("a"), a]).at("b:7001", [status("b"), b])
    }

    async fn unparks(script: &Script, accepts_loss: bool) -> Result<(), Failure> {
        unpark(script, &["a:7001".into()], accepts_loss).await
    }

    #[tokio::test]
    async fn a_node_is_asked_until_it_has_set_all_of_them_going() {
        let nodes = [member("a", "up", true)];
        let page = |state, more| CommandAnswer::Parked { streams: vec![stream(state)], more };
        let answers = || {
            let status = CommandAnswer::Status(Box::new(status("a", &nodes, &[])));
            [status, page(ParkedState::Unparked, true), page(ParkedState::Unparked, true)]
        };
        let last = page(ParkedState::Unparked, false);
        let script = Script::default().at("a:7001", answers().into_iter().chain([last]));
        assert_eq!(unparks(&script, true).await, Ok(()));
        assert_eq!(script.commands().len(), 3);
        // It does not go on for ever where nothing is done.
        let last = page(ParkedState::Handling, true);
        let script = Script::default().at("a:7001", answers().into_iter().chain([last]));
        let left = unparks(&script, true).await;
        let why = "1 stream, and more still parked: give the command again";
        assert_eq!(left, Err(Failure::Failed(why.into())));
        // Nor where a node says without end that there is more.
        let endless = std::iter::repeat_n(page(ParkedState::Unparked, true), PAGES_MAX + 1);
        let [status, ..] = answers();
        let script = Script::default().at("a:7001", std::iter::once(status).chain(endless));
        assert!(matches!(unparks(&script, true).await, Err(Failure::Failed(_))));
        assert_eq!(script.commands().len(), PAGES_MAX);
        // What was done before an error is told all the same.
        let last = CommandAnswer::Refused("some streams may go on: the disk is full".into());
        let script = Script::default().at("a:7001", answers().into_iter().chain([last]));
        let Err(Failure::Failed(why)) = unparks(&script, true).await else { panic!("it was refused") };
        assert!(why.contains("node a: some streams may go on: the disk is full"), "{why}");
    }

    fn nothing() -> CommandAnswer {
        CommandAnswer::Parked { streams: Vec::new(), more: false }
    }

    #[tokio::test]
    async fn every_node_is_asked_and_nothing_is_done_before_somebody_accepts_it() {
        for accept_loss in [false, true] {
            let state = if accept_loss { ParkedState::Unparked } else { ParkedState::Ready };
            let script = nodes(nothing(), parked(state), "left");
            assert_eq!(unparks(&script, accept_loss).await, Ok(()));
            let asked = ["a:7001", "b:7001"].map(|node| (node.to_owned(), Command::Unpark { accept_loss }));
            assert_eq!(script.commands(), asked);
        }
        assert_eq!(unparks(&nodes(nothing(), nothing(), "left"), true).await, Ok(()));
    }

    #[tokio::test]
    async fn what_is_left_to_do_is_a_failure() {
        let busy = unparks(&nodes(nothing(), parked(ParkedState::Handling), "left"), true).await;
        let Err(Failure::Failed(why)) = busy else { panic!("{busy:?}") };
        assert!(why == "1 stream still parked: give the command again", "{why}");
        let silent = unparks(&nodes(nothing(), nothing(), "up"), false).await;
        let why = "node c at c:7001 does not answer: connection refused";
        assert_eq!(silent, Err(Failure::Failed(why.into())));
        let refused = CommandAnswer::Refused("it is asked already".into());
        let refused = unparks(&nodes(nothing(), refused, "left"), true).await;
        assert_eq!(refused, Err(Failure::Failed("node b: it is asked already".into())));
    }

    #[test]
    fn the_table_names_what_is_lost() {
        let streams = vec![
            stream(ParkedState::Ready),
            ParkedStream {
                lost_by_sender: None,
                lost_by_receiver: Some((7, 7)),
                ..stream(ParkedState::Unparked)
            },
        ];
        let lines = rows(&[(name("a"), streams, false)]);
        assert_eq!(lines[1], ["a", "parked", "3", "17", "4 to 1,005", "-"]);
        assert_eq!(lines[2], ["a", "goes on", "3", "17", "-", "7"]);
    }
}
