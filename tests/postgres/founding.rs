//! A cluster is founded once on a list of servers, is found on no other list, and has the tables of the newest build.

use entity_runtime::{
    placement::Shards,
    store::postgres::{
        Access, Cluster, ClusterFounding, Connector, FoundingError, MigrateError, SCHEMA, Server, ServerUrl,
        check, found, migrate, open,
    },
};
use entity_runtime_tests::private_postgres::Server as Postgres;
use std::net::TcpListener;

const FOUNDING: u128 = 0xc0_ffee;

fn founding(cluster: u128) -> ClusterFounding {
    ClusterFounding { cluster, shards: Shards::new(64).unwrap(), placement: u64::MAX }
}

/// Whether an error is the one that was expected.
type Is = fn(&FoundingError) -> bool;

async fn reach(urls: &[&str]) -> Vec<Server> {
    let mut servers = Vec::new();
    for url in urls {
        let connector = Connector::new(ServerUrl::parse(url, &Access::default()).unwrap(), 1).unwrap();
        servers.push(Server::reach(&connector).await.unwrap());
    }
    servers
}

async fn try_found(urls: &[&str], cluster: u128) -> Result<Cluster, FoundingError> {
    found(&mut reach(urls).await, founding(cluster)).await
}

async fn try_open(urls: &[&str]) -> Result<Cluster, FoundingError> {
    open(&mut reach(urls).await).await
}

fn database(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}

async fn count(postgres: &Postgres, url: &str, what: &str) -> i64 {
    let client = postgres.client("postgres", database(url)).await;
    client.query_one(&format!("SELECT count(*) FROM {what}"), &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn one_server_is_founded_once_and_found_again() {
    let postgres = Postgres::shared();
    let url = postgres.database().await;
    let error = try_open(&[&url]).await.unwrap_err();
    assert!(matches!(error, FoundingError::NotFounded { .. }), "{error}");
    assert_eq!(
        count(&postgres, &url, "pg_namespace WHERE nspname = 'entity'").await,
        0,
        "asking makes nothing"
    );
    let founded = try_found(&[&url], FOUNDING).await.unwrap();
    assert_eq!((founded.id, founded.placement), (FOUNDING, u64::MAX));
    assert_eq!(founded.server_of, [0; 64]);
    assert_eq!(
        count(&postgres, &url, "entity.shard WHERE epoch = 1 AND batch = 0 AND owner IS NULL").await,
        64
    );
    assert_eq!(try_open(&[&url]).await.unwrap(), founded);
    // A second founding finds the first one.
    assert_eq!(try_found(&[&url], 1).await.unwrap(), founded);
}

#[tokio::test]
async fn many_who_found_at_once_found_one_cluster() {
    let postgres = Postgres::shared();
    let (a, b) = (postgres.database().await, postgres.database().await);
    let tasks: Vec<_> = (0..4)
        .map(|node| {
            let (a, b) = (a.clone(), b.clone());
            tokio::spawn(async move { try_found(&[&a, &b], 100 + node).await.unwrap() })
        })
        .collect();
    let mut founded = Vec::new();
    for task in tasks {
        founded.push(task.await.unwrap());
    }
    assert!(founded.windows(2).all(|two| two[0] == two[1]), "{founded:?}");
    assert_eq!(count(&postgres, &a, "entity.migration").await, i64::from(SCHEMA));
    let shards = count(&postgres, &a, "entity.shard").await + count(&postgres, &b, "entity.shard").await;
    assert_eq!(shards, 64);
}

#[tokio::test]
async fn only_the_list_of_the_founding_is_taken() {
    let postgres = Postgres::shared();
    let (a, b, c) = (postgres.database().await, postgres.database().await, postgres.database().await);
    let other = postgres.database().await;
    try_found(&[&other], 1).await.unwrap();
    let founded = try_found(&[&a, &b], FOUNDING).await.unwrap();
    assert!([0, 1].iter().all(|server| founded.server_of.contains(server)));
    assert_eq!(try_open(&[&a, &b]).await.unwrap(), founded);
    let cases: [(&[&str], Is); 5] = [
        (&[&a], |error| matches!(error, FoundingError::Length { given: 1, founded: 2 })),
        (&[&a, &b, &c], |error| matches!(error, FoundingError::Length { given: 3, founded: 2 })),
        (&[&a, &a], |error| matches!(error, FoundingError::Twice { .. })),
        (&[&b, &a], |error| matches!(error, FoundingError::Order { .. })),
        (&[&a, &other], |error| matches!(error, FoundingError::OtherCluster { .. })),
    ];
    for (urls, is_expected) in cases {
        let error = try_open(urls).await.unwrap_err();
        assert!(is_expected(&error), "open {urls:?}: {error}");
        let error = try_found(urls, 2).await.unwrap_err();
        assert!(is_expected(&error), "found {urls:?}: {error}");
        assert!(!error.to_string().contains("tests%3A"), "{error}");
    }
    assert_eq!(count(&postgres, &c, "pg_namespace WHERE nspname = 'entity'").await, 0);
    let order = try_open(&[&b, &a]).await.unwrap_err().to_string();
    assert!(order.find(database(&a)) < order.find(database(&b)), "{order}");
    // Nobody founds on one server under two names.
    let error = try_found(&[&c, &c], 3).await.unwrap_err();
    assert!(matches!(error, FoundingError::Twice { .. }), "{error}");
    assert_eq!(count(&postgres, &c, "pg_namespace WHERE nspname = 'entity'").await, 0);
}

#[tokio::test]
async fn a_server_that_is_away_is_missed_at_the_founding_and_not_after() {
    let postgres = Postgres::shared();
    let (a, b) = (postgres.database().await, postgres.database().await);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let away = b.replace(&postgres.port().to_string(), &closed.to_string());
    let error = try_found(&[&a, &away], FOUNDING).await.unwrap_err();
    assert!(matches!(error, FoundingError::Away { .. }), "{error}");
    assert_eq!(count(&postgres, &a, "pg_namespace WHERE nspname = 'entity'").await, 0);
    let founded = try_found(&[&a, &b], FOUNDING).await.unwrap();
    let opened = try_open(&[&a, &away]).await.unwrap();
    assert_eq!((opened.id, &opened.server_of), (founded.id, &founded.server_of));
    assert_eq!(opened.is_reachable, [true, false]);
    assert!(matches!(try_open(&[&away]).await, Err(FoundingError::NobodyAnswers)));
}

#[tokio::test]
async fn a_founding_that_was_cut_off_is_seen_and_gone_on_with() {
    let postgres = Postgres::shared();
    let (a, b) = (postgres.database().await, postgres.database().await);
    let founded = try_found(&[&a, &b], FOUNDING).await.unwrap();
    // Back to where the second server had nothing yet.
    postgres.execute(database(&a), "UPDATE entity.cluster SET founded = false").await;
    postgres.execute(database(&b), "DROP SCHEMA entity CASCADE").await;
    let error = try_open(&[&a, &b]).await.unwrap_err();
    assert!(matches!(error, FoundingError::HalfFounded { .. }), "{error}");
    assert_eq!(try_found(&[&a, &b], 1).await.unwrap(), founded);
    // And to where only the mark of the first was missing.
    postgres.execute(database(&a), "UPDATE entity.cluster SET founded = false").await;
    assert!(try_open(&[&a, &b]).await.is_err());
    assert_eq!(try_found(&[&a, &b], 1).await.unwrap(), founded);
    // A founded server that was emptied is not founded again: its shards were there once.
    postgres.execute(database(&b), "DROP SCHEMA entity CASCADE").await;
    for refused in [try_open(&[&a, &b]).await, try_found(&[&a, &b], 1).await] {
        assert!(matches!(refused, Err(FoundingError::Emptied { .. })), "{refused:?}");
    }
    postgres
        .execute(database(&a), "DELETE FROM entity.shard WHERE id = (SELECT min(id) FROM entity.shard)")
        .await;
    let error = try_open(&[&a]).await.unwrap_err();
    assert!(matches!(error, FoundingError::Length { .. }), "{error}");
}

#[tokio::test]
async fn a_shard_without_a_row_is_an_error_and_not_made_again() {
    let postgres = Postgres::shared();
    let url = postgres.database().await;
    try_found(&[&url], FOUNDING).await.unwrap();
    postgres.execute(database(&url), "DELETE FROM entity.shard WHERE id = 5").await;
    for refused in [try_open(&[&url]).await, try_found(&[&url], 1).await] {
        let Err(FoundingError::Damaged { what, .. }) = refused else { panic!("{refused:?}") };
        assert!(what.contains("shard 5"), "{what}");
    }
    assert_eq!(count(&postgres, &url, "entity.shard").await, 63);
}

#[tokio::test]
async fn a_build_that_is_too_old_is_refused_at_start_and_while_it_runs() {
    let postgres = Postgres::shared();
    let url = postgres.database().await;
    let founded = try_found(&[&url], FOUNDING).await.unwrap();
    let mut running = reach(&[&url]).await.remove(0);
    let newer = |version: i32, reads_from: i32| {
        format!("INSERT INTO entity.migration VALUES ({version}, 'later', '9.9.0', {reads_from})")
    };
    postgres.execute(database(&url), &newer(SCHEMA + 1, SCHEMA)).await;
    assert_eq!(try_open(&[&url]).await.unwrap(), founded, "it allows this build");
    postgres.execute(database(&url), &newer(SCHEMA + 2, SCHEMA + 2)).await;
    for refused in [try_open(&[&url]).await, try_found(&[&url], 1).await] {
        let Err(FoundingError::Migrate(MigrateError::TooNew { found, build, .. })) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((found, build.as_str()), (SCHEMA + 2, "9.9.0"));
    }
    let link = running.link().unwrap();
    let refused =
        link.run(|client| async { Ok::<_, tokio_postgres::Error>(check(client, "it").await) }).await;
    assert!(matches!(refused.unwrap(), Err(MigrateError::TooNew { .. })));
}

#[tokio::test]
async fn tables_that_cannot_be_made_are_left_as_they_were() {
    let postgres = Postgres::shared();
    let url = postgres.database().await;
    postgres
        .execute(
            database(&url),
            "CREATE SCHEMA entity AUTHORIZATION entity; CREATE TABLE entity.node (n int4)",
        )
        .await;
    let mut servers = reach(&[&url]).await;
    let error = migrate(servers[0].link().unwrap(), "it").await.unwrap_err();
    assert!(matches!(error, MigrateError::Foreign { .. }), "{error}");
    assert_eq!(count(&postgres, &url, "pg_tables WHERE schemaname = 'entity'").await, 1);
    // The session is as good as before.
    postgres.execute(database(&url), "DROP SCHEMA entity CASCADE").await;
    migrate(servers[0].link().unwrap(), "it").await.unwrap();

    let url = postgres.database().await;
    postgres.execute("postgres", &format!("ALTER DATABASE {} OWNER TO postgres", database(&url))).await;
    let error = migrate(reach(&[&url]).await[0].link().unwrap(), "it").await.unwrap_err();
    assert!(matches!(error, MigrateError::NotAllowed { .. }), "{error}");
}
