//! Work that shows every loss and every doubling: money that moves between accounts, and rows of a feed.

use entity_runtime::{AskError, Builder, Runtime, prelude::*};
use entity_runtime_tests::private_postgres::Server;
use entity_runtime_tests::{
    entities::{Account, Books, Fund, Transfer},
    nodes::Rows,
    running::{Ledger, Mirror},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet};

const ACCOUNTS: u64 = 24;
const FUNDED: u64 = 1_000_000;
const ROWS: Rows = Rows { ledgers: 16, mirrors: 8 };
/// Callers that move money at a time.
const CALLERS: u64 = 8;
/// However long a server is away in a test, it comes back within this.
const WITHIN: Duration = Duration::from_mins(1);

/// A runtime with the entities of the load.
pub(super) fn builder<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Builder {
    let builder = Runtime::builder().entity::<Ledger>().entity::<Mirror>().entity::<Account>();
    builder.shards(32).workers(2).postgres(servers)
}

/// Work that goes on until it is told to end.
pub(super) struct Load {
    client: Client,
    /// Each ends with the rows it has fed, if it feeds.
    tasks: JoinSet<u64>,
    ends: Arc<AtomicBool>,
    done: watch::Receiver<u64>,
}

impl Load {
    /// Begins.
    pub(super) async fn begin(client: &Client) -> Self {
        for account in 0..ACCOUNTS {
            ask(client, account, Fund { cents: FUNDED }).await;
        }
        let ends = Arc::new(AtomicBool::new(false));
        let (done, told) = watch::channel(0);
        let mut tasks = JoinSet::new();
        for caller in 0..CALLERS {
            let (client, ends, done) = (client.clone(), Arc::clone(&ends), done.clone());
            tasks.spawn(async move {
                let mut nth = caller;
                while !ends.load(Ordering::Relaxed) {
                    let (from, to) = (nth % ACCOUNTS, (nth * 7 + caller + 1) % ACCOUNTS);
                    let transfer = Transfer { to: format!("a{to}"), cents: nth % 100 };
                    ask(&client, from, transfer).await;
                    done.send_modify(|done| *done += 1);
                    nth += CALLERS;
                }
                0
            });
        }
        let (feeder, is_over) = (client.clone(), Arc::clone(&ends));
        tasks.spawn(async move { feed(&feeder, &is_over).await });
        Self { client: client.clone(), tasks, ends, done: told }
    }

    /// Waits until so many more transfers were answered.
    pub(super) async fn more(&mut self, count: u64) {
        let until = *self.done.borrow() + count;
        let more = self.done.wait_for(|done| until <= *done);
        tokio::time::timeout(WITHIN, more).await.expect("work goes on within a minute").unwrap();
    }

    /// Ends, and holds what was done against what there is. Returns how many transfers were answered.
    pub(super) async fn check(self) -> u64 {
        self.ends.store(true, Ordering::Relaxed);
        let done = self.done.clone();
        let rows = self.tasks.join_all().await.into_iter().sum();
        ROWS.check(&self.client, rows).await;
        let conserved = async {
            // What is on its way from one account to another is in neither.
            while books(&self.client).await != (ACCOUNTS * FUNDED, ACCOUNTS * FUNDED) {
                tokio::task::yield_now().await;
            }
        };
        let conserved = tokio::time::timeout(WITHIN, conserved).await;
        let books = books(&self.client).await;
        assert!(conserved.is_ok(), "money was made or lost: balance and funds are {books:?}");
        *done.borrow()
    }
}

/// Feeds rows until it is over, and returns how many.
async fn feed(client: &Client, is_over: &AtomicBool) -> u64 {
    let mut feed = client.feed("rows").await.unwrap();
    let mut rows = 0;
    while !is_over.load(Ordering::Relaxed) {
        let (ledger, note) = ROWS.note(rows);
        feed.send(rows, Ledger::at(ledger), note).await.unwrap();
        rows += 1;
        if rows % 64 == 0 {
            feed.flush().await.unwrap();
        }
    }
    feed.flush().await.unwrap();
    rows
}

/// A call that is answered in the end, whatever stands still meanwhile: under one id, so that it happens once.
async fn ask<M>(client: &Client, account: u64, message: M)
where
    M: Message + Clone,
    Account: Handle<M>,
{
    let answered = async {
        let mut asking = client.ask(Account::at(format!("a{account}")), message.clone());
        let id = asking.id();
        loop {
            match asking.await {
                Ok(_) => return,
                Err(AskError::Unknown(_) | AskError::Refused(_)) => {}
                Err(error) => panic!("{error}"),
            }
            tokio::task::yield_now().await;
            asking = client.ask(Account::at(format!("a{account}")), message.clone()).with_id(id);
        }
    };
    tokio::time::timeout(WITHIN, answered).await.expect("an answer within a minute");
}

/// What all accounts have, and what they were given.
async fn books(client: &Client) -> (u64, u64) {
    let mut sum = (0, 0);
    for account in 0..ACCOUNTS {
        if let Ok((cents, funded)) = client.ask(Account::at(format!("a{account}")), Books).await {
            sum = (sum.0 + cents, sum.1 + funded);
        }
    }
    sum
}

/// A server of a test's own, which a test may stop from beside its tasks.
pub(super) async fn beside<T: Send + 'static>(
    mut server: Server,
    work: impl FnOnce(&mut Server) -> T + Send + 'static,
) -> (Server, T) {
    tokio::task::spawn_blocking(move || {
        let done = work(&mut server);
        (server, done)
    })
    .await
    .unwrap()
}
