//! A connection that both ends have agreed on: what is done with its frames, and when it takes another's place.

use super::coordinator::{Notice, ToCoordinator};
use crate::{
    node::{Front, Outbound, Remote, Violation},
    placement::NodeName,
    timestamp::Timestamp,
    transport::{
        CloseReason, Delivery, DialError, Endpoint, HelloRefusal, Incoming, handshake::HandshakeError,
    },
};
use std::{sync::Arc, time::Duration};
use tokio::{runtime::Handle, sync::mpsc};

/// Two nodes that find each other dial at the same time. Of two connections that began within this time both ends keep the
/// same one; a later one is there because the earlier is broken.
const SAME_TIME: Duration = Duration::from_secs(2);

/// The connection to a node.
pub(super) struct Connected {
    pub(super) outbound: Arc<Outbound>,
    /// Of the hello.
    pub(super) store: u128,
    /// Of the hello.
    pub(super) boot: u64,
    /// This end has dialled.
    pub(super) is_dialled: bool,
    pub(super) since: Timestamp,
    /// How far the other end's log was durable,
    durable: u64,
    /// at this time.
    durable_at: Timestamp,
}

impl Connected {
    pub(super) fn new(
        outbound: &Arc<Outbound>,
        (store, boot): (u128, u64),
        is_dialled: bool,
        since: Timestamp,
    ) -> Self {
        Self { outbound: Arc::clone(outbound), store, boot, is_dialled, since, durable: 0, durable_at: since }
    }

    /// Whether it is of an earlier run of this store. Of two stores neither is the earlier.
    pub(super) fn is_before(&self, store: u128, boot: u64) -> bool {
        self.store == store && self.boot < boot
    }

    /// Whether it is of a later run of this store.
    pub(super) fn is_after(&self, store: u128, boot: u64) -> bool {
        self.store == store && boot < self.boot
    }

    /// How far the other end's log was durable one `lag` ago, once in each.
    ///
    /// A hello may be as old as a handshake takes, and what its node has said since on another connection says nothing against
    /// it. So a position counts when no hello from before it can still come; or when its connection has ended, for a node dials
    /// anew only then.
    pub(super) fn settled(&mut self, lag: Duration, now: Timestamp) -> Option<u64> {
        if now < self.durable_at + lag {
            return None;
        }
        self.durable_at = now;
        Some(std::mem::replace(&mut self.durable, self.outbound.durable_there()))
    }

    /// Whether this connection goes on, and the new one is closed. `is_lesser`: this node's name comes before the other's,
    /// and so it is its dial that both keep.
    pub(super) fn outlasts(
        &self,
        of: (u128, u64),
        is_dialled: bool,
        is_lesser: bool,
        now: Timestamp,
    ) -> bool {
        let is_same_time = now < self.since + SAME_TIME;
        (self.store, self.boot) == of
            && is_same_time
            && self.is_dialled != is_dialled
            && self.is_dialled == is_lesser
            && self.outbound.link().ended().is_none()
    }
}

/// Dials an address, to whoever answers there or to one node alone. The connection is told first, then that the dial is over.
pub(super) fn dial(
    network: &Handle,
    endpoint: &Endpoint,
    tell: &ToCoordinator,
    address: String,
    name: Option<NodeName>,
) {
    let (endpoint, tell) = (endpoint.clone(), tell.clone());
    network.spawn(async move {
        match endpoint.dial(&address, name.as_ref()).await {
            Ok(connection) => tell.tell(Notice::Connection { connection, is_dialled: true }),
            Err(DialError::Handshake {
                why: HandshakeError::RefusedHere(HelloRefusal::Past { boot, position, why }),
                ..
            }) => tell.tell(Notice::Outdated { boot, position, why }),
            Err(DialError::Handshake {
                why: HandshakeError::RefusedHere(HelloRefusal::Identity(why)),
                ..
            }) => tell.tell(Notice::NotLetIn(why)),
            // Counted and logged, once in a while, by the endpoint where it is a fault; else the node is away.
            Err(error) => tracing::debug!(%error, "a dial came to nothing"),
        }
        tell.tell(Notice::Dialled(address));
    });
}

/// Serves a connection until it ends: its frames to workers and ports, the rest to whoever knows the cluster.
pub(super) fn serve(
    network: &Handle,
    front: &Arc<Front>,
    outbound: &Arc<Outbound>,
    mut incoming: Incoming,
    tell: ToCoordinator,
) {
    let remote = Remote::open(front, outbound);
    network.spawn({
        let (front, outbound) = (Arc::clone(front), Arc::clone(outbound));
        async move { outbound.run(|to, outcome| front.ports.reply(vec![(to, outcome)])).await }
    });
    let serving = Serving { remote, outbound: Arc::clone(outbound), tell };
    network.spawn(async move {
        // What must wait for workers waits by itself, and nothing else behind it. Bounded by the connection's credit.
        let (inflow, waiting) = mpsc::unbounded_channel();
        let waiting = tokio::spawn(serving.clone().all(waiting));
        while let Some(delivery) = incoming.recv().await {
            if delivery.frame.is_inflow() {
                // Its task ends after this one.
                let _ = inflow.send(delivery);
            } else {
                serving.one(delivery).await;
            }
        }
        serving.remote.cut();
        drop(inflow);
        let _ = waiting.await;
        serving.remote.close();
        serving.tell.tell(Notice::Ended(serving.outbound));
    });
}

#[derive(Clone)]
struct Serving {
    remote: Arc<Remote>,
    outbound: Arc<Outbound>,
    tell: ToCoordinator,
}

impl Serving {
    async fn all(self, mut deliveries: mpsc::UnboundedReceiver<Delivery>) {
        while let Some(delivery) = deliveries.recv().await {
            self.one(delivery).await;
        }
    }

    async fn one(&self, delivery: Delivery) {
        let Delivery { frame, credit } = delivery;
        match self.remote.take(frame).await {
            Ok(rest) => {
                if !rest.misplaced.is_empty() {
                    self.tell.tell(Notice::Misplaced(Arc::clone(&self.outbound), rest.misplaced));
                }
                if let Some(frame) = rest.frame {
                    self.tell.tell(Notice::Frame(Arc::clone(&self.outbound), frame, credit));
                }
            }
            Err(Violation(why)) => {
                let address = self.outbound.link().address();
                if self.outbound.link().ended().is_none() {
                    tracing::warn!(address, why, "a connection has broken the rules and is closed");
                }
                self.outbound.link().close(CloseReason::Violation(why));
            }
        }
    }
}
