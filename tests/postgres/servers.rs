//! The servers that tests are run on.

use entity_runtime_tests::private_postgres::{Server, Stop};
use std::{net::TcpListener, sync::Arc};

#[tokio::test]
async fn a_server_starts_and_ends_in_each_way_and_keeps_what_was_committed() {
    let mut server = Server::start();
    let url = server.database().await;
    assert!(url.contains(&server.port().to_string()));
    let database = url.rsplit('/').next().unwrap();
    server.execute(database, "CREATE TABLE kept (n int4)").await;
    for (n, how) in (0_i64..).zip([Stop::Fast, Stop::Immediate, Stop::Kill]) {
        server.execute(database, &format!("INSERT INTO kept VALUES ({n})")).await;
        server.stop(how);
        assert!(TcpListener::bind(("127.0.0.1", server.port())).is_ok(), "nobody listens after {how:?}");
        server.start_again();
        let client = server.client("postgres", database).await;
        let row = client.query_one("SELECT count(*) FROM kept", &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), n + 1, "after {how:?}");
    }
    let directory = server.directory().to_owned();
    drop(server);
    assert!(!directory.exists());
}

#[tokio::test]
async fn two_tests_have_one_server_and_two_databases() {
    let (one, two) = (Server::shared(), Server::shared());
    assert!(Arc::ptr_eq(&one, &two));
    assert_ne!(one.database().await, two.database().await);
}
