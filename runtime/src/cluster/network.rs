//! The threads that connections run on: a runtime works from any program, and needs nothing of the program's own executor.

use super::Security;
use crate::{
    placement::NodeName,
    transport::{Tcp, Tls, TlsError, Transport},
};
use std::io;
use tokio::runtime::{Builder, Handle, Runtime};

/// Threads for connections and the coordinator: encoding and checksums of one connection go on beside those of another. One for
/// each four cores: an executor wakes a sleeping thread of its own for much of what becomes ready, and where workers want the
/// core that costs more than a second thread brings (on two cores about a seventh of what a remote ask takes).
const CORES_PER_THREAD: usize = 4;
/// A bound for machines with many cores, where it was not measured.
const THREADS_MAX: usize = 8;

/// An executor with sockets and timers. Dropped, it ends what runs on it, and waits for that.
pub(crate) struct Network(Option<Runtime>);

impl Network {
    pub(crate) fn start() -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / CORES_PER_THREAD).clamp(1, THREADS_MAX);
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(threads).thread_name("entity-network").enable_all();
        Ok(Self(Some(builder.build()?)))
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.0.as_ref().expect("it is there until the drop").handle()
    }

    /// Runs something on the network's threads. An error: it panicked, or the network has ended.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> io::Result<T> {
        self.handle().spawn(task).await.map_err(io::Error::other)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let Some(runtime) = self.0.take() else { return };
        // An executor's thread may not wait for another executor; a plain thread may.
        let ending = std::thread::Builder::new().name("entity-network-end".into());
        if let Ok(ended) = ending.spawn(move || drop(runtime)) {
            let _ = ended.join();
        }
    }
}

impl Security {
    /// The transport of a node of this name, or of a client.
    pub(super) fn transport(&self, name: Option<&NodeName>) -> Result<Box<dyn Transport>, TlsError> {
        Ok(match self {
            Self::Loopback => Box::new(Tcp::loopback()),
            Self::Insecure => Box::new(Tcp::insecure()),
            Self::Tls(files) => Box::new(Tls::from_files(files, name)?),
        })
    }
}
