//! An initiator, as far as tests need one; it can be told to lie.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use twinspan_iscsi::wire::{
    Header, LoginStatus, NO_TAG, Request, Response, Stamp, crc, padding, text,
};
use zerocopy::IntoBytes;

use crate::rig::TARGET;

/// What did not come by then never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection.
pub(crate) struct Initiator {
    pub(crate) stream: TcpStream,
    pub(crate) cmd_sn: u32,
    pub(crate) exp_stat_sn: u32,
    pub(crate) tag: u32,
    pub(crate) digests: (bool, bool),
    /// What it was told of the window.
    pub(crate) stamp: Stamp,
    /// What the target agreed to.
    pub(crate) said: Vec<String>,
    /// Its own number.
    pub(crate) isid: u8,
    /// The disk that its commands are for.
    pub(crate) lun: u8,
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) status: u8,
    /// Sense key and code.
    pub(crate) sense: Option<(u8, u16)>,
    pub(crate) data: Vec<u8>,
    /// Bytes that the command would have transferred beyond what was announced; negative for those that
    /// were announced and not transferred.
    pub(crate) residual: i64,
}

/// A residual as it is told, which is of one kind or none.
fn residual((overflow, underflow, bytes): (bool, bool, u32)) -> i64 {
    match (overflow, underflow) {
        (true, false) => i64::from(bytes),
        (false, true) => -i64::from(bytes),
        (false, false) => {
            assert_eq!(bytes, 0);
            0
        }
        (true, true) => panic!("both too much and too little"),
    }
}

impl Initiator {
    pub(crate) async fn call(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self {
            stream,
            cmd_sn: 100,
            exp_stat_sn: 0,
            tag: 1,
            digests: (false, false),
            stamp: Stamp::default(),
            said: Vec::new(),
            isid: 1,
            lun: 0,
        }
    }

    /// A session with the target, with these keys.
    pub(crate) async fn login(address: SocketAddr, keys: &[&str]) -> Self {
        Self::login_as(address, 1, keys).await
    }

    /// The same, of the initiator port with this number.
    pub(crate) async fn login_as(address: SocketAddr, isid: u8, keys: &[&str]) -> Self {
        let mut initiator = Self { isid, ..Self::call(address).await };
        let target = format!("TargetName={TARGET}");
        let all = [&["InitiatorName=iqn.i:test", &target], keys].concat();
        assert_eq!(initiator.log_in(&all).await, LoginStatus::Success);
        // A new nexus is told so once.
        let ended = initiator.command([0; 16], 0, &[]).await;
        assert_eq!((ended.status, ended.sense), (2, Some((6, 0x2900))));
        initiator
    }

    /// Two sessions with the target, of two initiator ports.
    pub(crate) async fn login_two(address: SocketAddr, keys: &[&str]) -> (Self, Self) {
        (Self::login(address, keys).await, Self::login_as(address, 2, keys).await)
    }

    pub(crate) async fn log_in(&mut self, keys: &[&str]) -> LoginStatus {
        let request = Request::Login {
            transit: true,
            more: false,
            stage: 1,
            next_stage: 3,
            version_max: 0,
            version_min: 0,
            isid: [0x80, 0, 0, 0, 0, self.isid],
            tsih: 0,
            tag: 0,
            connection: 0,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
        };
        let mut data = Vec::new();
        for pair in keys {
            data.extend_from_slice(pair.as_bytes());
            data.push(0);
        }
        self.send(&request.encode(true), &data).await;
        let (response, data) = self.receive().await.unwrap();
        let Response::Login { status, tsih, .. } = response else { panic!("{response:?}") };
        assert!(status != LoginStatus::Success || tsih != 0);
        let pairs = text::parse(&data).unwrap();
        self.said = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let on = |key: &str| self.said.iter().any(|said| *said == format!("{key}=CRC32C"));
        self.digests = (on("HeaderDigest"), on("DataDigest"));
        status
    }

    pub(crate) fn bytes(&self, header: &Header, data: &[u8]) -> Vec<u8> {
        let len = u32::try_from(data.len()).unwrap();
        let header = header.with_data_len(len);
        let mut out = header.as_bytes().to_vec();
        if self.digests.0 {
            out.extend(crc(header.as_bytes()));
        }
        let mut padded = data.to_vec();
        padded.resize(data.len() + padding(data.len()), 0);
        out.extend(&padded);
        if self.digests.1 && !data.is_empty() {
            out.extend(crc(&padded));
        }
        out
    }

    pub(crate) async fn send(&mut self, header: &Header, data: &[u8]) {
        let bytes = self.bytes(header, data);
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// The next PDU; `None` when the target closed the connection.
    pub(crate) async fn receive(&mut self) -> Option<(Response, Vec<u8>)> {
        let mut head = vec![0; if self.digests.0 { 52 } else { 48 }];
        self.stream.read_exact(&mut head).await.ok()?;
        let header = Header::read(&head).unwrap();
        if self.digests.0 {
            assert_eq!(crc(&head[..48]), head[48..]);
        }
        let len = header.data_len();
        let mut data = vec![0; len + padding(len)];
        self.stream.read_exact(&mut data).await.ok()?;
        if self.digests.1 && len > 0 {
            let mut digest = [0; 4];
            self.stream.read_exact(&mut digest).await.ok()?;
            assert_eq!(crc(&data), digest);
        }
        data.truncate(len);
        let (response, stamp) = Response::decode(&header).unwrap();
        if response.counts() {
            self.exp_stat_sn = stamp.stat_sn.wrapping_add(1);
        }
        self.stamp = stamp;
        Some((response, data))
    }

    /// Whether the target closes the connection, whatever it still says.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let closes = async {
            while let Some(said) = self.receive().await {
                drop(said);
            }
        };
        tokio::time::timeout(PATIENCE, closes).await.is_ok()
    }

    /// The next PDU, which does not wait for anything that the test does later.
    pub(crate) async fn receive_by_itself(&mut self) -> Response {
        let received = tokio::time::timeout(PATIENCE, self.receive()).await;
        received.expect("it waits for more").expect("the session goes on").0
    }

    pub(crate) fn command_of(&mut self, cdb: [u8; 16], read: u32, write: u32) -> Request {
        let (tag, cmd_sn) = (self.tag, self.cmd_sn);
        self.tag += 1;
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        Request::Command {
            lun: [0, self.lun, 0, 0, 0, 0, 0, 0],
            tag,
            read: read > 0,
            write: write > 0,
            is_final: true,
            attribute: 1,
            expected: read.max(write),
            cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            cdb,
        }
    }

    /// A command with so much of its data in the first PDU, and none unasked behind it.
    pub(crate) async fn command_with(
        &mut self,
        cdb: [u8; 16],
        (read, write): (u32, &[u8]),
        immediate: usize,
    ) -> Ended {
        let len = u32::try_from(write.len()).unwrap();
        let request = self.command_of(cdb, read, len);
        self.send(&request.encode(false), &write[..immediate.min(write.len())]).await;
        self.finish(write).await
    }

    pub(crate) async fn command(&mut self, cdb: [u8; 16], read: u32, write: &[u8]) -> Ended {
        self.command_with(cdb, (read, write), 0).await
    }

    /// Gives what is asked for, until the command has ended.
    pub(crate) async fn finish(&mut self, write: &[u8]) -> Ended {
        let mut came = Vec::new();
        loop {
            let (response, data) = self.receive().await.expect("the session goes on");
            match response {
                Response::ReadyToTransfer { tag, target_tag, offset, len, .. } => {
                    let range = offset as usize..(offset + len) as usize;
                    self.give((tag, target_tag), offset, &write[range]).await;
                }
                Response::DataIn { status, offset, .. } => {
                    assert_eq!(offset as usize, came.len());
                    came.extend(data);
                    if let Some((status, overflow, underflow, bytes)) = status {
                        let residual = residual((overflow, underflow, bytes));
                        return Ended { status, sense: None, data: came, residual };
                    }
                }
                Response::Command { status, overflow, underflow, residual: bytes, .. } => {
                    let residual = residual((overflow, underflow, bytes));
                    let sense = data
                        .get(2..)
                        .filter(|sense| !sense.is_empty())
                        .map(|sense| (sense[2] & 15, u16::from_be_bytes([sense[12], sense[13]])));
                    return Ended { status, sense, data: came, residual };
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Sends one sequence of data, in pieces.
    pub(crate) async fn give(&mut self, (tag, target_tag): (u32, u32), from: u32, data: &[u8]) {
        const PIECE: usize = 50_000;
        let count = data.chunks(PIECE).len();
        for (index, piece) in data.chunks(PIECE).enumerate() {
            let number = u32::try_from(index).unwrap();
            let request = Request::DataOut {
                is_final: index + 1 == count,
                tag,
                target_tag,
                exp_stat_sn: self.exp_stat_sn,
                data_sn: number,
                offset: from + number * u32::try_from(PIECE).unwrap(),
            };
            self.send(&request.encode(false), piece).await;
        }
    }

    /// A ping; whether it was answered with what it carried.
    pub(crate) async fn ping(&mut self, data: &[u8]) {
        let request = Request::NopOut {
            lun: [0; 8],
            tag: 0x7000,
            target_tag: NO_TAG,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
        };
        self.send(&request.encode(true), data).await;
        let (response, back) = self.receive().await.unwrap();
        assert!(matches!(response, Response::NopIn { tag: 0x7000, .. }), "{response:?}");
        assert_eq!(back, data);
    }
}

/// The parameter list of an UNMAP of 4 KiB at each of these blocks.
pub(crate) fn unmap(lbas: &[u64]) -> Vec<u8> {
    let len = u16::try_from(16 * lbas.len()).unwrap();
    let mut list = [(len + 6).to_be_bytes(), len.to_be_bytes(), [0; 2], [0; 2]].concat();
    for lba in lbas {
        list.extend(lba.to_be_bytes());
        list.extend(8u32.to_be_bytes());
        list.extend([0; 4]);
    }
    list
}

/// COMPARE AND WRITE of the first block.
pub(crate) fn compare_and_write() -> [u8; 16] {
    let mut compare = cdb(0x89, 0, 0);
    compare[13] = 1;
    compare
}

/// READ (10) or WRITE (10), or another command whose length stands in the same place.
pub(crate) fn cdb(opcode: u8, lba: u32, blocks: u16) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

pub(crate) const READ: u8 = 0x28;
pub(crate) const WRITE: u8 = 0x2a;
pub(crate) const UNMAP: u8 = 0x42;
