//! The smallest program, as the README shows it: counters that go on counting where the last run stopped.
//!
//! ```sh
//! cargo run --bin counter    # visits: 1
//! cargo run --bin counter    # visits: 2
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
    fn handle(&mut self, add: Add, ctx: &mut Context<'_, Self>) -> u64 {
        if ctx.key() != "total" {
            // One commit holds the new count, this message and the reply; the message takes effect once.
            ctx.send(Counter::at("total"), Add { by: add.by });
        }
        self.count += add.by;
        self.count
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let runtime = Runtime::builder().entity::<Counter>().data_dir("data/counter").start().await?;
    // The reply comes after the commit: whatever is printed here is counted for good.
    let count = runtime.client().ask(Counter::at("visits"), Add { by: 1 }).await?;
    println!("visits: {count}");
    runtime.shutdown().await;
    Ok(())
}
