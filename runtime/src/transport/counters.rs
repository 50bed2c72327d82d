//! What went wrong on connections: counted each time, logged once in a while.

use super::limits::TransportLimits;
use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Why a connection was refused or closed against its other end's will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Fault {
    /// There are as many as are allowed.
    TooMany,
    /// What came on a TLS port was not TLS.
    NotTls,
    /// It has no certificate.
    NoCertificate,
    /// Its certificate was signed by another authority.
    UnknownAuthority,
    /// Its certificate is not valid any more, or not yet.
    Expired,
    /// TLS failed otherwise.
    Tls,
    /// It took too long to say hello.
    HandshakeDeadline,
    /// It went away before it had agreed.
    Vanished,
    /// Its hello or verdict was not one.
    Greeting,
    /// No protocol in common.
    Protocol,
    /// Another cluster, layout, number of shards or placement.
    Cluster,
    /// Its name is not the one that was expected, or not the one in its certificate.
    Name,
    /// It answered an earlier connection.
    Replayed,
    /// The membership refuses it.
    Identity,
    /// It refused this end.
    RefusedHere,
    /// Its bytes do not begin like a frame.
    Format,
    /// A frame over the limit.
    TooLong,
    /// A wrong checksum.
    Checksum,
    /// A frame that cannot be read.
    Unreadable,
    /// It sent more than it had credit for.
    Overrun,
    /// It gave back more credit than was taken.
    Credit,
    /// Too many frames outside of credit.
    Flood,
    /// It did not read what was written.
    WriteDeadline,
    /// It was silent for too long.
    IdleDeadline,
    /// The connection was lost.
    Lost,
}

impl Fault {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 25] = [
        Self::TooMany,
        Self::NotTls,
        Self::NoCertificate,
        Self::UnknownAuthority,
        Self::Expired,
        Self::Tls,
        Self::HandshakeDeadline,
        Self::Vanished,
        Self::Greeting,
        Self::Protocol,
        Self::Cluster,
        Self::Name,
        Self::Replayed,
        Self::Identity,
        Self::RefusedHere,
        Self::Format,
        Self::TooLong,
        Self::Checksum,
        Self::Unreadable,
        Self::Overrun,
        Self::Credit,
        Self::Flood,
        Self::WriteDeadline,
        Self::IdleDeadline,
        Self::Lost,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooMany => "too many connections",
            Self::NotTls => "not TLS",
            Self::NoCertificate => "no certificate",
            Self::UnknownAuthority => "unknown certificate authority",
            Self::Expired => "certificate not valid now",
            Self::Tls => "TLS",
            Self::HandshakeDeadline => "handshake deadline",
            Self::Vanished => "gone before it agreed",
            Self::Greeting => "not a greeting",
            Self::Protocol => "protocol",
            Self::Cluster => "cluster",
            Self::Name => "name",
            Self::Replayed => "replayed",
            Self::Identity => "identity",
            Self::RefusedHere => "this end was refused",
            Self::Format => "format",
            Self::TooLong => "frame too long",
            Self::Checksum => "checksum",
            Self::Unreadable => "unreadable frame",
            Self::Overrun => "more than its credit",
            Self::Credit => "credit that was not taken",
            Self::Flood => "flood of control frames",
            Self::WriteDeadline => "write deadline",
            Self::IdleDeadline => "idle deadline",
            Self::Lost => "lost",
        })
    }
}

/// Most pairs of fault and address that are remembered; beyond it the oldest is, and may be logged again early.
const REMEMBERED_MAX: usize = 1_024;

/// Longest reason in the log, in characters.
const WHY_LEN_MAX: usize = 512;

/// Counts of one endpoint.
#[derive(Debug)]
pub struct TransportCounters {
    faults: [AtomicU64; Fault::ALL.len()],
    opened: AtomicU64,
    dropped: AtomicU64,
    logged: AtomicU64,
    /// When which fault of which host was logged, oldest first.
    told: Mutex<VecDeque<(Instant, Fault, String)>>,
    log_again_after: Duration,
}

impl TransportCounters {
    pub(super) fn new(limits: &TransportLimits) -> Self {
        Self {
            faults: Default::default(),
            opened: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            logged: AtomicU64::new(0),
            told: Mutex::default(),
            log_again_after: limits.log_again_after,
        }
    }

    /// How often this fault cost a connection.
    pub fn faults(&self, fault: Fault) -> u64 {
        self.faults[fault as usize].load(Ordering::Relaxed)
    }

    /// Connections both ends agreed on.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Membership packets that found no room.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Lines written about faults.
    pub fn logged(&self) -> u64 {
        self.logged.load(Ordering::Relaxed)
    }

    pub(super) fn open(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn drop_packet(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a fault of an address, and logs it unless that was done a short while ago.
    pub(super) fn note(&self, fault: Fault, address: &str, why: &dyn fmt::Display) {
        self.faults[fault as usize].fetch_add(1, Ordering::Relaxed);
        if self.is_news(fault, address) {
            self.logged.fetch_add(1, Ordering::Relaxed);
            // The other end may have chosen the words.
            let why: String =
                why.to_string().chars().filter(|letter| !letter.is_control()).take(WHY_LEN_MAX).collect();
            // A process has ended, or its network: nobody's fault, and of nodes the cluster tells.
            if fault == Fault::Lost {
                tracing::debug!(%address, %why, "a connection was lost");
            } else {
                tracing::warn!(%address, %fault, %why, "a connection was refused or closed");
            }
        }
    }

    fn is_news(&self, fault: Fault, address: &str) -> bool {
        // Every connection has another port.
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((at, ..)) = told.front()
            && (REMEMBERED_MAX <= told.len() || self.log_again_after <= now - *at)
        {
            told.pop_front();
        }
        if told.iter().any(|(_, of, by)| *of == fault && by == host) {
            return false;
        }
        told.push_back((now, fault, host.to_owned()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_counter_of_its_own() {
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, index, "{fault}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_is_counted_each_time_and_logged_once_per_host_and_while() {
        let counters = TransportCounters::new(&TransportLimits::default());
        for address in ["10.0.0.1:5", "10.0.0.1:6", "10.0.0.2:5"] {
            counters.note(Fault::Expired, address, &"");
        }
        counters.note(Fault::Checksum, "10.0.0.1:7", &"");
        assert_eq!((counters.faults(Fault::Expired), counters.faults(Fault::Checksum)), (3, 1));
        assert_eq!(counters.logged(), 3);
        tokio::time::advance(Duration::from_mins(1)).await;
        counters.note(Fault::Expired, "10.0.0.1:8", &"");
        assert_eq!(counters.logged(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let counters = TransportCounters::new(&TransportLimits::default());
        for host in 0..2 * REMEMBERED_MAX {
            counters.note(Fault::NotTls, &format!("h{host}:1"), &"");
        }
        assert_eq!(counters.told.lock().unwrap().len(), REMEMBERED_MAX);
    }
}
