//! The smallest program, as the README shows it: counters that go on counting where the last run stopped.
//!
//! ```sh
//! cargo run --bin counter    # visits: 1
//! cargo run --bin counter    # visits: 2
//! ```

use entity_runtime::prelude::*;

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "counter", handles(Hit))]
struct Counter {
    count: u64,
}

#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
struct Hit;

impl Handle<Hit> for Counter {
    fn handle(&mut self, _: Hit, ctx: &mut Context<'_, Self>) -> u64 {
        if ctx.key() != "total" {
            ctx.send(Counter::at("total"), Hit); // part of this turn's commit; it takes effect once
        }
        self.count += 1;
        self.count
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let runtime = Runtime::builder().entity::<Counter>().data_dir("data/counter").start().await?;
    // The reply comes after the commit: whatever is printed is counted for good.
    println!("visits: {}", runtime.client().ask(Counter::at("visits"), Hit).await?);
    runtime.shutdown().await;
    Ok(())
}
