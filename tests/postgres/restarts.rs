//! A server that dies again and again under load: what is committed is known when it is back, and nothing is done twice.

use super::load::{Load, beside, builder};
use entity_runtime::{cluster::Begin, prelude::*};
use entity_runtime_tests::nodes::{addresses, config};
use entity_runtime_tests::private_postgres::{Server, Stop};

/// Restarts without a shutdown: what was on its way to a commit is cut off in every state.
const RESTARTS: u32 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_in_the_middle_of_everything_loses_and_doubles_nothing() {
    let mut server = Server::start();
    let url = server.database().await;
    let node = |name: &str, begin| builder([&url]).cluster(config(name, "127.0.0.1:0", begin)).start();
    let a = node("a", Begin::Found).await.unwrap();
    let b = node("b", Begin::Resume).await.unwrap();
    let client = Client::connect(addresses(&[&a, &b])).await.unwrap();
    let mut load = Load::begin(&client).await;
    for restart in 0..RESTARTS {
        load.more(20).await;
        let how = if restart % 3 == 0 { Stop::Kill } else { Stop::Immediate };
        (server, ()) = beside(server, move |server| {
            server.stop(how);
            server.start_again();
        })
        .await;
    }
    load.more(20).await;
    load.check().await;
    a.shutdown().await;
    b.shutdown().await;
    drop(server);
}
