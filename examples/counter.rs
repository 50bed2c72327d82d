//! The smallest entity: a counter that goes on counting where the last run stopped.
//!
//! ```sh
//! cargo run --bin counter -- visits    # visits: 1
//! cargo run --bin counter -- visits    # visits: 2
//! ```

use entity_runtime::prelude::*;

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "counter", handles(Add))]
struct Counter {
    count: u64,
}

#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
struct Add {
    by: u64,
}

impl Handle<Add> for Counter {
    fn handle(&mut self, add: Add, _: &mut Context<'_, Self>) -> u64 {
        self.count += add.by;
        self.count
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let key = std::env::args().nth(1).unwrap_or_else(|| "visits".to_owned());
    let runtime = Runtime::builder().entity::<Counter>().data_dir("data/counter").start().await?;
    // The reply comes after the commit: whatever is printed here is counted for good.
    let count = runtime.client().ask(Counter::at(&key), Add { by: 1 }).await?;
    println!("{key}: {count}");
    runtime.shutdown().await;
    Ok(())
}
