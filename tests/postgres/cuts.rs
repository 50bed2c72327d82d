//! Connections that are cut in the middle of a commit, everywhere in it, under load: what became of each is found out, and
//! nothing is done twice or not at all.

use super::{
    load::{Load, builder},
    proxy::{Cut, Proxy},
};
use entity_runtime::{cluster::Begin, prelude::*};
use entity_runtime_tests::nodes::{addresses, config};
use entity_runtime_tests::private_postgres::Server;

const CUTS: usize = 500;

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_cut_off_is_found_out_about_and_not_repeated() {
    let server = Server::shared();
    let proxy = Proxy::start(server.port()).await;
    let url = proxy.url(&server.database().await, server.port());
    let node = |name: &str, begin| builder([&url]).cluster(config(name, "127.0.0.1:0", begin)).start();
    let a = node("a", Begin::Found).await.unwrap();
    let b = node("b", Begin::Resume).await.unwrap();
    let client = Client::connect(addresses(&[&a, &b])).await.unwrap();
    let mut load = Load::begin(&client).await;
    let mut cuts = 0;
    for how in Cut::ALL.into_iter().cycle().take(CUTS) {
        cuts = proxy.cut(how).await;
        load.more(2).await;
    }
    assert_eq!(cuts as usize, CUTS);
    load.check().await;
    a.shutdown().await;
    b.shutdown().await;
}
