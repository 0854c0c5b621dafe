//! The data of one command on its way to us: what may come unasked, what is asked for, and what
//! must come next (RFC 7143 §4.2.4.2 and §11.7).
//!
//! ```text
//!   with the command ─▶ unasked, up to FirstBurst ─▶ asked for, bursts of MaxBurst, several at once
//! ```
//!
//! Invariant: data is taken in order and without gaps, each byte once, and no byte that was neither
//! announced nor asked for. What was announced beyond what the command wants is taken and dropped.
#![warn(clippy::arithmetic_side_effects)]

use smallvec::SmallVec;

use crate::negotiate::Params;

/// What is wrong with data that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    #[error("data has a wrong number")]
    Number,
    #[error("data has a wrong offset")]
    Offset,
    #[error("more data came than was announced or asked for")]
    Length,
    #[error("data came that was not asked for")]
    Unasked,
    #[error("a sequence ended too early")]
    Final,
}

/// A burst to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) number: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// The data of one command.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    /// What the command takes.
    wanted: u32,
    /// Where we are.
    position: u32,
    /// Until where data may come unasked, while it may.
    unasked: Option<u32>,
    /// The next number in the sequence under way.
    data_sn: u32,
    /// Until where it was asked for.
    asked: u32,
    /// Numbers and ends of the bursts that were asked for.
    bursts: SmallVec<[(u32, u32); 2]>,
    bursts_max: usize,
    burst_bytes: u32,
    next_ask: u32,
}

impl Transfer {
    /// The data of a command that takes `wanted` of `announced` bytes; `immediate` came with it, and
    /// more is on its way unasked unless it `is_final`.
    pub(crate) fn new(
        (wanted, announced): (u32, u32),
        immediate: u32,
        is_final: bool,
        params: &Params,
    ) -> Result<Self, Wrong> {
        if immediate > 0 && !params.immediate_data {
            return Err(Wrong::Unasked);
        }
        let first = params.first_burst.min(announced);
        if immediate > first {
            return Err(Wrong::Length);
        }
        let more = !is_final && !params.initial_r2t && immediate < first;
        Ok(Self {
            wanted: wanted.min(announced),
            position: immediate,
            unasked: more.then_some(first),
            data_sn: 0,
            asked: immediate,
            bursts: SmallVec::new(),
            bursts_max: usize::try_from(params.max_r2t).unwrap_or(1).max(1),
            burst_bytes: params.max_burst,
            next_ask: 0,
        })
    }

    /// Bytes that the command takes.
    pub(crate) const fn wanted(&self) -> u32 {
        self.wanted
    }

    /// The command takes so much of what was announced: that was not known before.
    pub(crate) fn want(&mut self, wanted: u32, announced: u32) {
        self.wanted = wanted.min(announced);
    }

    /// Whether all that the command takes is here, and nothing is on its way unasked.
    pub(crate) const fn is_done(&self) -> bool {
        self.unasked.is_none() && self.position >= self.wanted
    }

    /// Whether there is something to ask for, once there is memory for it.
    pub(crate) fn wants(&self) -> bool {
        self.unasked.is_none() && self.asked < self.wanted && self.bursts.len() < self.bursts_max
    }

    /// How much of `len` bytes from where we are the command keeps.
    pub(crate) fn keeps(&self, len: u32) -> u32 {
        len.min(self.wanted.saturating_sub(self.position))
    }

    /// The next burst to ask for.
    pub(crate) fn ask(&mut self) -> Option<Ask> {
        if !self.wants() {
            return None;
        }
        let offset = self.asked;
        let len = self.wanted.saturating_sub(offset).min(self.burst_bytes);
        let number = self.next_ask;
        self.next_ask = number.wrapping_add(1);
        self.asked = offset.saturating_add(len);
        self.bursts.push((number, self.asked));
        Some(Ask { number, offset, len })
    }

    /// Takes the header of data; `burst` is the number of the burst that it answers.
    pub(crate) fn take(
        &mut self,
        burst: Option<u32>,
        (data_sn, offset, len): (u32, u32, u32),
        is_final: bool,
    ) -> Result<(), Wrong> {
        let end = match (burst, self.unasked, self.bursts.first()) {
            (None, Some(end), _) => end,
            (Some(burst), None, Some((number, end))) if *number == burst => *end,
            _ => return Err(Wrong::Unasked),
        };
        if data_sn != self.data_sn {
            return Err(Wrong::Number);
        }
        if offset != self.position {
            return Err(Wrong::Offset);
        }
        let position = self.position.checked_add(len).filter(|position| *position <= end);
        let position = position.ok_or(Wrong::Length)?;
        if burst.is_some() && is_final != (position == end) {
            return Err(Wrong::Final);
        }
        self.position = position;
        self.data_sn = self.data_sn.wrapping_add(1);
        if is_final || position == end {
            self.data_sn = 0;
            if burst.is_some() {
                self.bursts.remove(0);
            } else {
                self.unasked = None;
                self.asked = self.asked.max(position);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test that overflows fails, as it should")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn params(initial_r2t: bool) -> Params {
        Params {
            initial_r2t,
            first_burst: 8192,
            max_burst: 16_384,
            max_r2t: 2,
            ..Params::default()
        }
    }

    #[test]
    fn what_comes_unasked_is_followed_by_what_is_asked_for() {
        let mut data = Transfer::new((40_000, 50_000), 4096, false, &params(false)).unwrap();
        assert!(!data.wants() && data.ask().is_none());
        assert_eq!(data.take(None, (1, 4096, 100), true), Err(Wrong::Number));
        assert_eq!(data.take(None, (0, 0, 100), true), Err(Wrong::Offset));
        assert_eq!(data.take(None, (0, 4096, 4097), true), Err(Wrong::Length));
        assert_eq!(data.take(Some(0), (0, 4096, 4096), true), Err(Wrong::Unasked));
        assert_eq!(data.take(None, (0, 4096, 2048), true), Ok(()));
        assert_eq!(data.ask(), Some(Ask { number: 0, offset: 6144, len: 16_384 }));
        assert_eq!(data.ask(), Some(Ask { number: 1, offset: 22_528, len: 16_384 }));
        assert_eq!(data.ask(), None);
        assert_eq!(data.take(Some(0), (0, 6144, 8192), false), Ok(()));
        assert_eq!(data.take(Some(0), (1, 14_336, 100), true), Err(Wrong::Final));
        assert_eq!(data.take(Some(0), (1, 14_336, 8192), true), Ok(()));
        assert_eq!(data.ask(), Some(Ask { number: 2, offset: 38_912, len: 1088 }));
        assert_eq!(data.take(Some(1), (0, 22_528, 16_384), true), Ok(()));
        assert_eq!(data.take(Some(2), (0, 38_912, 1088), true), Ok(()));
        assert!(data.is_done());
    }

    #[test]
    fn more_than_is_wanted_is_taken_and_dropped() {
        let mut data = Transfer::new((512, 8192), 0, false, &params(false)).unwrap();
        assert_eq!(data.keeps(1024), 512);
        assert_eq!(data.take(None, (0, 0, 1024), false), Ok(()));
        assert!(!data.is_done());
        assert_eq!(data.keeps(1024), 0);
        assert_eq!(data.take(None, (1, 1024, 7168), true), Ok(()));
        assert!(data.is_done());
        assert!(Transfer::new((512, 512), 513, true, &params(false)).is_err());
    }

    proptest! {
        #[test]
        fn an_honest_initiator_gets_through(
            wanted in 0u32..200_000, beyond in 0u32..9000, immediate in 0u32..9000,
            is_final: bool, initial: bool, piece in 1u32..20_000,
        ) {
            let (params, announced) = (params(initial), wanted + beyond);
            let first = params.first_burst.min(announced);
            let immediate = immediate.min(first);
            let mut data = Transfer::new((wanted, announced), immediate, is_final, &params).unwrap();
            let (mut at, mut sn) = (immediate, 0);
            while !initial && !is_final && at < first {
                let len = piece.min(first - at);
                data.take(None, (sn, at, len), at + len == first).unwrap();
                (at, sn) = (at + len, sn + 1);
            }
            let mut asks = std::collections::VecDeque::new();
            while !data.is_done() {
                asks.extend(std::iter::from_fn(|| data.ask()));
                prop_assert!(asks.len() <= 2);
                let Ask { number, offset, len } = asks.pop_front().unwrap();
                prop_assert_eq!(offset, at);
                let (end, mut sn) = (offset + len, 0);
                while at < end {
                    let len = piece.min(end - at);
                    data.take(Some(number), (sn, at, len), at + len == end).unwrap();
                    (at, sn) = (at + len, sn + 1);
                }
            }
            prop_assert!(at >= wanted);
        }

        #[test]
        fn nonsense_is_refused_and_never_more_than_announced_is_taken(
            steps in proptest::collection::vec((proptest::option::of(0u32..3), 0u32..3, any::<u32>(), any::<u32>(), any::<bool>(), any::<bool>()), 0..30),
        ) {
            let mut data = Transfer::new((20_000, 30_000), 0, false, &params(false)).unwrap();
            for (burst, sn, offset, len, is_final, near) in steps {
                let _ask = data.ask();
                let (offset, len) = if near { (data.position, len % 9000) } else { (offset, len) };
                if data.take(burst, (sn, offset, len), is_final).is_err() { break }
                prop_assert!(data.position <= 30_000);
            }
        }
    }
}
