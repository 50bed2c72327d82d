//! What waits to be written on one connection, and how much of it may be.
//!
//! # Invariants
//! * Frames leave in the order they were pushed, except that those outside of credit go before all that wait.
//! * Bytes sent and not yet given back are at or below the other end's window, unless the last frame is longer than what was
//!   left of it and less than a piece of the window was out before.
//! * Once the last word is said nothing is taken any more.

use super::{
    frame::{CloseReason, Frame, FrameError, HEADER_LEN},
    limits::{TransportLimits, piece},
};
use bytes::BytesMut;
use std::collections::VecDeque;

/// Why a frame was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// As much waits as may. Here it is back; send it again when there is room.
    #[error("the connection's queue is full; send again when it is ready")]
    Full(Frame),
    /// One of the two ends takes no frame so long.
    #[error("a frame of {len} bytes; the limit is {max}")]
    TooLong {
        /// Here it is back.
        frame: Frame,
        /// Bytes it has.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The connection has ended. Here the frame is back.
    #[error("the connection has ended")]
    Ended(Frame),
}

/// What one write takes.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Goes first.
    pub(super) control: BytesMut,
    /// Goes behind it.
    pub(super) data: BytesMut,
    /// Nothing comes after it.
    pub(super) is_last: bool,
}

/// How a connection is to end.
#[derive(Debug)]
enum Last {
    /// With this reason, behind what may still go.
    Say(CloseReason),
    /// Without a word.
    Nothing,
}

#[derive(Debug)]
pub(super) struct Outgoing {
    /// Frames under credit, one behind the other,
    data: BytesMut,
    /// and their lengths.
    lens: VecDeque<usize>,
    /// Membership packets.
    packets: BytesMut,
    ping: bool,
    pong: bool,
    /// Credit to be given to the other end.
    granted: u64,
    /// Bytes the other end has not given back.
    in_flight: usize,
    /// The other end's window.
    window: usize,
    frame_len_max: usize,
    data_max: usize,
    packets_max: usize,
    last: Option<Last>,
    /// The last word is with the writer.
    is_over: bool,
}

impl Outgoing {
    /// With what the other end takes at the most.
    pub(super) fn new(limits: &TransportLimits, window: u64, frame_len_max: u64) -> Self {
        let own = limits.frame_len_max;
        Self {
            data: BytesMut::new(),
            lens: VecDeque::new(),
            packets: BytesMut::new(),
            ping: false,
            pong: false,
            granted: 0,
            in_flight: 0,
            window: usize::try_from(window).unwrap_or(usize::MAX),
            frame_len_max: usize::try_from(frame_len_max).unwrap_or(own).min(own),
            data_max: limits.outgoing_bytes_max,
            packets_max: limits.membership_bytes_max,
            last: None,
            is_over: false,
        }
    }

    /// Takes a frame.
    pub(super) fn push(&mut self, frame: Frame) -> Result<(), SendError> {
        if self.last.is_some() {
            return Err(SendError::Ended(frame));
        }
        let (queue, queue_max) = match &frame {
            Frame::Credit(bytes) => {
                self.granted = self.granted.saturating_add(*bytes);
                return Ok(());
            }
            Frame::Ping => {
                self.ping = true;
                return Ok(());
            }
            Frame::Pong => {
                self.pong = true;
                return Ok(());
            }
            Frame::Close(reason) => {
                self.last = Some(Last::Say(reason.clone()));
                return Ok(());
            }
            Frame::Membership(_) => (&mut self.packets, self.packets_max),
            _ => (&mut self.data, self.data_max),
        };
        let before = queue.len();
        // While there is half the room any frame goes in, or one longer than the rest would be tried again and again.
        let is_ready = before <= queue_max / 2;
        // Not encoded only to be found too much.
        if !is_ready && queue_max <= before {
            return Err(SendError::Full(frame));
        }
        let len = match frame.encode(queue, self.frame_len_max) {
            Ok(len) => len,
            Err(FrameError::TooLong { len, max }) => return Err(SendError::TooLong { frame, len, max }),
            Err(error) => unreachable!("encoding fails for nothing but length: {error}"),
        };
        if !is_ready && queue_max < before + len {
            queue.truncate(before);
            return Err(SendError::Full(frame));
        }
        if !frame.is_control() {
            self.lens.push_back(len);
        }
        Ok(())
    }

    /// The other end has consumed so many bytes. False: it never had them, or they are too few to be said. So frames of
    /// credit are no more than what they are for.
    #[must_use]
    pub(super) fn credit(&mut self, bytes: u64) -> bool {
        let bytes = usize::try_from(bytes).ok().filter(|bytes| piece(self.window) <= *bytes);
        let left = bytes.and_then(|bytes| self.in_flight.checked_sub(bytes));
        self.in_flight = left.unwrap_or(self.in_flight);
        left.is_some()
    }

    /// Ends without another frame of data, saying why. What was to be said before that stays.
    pub(super) fn break_off(&mut self, why: Option<CloseReason>) {
        self.data.clear();
        self.lens.clear();
        self.last = Some(why.map_or(Last::Nothing, Last::Say));
    }

    /// Bytes of frames under credit that wait.
    pub(super) fn waiting(&self) -> usize {
        self.data.len()
    }

    /// Bytes the other end has not given back.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether it is worth sending again after [`SendError::Full`].
    pub(super) fn is_ready(&self) -> bool {
        self.last.is_some() || self.data.len() <= self.data_max / 2
    }

    /// Everything that may go now.
    pub(super) fn next(&mut self) -> Option<Written> {
        if self.is_over {
            return None;
        }
        let mut control = BytesMut::new();
        let mut put = |frame: Frame| {
            let limit = HEADER_LEN + usize::from(u16::MAX);
            frame.encode(&mut control, limit).expect("the connection's own words are short");
        };
        if self.granted != 0 {
            put(Frame::Credit(std::mem::take(&mut self.granted)));
        }
        if std::mem::take(&mut self.ping) {
            put(Frame::Ping);
        }
        if std::mem::take(&mut self.pong) {
            put(Frame::Pong);
        }
        if control.is_empty() {
            control = self.packets.split();
        } else {
            control.unsplit(self.packets.split());
        }
        let len = self.take_lens();
        let mut data = self.data.split_to(len);
        let is_last = self.last.is_some();
        if let Some(Last::Say(reason)) = &self.last {
            let close = Frame::Close(reason.clone());
            close.encode(&mut data, usize::MAX).expect("no limit");
        }
        self.is_over = is_last;
        let is_something = !control.is_empty() || !data.is_empty() || is_last;
        is_something.then_some(Written { control, data, is_last })
    }

    /// How many bytes of frames there is credit for; they count as sent.
    fn take_lens(&mut self) -> usize {
        let mut taken = 0;
        while let Some(len) = self.lens.front()
            && (self.in_flight < piece(self.window) || self.in_flight.saturating_add(*len) <= self.window)
        {
            taken += len;
            self.in_flight += len;
            self.lens.pop_front();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::frame::front;
    use bytes::{Buf, Bytes};

    fn outgoing(window: u64) -> Outgoing {
        let limits = TransportLimits {
            outgoing_bytes_max: 1_000,
            membership_bytes_max: 100,
            frame_len_max: 2_000,
            ..TransportLimits::default()
        };
        Outgoing::new(&limits, window, 1_500)
    }

    fn data(len: usize) -> Frame {
        Frame::HandOff(vec![7; len].into())
    }

    fn frames(mut bytes: BytesMut) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(len) = front(&bytes, 10_000).unwrap() {
            frames.push(Frame::decode(&bytes[HEADER_LEN..len]).unwrap());
            bytes.advance(len);
        }
        frames
    }

    fn lens(written: Option<Written>) -> Vec<usize> {
        let frames = frames(written.map(|written| written.data).unwrap_or_default());
        frames
            .iter()
            .map(|frame| match frame {
                Frame::HandOff(bytes) => bytes.len(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn all_that_waits_goes_in_one_write_in_order() {
        let mut outgoing = outgoing(10_000);
        for len in [30, 10, 20] {
            outgoing.push(data(len)).unwrap();
        }
        assert_eq!(lens(outgoing.next()), [30, 10, 20]);
        assert!(outgoing.next().is_none());
    }

    #[test]
    fn a_frame_that_finds_no_room_comes_back_whole() {
        let mut outgoing = outgoing(10_000);
        outgoing.push(data(900)).unwrap();
        assert_eq!(outgoing.push(data(200)), Err(SendError::Full(data(200))));
        outgoing.push(data(20)).unwrap();
        assert!(!outgoing.is_ready());
        assert_eq!(lens(outgoing.next()), [900, 20]);
        assert!(outgoing.is_ready());
        // While there is half the room, one may be longer than all of it.
        outgoing.push(data(400)).unwrap();
        assert!(outgoing.is_ready());
        outgoing.push(data(1_200)).unwrap();
        assert_eq!(outgoing.push(data(0)), Err(SendError::Full(data(0))));
    }

    #[test]
    fn a_frame_longer_than_either_end_takes_is_refused_for_good() {
        let error = outgoing(10_000).push(data(1_600)).unwrap_err();
        assert!(matches!(error, SendError::TooLong { max: 1_500, .. }), "{error}");
    }

    #[test]
    fn no_more_is_in_flight_than_the_window() {
        let mut outgoing = outgoing(200);
        for _ in 0..4 {
            outgoing.push(data(70)).unwrap();
        }
        assert_eq!(lens(outgoing.next()), [70, 70]);
        let in_flight = outgoing.in_flight();
        assert!(in_flight <= 200);
        assert!(outgoing.next().is_none());
        assert!(outgoing.credit(in_flight as u64 / 2));
        assert_eq!(lens(outgoing.next()), [70]);
        assert!(outgoing.credit(in_flight as u64));
        assert_eq!(lens(outgoing.next()), [70]);
    }

    #[test]
    fn a_frame_longer_than_the_window_goes_when_little_is_out() {
        let mut outgoing = outgoing(200);
        outgoing.push(data(10)).unwrap();
        outgoing.push(data(500)).unwrap();
        outgoing.push(data(10)).unwrap();
        for len in [10, 500, 10] {
            assert_eq!(lens(outgoing.next()), [len]);
            assert!(outgoing.next().is_none());
            assert!(outgoing.credit(outgoing.in_flight() as u64));
        }
    }

    #[test]
    fn credit_that_was_not_taken_cannot_be_given_back() {
        let mut outgoing = outgoing(200);
        outgoing.push(data(10)).unwrap();
        drop(outgoing.next());
        assert!(!outgoing.credit(u64::MAX));
        assert!(!outgoing.credit(outgoing.in_flight() as u64 + 1));
        assert!(!outgoing.credit(24), "less than an eighth of the window is not said");
        assert!(outgoing.credit(outgoing.in_flight() as u64));
    }

    #[test]
    fn what_is_outside_of_credit_goes_first_and_is_bounded() {
        let mut outgoing = outgoing(1);
        let packet = || Frame::Membership(Bytes::from_static(&[1; 60]));
        outgoing.push(data(10)).unwrap();
        drop(outgoing.next());
        outgoing.push(data(10)).unwrap();
        outgoing.push(packet()).unwrap();
        assert_eq!(outgoing.push(packet()), Err(SendError::Full(packet())));
        for _ in 0..1_000 {
            outgoing.push(Frame::Ping).unwrap();
            outgoing.push(Frame::Pong).unwrap();
            outgoing.push(Frame::Credit(3)).unwrap();
        }
        let written = outgoing.next().unwrap();
        assert_eq!(
            frames(written.control),
            [Frame::Credit(3_000), Frame::Ping, Frame::Pong, packet()],
            "asked often, said once"
        );
        assert!(written.data.is_empty(), "there is no credit");
    }

    #[test]
    fn the_last_word_stands_behind_what_may_still_go() {
        let mut outgoing = outgoing(100);
        outgoing.push(data(60)).unwrap();
        outgoing.push(data(60)).unwrap();
        outgoing.push(Frame::Close(CloseReason::Stopping)).unwrap();
        assert_eq!(outgoing.push(data(1)), Err(SendError::Ended(data(1))));
        let written = outgoing.next().unwrap();
        assert_eq!(frames(written.data), [data(60), Frame::Close(CloseReason::Stopping)]);
        assert!(written.is_last);
        assert!(outgoing.next().is_none());
    }

    #[test]
    fn a_connection_that_breaks_off_says_why_and_nothing_else() {
        let mut one = outgoing(100);
        one.push(data(60)).unwrap();
        one.break_off(Some(CloseReason::Violation("lies".into())));
        let written = one.next().unwrap();
        assert_eq!(frames(written.data), [Frame::Close(CloseReason::Violation("lies".into()))]);
        let mut other = outgoing(100);
        other.push(data(60)).unwrap();
        other.break_off(None);
        assert!(other.next().is_some_and(|written| written.is_last && written.data.is_empty()));
    }
}
