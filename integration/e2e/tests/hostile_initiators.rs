//! Initiators that do what nobody should, round after round: what they took of memory comes back, and a
//! session beside them notices nothing.
//!
//! Invariant: every round does the same as the one before, under names that were never used before, so
//! that whatever the gateway keeps of it grows with the rounds.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Site, wait_for};
use tempfile::TempDir;

use crate::initiator::{GOOD, Initiator};
use crate::iscsi::{OPEN, PREFIX, served};

/// What is done again and again.
struct Rounds {
    /// Rounds until memory has the shape that it keeps: buffers that threads keep are there, and the
    /// allocator has its arenas.
    warm_up: usize,
    /// Rounds that are compared with those before them.
    compared: usize,
    /// Connections of each kind in a round.
    each: usize,
    kinds: &'static [Kind],
}

/// One that is hostile, in one way.
type Kind = (&'static str, fn(&Hostile) -> Result<TcpStream>);

/// Of so many rounds the least is taken: memory that was just given back is not always back yet.
const LEAST_OF: usize = 16;
/// What the allocator keeps back at one time and not at another: up to 8 MiB were seen.
const NOISE_BYTES: usize = 12 << 20;

/// All that there are, with as much data as they may have under way. A connection has a buffer of 256
/// KiB, so one that leaked in each round would be 16 MiB.
const ALL: Rounds = Rounds {
    warm_up: 32,
    compared: 64,
    each: 4,
    kinds: &[
        ("half", Hostile::half_open),
        ("garbage", Hostile::garbage),
        ("keys", Hostile::many_keys),
        ("header", |one| one.huge_header(false)),
        ("long", |one| one.huge_header(true)),
        ("digest", Hostile::wrong_digest),
        ("promises", Hostile::promises),
        ("takes", Hostile::takes_nothing),
        ("flood", Hostile::flood),
        ("slow", Hostile::slow),
        ("text", Hostile::endless_text),
    ],
};

/// Those that cost little, so many of them that a kibibyte of each would show.
const MANY: Rounds = Rounds {
    warm_up: 16,
    compared: 128,
    each: 16,
    kinds: &[
        ("half", Hostile::half_open),
        ("garbage", Hostile::garbage),
        ("keys", Hostile::many_keys),
        ("header", |one| one.huge_header(false)),
        ("long", |one| one.huge_header(true)),
        ("digest", Hostile::wrong_digest),
        ("slow", Hostile::slow),
        ("text", Hostile::endless_text),
    ],
};
const LEAK_BYTES: usize = 1 << 10;
const _: () = assert!(LEAK_BYTES * MANY.compared_connections() > NOISE_BYTES);

/// Sessions end when their connection does, or at the next look of the slow eye.
const ENDED: Duration = Duration::from_secs(60);
const MIB: u32 = 1 << 20;

/// A PDU, with the number of a command where one has to stand.
fn pdu(opcode: u8, flags: u8, cmd_sn: u32, data_len: u32) -> [u8; 48] {
    let mut header = [0; 48];
    (header[0], header[1]) = (opcode, flags);
    header[4..8].copy_from_slice(&data_len.to_be_bytes());
    header[16..20].copy_from_slice(&cmd_sn.to_be_bytes());
    header[20..24].copy_from_slice(&[0xff; 4]);
    header[24..28].copy_from_slice(&cmd_sn.to_be_bytes());
    header
}

/// READ(10) or WRITE(10) of a mebibyte.
fn access(opcode: u8, flags: u8, cmd_sn: u32) -> [u8; 48] {
    let mut header = pdu(0x01, flags, cmd_sn, 0);
    header[20..24].copy_from_slice(&MIB.to_be_bytes());
    header[32] = opcode;
    header[39..41].copy_from_slice(&2048u16.to_be_bytes());
    header
}

/// Waits until it is answered, and leaves the rest of the answers where they are: closed then, the
/// connection is reset, which the gateway notices at once. One that was only closed would be waited for
/// as long as its commands may take.
fn answered(stream: &mut TcpStream) -> Result<()> {
    stream.read_exact(&mut [0; 48]).context("the first answer")
}

/// One that is hostile: logs in under a name of its own if it wants to.
struct Hostile {
    port: u16,
    name: String,
}

impl Hostile {
    fn call(&self) -> Result<TcpStream> {
        TcpStream::connect(("127.0.0.1", self.port)).context("connect")
    }

    fn login(&self, keys: &[&str]) -> Result<(TcpStream, u32)> {
        let target = format!("{PREFIX}:orders");
        Ok(Initiator::login_with(self.port, &self.name, &target, keys)?.into_raw())
    }

    /// It begins a login and never goes on.
    fn half_open(&self) -> Result<TcpStream> {
        let mut stream = self.call()?;
        stream.write_all(&pdu(0x43, 0x87, 0, 100)[..20])?;
        Ok(stream)
    }

    fn garbage(&self) -> Result<TcpStream> {
        let mut stream = self.call()?;
        let bytes: Vec<u8> = (0..40_000_u32).map(|n| n.to_le_bytes()[0] ^ 0x5a).collect();
        // It may hang up in the middle of it.
        let _sent = stream.write_all(&bytes);
        Ok(stream)
    }

    /// A login of more keys and longer values than there are.
    fn many_keys(&self) -> Result<TcpStream> {
        let mut stream = self.call()?;
        let text: String = (0..400).map(|n| format!("X-{n}={}\0", "v".repeat(300))).collect();
        for piece in text.as_bytes().chunks(8000) {
            let len = u32::try_from(piece.len())?;
            let mut bytes = pdu(0x43, 0x44, 0, len).to_vec();
            bytes.extend(piece);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            if stream.write_all(&bytes).is_err() {
                break;
            }
        }
        Ok(stream)
    }

    fn huge_header(&self, logged_in: bool) -> Result<TcpStream> {
        let (mut stream, cmd_sn) = if logged_in { self.login(&[])? } else { (self.call()?, 0) };
        let mut header = pdu(if logged_in { 0x01 } else { 0x43 }, 0x80, cmd_sn, 0);
        header[4] = 255;
        let _sent = stream.write_all(&[&header[..], &[7; 900]].concat());
        Ok(stream)
    }

    fn wrong_digest(&self) -> Result<TcpStream> {
        let (mut stream, cmd_sn) = self.login(&["HeaderDigest=CRC32C", "DataDigest=CRC32C"])?;
        let ping = [&pdu(0x40, 0x80, cmd_sn, 8)[..], b"digest??", b"12345678"].concat();
        let _sent = stream.write_all(&ping);
        Ok(stream)
    }

    /// It announces as much as it may, and sends nothing of it.
    fn promises(&self) -> Result<TcpStream> {
        let (mut stream, first) = self.login(&["InitialR2T=Yes", "ImmediateData=No"])?;
        let all: Vec<u8> = (0..64).flat_map(|n| access(0x2a, 0xa1, first + n)).collect();
        stream.write_all(&all)?;
        answered(&mut stream)?;
        Ok(stream)
    }

    /// It asks for much, and takes nothing of it.
    fn takes_nothing(&self) -> Result<TcpStream> {
        let (mut stream, first) = self.login(&[])?;
        let all: Vec<u8> = (0..64).flat_map(|n| access(0x28, 0xc1, first + n)).collect();
        stream.write_all(&all)?;
        answered(&mut stream)?;
        Ok(stream)
    }

    /// As many pings as the connection takes, and no answer is read.
    fn flood(&self) -> Result<TcpStream> {
        let (mut stream, cmd_sn) = self.login(&[])?;
        stream.set_nonblocking(true)?;
        let mut ping = pdu(0x40, 0x80, cmd_sn, 8000).to_vec();
        ping.resize(48 + 8000, 1);
        for _ in 0..1000 {
            match stream.write_all(&ping) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("flood"),
            }
        }
        stream.set_nonblocking(false)?;
        answered(&mut stream)?;
        Ok(stream)
    }

    /// Byte by byte, and never to the end.
    fn slow(&self) -> Result<TcpStream> {
        let (mut stream, cmd_sn) = self.login(&[])?;
        stream.set_nodelay(true)?;
        for byte in &access(0x2a, 0xa1, cmd_sn)[..47] {
            stream.write_all(&[*byte])?;
        }
        Ok(stream)
    }

    /// Text that goes on for ever.
    fn endless_text(&self) -> Result<TcpStream> {
        let (mut stream, cmd_sn) = self.login(&[])?;
        for _ in 0..8 {
            let mut bytes = pdu(0x44, 0x40, cmd_sn, 8000).to_vec();
            bytes.resize(48 + 8000, b'x');
            if stream.write_all(&bytes).is_err() {
                break;
            }
        }
        Ok(stream)
    }
}

impl Rounds {
    /// Connections between the least of the first rounds and the least of the last.
    const fn compared_connections(&self) -> usize {
        (self.compared - LEAST_OF) * self.each * self.kinds.len()
    }

    /// One round: all kinds at once, some of each.
    fn run(&self, port: u16, number: usize) -> Result<()> {
        let mut open = Vec::new();
        for each in 0..self.each {
            for (kind, begin) in self.kinds {
                open.push(begin(&Hostile { port, name: format!("{kind}-{number}-{each}") })?);
            }
        }
        // What is not read when it is closed resets the connection.
        drop(open);
        Ok(())
    }
}

/// Writes and reads back all the time; how often, when it is told to stop.
fn honest(port: u16, stop: Arc<AtomicBool>) -> Result<JoinHandle<Result<u64>>> {
    let mut session = Initiator::login(port, "honest", &format!("{PREFIX}:orders"))?;
    Ok(std::thread::spawn(move || {
        let mut done = 0;
        while !stop.load(Ordering::Relaxed) {
            ensure!(session.write()? == GOOD, "a write failed");
            ensure!(session.read(1)? == [7; 512], "it reads what it did not write");
            done += 1;
        }
        Ok(done)
    }))
}

/// The sum of a metric over all its labels that say `proto="iscsi"`, or its only value.
fn metric(site: &Site, name: &str) -> Result<f64> {
    let page = site.metrics()?;
    let of = page.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| {
            rest.starts_with(' ') || rest.starts_with('{') && rest.contains("proto=\"iscsi\"")
        })
    });
    let values = of.map(|line| {
        let value = line.rsplit(' ').next().unwrap_or_default();
        value.parse::<f64>().with_context(|| line.to_owned())
    });
    let values = values.collect::<Result<Vec<_>>>()?;
    ensure!(!values.is_empty(), "there is no {name}");
    Ok(values.iter().sum())
}

/// Does it all to a gateway, and proves that it is as it was.
fn prove(rounds: &Rounds) -> Result<()> {
    let dir = TempDir::new()?;
    let (mut site, port) = served(&dir, OPEN)?;
    let stop = Arc::new(AtomicBool::new(false));
    let honest = honest(port, Arc::clone(&stop))?;
    let mut resident = Vec::new();
    for number in 0..rounds.warm_up + rounds.compared {
        rounds.run(port, number)?;
        wait_for("the end of all but one", ENDED, || {
            let attached = metric(&site, "twinspan_frontend_connections")?;
            ensure!(attached <= 1.0, "{attached} are attached");
            Ok(())
        })?;
        ensure!(!honest.is_finished(), "the session beside them ended in round {number}");
        resident.push(metric(&site, "process_resident_memory_bytes")?);
    }
    stop.store(true, Ordering::Relaxed);
    let done = honest.join().expect("no thread panics")?;
    ensure!(done > 100, "the session beside them came to {done} writes");
    let least = |part: &[f64]| part.iter().copied().fold(f64::INFINITY, f64::min);
    let before = least(&resident[rounds.warm_up..rounds.warm_up + LEAST_OF]);
    let after = least(&resident[resident.len() - LEAST_OF..]);
    let mib = |bytes: f64| bytes / f64::from(MIB);
    let all: Vec<String> = resident.iter().map(|bytes| format!("{:.1}", mib(*bytes))).collect();
    println!("resident MiB after each round: {}; {done} writes beside them", all.join(" "));
    let (grown, connections) = (after - before, rounds.compared_connections());
    let too_much = grown >= NOISE_BYTES as f64;
    ensure!(!too_much, "{:.1} MiB more after {connections} connections", mib(grown));
    site.process()?.check()?;
    site.stop()
}

#[test]
fn hostile_initiators_leave_nothing_behind_and_harm_no_other_session() -> Result<()> {
    prove(&ALL)
}

#[test]
fn many_hostile_initiators_do_not_leave_a_kibibyte_each() -> Result<()> {
    prove(&MANY)
}
