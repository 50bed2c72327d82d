//! Every bound and deadline of a connection, with what happens there.

use super::frame::FRAME_LEN_LEAST;
use std::time::Duration;

/// Bounds and deadlines of connections. Whatever is exceeded costs one connection; what it carried is still with whoever
/// sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportLimits {
    /// Longest frame with its header. The default has room for the longest reply a turn may give. A longer one is refused
    /// where it is sent; the end that receives one closes. Two ends use the lesser of what both say.
    pub frame_len_max: usize,
    /// Bytes of frames an end takes before its handler has consumed them. The other end then holds back; while less than an
    /// eighth is out, one more may go, however long. An end that sends more is closed. Decoded, lists of short items take
    /// several times their bytes.
    pub window: usize,
    /// Bytes of frames that wait to be sent. Beyond it `send` gives the frame back; while no more than half of it wait, one
    /// more may, however long.
    pub outgoing_bytes_max: usize,
    /// Bytes of membership packets that wait, on either end. Further ones are dropped, as a datagram would be.
    pub membership_bytes_max: usize,
    /// Frames outside of credit an end takes in one second. Beyond it the connection is closed.
    pub control_frames_max: u32,
    /// How long a dial may take until the other end has answered at all.
    pub connect_deadline: Duration,
    /// How long TLS and the exchange of hellos may take, together.
    pub handshake_deadline: Duration,
    /// How long one write may take. An end that does not read for so long is closed.
    pub write_deadline: Duration,
    /// After so long without a frame from the other end it is asked whether it is there.
    pub ping_after: Duration,
    /// After so long without a frame the connection is closed.
    pub idle_deadline: Duration,
    /// How long an end that closes still listens, so that its last word is not lost with what comes towards it.
    pub close_deadline: Duration,
    /// Connections that have come in and are not agreed on yet. Further ones are closed at once.
    pub handshakes_max: usize,
    /// Connections that have come in, agreed on. Further ones are closed at once.
    pub connections_max: usize,
    /// The same fault of the same address is logged again after so long; it is counted each time.
    pub log_again_after: Duration,
}

impl Default for TransportLimits {
    fn default() -> Self {
        const MIB: usize = 1 << 20;
        Self {
            frame_len_max: 9 * MIB,
            window: 4 * MIB,
            outgoing_bytes_max: 8 * MIB,
            membership_bytes_max: MIB / 4,
            control_frames_max: 10_000,
            connect_deadline: Duration::from_secs(5),
            handshake_deadline: Duration::from_secs(5),
            write_deadline: Duration::from_secs(10),
            ping_after: Duration::from_secs(3),
            idle_deadline: Duration::from_secs(15),
            close_deadline: Duration::from_secs(1),
            handshakes_max: 128,
            connections_max: 1_024,
            log_again_after: Duration::from_mins(1),
        }
    }
}

/// What is given back of a window in one piece, at the least. Less would be a frame for each frame; and while less is out
/// than this, the other end need not wait for it.
pub(super) fn piece(window: usize) -> usize {
    (window / 8).max(1)
}

impl TransportLimits {
    /// As they are used: a frame has room for its header and a few words, an end asks before it gives up.
    pub(super) fn sound(mut self) -> Self {
        self.frame_len_max = self.frame_len_max.clamp(FRAME_LEN_LEAST, u32::MAX as usize);
        self.window = self.window.max(1);
        self.control_frames_max = self.control_frames_max.max(1);
        self.ping_after = self.ping_after.min(self.idle_deadline / 2);
        self
    }
}
