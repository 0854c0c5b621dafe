//! A session with a target, up to the point where commands go.
//!
//! Invariant: what it proposes is what open-iscsi does, and what a target answers is what is kept to.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Unit;

/// A target that answers nothing for this long is dead.
const TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const HEADER_BYTES: usize = 48;
pub(super) const BLOCK_BYTES: u64 = 512;
/// What is received at once, as open-iscsi and libiscsi have it.
pub(super) const SEGMENT_BYTES: u32 = 262_144;
/// Steps of a login that any target needs.
const LOGIN_STEPS_MAX: usize = 8;
/// How often a target may say first what happened before.
const ATTENTIONS_MAX: usize = 8;

/// What both sides agreed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreed {
    pub(super) initial_r2t: bool,
    pub(super) immediate: bool,
    pub(super) first_burst: u32,
    /// What the target receives at once.
    pub(super) segment: u32,
}

/// A session in full feature phase.
pub(super) struct Session {
    pub(super) stream: TcpStream,
    pub(super) agreed: Agreed,
    pub(super) lun: [u8; 8],
    pub(super) cmd_sn: u32,
    max_cmd_sn: u32,
    pub(super) stat_sn: u32,
}

pub(super) type Header = [u8; HEADER_BYTES];

pub(super) fn number(header: &[u8], at: usize) -> u32 {
    header[at..at + 4].iter().fold(0, |all, byte| all << 8 | u32::from(*byte))
}

pub(super) fn put(header: &mut Header, at: usize, value: u32) {
    header[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

pub(super) fn data_len(header: &[u8]) -> usize {
    (number(header, 4) & 0x00ff_ffff) as usize
}

/// Room for a length, which takes three bytes behind that of the additional header.
pub(super) fn put_data_len(header: &mut Header, len: u32) {
    header[5..8].copy_from_slice(&len.to_be_bytes()[1..]);
}

// === impl Session ===

impl Session {
    pub(super) fn login(unit: &Unit) -> Result<Self> {
        let stream = TcpStream::connect(&unit.address).context("connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let agreed =
            Agreed { initial_r2t: true, immediate: true, first_burst: 65_536, segment: 8192 };
        let lun = [0, unit.lun, 0, 0, 0, 0, 0, 0];
        let mut session = Self { stream, agreed, lun, cmd_sn: 1, max_cmd_sn: 1, stat_sn: 0 };
        let own = SEGMENT_BYTES.to_string();
        // What open-iscsi proposes.
        let keys = [
            ("InitiatorName", "iqn.2026-01.io.twinspan:bench"),
            ("TargetName", &unit.target),
            ("SessionType", "Normal"),
            ("HeaderDigest", "None"),
            ("DataDigest", "None"),
            ("DefaultTime2Wait", "2"),
            ("DefaultTime2Retain", "0"),
            ("IFMarker", "No"),
            ("OFMarker", "No"),
            ("ErrorRecoveryLevel", "0"),
            ("InitialR2T", "No"),
            ("ImmediateData", "Yes"),
            ("MaxBurstLength", "16776192"),
            ("FirstBurstLength", &own),
            ("MaxOutstandingR2T", "1"),
            ("MaxConnections", "1"),
            ("DataPDUInOrder", "Yes"),
            ("DataSequenceInOrder", "Yes"),
            ("MaxRecvDataSegmentLength", &own),
        ];
        let text: String = keys.iter().map(|(key, value)| format!("{key}={value}\0")).collect();
        let mut said = BTreeMap::new();
        let mut text = text.into_bytes();
        for _ in 0..LOGIN_STEPS_MAX {
            let mut header = [0; HEADER_BYTES];
            // From the operational stage to the full feature phase.
            header[..2].copy_from_slice(&[0x43, 0x87]);
            header[8] = 0x80;
            session.send(header, &text)?;
            let (answer, data) = session.receive()?;
            ensure!(answer[0] == 0x23, "a login is answered with {:#x}", answer[0]);
            ensure!(answer[36] == 0, "the login is refused: {:#x}/{:#x}", answer[36], answer[37]);
            let pairs = data.split(|byte| *byte == 0).filter_map(|pair| {
                let pair = str::from_utf8(pair).ok()?;
                pair.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()))
            });
            said.extend(pairs);
            if answer[1] & 0x83 == 0x83 {
                session.agree(&said)?;
                return Ok(session);
            }
            text.clear();
        }
        bail!("the login does not come to an end: {said:?}")
    }

    fn agree(&mut self, said: &BTreeMap<String, String>) -> Result<()> {
        let length = |key: &str, default: u32| -> Result<u32> {
            said.get(key).map_or(Ok(default), |value| value.parse().context(key.to_owned()))
        };
        self.agreed = Agreed {
            initial_r2t: said.get("InitialR2T").is_none_or(|value| value == "Yes"),
            immediate: said.get("ImmediateData").is_none_or(|value| value == "Yes"),
            first_burst: length("FirstBurstLength", SEGMENT_BYTES)?,
            segment: length("MaxRecvDataSegmentLength", 8192)?.min(1 << 20),
        };
        Ok(())
    }

    pub(super) fn send(&mut self, mut header: Header, data: &[u8]) -> Result<()> {
        put_data_len(&mut header, u32::try_from(data.len())?);
        put(&mut header, 24, self.cmd_sn);
        put(&mut header, 28, self.stat_sn.wrapping_add(1));
        let mut bytes = header.to_vec();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.stream.write_all(&bytes).context("send")
    }

    pub(super) fn receive(&mut self) -> Result<(Header, Vec<u8>)> {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header).context("receive")?;
        let len = data_len(&header);
        let mut data = vec![0; len.next_multiple_of(4) + 4 * usize::from(header[4])];
        self.stream.read_exact(&mut data).context("receive data")?;
        data.truncate(len);
        self.heard(&header);
        Ok((header, data))
    }

    /// Takes the numbers that almost every answer carries.
    pub(super) fn heard(&mut self, header: &[u8]) {
        let counts = header[0] != 0x25 || header[1] & 1 != 0;
        if counts && header[0] != 0x31 {
            self.stat_sn = number(header, 24);
        }
        self.max_cmd_sn = number(header, 32);
    }

    /// Whether the target takes one more command.
    pub(super) fn has_room(&self) -> bool {
        self.max_cmd_sn.wrapping_sub(self.cmd_sn).cast_signed() >= 0
    }

    /// The header of a command; its number is taken.
    pub(super) fn command(&mut self, tag: u32, flags: u8, expected: u32, cdb: &[u8]) -> Header {
        let mut header = [0; HEADER_BYTES];
        header[..2].copy_from_slice(&[0x01, flags | 0x01]);
        header[8..16].copy_from_slice(&self.lun);
        put(&mut header, 16, tag);
        put(&mut header, 20, expected);
        put(&mut header, 24, self.cmd_sn);
        put(&mut header, 28, self.stat_sn.wrapping_add(1));
        header[32..32 + cdb.len()].copy_from_slice(cdb);
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        header
    }

    /// A command that reads, alone.
    fn ask(&mut self, cdb: &[u8], room: u32) -> Result<(u8, Vec<u8>)> {
        let header = self.command(0, 0xc0, room, cdb);
        self.stream.write_all(&header).context("send a command")?;
        let mut all = Vec::new();
        loop {
            let (answer, data) = self.receive()?;
            match answer[0] {
                0x25 => {
                    all.extend(data);
                    if answer[1] & 1 != 0 {
                        return Ok((answer[3], all));
                    }
                }
                0x21 => return Ok((answer[3], all)),
                0x20 => {}
                other => bail!("a command is answered with {other:#x}"),
            }
        }
    }

    /// The size of the unit, once it has told what happened before.
    pub(super) fn size(&mut self) -> Result<u64> {
        for _ in 0..ATTENTIONS_MAX {
            if self.ask(&[0; 6], 0)?.0 == 0 {
                break;
            }
        }
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[13]) = (0x9e, 0x10, 32);
        let (status, data) = self.ask(&cdb, 32)?;
        ensure!(status == 0 && data.len() >= 12, "READ CAPACITY ended with {status:#x}");
        let last = u64::from(number(&data, 0)) << 32 | u64::from(number(&data, 4));
        let block = u64::from(number(&data, 8));
        ensure!(block == BLOCK_BYTES, "blocks of {block} bytes");
        Ok((last + 1) * block)
    }
}
