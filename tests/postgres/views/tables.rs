//! A database that a test fills with rows of the runtime, and asks what its views show.

use entity_runtime::store::{RowType, Store};
use entity_runtime_tests::driven::Driven;
use entity_runtime_tests::private_postgres::{ROLE, Server};
use serde_json::Value;
use std::sync::Arc;
use tokio_postgres::Client;

/// A database with the tables and views, asked as the role of the nodes.
pub(super) struct Tables {
    pub(super) client: Client,
    _server: Arc<Server>,
}

impl Tables {
    pub(super) async fn new() -> Self {
        let server = Server::shared();
        let url = server.database().await;
        let client = server.client(ROLE, url.rsplit('/').next().unwrap()).await;
        for migration in [
            include_str!("../../../runtime/src/store/postgres/migrations/0001-schema.sql"),
            include_str!("../../../runtime/src/store/postgres/migrations/0002-views.sql"),
        ] {
            client.batch_execute(migration).await.unwrap();
        }
        // Parallel workers run whatever they may, as they would where tables are large.
        let setting =
            if version(&client).await < 160_000 { "force_parallel_mode" } else { "debug_parallel_query" };
        client
            .batch_execute(&format!("SET {setting} = on; SET timezone = 'UTC'; SET synchronous_commit = off"))
            .await
            .unwrap();
        Self { client, _server: server }
    }

    /// Puts a row of the runtime into the table that docs/format.md names for it.
    pub(super) async fn put(&self, shard: u32, key: &[u8], value: &[u8]) {
        let shard = i32::try_from(shard).unwrap();
        let (&row_type, rest) = key.split_first().unwrap();
        let byte = i16::from(row_type);
        let number = |at: usize| i64::from_be_bytes(rest[at..].try_into().unwrap());
        let client = &self.client;
        let put = match (RowType::from_byte(row_type), rest.len()) {
            (Some(RowType::Image), _) => {
                let (kind, key) = rest.split_at(rest.iter().position(|byte| *byte == 0).unwrap());
                let put = "INSERT INTO entity.state (kind, key, shard, image) VALUES ($1, $2, $3, $4)";
                let kind = std::str::from_utf8(kind).unwrap();
                client.execute(put, &[&kind, &&key[1..], &shard, &value]).await
            }
            (Some(RowType::Outbox), 12) => {
                let put =
                    "INSERT INTO entity.outbox (shard, target, number, message) VALUES ($1, $2, $3, $4)";
                let target = i32::from_be_bytes(rest[..4].try_into().unwrap());
                client.execute(put, &[&shard, &target, &number(4), &value]).await
            }
            (Some(RowType::Reply), 24) => {
                let put = "INSERT INTO entity.reply (shard, client, number, value)
                           VALUES ($1, encode($2, 'hex')::uuid, $3, $4)";
                client.execute(put, &[&shard, &&rest[..16], &number(16), &value]).await
            }
            (Some(RowType::Reminder | RowType::Waiting | RowType::DeadLetter), 8) => {
                let put = "INSERT INTO entity.item (shard, type, number, value) VALUES ($1, $2, $3, $4)";
                client.execute(put, &[&shard, &byte, &number(0), &value]).await
            }
            _ => {
                let put = "INSERT INTO entity.mark (shard, type, key, value) VALUES ($1, $2, $3, $4)";
                client.execute(put, &[&shard, &byte, &rest, &value]).await
            }
        };
        assert_eq!(put.unwrap(), 1);
    }

    /// Everything that kernels have made durable.
    pub(super) async fn put_all(&self, driven: &mut Driven) {
        driven.checkpoint();
        let mut rows = Vec::new();
        for owned in driven.store.owned().unwrap() {
            let visit = &mut |key: &[u8], value: &[u8]| {
                rows.push((owned.shard, key.to_vec(), value.to_vec()));
                true
            };
            driven.store.load_rows(owned.shard, owned.epoch, &[]..&[0xff], visit).unwrap();
        }
        for (shard, key, value) in rows {
            self.put(shard.0, &key, &value).await;
        }
    }

    /// The rows of a view, each as JSON, in order of their columns.
    pub(super) async fn show(&self, view: &str) -> Vec<Value> {
        let ask = format!("SELECT to_jsonb(v)::text FROM entity.{view} AS v ORDER BY v");
        let rows = self.client.query(&ask, &[]).await.unwrap();
        rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect()
    }

    pub(super) async fn count(&self, table: &str) -> usize {
        let ask = format!("SELECT count(*) FROM entity.{table}");
        let count: i64 = self.client.query_one(&ask, &[]).await.unwrap().get(0);
        usize::try_from(count).unwrap()
    }
}

async fn version(client: &Client) -> i32 {
    let ask = "SELECT current_setting('server_version_num')::int4";
    client.query_one(ask, &[]).await.unwrap().get(0)
}
