//! `adopt --original-destroyed`: what is asked of the others before a copy stands in for a disk that is gone (P20).

use super::{
    Failure,
    reach::{Reach, Target, ask_all},
    say,
};
use crate::{
    cluster::{Command, CommandAnswer, HeldShard, Remains},
    placement::NodeName,
};

/// Makes the copy of the node's directory ready to be handed over: the others give its original up, and say what they have that
/// is newer, which is left aside.
pub(super) async fn make_ready(
    reach: &impl Reach,
    seeds: &[String],
    remains: Remains,
    name: &NodeName,
) -> Result<(), Failure> {
    let answers = ask_all(reach, seeds, None).await;
    let Some(answer) = answers.nodes.values().find(|answer| answer.status.name != *name) else {
        return Err(Failure::Failed(answers.silence("--join")));
    };
    if remains.cluster() != answer.status.cluster {
        return Err(Failure::Failed(format!(
            "the copy is of cluster {}, and {} is of cluster {}: name nodes of its own cluster by --join",
            remains.cluster(),
            answer.address,
            answer.status.cluster
        )));
    }
    let shards = remains.shards().map_err(|why| Failure::Failed(why.to_string()))?;
    let count = shards.len();
    let target = Target { node: Some(answer.status.name.clone()), address: answer.address.clone() };
    let bury = Command::Bury { destroyed: name.clone(), stores: remains.stores(), shards };
    let newer = newer(reach, &target, bury).await?;
    say(&format!("the store that node {name} had is never let in again; its copy has {count} shards"));
    if !newer.is_empty() {
        let words = newer.iter().map(in_words).collect::<Vec<_>>().join(", ");
        say(&format!("newer than in the copy, and so left aside: {words}"));
    }
    let (name, seeds) = (name.clone(), seeds.to_vec());
    blocking(move || remains.make_ready(&name, &newer, &seeds)).await
}

async fn newer(reach: &impl Reach, target: &Target, command: Command) -> Result<Vec<HeldShard>, Failure> {
    let address = &target.address;
    match reach.ask(target, command).await {
        Ok(CommandAnswer::Newer(newer)) => Ok(newer),
        Ok(CommandAnswer::Refused(why)) => {
            Err(Failure::Failed(format!("refused by the node at {address}: {why}")))
        }
        Ok(_) => Err(Failure::Failed(format!("the node at {address} answered another question"))),
        Err(why) => Err(Failure::Failed(format!(
            "the node at {address} did not answer ({why}); the same command may be given again, with --name"
        ))),
    }
}

fn in_words(held: &HeldShard) -> String {
    let by = held.node.as_ref().map_or_else(String::new, |node| format!(", {node}"));
    format!("shard {} (epoch {}{by})", held.shard, held.epoch)
}

/// Does what reads and writes a disk beside the caller's tasks.
pub(super) async fn blocking<T: Send + 'static, E: std::fmt::Display + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|ended| Failure::Failed(ended.to_string()))?;
    done.map_err(|why| Failure::Failed(why.to_string()))
}

#[cfg(test)]
mod tests {
    use super::{
        super::reach::tests::{Script, member, name, status},
        *,
    };
    use crate::{
        placement::Shards,
        store::{
            Founding, Store,
            embedded::{EmbeddedConfig, EmbeddedStore},
        },
    };

    fn config() -> EmbeddedConfig {
        EmbeddedConfig { segment_bytes: 64 << 10, tail_bytes: 384 << 10, ..EmbeddedConfig::default() }
    }

    /// A copy of `c`, of this cluster, and `a` that gives these answers to the status and then to the question.
    async fn asked(cluster: u128, answer: CommandAnswer) -> (tempfile::TempDir, Script, Result<(), Failure>) {
        let directory = tempfile::tempdir().unwrap();
        let founding = Founding::founder(cluster, 6, Shards::new(2).unwrap());
        drop(EmbeddedStore::found(directory.path(), &founding, &config()).unwrap());
        let mut a = status("a", &[member("a", "up", true), member("c", "up", false)], &[]);
        a.cluster = format!("{:032x}", 7);
        let script = Script::default().at("a:7001", [CommandAnswer::Status(Box::new(a)), answer]);
        let seeds = ["a:7001".to_owned()];
        let remains = Remains::open(directory.path(), &config()).unwrap();
        let done = make_ready(&script, &seeds, remains, &name("c")).await;
        (directory, script, done)
    }

    fn store_of(directory: &tempfile::TempDir) -> (u128, usize) {
        let store = EmbeddedStore::open(directory.path(), &config()).unwrap();
        (store.identity().store, store.owned().unwrap().len())
    }

    #[tokio::test]
    async fn the_others_are_asked_for_all_that_the_copy_has_and_what_they_have_is_left_aside() {
        let newer = HeldShard { shard: 1, epoch: 3, node: Some(name("a")) };
        let (directory, script, done) = asked(7, CommandAnswer::Newer(vec![newer])).await;
        assert_eq!(done, Ok(()));
        let shards = [0, 1].map(|shard| HeldShard { shard, epoch: 1, node: None }).to_vec();
        let stores = [6, 6].map(|store| format!("{store:032x}")).to_vec();
        let command = Command::Bury { destroyed: name("c"), stores, shards };
        assert_eq!(script.commands(), [("a:7001".into(), command)]);
        let (store, owned) = store_of(&directory);
        assert!(store != 6 && owned == 1, "{store} {owned}");
    }

    #[tokio::test]
    async fn a_copy_stays_as_it_is_where_the_others_refuse() {
        let (directory, _, done) = asked(7, CommandAnswer::Refused("b did not answer".into())).await;
        let why = "refused by the node at a:7001: b did not answer";
        assert_eq!(done, Err(Failure::Failed(why.into())));
        assert_eq!(store_of(&directory), (6, 2));
    }

    #[tokio::test]
    async fn a_copy_of_another_cluster_gives_nobody_up() {
        let (directory, script, done) = asked(8, CommandAnswer::Newer(Vec::new())).await;
        let Err(Failure::Failed(why)) = done else { panic!("{done:?}") };
        assert!(why.contains("is of cluster 00000000000000000000000000000008"), "{why}");
        assert_eq!(script.commands(), []);
        assert_eq!(store_of(&directory), (6, 2));
    }
}
