//! Bytes to values and back, for everything that a repository holds.
//!
//! Invariant: decoding takes no memory that the input does not pay for, and never panics.

use uuid::Uuid;

/// What does not fit; the caller knows in which object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Appends values to a buffer.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// What was written.
    #[must_use]
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// One byte.
    pub(crate) fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// A number in as few bytes as it takes, seven bits in each.
    pub(crate) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push((value & 0x7f) as u8);
    }

    /// A length.
    pub(crate) fn length(&mut self, value: usize) {
        self.number(value as u64);
    }

    /// A number with a sign, small ones in few bytes.
    pub(crate) fn signed(&mut self, value: i64) {
        self.number(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    /// Bytes of a length that both sides know.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// An identity.
    pub(crate) fn uuid(&mut self, id: Uuid) {
        self.raw(id.as_bytes());
    }

    /// A text with its length.
    pub(crate) fn text(&mut self, text: &str) {
        self.length(text.len());
        self.raw(text.as_bytes());
    }

    /// A value that may be absent.
    pub(crate) fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.byte(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }
}

/// Takes values from a slice.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the beginning of these.
    #[must_use]
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes of a length that both sides know.
    ///
    /// # Errors
    /// When there are not so many.
    pub(crate) fn raw(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let Some((head, rest)) = self.rest.split_at_checked(count) else {
            return Err(Malformed("it ends too early"));
        };
        self.rest = rest;
        Ok(head)
    }

    /// So many bytes as an array.
    ///
    /// # Errors
    /// When there are not so many.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(N)?);
        Ok(array)
    }

    /// One byte.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    /// A number.
    ///
    /// # Errors
    /// When it is cut off or has more than 64 bits.
    pub(crate) fn number(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("a number has more than 64 bits"))
    }

    /// A number of at most this.
    ///
    /// # Errors
    /// When it is more.
    pub(crate) fn at_most(&mut self, max: u64) -> Result<u64, Malformed> {
        let value = self.number()?;
        if value > max {
            return Err(Malformed("a number is beyond its limit"));
        }
        Ok(value)
    }

    /// How many of something follow, each of which takes at least one byte.
    ///
    /// # Errors
    /// When it is beyond the limit, or beyond what is there.
    pub(crate) fn count(&mut self, max: usize) -> Result<usize, Malformed> {
        let value = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if value > max || value > self.rest.len() {
            return Err(Malformed("a count is beyond its limit"));
        }
        Ok(value)
    }

    /// A number with a sign.
    ///
    /// # Errors
    /// As for a number.
    pub(crate) fn signed(&mut self) -> Result<i64, Malformed> {
        let value = self.number()?;
        Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    /// An identity.
    ///
    /// # Errors
    /// When it is cut off.
    pub(crate) fn uuid(&mut self) -> Result<Uuid, Malformed> {
        Ok(Uuid::from_bytes(self.array()?))
    }

    /// A text.
    ///
    /// # Errors
    /// When it is too long or no UTF-8.
    pub(crate) fn text(&mut self) -> Result<String, Malformed> {
        let length = self.count(crate::limits::TEXT_BYTES_MAX)?;
        let bytes = self.raw(length)?;
        let text =
            std::str::from_utf8(bytes).map_err(|_not_utf8| Malformed("a text is no text"))?;
        Ok(text.to_owned())
    }

    /// A value that may be absent.
    ///
    /// # Errors
    /// As for the value.
    pub(crate) fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        match self.byte()? {
            0 => Ok(None),
            1 => Ok(Some(read(self)?)),
            _ => Err(Malformed("a flag is neither yes nor no")),
        }
    }

    /// Ends here.
    ///
    /// # Errors
    /// When something is left.
    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("bytes are left over")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(number: u64, signed: i64, text in "\\PC{0,40}", flag: Option<u8>) {
            let mut writer = Writer::default();
            writer.number(number);
            writer.signed(signed);
            writer.text(&text);
            writer.optional(flag, Writer::byte);
            let bytes = writer.into_bytes();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.number(), Ok(number));
            prop_assert_eq!(reader.signed(), Ok(signed));
            prop_assert_eq!(reader.text(), Ok(text));
            prop_assert_eq!(reader.optional(Reader::byte), Ok(flag));
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }

    #[test]
    fn a_count_beyond_what_is_there_is_refused() {
        let mut writer = Writer::default();
        writer.number(1 << 40);
        assert!(Reader::new(&writer.into_bytes()).count(usize::MAX).is_err());
        assert!(Reader::new(&[0xff; 11]).number().is_err());
    }
}
