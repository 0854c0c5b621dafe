//! What a target sends (RFC 7143 §11.4 to 11.19).
//!
//! Invariant: what is encoded decodes to the same, so tests and hostile peers speak through the
//! same code as we.

use super::header::{Header, NO_TAG};

/// The numbers that every answer carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Status number.
    pub stat_sn: u32,
    /// The next command that is expected.
    pub exp_cmd_sn: u32,
    /// The last command that may be sent.
    pub max_cmd_sn: u32,
}

/// How a login step ended: class and detail (RFC 7143 §11.13.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the standard")]
pub enum LoginStatus {
    Success,
    InitiatorError,
    AuthenticationFailure,
    AuthorizationFailure,
    NotFound,
    UnsupportedVersion,
    TooManyConnections,
    MissingParameter,
    CannotInclude,
    SessionTypeUnsupported,
    NoSuchSession,
    InvalidDuringLogin,
    TargetError,
    ServiceUnavailable,
    OutOfResources,
}

const STATUSES: [(LoginStatus, [u8; 2]); 15] = [
    (LoginStatus::Success, [0, 0]),
    (LoginStatus::InitiatorError, [2, 0]),
    (LoginStatus::AuthenticationFailure, [2, 1]),
    (LoginStatus::AuthorizationFailure, [2, 2]),
    (LoginStatus::NotFound, [2, 3]),
    (LoginStatus::UnsupportedVersion, [2, 5]),
    (LoginStatus::TooManyConnections, [2, 6]),
    (LoginStatus::MissingParameter, [2, 7]),
    (LoginStatus::CannotInclude, [2, 8]),
    (LoginStatus::SessionTypeUnsupported, [2, 9]),
    (LoginStatus::NoSuchSession, [2, 10]),
    (LoginStatus::InvalidDuringLogin, [2, 11]),
    (LoginStatus::TargetError, [3, 0]),
    (LoginStatus::ServiceUnavailable, [3, 1]),
    (LoginStatus::OutOfResources, [3, 2]),
];

impl LoginStatus {
    /// Class and detail.
    #[must_use]
    pub fn code(self) -> [u8; 2] {
        STATUSES.iter().find(|(status, _)| *status == self).map_or([3, 0], |(_, code)| *code)
    }

    fn of(code: [u8; 2]) -> Option<Self> {
        STATUSES.iter().find(|(_, known)| *known == code).map(|(status, _)| *status)
    }
}

/// Why a PDU was rejected (RFC 7143 §11.17.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are those of the standard")]
pub enum RejectReason {
    DataDigest = 2,
    Snack = 3,
    Protocol = 4,
    NotSupported = 5,
    ImmediateOverflow = 6,
    InProgress = 7,
    InvalidField = 9,
    NegotiationReset = 11,
}

impl RejectReason {
    const ALL: [Self; 8] = [
        Self::DataDigest,
        Self::Snack,
        Self::Protocol,
        Self::NotSupported,
        Self::ImmediateOverflow,
        Self::InProgress,
        Self::InvalidField,
        Self::NegotiationReset,
    ];
}

/// What a target tells unasked (RFC 7143 §11.9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsyncEvent {
    /// Please log out within so many seconds.
    LogoutRequest {
        /// Seconds.
        within: u16,
    },
    /// This connection will be dropped. A session has no other, so that ends with it.
    Dropping {
        /// Which.
        connection: u16,
        /// Seconds until a new login makes sense.
        wait: u16,
        /// Seconds for which commands are kept.
        retain: u16,
    },
}

/// A PDU of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named as the standard names them")]
pub enum Response {
    NopIn {
        lun: [u8; 8],
        tag: u32,
        target_tag: u32,
    },
    Command {
        tag: u32,
        status: u8,
        overflow: bool,
        underflow: bool,
        residual: u32,
        exp_data_sn: u32,
    },
    Task {
        tag: u32,
        response: u8,
    },
    Login {
        transit: bool,
        more: bool,
        stage: u8,
        next_stage: u8,
        isid: [u8; 6],
        tsih: u16,
        tag: u32,
        status: LoginStatus,
    },
    Text {
        is_final: bool,
        more: bool,
        lun: [u8; 8],
        tag: u32,
        target_tag: u32,
    },
    DataIn {
        is_final: bool,
        /// With status GOOD or another that has no sense data, and the residual.
        status: Option<(u8, bool, bool, u32)>,
        tag: u32,
        data_sn: u32,
        offset: u32,
    },
    Logout {
        tag: u32,
        response: u8,
        wait: u16,
        retain: u16,
    },
    ReadyToTransfer {
        lun: [u8; 8],
        tag: u32,
        target_tag: u32,
        r2t_sn: u32,
        offset: u32,
        len: u32,
    },
    Async(AsyncEvent),
    Reject(RejectReason),
}

const fn two(high: u16, low: u16) -> u32 {
    (high as u32) << 16 | low as u32
}

const fn halves(word: u32) -> (u16, u16) {
    let [a, b, c, d] = word.to_be_bytes();
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

const fn bit(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

impl Response {
    /// Whether it takes a status number of its own: then the next one is higher.
    #[must_use]
    pub const fn counts(&self) -> bool {
        match self {
            Self::DataIn { status, .. } => status.is_some(),
            Self::ReadyToTransfer { .. } => false,
            // A ping of ours that asks for an answer does not count; an answer to one does.
            Self::NopIn { tag, .. } => *tag != NO_TAG,
            Self::Command { .. }
            | Self::Task { .. }
            | Self::Login { .. }
            | Self::Text { .. }
            | Self::Logout { .. }
            | Self::Async(_)
            | Self::Reject(_) => true,
        }
    }

    /// As a header. Data is described by [`Header::with_data_len`].
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "one arm for each PDU of the standard")]
    pub fn encode(&self, stamp: Stamp) -> Header {
        let mut header = Header { flags: 0x80, ..Header::default() };
        header.words[1] = stamp.stat_sn.into();
        header.words[2] = stamp.exp_cmd_sn.into();
        header.words[3] = stamp.max_cmd_sn.into();
        match *self {
            Self::NopIn { lun, tag, target_tag } => {
                header.opcode = 0x20;
                header.lun = lun;
                header.tag = tag.into();
                header.words[0] = target_tag.into();
            }
            Self::Command { tag, status, overflow, underflow, residual, exp_data_sn } => {
                header.opcode = 0x21;
                header.flags |= bit(overflow, 4) | bit(underflow, 2);
                header.specific[1] = status;
                header.tag = tag.into();
                header.words[4] = exp_data_sn.into();
                header.words[6] = residual.into();
            }
            Self::Task { tag, response } => {
                header.opcode = 0x22;
                header.specific[0] = response;
                header.tag = tag.into();
            }
            Self::Login { .. } => self.encode_login(&mut header),
            Self::Text { is_final, more, lun, tag, target_tag } => {
                header.opcode = 0x24;
                header.flags = bit(is_final, 0x80) | bit(more, 0x40);
                header.lun = lun;
                header.tag = tag.into();
                header.words[0] = target_tag.into();
            }
            Self::DataIn { is_final, status, tag, data_sn, offset } => {
                header.opcode = 0x25;
                header.flags = bit(is_final, 0x80);
                if let Some((status, overflow, underflow, residual)) = status {
                    header.flags |= bit(overflow, 4) | bit(underflow, 2) | 1;
                    header.specific[1] = status;
                    header.words[6] = residual.into();
                } else {
                    header.words[1] = 0.into();
                }
                header.tag = tag.into();
                header.words[0] = NO_TAG.into();
                header.words[4] = data_sn.into();
                header.words[5] = offset.into();
            }
            Self::Logout { tag, response, wait, retain } => {
                header.opcode = 0x26;
                header.specific[0] = response;
                header.tag = tag.into();
                header.words[5] = two(wait, retain).into();
            }
            Self::ReadyToTransfer { lun, tag, target_tag, r2t_sn, offset, len } => {
                header.opcode = 0x31;
                header.lun = lun;
                header.tag = tag.into();
                header.words[0] = target_tag.into();
                header.words[4] = r2t_sn.into();
                header.words[5] = offset.into();
                header.words[6] = len.into();
            }
            Self::Async(event) => {
                header.opcode = 0x32;
                header.tag = NO_TAG.into();
                let (code, one, [second, third]) = match event {
                    AsyncEvent::LogoutRequest { within } => (1, 0, [0, within]),
                    AsyncEvent::Dropping { connection, wait, retain } => {
                        (2, connection, [wait, retain])
                    }
                };
                header.words[4] = two(code << 8, one).into();
                header.words[5] = two(second, third).into();
            }
            Self::Reject(reason) => {
                header.opcode = 0x3f;
                header.specific[0] = reason as u8;
                header.tag = NO_TAG.into();
            }
        }
        header
    }

    fn encode_login(&self, header: &mut Header) {
        let Self::Login { transit, more, stage, next_stage, isid, tsih, tag, status } = *self
        else {
            return;
        };
        header.opcode = 0x23;
        header.flags = bit(transit, 0x80) | bit(more, 0x40) | (stage & 3) << 2 | next_stage & 3;
        header.lun[..6].copy_from_slice(&isid);
        header.lun[6..].copy_from_slice(&tsih.to_be_bytes());
        header.tag = tag.into();
        header.words[4] = two(u16::from_be_bytes(status.code()), 0).into();
    }

    /// What a header tells, for those that play an initiator; `None` when a target sends no such
    /// thing.
    #[must_use]
    pub fn decode(header: &Header) -> Option<(Self, Stamp)> {
        let (tag, lun, word) = (header.tag.get(), header.lun, |index| header.word(index));
        let stamp = Stamp { stat_sn: word(1), exp_cmd_sn: word(2), max_cmd_sn: word(3) };
        let [overflow, underflow] = [header.flags & 4 != 0, header.flags & 2 != 0];
        let more = header.flags & 0x40 != 0;
        let response = match header.code() {
            0x20 => Self::NopIn { lun, tag, target_tag: word(0) },
            0x21 => Self::Command {
                tag,
                status: header.specific[1],
                overflow,
                underflow,
                residual: word(6),
                exp_data_sn: word(4),
            },
            0x22 => Self::Task { tag, response: header.specific[0] },
            0x23 => {
                let [a, b, c, d, e, f, g, h] = lun;
                Self::Login {
                    transit: header.is_final(),
                    more,
                    stage: header.flags >> 2 & 3,
                    next_stage: header.flags & 3,
                    isid: [a, b, c, d, e, f],
                    tsih: u16::from_be_bytes([g, h]),
                    tag,
                    status: LoginStatus::of(halves(word(4)).0.to_be_bytes())?,
                }
            }
            0x24 => Self::Text { is_final: header.is_final(), more, lun, tag, target_tag: word(0) },
            0x25 => Self::DataIn {
                is_final: header.is_final(),
                status: (header.flags & 1 != 0)
                    .then(|| (header.specific[1], overflow, underflow, word(6))),
                tag,
                data_sn: word(4),
                offset: word(5),
            },
            0x26 => {
                let (wait, retain) = halves(word(5));
                Self::Logout { tag, response: header.specific[0], wait, retain }
            }
            0x31 => Self::ReadyToTransfer {
                lun,
                tag,
                target_tag: word(0),
                r2t_sn: word(4),
                offset: word(5),
                len: word(6),
            },
            0x32 => Self::Async(decode_event(word(4), word(5))?),
            0x3f => {
                let code = header.specific[0];
                Self::Reject(RejectReason::ALL.into_iter().find(|known| *known as u8 == code)?)
            }
            _ => return None,
        };
        Some((response, stamp))
    }
}

fn decode_event(code: u32, parameters: u32) -> Option<AsyncEvent> {
    let (first, second) = halves(parameters);
    match code >> 24 {
        1 => Some(AsyncEvent::LogoutRequest { within: second }),
        2 => {
            let connection = halves(code).1;
            Some(AsyncEvent::Dropping { connection, wait: first, retain: second })
        }
        _ => None,
    }
}
