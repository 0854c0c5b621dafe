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
const RESERVE: u8 = 1;
/// Of the types of a reservation: only who is registered writes.
const WRITE_EXCLUSIVE_REGISTRANTS_ONLY: u8 = 5;
/// WRITE of the first block.
const WRITE: [u8; 10] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// What a command is told that shall take another way: NOT READY, and the port is in standby.
pub(crate) const STANDBY: (u8, u16) = (2, 0x040b);
/// UNIT ATTENTION: the ways to the unit are others now.
pub(crate) const WAYS_CHANGED: (u8, u16) = (6, 0x2a06);

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

/// A session.
pub(crate) struct Initiator {
    stream: TcpStream,
    cmd_sn: u32,
    stat_sn: u32,
}

impl Initiator {
    /// Logs in to a target, without authentication. `name` is the end of the initiator's name.
    pub(crate) fn login(port: u16, name: &str, target: &str) -> Result<Self> {
        Self::begin(port, name, &[&format!("TargetName={target}"), "SessionType=Normal"])
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
        let mut session = Self { stream, cmd_sn: 1, stat_sn: 0 };
        let keys = [
            format!("InitiatorName=iqn.2026-01.com.example:{name}"),
            "HeaderDigest=None".to_owned(),
            "DataDigest=None".to_owned(),
        ];
        let keys = keys.iter().map(String::as_str).chain(more.iter().copied());
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
        let mut header = [0; 48];
        let direction = if out.is_empty() { 0x40 } else { 0x20 };
        header[..2].copy_from_slice(&[0x01, 0x81 | direction]);
        let len = if out.is_empty() { expects } else { u32::try_from(out.len())? };
        header[20..24].copy_from_slice(&len.to_be_bytes());
        header[32..32 + cdb.len()].copy_from_slice(cdb);
        self.send(header, out)?;
        self.cmd_sn += 1;
        let mut data_in = Vec::new();
        loop {
            let (answer, data) = self.receive()?;
            match answer[0] {
                0x21 => {
                    let sense = data.get(2..).filter(|sense| sense.len() >= 14);
                    let sense = sense
                        .map(|sense| (sense[2] & 15, u16::from_be_bytes([sense[12], sense[13]])));
                    return Ok(Ended { status: answer[3], sense, data: data_in });
                }
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

    fn reserve_out(&mut self, action: u8, kind: u8, keys: [u64; 2]) -> Result<()> {
        let mut list = [0; 24];
        list[..8].copy_from_slice(&keys[0].to_be_bytes());
        list[8..16].copy_from_slice(&keys[1].to_be_bytes());
        // APTPL: it is to outlive a loss of power.
        list[20] = u8::from(action == REGISTER);
        let cdb = [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0];
        let (status, _) = self.command(&cdb, &list, 0)?;
        ensure!(status == GOOD, "PERSISTENT RESERVE OUT {action} ended with {status:#x}");
        Ok(())
    }

    pub(crate) fn register(&mut self, key: u64) -> Result<()> {
        self.reserve_out(REGISTER, 0, [0, key])
    }

    pub(crate) fn reserve(&mut self, key: u64) -> Result<()> {
        self.reserve_out(RESERVE, WRITE_EXCLUSIVE_REGISTRANTS_ONLY, [key, 0])
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
}
