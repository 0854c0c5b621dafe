//! What an initiator sends (RFC 7143 §11.3 to 11.18).
//!
//! Invariant: a header that is none of these, or one with a reserved code where a code is needed, is
//! [`Malformed`]; reserved bits are ignored, as the standard says.

use zerocopy::IntoBytes;

use super::header::Header;

/// Why a header is none of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("opcode {0:#04x} is none that an initiator sends")]
pub struct Malformed(pub u8);

/// What a task management request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// End one command.
    AbortTask,
    /// End this session's commands to a unit.
    AbortTaskSet,
    /// Clear an auto-contingent allegiance, which we never have.
    ClearAca,
    /// End every session's commands to a unit.
    ClearTaskSet,
    /// Reset a unit.
    LogicalUnitReset,
    /// Reset every unit of the target.
    TargetWarmReset,
    /// Likewise, and end all sessions.
    TargetColdReset,
    /// Take a command over to this connection.
    TaskReassign,
    /// None that we know.
    Other(u8),
}

impl Function {
    const fn of(code: u8) -> Self {
        match code {
            1 => Self::AbortTask,
            2 => Self::AbortTaskSet,
            3 => Self::ClearAca,
            4 => Self::ClearTaskSet,
            5 => Self::LogicalUnitReset,
            6 => Self::TargetWarmReset,
            7 => Self::TargetColdReset,
            8 => Self::TaskReassign,
            other => Self::Other(other),
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::AbortTask => 1,
            Self::AbortTaskSet => 2,
            Self::ClearAca => 3,
            Self::ClearTaskSet => 4,
            Self::LogicalUnitReset => 5,
            Self::TargetWarmReset => 6,
            Self::TargetColdReset => 7,
            Self::TaskReassign => 8,
            Self::Other(code) => code,
        }
    }
}

/// A PDU of an initiator. The numbers that most carry stand beside it: see [`Request::command_sn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named as the standard names them")]
pub enum Request {
    /// A ping, or the answer to ours.
    NopOut { lun: [u8; 8], tag: u32, target_tag: u32, cmd_sn: u32, exp_stat_sn: u32 },
    /// A SCSI command.
    Command {
        lun: [u8; 8],
        tag: u32,
        read: bool,
        write: bool,
        is_final: bool,
        attribute: u8,
        expected: u32,
        cmd_sn: u32,
        exp_stat_sn: u32,
        cdb: [u8; 16],
    },
    /// Task management.
    Task {
        function: Function,
        lun: [u8; 8],
        tag: u32,
        referenced: u32,
        cmd_sn: u32,
        exp_stat_sn: u32,
        ref_cmd_sn: u32,
    },
    /// Login.
    Login {
        transit: bool,
        more: bool,
        stage: u8,
        next_stage: u8,
        version_max: u8,
        version_min: u8,
        isid: [u8; 6],
        tsih: u16,
        tag: u32,
        connection: u16,
        cmd_sn: u32,
        exp_stat_sn: u32,
    },
    /// Text.
    Text { more: bool, is_final: bool, tag: u32, target_tag: u32, cmd_sn: u32, exp_stat_sn: u32 },
    /// Data of a write.
    DataOut {
        is_final: bool,
        tag: u32,
        target_tag: u32,
        exp_stat_sn: u32,
        data_sn: u32,
        offset: u32,
    },
    /// Logout.
    Logout { reason: u8, tag: u32, connection: u16, cmd_sn: u32, exp_stat_sn: u32 },
    /// A wish for something to be sent again.
    Snack { tag: u32, exp_stat_sn: u32 },
}

const OPCODES: [u8; 8] = [0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10];

impl Request {
    /// What a header asks for.
    ///
    /// # Errors
    /// When an initiator sends no such thing.
    #[expect(clippy::too_many_lines, reason = "one arm for each PDU of the standard")]
    pub fn decode(header: &Header) -> Result<Self, Malformed> {
        let (tag, lun) = (header.tag.get(), header.lun);
        let [first, cmd_sn, exp_stat_sn] = [header.word(0), header.word(1), header.word(2)];
        let half = |word: u32| {
            let [a, b, ..] = word.to_be_bytes();
            u16::from_be_bytes([a, b])
        };
        let more = header.flags & 0x40 != 0;
        Ok(match header.code() {
            0x00 => Self::NopOut { lun, tag, target_tag: first, cmd_sn, exp_stat_sn },
            0x01 => {
                let mut cdb = [0; 16];
                cdb.copy_from_slice(header.words[3..].as_bytes());
                Self::Command {
                    lun,
                    tag,
                    read: header.flags & 0x40 != 0,
                    write: header.flags & 0x20 != 0,
                    is_final: header.is_final(),
                    attribute: header.flags & 7,
                    expected: first,
                    cmd_sn,
                    exp_stat_sn,
                    cdb,
                }
            }
            0x02 => Self::Task {
                function: Function::of(header.flags & 0x7f),
                lun,
                tag,
                referenced: first,
                cmd_sn,
                exp_stat_sn,
                ref_cmd_sn: header.word(3),
            },
            0x03 => {
                let [a, b, c, d, e, f, g, h] = lun;
                Self::Login {
                    transit: header.is_final(),
                    more,
                    stage: header.flags >> 2 & 3,
                    next_stage: header.flags & 3,
                    version_max: header.specific[0],
                    version_min: header.specific[1],
                    isid: [a, b, c, d, e, f],
                    tsih: u16::from_be_bytes([g, h]),
                    tag,
                    connection: half(first),
                    cmd_sn,
                    exp_stat_sn,
                }
            }
            0x04 => Self::Text {
                more,
                is_final: header.is_final(),
                tag,
                target_tag: first,
                cmd_sn,
                exp_stat_sn,
            },
            0x05 => Self::DataOut {
                is_final: header.is_final(),
                tag,
                target_tag: first,
                exp_stat_sn,
                data_sn: header.word(4),
                offset: header.word(5),
            },
            0x06 => Self::Logout {
                reason: header.flags & 0x7f,
                tag,
                connection: half(first),
                cmd_sn,
                exp_stat_sn,
            },
            0x10 => Self::Snack { tag, exp_stat_sn },
            other => return Err(Malformed(other)),
        })
    }

    /// The number in the order of commands; what has none stands outside of it.
    #[must_use]
    pub const fn command_sn(&self) -> Option<u32> {
        match self {
            Self::NopOut { cmd_sn, .. }
            | Self::Command { cmd_sn, .. }
            | Self::Task { cmd_sn, .. }
            | Self::Login { cmd_sn, .. }
            | Self::Text { cmd_sn, .. }
            | Self::Logout { cmd_sn, .. } => Some(*cmd_sn),
            Self::DataOut { .. } | Self::Snack { .. } => None,
        }
    }

    /// As a header, for those that play an initiator.
    #[must_use]
    pub fn encode(&self, immediate: bool) -> Header {
        let (code, tag, first, cmd_sn, exp_stat_sn) = match *self {
            Self::NopOut { tag, target_tag, cmd_sn, exp_stat_sn, .. } => {
                (0, tag, target_tag, cmd_sn, exp_stat_sn)
            }
            Self::Command { tag, expected, cmd_sn, exp_stat_sn, .. } => {
                (1, tag, expected, cmd_sn, exp_stat_sn)
            }
            Self::Task { tag, referenced, cmd_sn, exp_stat_sn, .. } => {
                (2, tag, referenced, cmd_sn, exp_stat_sn)
            }
            Self::Login { tag, connection, cmd_sn, exp_stat_sn, .. } => {
                (3, tag, u32::from(connection) << 16, cmd_sn, exp_stat_sn)
            }
            Self::Text { tag, target_tag, cmd_sn, exp_stat_sn, .. } => {
                (4, tag, target_tag, cmd_sn, exp_stat_sn)
            }
            Self::DataOut { tag, target_tag, exp_stat_sn, .. } => {
                (5, tag, target_tag, 0, exp_stat_sn)
            }
            Self::Logout { tag, connection, cmd_sn, exp_stat_sn, .. } => {
                (6, tag, u32::from(connection) << 16, cmd_sn, exp_stat_sn)
            }
            Self::Snack { tag, exp_stat_sn } => (7, tag, u32::MAX, 0, exp_stat_sn),
        };
        let mut header = Header {
            opcode: OPCODES[code] | if immediate { 0x40 } else { 0 },
            flags: 0x80,
            tag: tag.into(),
            ..Header::default()
        };
        header.words[0] = first.into();
        header.words[1] = cmd_sn.into();
        header.words[2] = exp_stat_sn.into();
        self.encode_rest(&mut header);
        header
    }

    fn encode_rest(&self, header: &mut Header) {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        match *self {
            Self::NopOut { lun, .. } => header.lun = lun,
            Self::Command { lun, read, write, is_final, attribute, cdb, .. } => {
                header.lun = lun;
                header.flags =
                    bit(is_final, 0x80) | bit(read, 0x40) | bit(write, 0x20) | attribute & 7;
                header.words[3..].as_mut_bytes().copy_from_slice(&cdb);
            }
            Self::Task { function, lun, ref_cmd_sn, .. } => {
                header.flags |= function.code() & 0x7f;
                header.lun = lun;
                header.words[3] = ref_cmd_sn.into();
            }
            Self::Login {
                transit,
                more,
                stage,
                next_stage,
                version_max,
                version_min,
                isid,
                tsih,
                ..
            } => {
                header.flags =
                    bit(transit, 0x80) | bit(more, 0x40) | (stage & 3) << 2 | next_stage & 3;
                header.specific = [version_max, version_min];
                header.lun[..6].copy_from_slice(&isid);
                header.lun[6..].copy_from_slice(&tsih.to_be_bytes());
            }
            Self::Text { more, is_final, .. } => {
                header.flags = bit(is_final, 0x80) | bit(more, 0x40);
            }
            Self::DataOut { is_final, data_sn, offset, .. } => {
                header.flags = bit(is_final, 0x80);
                header.words[4] = data_sn.into();
                header.words[5] = offset.into();
            }
            Self::Logout { reason, .. } => header.flags |= reason & 0x7f,
            Self::Snack { .. } => {}
        }
    }
}
