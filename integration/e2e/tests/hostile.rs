//! Clients and peers that stall, lie, flood or vanish: nobody else notices.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Deadline, Site, get, wait_for};

use crate::pair::{Pair, SOON, SYNC_LIMIT, VOLUME, await_group, serves};
use crate::random::Random;
use crate::records::{Journal, Load};

/// A handshake that takes longer than 10 s is dropped.
const HANDSHAKE_MAX: Duration = Duration::from_secs(15);
const IDLE: usize = 200;
/// What hosts that write all the time may wait for one answer meanwhile.
const STALL_MAX: Duration = Duration::from_secs(3);

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("connect")?;
    stream.set_read_timeout(Some(HANDSHAKE_MAX))?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    Ok(stream)
}

/// Hosts that work all the time.
fn hosts(pair: &Pair, journal: &Journal) -> Result<Load> {
    let load = Load::start(journal, &pair.primary.nbd_socket(), VOLUME)?;
    load.await_more(50, SOON)?;
    Ok(load)
}

/// They were served all the time, and nothing is missing.
fn were_served(pair: &Pair, journal: &Journal, load: Load) -> Result<()> {
    load.await_more(50, SOON)?;
    let done = load.end()?;
    done.is_undisturbed()?;
    let found = journal.is_intact(&pair.primary.nbd_socket(), VOLUME)?;
    println!("{} records, the slowest {:?}; {found:?}", done.records, done.slowest);
    ensure!(done.slowest < STALL_MAX, "a host waited for {:?}", done.slowest);
    Ok(())
}

#[test]
fn hosts_that_never_finish_their_handshake_are_dropped() -> Result<()> {
    let pair = Pair::mirrored("32MiB")?;
    let journal = Journal::new(0, 0, 2, 512);
    let load = hosts(&pair, &journal)?;
    let clock = Deadline::after(Duration::ZERO);
    let port = pair.primary.ports().nbd;
    let mut idle = (0..IDLE).map(|_| connect(port)).collect::<Result<Vec<_>>>()?;
    for stream in &mut idle {
        // The greeting comes, and then the end: an answer is waited for in vain.
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => return Err(error).context("it was kept"),
        }
    }
    let dropped_after = clock.elapsed();
    ensure!(dropped_after < HANDSHAKE_MAX, "after {dropped_after:?}");
    println!("{IDLE} silent clients were dropped after {dropped_after:?}");
    were_served(&pair, &journal, load)
}

/// The fixed newstyle handshake up to the transmission phase, by hand.
fn transmission(port: u16) -> Result<TcpStream> {
    let mut stream = connect(port)?;
    stream.read_exact(&mut [0; 18])?;
    stream.write_all(&3u32.to_be_bytes())?;
    let mut option = b"IHAVEOPT".to_vec();
    option.extend(1u32.to_be_bytes());
    option.extend(u32::try_from(VOLUME.len())?.to_be_bytes());
    option.extend(VOLUME.as_bytes());
    stream.write_all(&option)?;
    stream.read_exact(&mut [0; 10])?;
    Ok(stream)
}

fn request(command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
    bytes.extend(0u16.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

/// What somebody sends who does not speak the language.
fn garbage(random: &mut Random) -> Vec<u8> {
    (0..random.within(1..4096)).flat_map(|_| random.next().to_le_bytes()).collect()
}

#[test]
fn garbage_on_any_port_hurts_only_its_sender() -> Result<()> {
    let mut random = Random::announced("garbage")?;
    let mut pair = Pair::mirrored("32MiB")?;
    let journal = Journal::new(0, 0, 2, 512);
    let load = hosts(&pair, &journal)?;
    let ports = pair.primary.ports();
    for _ in 0..30 {
        for port in [ports.nbd, ports.link, ports.api, ports.metrics] {
            let mut stream = connect(port)?;
            // It may be dropped before everything is sent.
            stream.write_all(&garbage(&mut random)).ok();
        }
        let mut stream = connect(ports.nbd)?;
        stream.read_exact(&mut [0; 18])?;
        stream.write_all(&3u32.to_be_bytes())?;
        stream.write_all(b"IHAVEOPT")?;
        stream.write_all(&garbage(&mut random)).ok();
        let mut stream = transmission(ports.nbd)?;
        stream.write_all(&garbage(&mut random)).ok();
        // A request that is well formed, and the connection gone before its payload came.
        let mut stream = transmission(ports.nbd)?;
        stream.write_all(&request(1, 1, 0, 1 << 20))?;
        stream.write_all(&[0; 1000])?;
    }
    pair.primary.process()?.check()?;
    let health = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.metrics));
    ensure!(get(health, "/readyz")?.0 == 200, "it is not ready");
    pair.primary.cli(&["status"])?;
    ensure!(
        !std::fs::read_to_string(pair.primary.dir().join("log"))?.contains("panicked"),
        "panic"
    );
    were_served(&pair, &journal, load)
}

/// Memory that a gateway has taken at most, in bytes.
fn peak_memory(site: &mut Site) -> Result<u64> {
    let path = format!("/proc/{}/status", site.process()?.id());
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes: u64 =
        line.and_then(|l| l.split_whitespace().next()).context("no VmHWM")?.parse()?;
    Ok(kilobytes << 10)
}

#[test]
fn clients_that_ask_and_do_not_read_hold_up_only_themselves() -> Result<()> {
    let mut pair = Pair::mirrored("64MiB")?;
    let journal = Journal::new(0, 0, 2, 512);
    let load = hosts(&pair, &journal)?;
    let before = peak_memory(&mut pair.primary)?;
    let mut greedy = Vec::new();
    for _ in 0..8 {
        let mut stream = transmission(pair.primary.ports().nbd)?;
        for cookie in 0..200 {
            if stream.write_all(&request(0, cookie, 0, 32 << 20)).is_err() {
                break;
            }
        }
        greedy.push(stream);
    }
    load.await_more(300, SOON)?;
    let peak = peak_memory(&mut pair.primary)?;
    println!("memory: {} MiB before, {} MiB at most", before >> 20, peak >> 20);
    ensure!(peak < 1 << 30, "51 GB were asked for, and {peak} bytes taken");
    were_served(&pair, &journal, load)?;
    drop(greedy);
    pair.is_identical()
}

#[test]
fn a_peer_that_talks_nonsense_is_no_mirror_and_no_harm() -> Result<()> {
    let mut random = Random::announced("nonsense")?;
    let mut pair = Pair::mirrored("32MiB")?;
    let journal = Journal::new(0, 0, 2, 512);
    let load = hosts(&pair, &journal)?;
    pair.mirror.kill()?;
    let impostor = Impostor::start(pair.mirror.link_address(), garbage(&mut random))?;
    wait_for("calls to the impostor", SOON, || {
        let calls = impostor.calls.load(Ordering::Relaxed);
        ensure!(calls >= 3, "{calls} calls");
        Ok(())
    })?;
    let seen = await_group(&pair.primary, "the loss", SOON, |g| g["health"] == "at_risk")?;
    ensure!(serves(&seen), "hosts are not served: {seen:#}");
    load.await_more(100, SOON)?;
    drop(impostor);
    pair.mirror.start()?;
    pair.primary.wait_equivalent(SYNC_LIMIT)?;
    were_served(&pair, &journal, load)?;
    pair.is_identical()
}

/// Somebody who answers every call with the same bytes.
struct Impostor {
    address: SocketAddr,
    calls: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Impostor {
    fn start(address: SocketAddr, answer: Vec<u8>) -> Result<Self> {
        let listener = wait_for("the mirror's port", SOON, || Ok(TcpListener::bind(address)?))?;
        let (calls, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, ending) = (Arc::clone(&calls), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ending.load(Ordering::Relaxed) {
                    return;
                }
                counted.fetch_add(1, Ordering::Relaxed);
                if let Ok(mut stream) = stream {
                    // Whoever called may be gone again.
                    stream.write_all(&answer).ok();
                }
            }
        });
        Ok(Self { address, calls, is_over, thread: Some(thread) })
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Wakes the thread, which then sees the end and lets the port go.
        TcpStream::connect(self.address).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
