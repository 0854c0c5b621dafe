//! An initiator of iSCSI for what no tool of Debian does: persistent reservations (SPC-4).
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

/// A session.
pub(crate) struct Initiator {
    stream: TcpStream,
    cmd_sn: u32,
    stat_sn: u32,
}

impl Initiator {
    /// Logs in to a target, without authentication. `name` is the end of the initiator's name.
    pub(crate) fn login(port: u16, name: &str, target: &str) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).context("connect")?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut session = Self { stream, cmd_sn: 1, stat_sn: 0 };
        let keys = [
            format!("InitiatorName=iqn.2026-01.com.example:{name}"),
            format!("TargetName={target}"),
            "SessionType=Normal".to_owned(),
            "HeaderDigest=None".to_owned(),
            "DataDigest=None".to_owned(),
        ];
        let text: Vec<u8> =
            keys.iter().flat_map(|key| key.bytes().chain(std::iter::once(0))).collect();
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
        let (status, data) = self.once(cdb, out, expects)?;
        // What happened to the unit before is told once.
        if status == CHECK_CONDITION { self.once(cdb, out, expects) } else { Ok((status, data)) }
    }

    fn once(&mut self, cdb: &[u8], out: &[u8], expects: u32) -> Result<(u8, Vec<u8>)> {
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
                0x21 => return Ok((answer[3], data_in)),
                0x25 => {
                    data_in.extend(data);
                    if answer[1] & 1 != 0 {
                        return Ok((answer[3], data_in));
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
        let cdb = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        self.command(&cdb, &[7; 512], 0).map(|(status, _)| status)
    }
}
