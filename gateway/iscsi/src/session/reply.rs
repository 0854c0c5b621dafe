//! What is answered to a command: its data, its status, and what was left over.
//!
//! Invariant: status GOOD goes with the last of the data, in one PDU. The residual is told as the
//! host sees it: between what it announced and what its CDB says.

use block::Segment;

use super::outgoing::{Front, Outgoing};
use crate::negotiate::Params;
use crate::wire::{Response, Stamp};

/// What was left over (RFC 7143 §11.4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Residual {
    pub(crate) overflow: bool,
    pub(crate) underflow: bool,
    pub(crate) bytes: u32,
}

impl Residual {
    /// Between what was announced and what is transferred.
    pub(crate) fn of(announced: u32, transfer: u64) -> Self {
        let announced = u64::from(announced);
        let bytes = u32::try_from(announced.abs_diff(transfer)).unwrap_or(u32::MAX);
        Self { overflow: transfer > announced, underflow: transfer < announced, bytes }
    }
}

/// The end of a command, as it is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'s> {
    pub(crate) tag: u32,
    pub(crate) status: u8,
    pub(crate) residual: Residual,
    /// Sense, if there is any.
    pub(crate) sense: &'s [u8],
}

/// Sends data and the end of its command; says how many status numbers that took.
pub(crate) fn end(
    out: &mut Outgoing,
    (params, stamp): (&Params, Stamp),
    (segments, len): (&[Segment], u32),
    end: &End<'_>,
) {
    let together = len > 0 && end.sense.is_empty();
    let data_pdus = data(out, (params, stamp), (segments, len), (end, together));
    if together {
        return;
    }
    let Residual { overflow, underflow, bytes } = end.residual;
    let response = Response::Command {
        tag: end.tag,
        status: end.status,
        overflow,
        underflow,
        residual: bytes,
        exp_data_sn: data_pdus,
    };
    let header = response.encode(stamp);
    if end.sense.is_empty() {
        return out.pdu(header, &[]);
    }
    let mut segment = Vec::with_capacity(end.sense.len() + 2);
    segment.extend_from_slice(&u16::try_from(end.sense.len()).unwrap_or(u16::MAX).to_be_bytes());
    segment.extend_from_slice(end.sense);
    out.pdu(header, &segment);
}

fn data(
    out: &mut Outgoing,
    (params, stamp): (&Params, Stamp),
    (segments, len): (&[Segment], u32),
    (end, together): (&End<'_>, bool),
) -> u32 {
    let (mut offset, mut number, mut front) = (0, 0, Front::of(segments));
    while offset < len {
        // A sequence is cut where a burst ends, a PDU where the initiator's buffer does.
        let burst_left = params.max_burst - offset % params.max_burst;
        let here = params.send_segment.min(burst_left).min(len - offset);
        let is_last = offset + here == len;
        let Residual { overflow, underflow, bytes } = end.residual;
        let response = Response::DataIn {
            is_final: is_last || here == burst_left,
            status: (is_last && together).then_some((end.status, overflow, underflow, bytes)),
            tag: end.tag,
            data_sn: number,
            offset,
        };
        out.pdu_of(response.encode(stamp), &mut front, here);
        offset += here;
        number += 1;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residuals_are_as_the_host_sees_them() {
        let over = Residual::of(512, 1024);
        assert!(over.overflow && !over.underflow && over.bytes == 512);
        let under = Residual::of(1024, 512);
        assert!(!under.overflow && under.underflow && under.bytes == 512);
        assert_eq!(Residual::of(512, 512), Residual::default());
    }
}
