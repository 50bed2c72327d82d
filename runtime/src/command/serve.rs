//! Being a node: `node`, and `adopt`, which is one for a while.

use super::{
    Failure,
    args::{AdoptArgs, NodeArgs},
    copied,
    environment::Lookup,
    operate::progress,
    reach::{Dial, Reach, ask_all},
    say,
    settings::{self, Place, Servers, Settings},
    stop::Stop,
};
#[cfg(feature = "postgres")]
use crate::runtime::PostgresError;
use crate::{
    cluster::{Command, CommandAnswer, Departure, Remains},
    placement::NodeName,
    runtime::{Builder, Runtime, StartError},
};
use std::{convert::Infallible, future::pending, path::Path, time::Duration};

/// How often a node that gives its shards away is asked how many are left.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// How long a node that gives its shards away has to reach another one.
const REACHED_WITHIN: Duration = Duration::from_secs(30);
/// What a volume's root may hold without being of anyone.
const LOST_AND_FOUND: &str = "lost+found";

/// Serves until it is stopped, leaves or fails.
pub(super) async fn node(builder: Builder, args: NodeArgs, lookup: Lookup<'_>) -> Result<(), Failure> {
    let settings = Settings::gather(args, lookup)?;
    match serve(builder, settings, None).await? {
        End::Stopped | End::Left => Ok(()),
    }
}

/// Serves in the place of a dead node until it has handed everything over.
pub(super) async fn adopt(builder: Builder, args: AdoptArgs, lookup: Lookup<'_>) -> Result<(), Failure> {
    let directory = args.data_dir.clone();
    if is_empty(&directory) {
        let why = format!(
            "there is no node's data directory at {}: name the one (mount the volume) that holds it",
            directory.display()
        );
        return Err(Failure::Failed(why));
    }
    let security = settings::security(args.security.clone(), lookup)?;
    let seeds: Vec<String> = args.join.iter().map(ToString::to_string).collect();
    let dial = Dial { security: security.clone() };
    let name = dead_node(&dial, &seeds, args.name.clone(), args.original_destroyed).await?;
    if args.original_destroyed {
        let config = builder.log_config().clone();
        let remains = copied::blocking(move || Remains::open(&directory, &config)).await?;
        copied::make_ready(&dial, &seeds, remains, &name).await?;
    }
    let settings = Settings::of_adopter(name.clone(), args, security)?;
    match serve(builder, settings, Some(&seeds)).await? {
        End::Left => Ok(()),
        End::Stopped => Err(Failure::Failed(format!(
            "stopped before all shards of node {name} were handed over: run the same command again, with --name {name}, or start the node"
        ))),
    }
}

/// Nothing is there, or nothing that is of a store.
fn is_empty(directory: &Path) -> bool {
    let Ok(mut entries) = std::fs::read_dir(directory) else { return true };
    // What cannot be read is left to whoever opens the store, and says what is wrong.
    entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == LOST_AND_FOUND))
}

/// Who is adopted: a node that the others do not see, and that does not answer either. Of a copy the others may have forgotten
/// the original already, when the command was given before.
async fn dead_node(
    reach: &impl Reach,
    seeds: &[String],
    said: Option<NodeName>,
    is_copy: bool,
) -> Result<NodeName, Failure> {
    let answers = ask_all(reach, seeds, None).await;
    if answers.nodes.is_empty() {
        return Err(Failure::Failed(answers.silence("--join")));
    }
    if let Some(answer) = answers.nodes.values().find(|answer| answer.status.shared.is_some()) {
        return Err(Failure::Failed(format!(
            "the nodes of the cluster at {} share a store, and none of them has a directory of its own: the shards of one that is \
             gone are taken by the others when its lease has run out",
            answer.address
        )));
    }
    let members = answers.members();
    if let Some(name) = said {
        if let Some(answer) = answers.nodes.get(&name) {
            let why = format!("node {name} is not dead, it answers at {}: use `leave`", answer.address);
            return Err(Failure::Failed(why));
        }
        if !is_copy && !members.contains_key(&name) {
            let known: Vec<_> = members.keys().map(ToString::to_string).collect();
            return Err(Failure::Failed(format!(
                "no node of this cluster is called {name}; there are {}",
                known.join(", ")
            )));
        }
        return Ok(name);
    }
    let is_dead = |seen: &[super::reach::Seen<'_>]| {
        seen.iter().all(|seen| !seen.member.is_alive) && seen.iter().all(|seen| seen.member.state != "left")
    };
    let dead: Vec<_> =
        members.iter().filter(|(name, seen)| !answers.nodes.contains_key(**name) && is_dead(seen)).collect();
    match dead[..] {
        [(name, _)] => Ok((*name).clone()),
        [] => Err(Failure::Failed(
            "no node of this cluster is dead; where the others have not noticed yet, say whose directory it is by --name"
                .into(),
        )),
        _ => {
            let names: Vec<_> = dead.iter().map(|(name, _)| name.to_string()).collect();
            let why =
                format!("{} are all dead: say by --name whose directory it is", names.join(" and "));
            Err(Failure::Usage(why))
        }
    }
}

/// How a node has ended in peace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Stopped,
    Left,
}

/// `gives_to`: at these addresses are nodes that get all it has, and then it leaves.
async fn serve(builder: Builder, settings: Settings, gives_to: Option<&[String]>) -> Result<End, Failure> {
    let name = settings.cluster.name.clone();
    let stop = Stop::listen();
    let runtime = tokio::select! {
        started = Box::pin(configured(builder, settings).start()) => started.map_err(not_started)?,
        () = stop.asked() => {
            tracing::info!("stopped before it served");
            return Ok(End::Stopped);
        }
    };
    let address = runtime.listens_at().expect("a node of a cluster listens");
    say(&format!("node {name} serves at {address}"));
    let end = until_its_end(&runtime, &name, &stop, gives_to).await;
    if end == Ok(End::Stopped) {
        tracing::info!("stopping");
    }
    runtime.shutdown().await;
    if end == Ok(End::Left) {
        say(&format!("node {name} has left the cluster"));
    }
    end
}

#[cfg(feature = "postgres")]
fn on_servers(mut builder: Builder, servers: Servers) -> Builder {
    let Servers { urls, require_sync, lease, lanes } = servers;
    builder = builder.postgres(urls);
    if require_sync {
        builder = builder.require_sync();
    }
    if let Some(lease) = lease {
        builder = builder.lease(lease);
    }
    if let Some(lanes) = lanes {
        builder = builder.store_lanes(lanes);
    }
    builder
}

/// Never asked: without the feature no settings name servers.
#[cfg(not(feature = "postgres"))]
fn on_servers(builder: Builder, _: Servers) -> Builder {
    builder
}

fn configured(mut builder: Builder, settings: Settings) -> Builder {
    match settings.place {
        Some(Place::Directory(directory)) => builder = builder.data_dir(directory),
        Some(Place::Servers(servers)) => builder = on_servers(builder, servers),
        None => {}
    }
    if let Some(workers) = settings.workers {
        builder = builder.workers(workers.get());
    }
    if let Some(shards) = settings.shards {
        builder = builder.shards(shards);
    }
    builder.cluster(settings.cluster)
}

fn not_started(error: StartError) -> Failure {
    match error {
        // Its own words are for who writes the program, and not for who starts it.
        StartError::NoStore => Failure::Usage(
            "nothing to keep state in: give --data-dir DIR, or --store URL where nodes share a PostgreSQL server; or set \
             ENTITY_DATA_DIR or ENTITY_STORE, or say data_dir or store in the file of --config"
                .into(),
        ),
        #[cfg(feature = "postgres")]
        StartError::Postgres(error) => no_servers(&error),
        error => Failure::Failed(error.to_string()),
    }
}

/// Whether the same start may go well later, and if not, who has to do something.
#[cfg(feature = "postgres")]
fn no_servers(error: &PostgresError) -> Failure {
    let why = error.to_string();
    if error.is_misuse() {
        return Failure::Usage(format!("{why}; see --store, --lease and --store-lanes in `node --help`"));
    }
    if error.is_for_good() { Failure::Refused(why) } else { Failure::Failed(why) }
}

async fn until_its_end(
    runtime: &Runtime,
    name: &NodeName,
    stop: &Stop,
    gives_to: Option<&[String]>,
) -> Result<End, Failure> {
    let given_away = async {
        match gives_to {
            Some(seeds) => give_away(runtime, name, seeds).await,
            None => pending().await,
        }
    };
    tokio::select! {
        departure = runtime.departed() => match departure {
            Departure::Left => Ok(End::Left),
            Departure::Failed(why) => Err(Failure::Failed(format!(
                "node {name} has failed: {why}; start it again, it goes on from what is durable"
            ))),
            Departure::Refused(why) => Err(Failure::Refused(format!("node {name} may not go on: {why}"))),
        },
        () = stop.asked() => Ok(End::Stopped),
        Err(why) = given_away => Err(Failure::Failed(format!("node {name} does not leave: {why}"))),
    }
}

/// Lets the node leave, and says how far it is until somebody sees that it has.
async fn give_away(runtime: &Runtime, name: &NodeName, seeds: &[String]) -> Result<Infallible, String> {
    wait_for_others(name, seeds, || runtime.command(Command::Status)).await?;
    if let Some(CommandAnswer::Refused(why)) = runtime.command(Command::Leave).await {
        return Err(why);
    }
    let mut told = None;
    loop {
        // Where it does not answer it may be gone already: whoever waits beside this sees that.
        if let Some(CommandAnswer::Status(status)) = runtime.command(Command::Status).await {
            if let Some(why) = status.refused {
                return Err(format!("it is not let in: {why}"));
            }
            let progress = progress(&status, name);
            if told.as_ref() != Some(&progress) {
                say(&progress);
                told = Some(progress);
            }
        }
        tokio::time::sleep(PROGRESS_EVERY).await;
    }
}

/// Waits until the node is connected to another one. A copy has forgotten whom its original knew, and hears of them from whom
/// it joins.
async fn wait_for_others<Asked: Future<Output = Option<CommandAnswer>>>(
    name: &NodeName,
    seeds: &[String],
    ask: impl Fn() -> Asked,
) -> Result<(), String> {
    let known = async {
        while let Some(CommandAnswer::Status(status)) = ask().await
            && !status.nodes.iter().any(|node| node.name != *name && node.is_connected)
        {
            if let Some(why) = status.refused {
                return Err(format!("it is not let in: {why}"));
            }
            tokio::time::sleep(PROGRESS_EVERY).await;
        }
        Ok(())
    };
    tokio::time::timeout(REACHED_WITHIN, known).await.unwrap_or_else(|_| {
        Err(format!("in {REACHED_WITHIN:?} it could not reach a node at {}", seeds.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::reach::tests::{Script, member, name, status},
        *,
    };

    #[tokio::test]
    async fn the_only_dead_node_is_the_one_that_is_adopted() {
        let nodes = [member("a", "up", true), member("b", "up", false), member("c", "left", false)];
        let script = Script::default().node(status("a", &nodes, &[]));
        let dead = |named: Option<&str>| {
            let named = named.map(name);
            async { dead_node(&script, &["a:7001".into()], named, false).await }
        };
        assert_eq!(dead(None).await, Ok(name("b")));
        assert_eq!(dead(Some("b")).await, Ok(name("b")));
        let failed = |why: &str| Err(Failure::Failed(why.into()));
        let alive = failed("node a is not dead, it answers at a:7001: use `leave`");
        assert_eq!(dead(Some("a")).await, alive);
        let unknown = failed("no node of this cluster is called d; there are a, b, c");
        assert_eq!(dead(Some("d")).await, unknown);
        let copy_of_d = dead_node(&script, &["a:7001".into()], Some(name("d")), true).await;
        assert_eq!(copy_of_d, Ok(name("d")), "it may be forgotten already");
    }

    #[tokio::test]
    async fn who_is_adopted_is_not_guessed() {
        let dead = |nodes: Vec<_>| async move {
            let script = Script::default().node(status("a", &nodes, &[]));
            dead_node(&script, &["a:7001".into()], None, false).await.unwrap_err()
        };
        let a = member("a", "up", true);
        let two = dead(vec![a.clone(), member("b", "up", false), member("c", "leaving", false)]).await;
        let why = "b and c are all dead: say by --name whose directory it is";
        assert_eq!(two, Failure::Usage(why.into()));
        let none = dead(vec![a, member("b", "up", true)]).await;
        assert!(matches!(&none, Failure::Failed(why) if why.starts_with("no node of this cluster is dead")));
        let silent = dead_node(&Script::default(), &["a:7001".into()], None, false).await.unwrap_err();
        assert!(matches!(&silent, Failure::Failed(why) if why.ends_with("name one that runs by --join")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_reaches_nobody_or_is_not_let_in_says_so_and_ends() {
        let waits = |refused: Option<&str>, nodes: &[_]| {
            let mut seen = status("c", nodes, &[]);
            seen.refused = refused.map(Into::into);
            async move {
                let answer = || async { Some(CommandAnswer::Status(Box::new(seen.clone()))) };
                wait_for_others(&name("c"), &["a:7001".into(), "b:7001".into()], answer).await
            }
        };
        let (a, c) = (member("a", "up", true), member("c", "up", true));
        assert_eq!(waits(None, &[a, c.clone()]).await, Ok(()));
        let alone = "in 30s it could not reach a node at a:7001, b:7001";
        assert_eq!(waits(None, std::slice::from_ref(&c)).await, Err(alone.into()));
        let known = [member("a", "up", false), c.clone()];
        assert_eq!(waits(None, &known).await, Err(alone.into()), "it has only heard of it");
        let begun = tokio::time::Instant::now();
        let refused = waits(Some("c was forgotten"), &[c]).await;
        assert_eq!(refused, Err("it is not let in: c was forgotten".into()));
        assert_eq!(begun.elapsed(), Duration::ZERO, "of a paused clock: it has not waited");
    }

    #[tokio::test]
    async fn where_nodes_share_a_store_nobody_has_a_directory_to_adopt() {
        let nodes = [member("a", "up", true), member("b", "up", false)];
        let shared = crate::cluster::SharedStatus { lease_ms: 3_000, lost_commits: 0, servers: Vec::new() };
        let status_of_a = crate::cluster::NodeStatus { shared: Some(shared), ..status("a", &nodes, &[]) };
        let script = Script::default().node(status_of_a);
        let refused = dead_node(&script, &["a:7001".into()], Some(name("b")), true).await.unwrap_err();
        assert!(matches!(&refused, Failure::Failed(why) if why.contains("share a store")), "{refused:?}");
    }

    #[test]
    fn a_directory_without_anything_is_nobodys() {
        let directory = tempfile::tempdir().unwrap();
        assert!(is_empty(directory.path()) && is_empty(&directory.path().join("none")));
        std::fs::create_dir(directory.path().join(LOST_AND_FOUND)).unwrap();
        assert!(is_empty(directory.path()));
        std::fs::write(directory.path().join("something"), "").unwrap();
        assert!(!is_empty(directory.path()));
    }

    #[test]
    fn a_node_without_a_place_for_state_is_told_how_to_get_one() {
        let Failure::Usage(why) = not_started(StartError::NoStore) else {
            panic!("it is a wrong command line")
        };
        assert!(why.contains("--data-dir") && why.contains("ENTITY_STORE") && !why.contains(".data_dir("));
        assert!(matches!(not_started(StartError::NoEntities), Failure::Failed(_)));
    }
}
