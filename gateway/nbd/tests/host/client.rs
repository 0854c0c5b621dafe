//! A client that says exactly what it is told to say, true or not.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::rig::Rig;

pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// Long enough for a busy machine, short enough for a test.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Client {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) extended: bool,
    pub(crate) size: u64,
    pub(crate) flags: u16,
}

/// A reply, of whatever style.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Simple { cookie: u64, error: u32 },
    Chunk { cookie: u64, last: bool, kind: u16, data: Vec<u8> },
}

pub(crate) fn unix(rig: &Rig) -> UnixStream {
    let stream = UnixStream::connect(&rig.unix).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub(crate) fn tcp(rig: &Rig) -> TcpStream {
    let stream = TcpStream::connect(rig.tcp).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Half a connection more: to hang up on one side.
pub(crate) fn unix_pair(rig: &Rig) -> (Client, UnixStream) {
    let stream = unix(rig);
    let other = stream.try_clone().unwrap();
    (Client::over(stream), other)
}

pub(crate) fn hang_up(stream: &UnixStream) {
    stream.shutdown(Shutdown::Both).unwrap();
}

pub(crate) fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend(data);
    bytes
}

pub(crate) fn go_data(name: &str) -> Vec<u8> {
    let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend([0, 0]);
    data
}

pub(crate) fn context_data(name: &str, query: &str) -> Vec<u8> {
    let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend(1u32.to_be_bytes());
    data.extend(u32::try_from(query.len()).unwrap().to_be_bytes());
    data.extend(query.as_bytes());
    data
}

impl Client {
    pub(crate) fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), extended: false, size: 0, flags: 0 }
    }

    /// In transmission, with these options before `GO`.
    pub(crate) fn open(stream: impl Stream + 'static, options: &[u32]) -> Self {
        let mut client = Self::over(stream);
        client.greet();
        client.start("disk", options);
        client
    }

    pub(crate) fn structured(rig: &Rig) -> Self {
        Self::open(unix(rig), &[8])
    }

    pub(crate) fn extended(rig: &Rig) -> Self {
        Self::open(unix(rig), &[11])
    }

    pub(crate) fn greet(&mut self) {
        let greeting = self.take(18);
        assert_eq!(greeting, b"NBDMAGICIHAVEOPT\0\x03");
        self.send(&3u32.to_be_bytes());
    }

    pub(crate) fn start(&mut self, name: &str, options: &[u32]) {
        for number in options {
            assert_eq!(self.ask(*number, b"").last().unwrap().0, 1);
            if *number == 11 {
                self.extended = true;
            }
        }
        if !options.is_empty() {
            assert_eq!(self.ask(10, &context_data(name, "base:allocation")).len(), 2);
        }
        let infos = self.ask(7, &go_data(name));
        assert_eq!(infos.last().unwrap().0, 1, "{infos:?}");
        let info = infos.iter().find(|(_, data)| data.starts_with(&[0, 0])).unwrap();
        self.size = u64::from_be_bytes(info.1[2..10].try_into().unwrap());
        self.flags = u16::from_be_bytes(info.1[10..12].try_into().unwrap());
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Whether the server has closed the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// Sends an option and collects its answers.
    pub(crate) fn ask(&mut self, number: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send(&option(number, data));
        let mut answers = Vec::new();
        loop {
            let head = self.take(20);
            assert_eq!(head[..8], 0x0003_e889_0455_65a9u64.to_be_bytes());
            let reply = u32::from_be_bytes(head[12..16].try_into().unwrap());
            let len = u32::from_be_bytes(head[16..20].try_into().unwrap());
            let data = self.take(len as usize);
            answers.push((reply, data));
            if reply == 1 || reply >> 31 == 1 {
                return answers;
            }
        }
    }

    /// The bytes of a request's header.
    pub(crate) fn header(
        &self,
        (command, flags): (u16, u16),
        cookie: u64,
        (at, len): (u64, u64),
    ) -> Vec<u8> {
        let magic: u32 = if self.extended { 0x21e4_1c71 } else { 0x2560_9513 };
        let mut bytes = magic.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(at.to_be_bytes());
        if self.extended {
            bytes.extend(len.to_be_bytes());
        } else {
            bytes.extend(u32::try_from(len).unwrap().to_be_bytes());
        }
        bytes
    }

    pub(crate) fn request(&mut self, command: (u16, u16), cookie: u64, range: (u64, u64)) {
        let header = self.header(command, cookie, range);
        self.send(&header);
    }

    pub(crate) fn write(&mut self, cookie: u64, at: u64, data: &[u8]) {
        let flags = if self.extended { 32 } else { 0 };
        let mut bytes = self.header((1, flags), cookie, (at, data.len() as u64));
        bytes.extend(data);
        self.send(&bytes);
    }

    /// The next reply; a simple one without its data.
    pub(crate) fn reply(&mut self) -> Reply {
        let magic = self.take(4);
        if magic == 0x6744_6698u32.to_be_bytes() {
            assert!(!self.extended, "an extended client never gets a simple reply");
            let rest = self.take(12);
            return Reply::Simple {
                error: u32::from_be_bytes(rest[..4].try_into().unwrap()),
                cookie: u64::from_be_bytes(rest[4..].try_into().unwrap()),
            };
        }
        let expected: u32 = if self.extended { 0x6e8a_278c } else { 0x668e_33ef };
        assert_eq!(magic, expected.to_be_bytes());
        let rest = self.take(if self.extended { 28 } else { 16 });
        let len = if self.extended {
            u64::from_be_bytes(rest[20..].try_into().unwrap())
        } else {
            u32::from_be_bytes(rest[12..].try_into().unwrap()).into()
        };
        Reply::Chunk {
            last: rest[1] == 1,
            kind: u16::from_be_bytes(rest[2..4].try_into().unwrap()),
            cookie: u64::from_be_bytes(rest[4..12].try_into().unwrap()),
            data: self.take(usize::try_from(len).unwrap()),
        }
    }

    /// The error number of the next reply, 0 for success.
    pub(crate) fn outcome(&mut self) -> u32 {
        match self.reply() {
            Reply::Simple { error, .. } => error,
            Reply::Chunk { last, kind, data, .. } => {
                assert!(last);
                if kind >> 15 == 0 { 0 } else { u32::from_be_bytes(data[..4].try_into().unwrap()) }
            }
        }
    }

    /// Reads, with chunks or without, and puts the pieces together.
    pub(crate) fn read(&mut self, cookie: u64, at: u64, len: usize, chunks: bool) -> Vec<u8> {
        self.request((0, 0), cookie, (at, len as u64));
        if !chunks {
            assert_eq!(self.reply(), Reply::Simple { cookie, error: 0 });
            return self.take(len);
        }
        let mut found = vec![0xff; len];
        let mut covered = 0;
        loop {
            let Reply::Chunk { cookie: told, last, kind, data } = self.reply() else {
                panic!("a simple reply to a read");
            };
            assert_eq!(told, cookie);
            let start = u64::from_be_bytes(data[..8].try_into().unwrap());
            let start = usize::try_from(start - at).unwrap();
            let piece = if kind == 1 {
                data[8..].to_vec()
            } else {
                assert_eq!(kind, 2);
                vec![0; u32::from_be_bytes(data[8..].try_into().unwrap()) as usize]
            };
            found[start..start + piece.len()].copy_from_slice(&piece);
            covered += piece.len();
            if last {
                assert_eq!(covered, len);
                return found;
            }
        }
    }
}
