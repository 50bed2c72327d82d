//! Ctrl-C: asked once, stop cleanly; asked twice, stop now. Neither loses what is durable.

use std::{env, io, process, thread};
use tokio::sync::watch;

/// Exit code of a run that was asked to stop: 128 + SIGINT, as shells have it.
pub(crate) const STOPPED: u8 = 130;

/// Whether somebody asked to stop.
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Takes over Ctrl-C.
    pub(crate) fn listen() -> Self {
        let (asked, receiver) = watch::channel(false);
        tokio::spawn(async move {
            // Where Ctrl-C cannot be taken over it ends the process as ever, which loses nothing either.
            while tokio::signal::ctrl_c().await.is_ok() {
                if asked.send_replace(true) {
                    std::process::exit(STOPPED.into());
                }
            }
        });
        Self(receiver)
    }

    /// Returns once it was asked.
    pub(crate) async fn asked(&self) {
        if self.0.clone().wait_for(|asked| *asked).await.is_err() {
            // Nobody is left who could ask.
            std::future::pending::<()>().await;
        }
    }
}

/// Set where a process must not outlive the one that has started it, which holds the other end of its standard input.
pub(crate) const ENDS_WITH_PARENT: &str = "FLIGHTS_ENDS_WITH_PARENT";

/// Ends this process with its parent, if it is to: also where the parent gets SIGKILL and can tell nobody. A crash is no harm.
pub(crate) fn end_with_parent() {
    if env::var_os(ENDS_WITH_PARENT).is_some() {
        thread::spawn(|| {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            process::exit(STOPPED.into());
        });
    }
}
