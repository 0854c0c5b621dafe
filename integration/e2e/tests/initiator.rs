//! An initiator of iSCSI for what no tool of Debian does: persistent reservations, and what a port says
//! of itself and of the others (SPC-4).
//!
//! Invariant: one command at a time; a unit attention is taken once, as every initiator does.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Statuses of SAM-5.
pub(crate) const GOOD: u8 = 0;
const CHECK_CONDITION: u8 = 2;
pub(crate) const RESERVATION_CONFLICT: u8 = 0x18;

/// Service actions of PERSISTENT RESERVE OUT.
const REGISTER: u8 = 0;
const REGISTER_AND_IGNORE: u8 = 6;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const PREEMPT_AND_ABORT: u8 = 5;
/// Of the types of a reservation: only who is registered writes.
const WRITE_EXCLUSIVE_REGISTRANTS_ONLY: u8 = 5;
/// WRITE of the first block.
const WRITE: [u8; 10] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
/// The tag of a ping.
const PING: u32 = 7;
/// The event of an asynchronous message that says that the connection will be dropped.
const DROPPED: u8 = 2;

/// What a command is told that shall take another way: NOT READY, and the port is in standby.
pub(crate) const STANDBY: (u8, u16) = (2, 0x040b);
/// UNIT ATTENTION: the ways to the unit are others now.
pub(crate) const WAYS_CHANGED: (u8, u16) = (6, 0x2a06);

/// Sense key of what a session is told once.
pub(crate) const UNIT_ATTENTION: u8 = 6;
/// MISCOMPARE: what was compared differs.
const MISCOMPARE: (u8, u16) = (0xe, 0x1d00);
/// DATA PROTECT: the medium takes no writes.
pub(crate) const WRITE_PROTECTED: (u8, u16) = (7, 0x2700);
/// UNIT ATTENTION: there are other units now.
pub(crate) const UNITS_CHANGED: (u8, u16) = (6, 0x3f0e);
/// ILLEGAL REQUEST: there is no such unit.
pub(crate) const NO_UNIT: (u8, u16) = (5, 0x2500);

/// States of a group of ports.
pub(crate) const OPTIMIZED: u8 = 0;
pub(crate) const STANDING_BY: u8 = 2;
pub(crate) const UNAVAILABLE: u8 = 3;

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: u8,
    /// Sense key and code, with CHECK CONDITION.
    pub(crate) sense: Option<(u8, u16)>,
    pub(crate) data: Vec<u8>,
}

impl Ended {
    /// What a response says, with the sense behind it.
    fn of(answer: &[u8; 48], behind: &[u8], data: Vec<u8>) -> Self {
        let sense = behind.get(2..).filter(|sense| sense.len() >= 14);
        let sense = sense.map(|sense| (sense[2] & 15, u16::from_be_bytes([sense[12], sense[13]])));
        Self { status: answer[3], sense, data }
    }
}

/// A session.
pub(crate) struct Initiator {
    stream: TcpStream,
    cmd_sn: u32,
    stat_sn: u32,
    /// The disk that its commands are for.
    pub(crate) lun: u8,
}

impl Initiator {
    /// Logs in to a target, without authentication. `name` is the end of the initiator's name.
    pub(crate) fn login(port: u16, name: &str, target: &str) -> Result<Self> {
        Self::begin(port, name, &[&format!("TargetName={target}"), "SessionType=Normal"])
    }

    /// The same with keys that it names itself.
    pub(crate) fn login_with(port: u16, name: &str, target: &str, keys: &[&str]) -> Result<Self> {
        let target = format!("TargetName={target}");
        Self::begin(port, name, &[&[target.as_str(), "SessionType=Normal"], keys].concat())
    }

    /// The connection, and the number of the next command: for what no initiator does.
    pub(crate) fn into_raw(self) -> (TcpStream, u32) {
        (self.stream, self.cmd_sn)
    }

    /// The portals of a target that a gateway tells in a discovery session, in its order; libiscsi
    /// turns them round.
    pub(crate) fn discover(port: u16, target: &str) -> Result<Vec<String>> {
        let mut session = Self::begin(port, "discovers", &["SessionType=Discovery"])?;
        let mut header = [0; 48];
        // An immediate text request, whole.
        header[..2].copy_from_slice(&[0x44, 0x80]);
        header[20..24].copy_from_slice(&[0xff; 4]);
        session.send(header, b"SendTargets=All\0")?;
        let (answer, text) = session.receive()?;
        ensure!(answer[..2] == [0x24, 0x80], "no whole answer to SendTargets: {answer:x?}");
        let text = String::from_utf8(text).context("keys and values")?;
        let name = format!("TargetName={target}");
        let of_target = text.split('\0').skip_while(|pair| *pair != name).skip(1);
        let portals = of_target.map_while(|pair| pair.strip_prefix("TargetAddress="));
        Ok(portals.map(str::to_owned).collect())
    }

    fn begin(port: u16, name: &str, more: &[&str]) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).context("connect")?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut session = Self { stream, cmd_sn: 1, stat_sn: 0, lun: 0 };
        let who = format!("InitiatorName=iqn.2026-01.com.example:{name}");
        let digests = more.iter().any(|key| key.starts_with("HeaderDigest="));
        let plain: &[&str] = if digests { &[] } else { &["HeaderDigest=None", "DataDigest=None"] };
        let keys = [who.as_str()].into_iter().chain(plain.iter().chain(more).copied());
        let text: Vec<u8> = keys.flat_map(|key| key.bytes().chain(std::iter::once(0))).collect();
        let mut header = [0; 48];
        // An immediate login request that goes from the operational stage to the full feature phase.
        header[..2].copy_from_slice(&[0x43, 0x87]);
        header[8] = 0x80;
        session.send(header, &text)?;
        let (answer, _) = session.receive()?;
        ensure!(answer[0] == 0x23, "no answer to a login: {:#x}", answer[0]);
        ensure!(answer[36] == 0, "login refused: {:#x}/{:#x}", answer[36], answer[37]);
        Ok(session)
    }

    fn send(&mut self, mut header: [u8; 48], data: &[u8]) -> Result<()> {
        let len = u32::try_from(data.len())?.to_be_bytes();
        header[5..8].copy_from_slice(&len[1..]);
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        header[28..32].copy_from_slice(&self.stat_sn.wrapping_add(1).to_be_bytes());
        let mut bytes = header.to_vec();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.stream.write_all(&bytes).context("send")
    }

    fn receive(&mut self) -> Result<([u8; 48], Vec<u8>)> {
        let mut header = [0; 48];
        self.stream.read_exact(&mut header).context("receive")?;
        let [_, a, b, c] = [0, header[5], header[6], header[7]];
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        let mut data = vec![0; len.next_multiple_of(4)];
        self.stream.read_exact(&mut data).context("receive data")?;
        data.truncate(len);
        self.stat_sn = u32::from_be_bytes([header[24], header[25], header[26], header[27]]);
        Ok((header, data))
    }

    /// Writes the first block, and pings while that is under way: how the write ended once the ping was
    /// answered; `None` when the gateway said that it drops the connection, and did, without an answer to
    /// it.
    pub(crate) fn write_beside_a_ping(&mut self) -> Result<Option<Ended>> {
        self.begin_command(&WRITE, &[7; 512], 0)?;
        let mut ping = [0; 48];
        ping[..2].copy_from_slice(&[0x40, 0x80]);
        ping[16..20].copy_from_slice(&PING.to_be_bytes());
        ping[20..24].copy_from_slice(&[0xff; 4]);
        self.send(ping, &[])?;
        let (mut is_heard, mut is_told) = (false, false);
        while let Ok((answer, data)) = self.receive() {
            match answer[0] {
                0x20 => is_heard |= answer[16..20] == PING.to_be_bytes(),
                0x32 => is_told |= answer[36] == DROPPED,
                0x21 => return Ok(Some(Ended::of(&answer, &data, Vec::new()))),
                other => bail!("an answer of another kind: {other:#x}"),
            }
        }
        ensure!(is_heard, "the ping was not answered before the connection ended");
        ensure!(is_told, "the connection ended without a word");
        Ok(None)
    }

    fn begin_command(&mut self, cdb: &[u8], out: &[u8], expects: u32) -> Result<()> {
        let mut header = [0; 48];
        let direction = if out.is_empty() { 0x40 } else { 0x20 };
        header[..2].copy_from_slice(&[0x01, 0x81 | direction]);
        header[9] = self.lun;
        let len = if out.is_empty() { expects } else { u32::try_from(out.len())? };
        header[20..24].copy_from_slice(&len.to_be_bytes());
        header[32..32 + cdb.len()].copy_from_slice(cdb);
        self.send(header, out)?;
        self.cmd_sn += 1;
        Ok(())
    }

    /// Sends a command with its data-out; answers the status and the data-in.
    fn command(&mut self, cdb: &[u8], out: &[u8], expects: u32) -> Result<(u8, Vec<u8>)> {
        let mut ended = self.once(cdb, out, expects)?;
        // What happened to the unit before is told once.
        if ended.status == CHECK_CONDITION {
            ended = self.once(cdb, out, expects)?;
        }
        Ok((ended.status, ended.data))
    }

    /// Sends a command with its data-out; answers how it ended, whatever that is.
    pub(crate) fn once(&mut self, cdb: &[u8], out: &[u8], expects: u32) -> Result<Ended> {
        self.begin_command(cdb, out, expects)?;
        let mut data_in = Vec::new();
        loop {
            let (answer, data) = self.receive()?;
            match answer[0] {
                0x21 => return Ok(Ended::of(&answer, &data, data_in)),
                0x25 => {
                    data_in.extend(data);
                    if answer[1] & 1 != 0 {
                        return Ok(Ended { status: answer[3], sense: None, data: data_in });
                    }
                }
                // A ping.
                0x20 => {}
                other => bail!("an answer of another kind: {other:#x}"),
            }
        }
    }

    /// PERSISTENT RESERVE OUT, once.
    fn reserve_once(&mut self, action: u8, kind: u8, keys: [u64; 2]) -> Result<Ended> {
        // APTPL: it is to outlive a loss of power.
        self.reserve_with(action, kind, keys, action == REGISTER)
    }

    fn reserve_with(
        &mut self,
        action: u8,
        kind: u8,
        keys: [u64; 2],
        outlives_power: bool,
    ) -> Result<Ended> {
        let mut list = [0; 24];
        list[..8].copy_from_slice(&keys[0].to_be_bytes());
        list[8..16].copy_from_slice(&keys[1].to_be_bytes());
        list[20] = u8::from(outlives_power);
        self.once(&[0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0], &list, 0)
    }

    fn reserve_out(&mut self, action: u8, kind: u8, keys: [u64; 2]) -> Result<()> {
        let mut ended = self.reserve_once(action, kind, keys)?;
        if ended.status == CHECK_CONDITION {
            ended = self.reserve_once(action, kind, keys)?;
        }
        ensure!(ended.status == GOOD, "PERSISTENT RESERVE OUT {action} ended with {ended:x?}");
        Ok(())
    }

    /// REGISTER, once: how it ends where it may not.
    pub(crate) fn register_once(&mut self, key: u64) -> Result<Ended> {
        self.reserve_once(REGISTER, 0, [0, key])
    }

    /// PREEMPT AND ABORT of whoever has that key.
    pub(crate) fn preempt(&mut self, key: u64, victim: u64) -> Result<()> {
        self.reserve_out(PREEMPT_AND_ABORT, WRITE_EXCLUSIVE_REGISTRANTS_ONLY, [key, victim])
    }

    pub(crate) fn register(&mut self, key: u64) -> Result<()> {
        self.reserve_out(REGISTER, 0, [0, key])
    }

    /// REGISTER AND IGNORE EXISTING KEY, until the power is lost.
    pub(crate) fn register_until_power_is_lost(&mut self, key: u64) -> Result<()> {
        self.ready()?;
        let ended = self.reserve_with(REGISTER_AND_IGNORE, 0, [0, key], false)?;
        ensure!(ended.status == GOOD, "REGISTER AND IGNORE ended with {ended:x?}");
        Ok(())
    }

    pub(crate) fn reserve(&mut self, key: u64) -> Result<()> {
        self.reserve_out(RESERVE, WRITE_EXCLUSIVE_REGISTRANTS_ONLY, [key, 0])
    }

    pub(crate) fn release(&mut self, key: u64) -> Result<()> {
        self.reserve_out(RELEASE, WRITE_EXCLUSIVE_REGISTRANTS_ONLY, [key, 0])
    }

    /// The keys that are registered.
    pub(crate) fn keys(&mut self) -> Result<Vec<u64>> {
        let (status, data) = self.command(&[0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0], &[], 256)?;
        ensure!(status == GOOD, "READ KEYS ended with {status:#x}");
        let (keys, _) = data.get(8..).unwrap_or_default().as_chunks::<8>();
        Ok(keys.iter().map(|key| u64::from_be_bytes(*key)).collect())
    }

    /// Writes the first block; answers the status.
    pub(crate) fn write(&mut self) -> Result<u8> {
        self.command(&WRITE, &[7; 512], 0).map(|(status, _)| status)
    }

    /// The same, once: what it is told first.
    pub(crate) fn write_once(&mut self) -> Result<Ended> {
        self.once(&WRITE, &[7; 512], 0)
    }

    /// TEST UNIT READY, once: what is in its way.
    pub(crate) fn ready(&mut self) -> Result<Option<(u8, u16)>> {
        Ok(self.once(&[0; 6], &[], 0)?.sense)
    }

    /// The names of the unit: its serial number, and its designators of kind NAA.
    pub(crate) fn names(&mut self) -> Result<(Vec<u8>, Vec<u8>)> {
        let (status, serial) = self.command(&[0x12, 1, 0x80, 0, 255, 0], &[], 255)?;
        ensure!(status == GOOD, "INQUIRY ended with {status:#x}");
        let (status, names) = self.command(&[0x12, 1, 0x83, 0, 255, 0], &[], 255)?;
        ensure!(status == GOOD, "INQUIRY ended with {status:#x}");
        // NAA comes first: a descriptor of 4 bytes and a name of 8.
        Ok((serial[4..].to_vec(), names[8..16].to_vec()))
    }

    /// Every group of ports, its state and its ports.
    pub(crate) fn ways(&mut self) -> Result<Vec<(u16, u8, Vec<u16>)>> {
        let cdb = [0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0];
        let (status, data) = self.command(&cdb, &[], 1024)?;
        ensure!(status == GOOD, "REPORT TARGET PORT GROUPS ended with {status:#x}");
        let short = |at: &[u8]| u16::from_be_bytes([at[0], at[1]]);
        let (mut groups, mut rest) = (Vec::new(), data.get(4..).unwrap_or_default());
        while let Some((group, behind)) = rest.split_at_checked(8) {
            let (ports, behind) = behind.split_at(4 * usize::from(group[7]));
            let ports = ports.chunks(4).map(|port| short(&port[2..])).collect();
            groups.push((short(&group[2..]), group[0] & 0x0f, ports));
            rest = behind;
        }
        Ok(groups)
    }

    /// Reads blocks of 512 bytes from the first on.
    pub(crate) fn read(&mut self, blocks: u8) -> Result<Vec<u8>> {
        let cdb = [0x28, 0, 0, 0, 0, 0, 0, 0, blocks, 0];
        let (status, data) = self.command(&cdb, &[], u32::from(blocks) * 512)?;
        ensure!(status == GOOD, "READ ended with {status:#x}");
        Ok(data)
    }

    /// COMPARE AND WRITE from the first block on: whether the blocks were as expected, and were
    /// replaced.
    pub(crate) fn compare_and_write(&mut self, old: &[u8], new: &[u8]) -> Result<bool> {
        let blocks = u8::try_from(old.len() / 512)?;
        let mut cdb = [0; 16];
        (cdb[0], cdb[13]) = (0x89, blocks);
        let data = [old, new].concat();
        loop {
            let ended = self.once(&cdb, &data, 0)?;
            match (ended.status, ended.sense) {
                (GOOD, _) => return Ok(true),
                (CHECK_CONDITION, Some(MISCOMPARE)) => return Ok(false),
                // It tells of what happened before the command, which was not begun.
                (CHECK_CONDITION, Some((UNIT_ATTENTION, _))) => {}
                _ => bail!("COMPARE AND WRITE ended with {ended:x?}"),
            }
        }
    }

    /// MODE SENSE: whether the medium is protected from writes.
    pub(crate) fn is_protected(&mut self) -> Result<bool> {
        let (status, data) = self.command(&[0x1a, 0x08, 0x3f, 0, 255, 0], &[], 255)?;
        ensure!(status == GOOD, "MODE SENSE ended with {status:#x}");
        Ok(data.get(2).context("a header")? & 0x80 != 0)
    }

    /// The kind of device that INQUIRY tells, with its qualifier.
    pub(crate) fn device(&mut self) -> Result<u8> {
        let ended = self.once(&[0x12, 0, 0, 0, 96, 0], &[], 96)?;
        ensure!(ended.status == GOOD, "INQUIRY ended with {:#x}", ended.status);
        ended.data.first().copied().context("an answer")
    }
}
