//! Sense data: why a command was not done, in the two forms in which it is sent (SPC-4 §4.5).
//!
//! Invariant: every code that a host can be told stands here, by name.

use smallvec::SmallVec;

/// The bytes of a sense; the longest form has 32.
pub type SenseBytes = SmallVec<[u8; 32]>;

/// Why a command was not done, or what a host must know before it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// The sense key, below 16.
    pub key: u8,
    /// The additional sense code, and its qualifier below it.
    pub code: u16,
    /// A logical block or an offset that it is about.
    pub information: Option<u64>,
    /// The byte and the bit of the CDB or of the parameter list that is wrong.
    pub field: Option<Field>,
}

/// Where something wrong stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Whether in the CDB, rather than in the parameter list.
    pub in_cdb: bool,
    /// The first byte of the field.
    pub byte: u16,
    /// Its leftmost bit, where it does not begin with its byte.
    pub bit: Option<u8>,
}

/// In which form sense is sent: the bit `D_SENSE` of the control mode page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Fixed: 18 bytes.
    #[default]
    Fixed,
    /// Descriptors.
    Descriptors,
}

const fn plain(key: u8, code: u16) -> Sense {
    Sense { key, code, information: None, field: None }
}

/// Nothing to tell.
pub(crate) const NONE: Sense = plain(0x0, 0x0000);
/// The path is in standby: the host shall take another.
pub(crate) const STANDBY: Sense = plain(0x2, 0x040b);
/// The path is unavailable.
pub(crate) const UNAVAILABLE: Sense = plain(0x2, 0x040c);
pub(crate) const READ_ERROR: Sense = plain(0x3, 0x1100);
pub(crate) const WRITE_ERROR: Sense = plain(0x3, 0x0c00);
pub(crate) const LIST_LENGTH: Sense = plain(0x5, 0x1a00);
pub(crate) const INVALID_OPCODE: Sense = plain(0x5, 0x2000);
pub(crate) const OUT_OF_RANGE: Sense = plain(0x5, 0x2100);
pub(crate) const INVALID_FIELD: Sense = plain(0x5, 0x2400);
pub(crate) const NO_UNIT: Sense = plain(0x5, 0x2500);
pub(crate) const INVALID_IN_LIST: Sense = plain(0x5, 0x2600);
pub(crate) const INVALID_RELEASE: Sense = plain(0x5, 0x2604);
pub(crate) const COPY_ABORTED: Sense = plain(0xa, 0x0000);
pub(crate) const UNREACHABLE_TARGET: Sense = plain(0xa, 0x0d02);
pub(crate) const TOO_MUCH_INLINE: Sense = plain(0x5, 0x260b);
pub(crate) const TOO_MANY_TARGETS: Sense = plain(0x5, 0x2606);
pub(crate) const UNSUPPORTED_TARGET: Sense = plain(0x5, 0x2607);
pub(crate) const TOO_MANY_SEGMENTS: Sense = plain(0x5, 0x2608);
pub(crate) const UNSUPPORTED_SEGMENT: Sense = plain(0x5, 0x2609);
/// Fewer bytes of data-out came than the CDB speaks of.
pub(crate) const SHORT_DATA: Sense = plain(0x5, 0x0e03);
pub(crate) const SAVING_UNSUPPORTED: Sense = plain(0x5, 0x3900);
pub(crate) const NO_REGISTRATION_ROOM: Sense = plain(0x5, 0x5504);
pub(crate) const WRITE_PROTECTED: Sense = plain(0x7, 0x2700);
pub(crate) const NO_SPACE: Sense = plain(0x7, 0x2707);
pub(crate) const ABORTED: Sense = plain(0xb, 0x0000);
/// What was compared differs.
pub(crate) const MISCOMPARE: Sense = plain(0xe, 0x1d00);

impl Sense {
    /// A unit attention with this code.
    #[must_use]
    pub(crate) const fn attention(code: u16) -> Self {
        plain(0x6, code)
    }

    /// The same, about a field of the CDB.
    #[must_use]
    pub(crate) const fn cdb(self, byte: u16) -> Self {
        Self { field: Some(Field { in_cdb: true, byte, bit: None }), ..self }
    }

    /// The same, about a field of the parameter list.
    #[must_use]
    pub(crate) const fn list(self, byte: u16) -> Self {
        Self { field: Some(Field { in_cdb: false, byte, bit: None }), ..self }
    }

    /// The same, about this block or offset.
    #[must_use]
    pub(crate) const fn about(self, information: u64) -> Self {
        Self { information: Some(information), ..self }
    }

    /// Its bytes as they are sent.
    #[must_use]
    pub fn encode(&self, form: Form) -> SenseBytes {
        match form {
            Form::Fixed => self.fixed(),
            Form::Descriptors => self.descriptors(),
        }
    }

    fn fixed(&self) -> SenseBytes {
        let [code, qualifier] = self.code.to_be_bytes();
        // What does not fit 32 bits is left out: the descriptors have room for it.
        let information = self.information.and_then(|value| u32::try_from(value).ok());
        let valid = if information.is_some() { 0x80 } else { 0 };
        let mut out = SenseBytes::from_slice(&[valid | 0x70, 0, self.key]);
        out.extend_from_slice(&information.unwrap_or(0).to_be_bytes());
        out.extend_from_slice(&[10, 0, 0, 0, 0, code, qualifier, 0]);
        out.extend_from_slice(&self.field.map_or([0; 3], Field::bytes));
        out
    }

    fn descriptors(&self) -> SenseBytes {
        let [code, qualifier] = self.code.to_be_bytes();
        let mut out = SenseBytes::from_slice(&[0x72, self.key, code, qualifier, 0, 0, 0, 0]);
        if let Some(information) = self.information {
            out.extend_from_slice(&[0x00, 0x0a, 0x80, 0]);
            out.extend_from_slice(&information.to_be_bytes());
        }
        if let Some(field) = self.field {
            out.extend_from_slice(&[0x02, 0x06, 0, 0]);
            out.extend_from_slice(&field.bytes());
            out.push(0);
        }
        out[7] = u8::try_from(out.len() - 8).unwrap_or(0);
        out
    }
}

impl Field {
    fn bytes(self) -> [u8; 3] {
        let place = if self.in_cdb { 0x40 } else { 0 };
        let bit = self.bit.map_or(0, |bit| 0x08 | (bit & 7));
        let [high, low] = self.byte.to_be_bytes();
        [0x80 | place | bit, high, low]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let sense = INVALID_FIELD.cdb(2).about(7);
        let fixed = sense.encode(Form::Fixed);
        assert_eq!(&fixed[..], [0xf0, 0, 5, 0, 0, 0, 7, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xc0, 0, 2]);
        let other = sense.encode(Form::Descriptors);
        assert_eq!(&other[..8], [0x72, 5, 0x24, 0, 0, 0, 0, 20]);
        assert_eq!(other.len(), 28);
        assert_eq!(other[20..], [0x02, 0x06, 0, 0, 0xc0, 0, 2, 0]);
    }

    #[test]
    fn what_does_not_fit_the_fixed_form_is_not_valid_there() {
        let sense = MISCOMPARE.about(1 << 40);
        assert_eq!(sense.encode(Form::Fixed)[0], 0x70);
        assert_eq!(sense.encode(Form::Descriptors)[10], 0x80);
    }
}
