//! Text in full feature phase, which may come and go in pieces (RFC 7143 §6.2, §11.10).
//!
//! Invariant: one exchange at a time; a new one ends the one before. What is kept is bounded.

use crate::limits::TEXT_BYTES_MAX;
use crate::wire::{NO_TAG, text};

/// What is sent back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TextReply {
    pub(crate) is_final: bool,
    pub(crate) more: bool,
    pub(crate) target_tag: u32,
    pub(crate) data: Vec<u8>,
}

/// Why text is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadText;

/// An exchange of text.
#[derive(Debug, Default)]
pub(crate) struct TextExchange {
    came: Vec<u8>,
    goes: Vec<u8>,
    sent: usize,
    tag: u32,
    open: bool,
}

impl TextExchange {
    /// Takes a request; `answer` is asked when all of it is here. At most `segment` bytes are sent
    /// at once.
    pub(crate) fn take(
        &mut self,
        (more, target_tag): (bool, u32),
        data: &[u8],
        segment: usize,
        answer: impl FnOnce(&[(&str, &str)]) -> Vec<u8>,
    ) -> Result<TextReply, BadText> {
        if target_tag == NO_TAG {
            *self = Self { tag: self.tag, ..Self::default() };
        } else if !self.open || target_tag != self.tag {
            *self = Self { tag: self.tag, ..Self::default() };
            return Err(BadText);
        }
        if self.came.len() + data.len() > TEXT_BYTES_MAX {
            return Err(BadText);
        }
        self.came.extend_from_slice(data);
        if more {
            return Ok(self.reply(Vec::new(), false));
        }
        if self.goes.is_empty() {
            let came = std::mem::take(&mut self.came);
            let pairs = text::parse(&came).map_err(|_malformed| BadText)?;
            self.goes = answer(&pairs);
            self.sent = 0;
        }
        let rest = self.goes.get(self.sent..).unwrap_or_default();
        let piece = rest[..rest.len().min(segment)].to_vec();
        self.sent += piece.len();
        let is_last = self.sent == self.goes.len();
        Ok(self.reply(piece, is_last))
    }

    fn reply(&mut self, data: Vec<u8>, is_last: bool) -> TextReply {
        if is_last {
            *self = Self { tag: self.tag, ..Self::default() };
            return TextReply { is_final: true, more: false, target_tag: NO_TAG, data };
        }
        self.open = true;
        self.tag = if self.tag >= NO_TAG - 1 { 1 } else { self.tag + 1 };
        TextReply { is_final: false, more: !data.is_empty(), target_tag: self.tag, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_answer_goes_in_pieces() {
        let mut exchange = TextExchange::default();
        let answer = |_: &[(&str, &str)]| vec![b'x'; 1000];
        let first = exchange.take((false, NO_TAG), b"SendTargets=All\0", 600, answer).unwrap();
        assert!(!first.is_final && first.more && first.data.len() == 600);
        let next = |_: &[(&str, &str)]| unreachable!();
        let second = exchange.take((false, first.target_tag), b"", 600, next).unwrap();
        assert!(second.is_final && !second.more && second.data.len() == 400);
        let empty = |_: &[(&str, &str)]| Vec::new();
        assert_eq!(exchange.take((false, first.target_tag), b"", 600, empty), Err(BadText));
    }

    #[test]
    fn a_long_question_comes_in_pieces_and_has_an_end() {
        let mut exchange = TextExchange::default();
        let none = |_: &[(&str, &str)]| Vec::new();
        let first = exchange.take((true, NO_TAG), b"SendTar", 512, none).unwrap();
        assert!(!first.is_final && !first.more);
        let seen = |pairs: &[(&str, &str)]| pairs[0].1.as_bytes().to_vec();
        let last = exchange.take((false, first.target_tag), b"gets=All\0", 512, seen).unwrap();
        assert_eq!((last.is_final, last.data.as_slice()), (true, &b"All"[..]));
        let mut reply = exchange.take((true, NO_TAG), &[b'a'; 8192], 512, none).unwrap();
        while let Ok(more) = exchange.take((true, reply.target_tag), &[b'a'; 8192], 512, none) {
            reply = more;
        }
    }
}
