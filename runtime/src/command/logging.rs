//! Log lines on standard error, where the program has not chosen a place for them itself.

use super::environment::Lookup;
use std::io;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
};

/// Logs what `RUST_LOG` allows, or else this level. Where a subscriber is set already, it stays.
pub(super) fn to_standard_error(unless_said: LevelFilter, lookup: Lookup<'_>) {
    let (targets, complaint) = match filter(lookup) {
        Ok(said) => (said.unwrap_or_else(|| Targets::new().with_default(unless_said)), None),
        // A node that does not start because of what it is to log would be worse.
        Err(complaint) => (Targets::new().with_default(unless_said), Some(complaint)),
    };
    let subscriber = tracing_subscriber::registry().with(fmt::layer().with_writer(io::stderr)).with(targets);
    if tracing::subscriber::set_global_default(subscriber).is_ok()
        && let Some(complaint) = complaint
    {
        tracing::warn!("{complaint}");
    }
}

fn filter(lookup: Lookup<'_>) -> Result<Option<Targets>, String> {
    let Some(said) = lookup("RUST_LOG").filter(|said| !said.is_empty()) else { return Ok(None) };
    let said = said.to_string_lossy();
    said.parse().map(Some).map_err(|why| {
        format!("RUST_LOG cannot be used: {why}; it is to be like `info` or `warn,entity_runtime=debug`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn what_is_logged_is_chosen_by_target_and_level() {
        let filter = |text: &str| filter(&|_| Some(text.into()));
        let targets = filter("warn,entity_runtime=debug").unwrap().unwrap();
        assert!(targets.would_enable("entity_runtime::node", &Level::DEBUG));
        assert!(!targets.would_enable("foca", &Level::INFO));
        assert_eq!(filter("").unwrap(), None);
        let complaint = filter("entity_runtime=loud").unwrap_err();
        assert!(complaint.starts_with("RUST_LOG cannot be used: "), "{complaint}");
    }
}
