//! A TCP relay that can cut, delay, throttle and swallow what goes through it.
//!
//! ```text
//!   client ──▶ reader ──(due, bytes)──▶ writer ──▶ server      and the same the other way
//! ```
//!
//! Invariant: bytes are never reordered, changed or dropped within a connection; a connection that
//! cannot keep that up ends.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::Deadline;

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks under way in one direction: 64 MiB, more than a window at any distance that tests use.
const CHUNKS_MAX: usize = 1024;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From who connected to who was connected to.
    Forth,
    /// And back.
    Back,
}

/// What is wrong with the network.
#[derive(Debug, Default)]
struct Faults {
    is_cut: bool,
    is_over: bool,
    forth: Way,
    back: Way,
    connections: Vec<TcpStream>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Way {
    delay: Duration,
    bytes_per_second: Option<u64>,
    swallows: bool,
}

#[derive(Debug, Default)]
struct Network {
    faults: Mutex<Faults>,
    changed: Condvar,
}

/// A relay in front of one server.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    network: Arc<Network>,
}

impl Proxy {
    /// A faultless relay to `server`.
    ///
    /// # Errors
    /// When no port can be listened on.
    pub fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
        let address = listener.local_addr().context("listen")?;
        let network = Arc::new(Network::default());
        let shared = Arc::clone(&network);
        thread::spawn(move || accept(&listener, server, &shared));
        Ok(Self { address, network })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection, and every new one at once, until [`Self::mend`].
    pub fn cut(&self) {
        self.change(|faults| {
            faults.is_cut = true;
            faults.end_connections();
        });
    }

    /// Ends every connection once; new ones are relayed.
    pub fn reset(&self) {
        self.change(Faults::end_connections);
    }

    /// Keeps connections open and lets nothing through in this direction. What was swallowed comes
    /// when the network is mended, as TCP would send it again.
    pub fn blackhole(&self, direction: Direction) {
        self.change(|faults| faults.way(direction).swallows = true);
    }

    /// Everything takes this much longer, each way.
    pub fn delay(&self, one_way: Duration) {
        self.change(|faults| {
            faults.forth.delay = one_way;
            faults.back.delay = one_way;
        });
    }

    /// No more than this many bytes a second in this direction and connection.
    pub fn throttle(&self, direction: Direction, bytes_per_second: u64) {
        self.change(|faults| {
            faults.way(direction).bytes_per_second = Some(bytes_per_second.max(1))
        });
    }

    /// A faultless network again; connections that ended stay so.
    pub fn mend(&self) {
        self.change(|faults| {
            faults.is_cut = false;
            faults.forth = Way::default();
            faults.back = Way::default();
        });
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.network.lock());
        self.network.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|faults| {
            faults.is_over = true;
            faults.end_connections();
        });
        // Wakes the thread that waits for the next connection, so that it sees the end.
        TcpStream::connect(self.address).ok();
    }
}

impl Faults {
    fn way(&mut self, direction: Direction) -> &mut Way {
        match direction {
            Direction::Forth => &mut self.forth,
            Direction::Back => &mut self.back,
        }
    }

    fn end_connections(&mut self) {
        for connection in self.connections.drain(..) {
            // It may have ended by itself before.
            connection.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Network {
    fn lock(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of one direction, once it lets something through.
    fn open_way(&self, direction: Direction) -> Option<Way> {
        let mut faults = self.lock();
        loop {
            if faults.is_over {
                return None;
            }
            let way = *faults.way(direction);
            if !way.swallows {
                return Some(way);
            }
            faults = self.changed.wait(faults).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn accept(listener: &TcpListener, server: SocketAddr, network: &Arc<Network>) {
    for client in listener.incoming() {
        if network.lock().is_over {
            return;
        }
        // Who cannot be relayed sees its connection end, as behind a broken network.
        if let Ok(client) = client {
            relay(&client, server, network).ok();
        }
    }
}

fn relay(client: &TcpStream, server: SocketAddr, network: &Arc<Network>) -> io::Result<()> {
    if network.lock().is_cut {
        return client.shutdown(Shutdown::Both);
    }
    let server = TcpStream::connect(server)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut faults = network.lock();
    faults.connections.push(client.try_clone()?);
    faults.connections.push(server.try_clone()?);
    if faults.is_cut {
        faults.end_connections();
    }
    drop(faults);
    pump(client.try_clone()?, server.try_clone()?, Direction::Forth, network);
    pump(server, client.try_clone()?, Direction::Back, network);
    Ok(())
}

/// Relays one direction of one connection, in two threads: a delay must not lower the throughput.
fn pump(from: TcpStream, to: TcpStream, direction: Direction, network: &Arc<Network>) {
    let (sender, receiver) = sync_channel(CHUNKS_MAX);
    let reading = Arc::clone(network);
    let writing = Arc::clone(network);
    thread::spawn(move || read(from, &sender, direction, &reading));
    thread::spawn(move || {
        // Ended here or there: the other side learns it, which is all that there is to say.
        write(&to, &receiver, direction, &writing).ok();
        to.shutdown(Shutdown::Both).ok();
    });
}

type Chunk = (Deadline, Vec<u8>);

fn read(mut from: TcpStream, to: &SyncSender<Chunk>, direction: Direction, network: &Network) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(count) = from.read(&mut buffer) {
        let due = Deadline::after(network.lock().way(direction).delay);
        if count == 0 || to.send((due, buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}

fn write(
    mut to: &TcpStream,
    from: &Receiver<Chunk>,
    direction: Direction,
    network: &Network,
) -> io::Result<()> {
    for (due, bytes) in from {
        thread::sleep(due.left());
        let Some(way) = network.open_way(direction) else { break };
        to.write_all(&bytes)?;
        if let Some(rate) = way.bytes_per_second {
            thread::sleep(
                Duration::from_secs(bytes.len() as u64) / u32::try_from(rate).unwrap_or(u32::MAX),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets, and a client of it through a proxy.
    fn echo() -> (Proxy, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap()).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
        });
        let client = TcpStream::connect(proxy.address()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (proxy, client)
    }

    fn round_trip(mut client: &TcpStream) -> io::Result<Duration> {
        let clock = Deadline::after(Duration::ZERO);
        client.write_all(b"ping")?;
        let mut answer = [0; 4];
        client.read_exact(&mut answer)?;
        if &answer != b"ping" {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(clock.elapsed())
    }

    #[test]
    fn delays_each_way() {
        let (proxy, client) = echo();
        round_trip(&client).unwrap();
        proxy.delay(Duration::from_millis(40));
        assert!(round_trip(&client).unwrap() >= Duration::from_millis(80));
    }

    #[test]
    fn ends_connections_when_cut_and_relays_new_ones_when_mended() {
        let (proxy, client) = echo();
        round_trip(&client).unwrap();
        proxy.cut();
        assert!(round_trip(&client).is_err());
        let refused = TcpStream::connect(proxy.address()).unwrap();
        assert!(round_trip(&refused).is_err());
        proxy.mend();
        round_trip(&TcpStream::connect(proxy.address()).unwrap()).unwrap();
    }

    #[test]
    fn swallows_in_one_direction_and_gives_it_up_when_mended() {
        let (proxy, client) = echo();
        proxy.blackhole(Direction::Back);
        client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(round_trip(&client).is_err());
        proxy.mend();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut answer = [0; 4];
        (&client).read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ping");
    }

    #[test]
    fn throttles() {
        let (proxy, mut client) = echo();
        proxy.throttle(Direction::Forth, 1 << 20);
        let clock = Deadline::after(Duration::ZERO);
        client.write_all(&vec![7; 300 << 10]).unwrap();
        client.read_exact(&mut vec![0; 300 << 10]).unwrap();
        assert!(clock.elapsed() >= Duration::from_millis(200), "{:?}", clock.elapsed());
    }
}
