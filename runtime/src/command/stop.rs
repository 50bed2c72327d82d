//! Ctrl-C and SIGTERM: the first stops cleanly, the second at once. Neither loses what is durable.

use tokio::sync::watch;

/// Whether somebody asked to stop.
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Takes over both signals, until the process ends.
    pub(super) fn listen() -> Self {
        let (asked, receiver) = watch::channel(false);
        tokio::spawn(async move {
            let mut signals = Signals::take();
            loop {
                let code = signals.next().await;
                if asked.send_replace(true) {
                    std::process::exit(code);
                }
            }
        });
        Self(receiver)
    }

    /// Returns once it was asked.
    pub(super) async fn asked(&self) {
        if self.0.clone().wait_for(|asked| *asked).await.is_err() {
            // Nobody is left who could ask.
            std::future::pending::<()>().await;
        }
    }
}

/// The signals of this process. One that cannot be taken over ends it as ever, which loses nothing either.
struct Signals {
    #[cfg(unix)]
    terminate: Option<tokio::signal::unix::Signal>,
}

impl Signals {
    fn take() -> Self {
        Self {
            #[cfg(unix)]
            terminate: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).ok(),
        }
    }

    /// The next one, as the exit code that shells give it: 128 and its number.
    async fn next(&mut self) -> i32 {
        #[cfg(unix)]
        let terminate = async {
            match &mut self.terminate {
                Some(signal) => signal.recv().await,
                None => None,
            }
        };
        #[cfg(not(unix))]
        let terminate = std::future::pending::<Option<()>>();
        tokio::select! {
            Ok(()) = tokio::signal::ctrl_c() => 130,
            Some(()) = terminate => 143,
            else => std::future::pending().await,
        }
    }
}
