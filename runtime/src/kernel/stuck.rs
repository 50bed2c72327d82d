//! Why entities wait: what an operator is told of those in trouble (P3), out of memory.

use super::{Kernel, Outcome, Output};
use crate::{
    activation::{Activation, Phase, ReplyTo},
    requests::{Reply, ReplyClass},
    store::row::{put_varint, take, take_varint},
    timestamp::Timestamp,
};

/// Activations looked at for one page: a question may not keep the worker from its messages for long.
const LOOKS: usize = 65_536;
/// Most entities of one page.
const PAGE: usize = 128;
/// Longest reason told, in bytes. A panic's text may be of any length.
const REASON_LEN_MAX: usize = 1_024;

/// An entity that is parked, or fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// Its kind.
    pub kind: String,
    /// Its key.
    pub key: String,
    /// Its state cannot be read: it is not tried again before the next start.
    pub is_parked: bool,
    /// What went wrong last.
    pub reason: String,
    /// Since when, as far as this process knows.
    pub since: Timestamp,
    /// How often the message at its head was tried.
    pub tries: u32,
    /// Messages in its waiting queue and in its mailbox.
    pub waiting: u64,
}

/// A part of what a worker knows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct StuckPage {
    /// Where the next page begins; 0: there is none.
    pub next: u64,
    /// The entities found.
    pub entities: Vec<Stuck>,
}

impl StuckPage {
    /// As the body of a reply: next, then the entities up to the end.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(self.next, out);
        for stuck in &self.entities {
            for text in [&stuck.kind, &stuck.key, &stuck.reason] {
                put_varint(text.len() as u64, out);
                out.extend_from_slice(text.as_bytes());
            }
            out.push(u8::from(stuck.is_parked));
            put_varint(stuck.since.as_micros(), out);
            put_varint(u64::from(stuck.tries), out);
            put_varint(stuck.waiting, out);
        }
    }

    /// Reads the body of a reply; `None` where it is not one.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut page = Self { next: take_varint(&mut bytes)?, entities: Vec::new() };
        while !bytes.is_empty() {
            let (kind, key, reason) =
                (take_text(&mut bytes)?, take_text(&mut bytes)?, take_text(&mut bytes)?);
            let is_parked = match take(&mut bytes, 1)?[0] {
                0 => false,
                1 => true,
                _ => return None,
            };
            page.entities.push(Stuck {
                kind,
                key,
                is_parked,
                reason,
                since: Timestamp::from_micros(take_varint(&mut bytes)?),
                tries: u32::try_from(take_varint(&mut bytes)?).ok()?,
                waiting: take_varint(&mut bytes)?,
            });
        }
        Some(page)
    }
}

fn take_text(bytes: &mut &[u8]) -> Option<String> {
    let len = usize::try_from(take_varint(bytes)?).ok()?;
    Some(std::str::from_utf8(take(bytes, len)?).ok()?.to_owned())
}

impl Kernel {
    /// Answers out of memory and at once: it speaks of tries, of which nothing is ever durable.
    pub(super) fn list_stuck(&mut self, from: u64, to: ReplyTo) {
        let slots = self.activations.slots();
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(slots);
        let mut page = StuckPage::default();
        for index in from..slots {
            if page.entities.len() == PAGE || index - from == LOOKS {
                page.next = index as u64;
                break;
            }
            let Some((_, activation)) = self.activations.at(index) else { continue };
            page.entities.extend(self.stuck(activation));
        }
        let mut body = Vec::new();
        page.encode(&mut body);
        let reply = Reply { class: ReplyClass::Applied, body: body.into() };
        self.put_now(Output::Reply(to, Outcome::Done(reply)));
    }

    fn stuck(&self, activation: &Activation) -> Option<Stuck> {
        let trouble = activation.trouble.as_ref()?;
        let mut reason = trouble.reason.clone();
        reason.truncate(reason.floor_char_boundary(REASON_LEN_MAX));
        Some(Stuck {
            kind: self.kinds.get(activation.kind).name().to_owned(),
            key: activation.key.to_string(),
            is_parked: activation.phase == Phase::Parked,
            reason,
            since: trouble.since,
            tries: trouble.tries,
            waiting: (trouble.waiting.len() + activation.mailbox_len()) as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes: Vec<u8>) {
            let _ = StuckPage::decode(&bytes);
        }

        #[test]
        fn a_page_comes_back_as_it_was_written(next: u64, key: String, reason: String, is_parked: bool, tries: u32, waiting: u64) {
            let since = Timestamp::from_millis(7);
            let stuck = Stuck { kind: "kind".into(), key, is_parked, reason, since, tries, waiting };
            let page = StuckPage { next, entities: vec![stuck.clone(), stuck] };
            let mut body = Vec::new();
            page.encode(&mut body);
            proptest::prop_assert_eq!(StuckPage::decode(&body), Some(page));
        }
    }
}
