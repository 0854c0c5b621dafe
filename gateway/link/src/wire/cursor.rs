//! Reading and writing of bodies, field by field, each length checked before it is believed.
//!
//! Invariant: a reader never looks past its bytes, and never makes room for more elements than
//! its remaining bytes can hold.

use std::collections::TryReserveError;

use uuid::Uuid;

use super::{Corrupt, Unsendable};

/// Takes fields off the front of a body.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Corrupt> {
        let (these, rest) = self.rest.split_at_checked(count).ok_or(Corrupt("body is cut off"))?;
        self.rest = rest;
        Ok(these)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        let (these, rest) = self.rest.split_first_chunk().ok_or(Corrupt("body is cut off"))?;
        self.rest = rest;
        Ok(*these)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Corrupt> {
        self.array().map(|[byte]: [u8; 1]| byte)
    }

    pub(crate) fn bool(&mut self) -> Result<bool, Corrupt> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Corrupt("neither yes nor no")),
        }
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Corrupt> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Corrupt> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Corrupt> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn uuid(&mut self) -> Result<Uuid, Corrupt> {
        self.array().map(Uuid::from_bytes)
    }

    pub(crate) fn text(&mut self, bytes_max: usize) -> Result<String, Corrupt> {
        let len = usize::from(self.u16()?);
        if len > bytes_max {
            return Err(Corrupt("text is too long"));
        }
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map(str::to_owned).ok().ok_or(Corrupt("text is not UTF-8"))
    }

    /// A list of at most `max` elements, each at least `bytes_min` long.
    pub(crate) fn list<T>(
        &mut self,
        max: usize,
        bytes_min: usize,
        mut element: impl FnMut(&mut Self) -> Result<T, Corrupt>,
    ) -> Result<Vec<T>, Corrupt> {
        let count = usize::try_from(self.u32()?).ok().ok_or(Corrupt("list is too long"))?;
        if count > max || count.saturating_mul(bytes_min) > self.rest.len() {
            return Err(Corrupt("list is too long"));
        }
        let mut list = Vec::new();
        reserve(&mut list, count).ok().ok_or(Corrupt("list is too long"))?;
        for _ in 0..count {
            list.push(element(self)?);
        }
        Ok(list)
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), Corrupt> {
        if self.rest.is_empty() { Ok(()) } else { Err(Corrupt("body is too long")) }
    }
}

fn reserve<T>(list: &mut Vec<T>, count: usize) -> Result<(), TryReserveError> {
    list.try_reserve_exact(count)
}

/// Puts fields behind each other.
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        out.clear();
        Self { out }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.out.push(byte);
    }

    pub(crate) fn u16(&mut self, number: u16) {
        self.bytes(&number.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    pub(crate) fn uuid(&mut self, uuid: Uuid) {
        self.bytes(uuid.as_bytes());
    }

    /// A name, which means nothing when it is cut.
    pub(crate) fn name(&mut self, name: &str, bytes_max: usize) -> Result<(), Unsendable> {
        let len = u16::try_from(name.len()).ok().filter(|len| usize::from(*len) <= bytes_max);
        self.u16(len.ok_or(Unsendable("a name is too long"))?);
        self.bytes(name.as_bytes());
        Ok(())
    }

    /// A text for people, cut to what fits.
    pub(crate) fn text(&mut self, text: &str, bytes_max: usize) {
        let text = &text[..text.floor_char_boundary(bytes_max.min(usize::from(u16::MAX)))];
        self.u16(u16::try_from(text.len()).unwrap_or(0));
        self.bytes(text.as_bytes());
    }

    /// The length of a list; its elements are to follow.
    pub(crate) fn count(&mut self, count: usize, max: usize) -> Result<(), Unsendable> {
        let fits = u32::try_from(count).ok().filter(|_| count <= max);
        self.bytes(&fits.ok_or(Unsendable("a list is too long"))?.to_le_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_cannot_be_there_is_refused_before_room_is_made() {
        let mut body = 50_u32.to_le_bytes().to_vec();
        body.extend_from_slice(&[0; 100]);
        for (max, bytes_min) in [(49, 2), (50, 3), (1000, 16)] {
            let list = Reader::new(&body).list(max, bytes_min, |_| -> Result<u8, Corrupt> {
                panic!("an element was looked for")
            });
            assert_eq!(list, Err(Corrupt("list is too long")));
        }
        let list = Reader::new(&body).list(50, 2, Reader::u16);
        assert_eq!(list, Ok(vec![0; 50]));
    }
}
