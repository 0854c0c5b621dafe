//! Ports that nobody else takes.
//!
//! Invariant: they lie below the range from which the kernel serves outgoing connections, and test
//! processes that run at once begin at different ones.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};

/// The kernel's own range begins at 32768 by default.
const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;
/// Ports that one process is likely to want.
const STRIDE: u32 = 61;

static TAKEN: AtomicU32 = AtomicU32::new(0);

/// A TCP port on the loopback address that was free a moment ago.
///
/// # Errors
/// When a thousand in a row are taken.
pub fn free_port() -> Result<u16> {
    let own = std::process::id().wrapping_mul(STRIDE);
    for _ in 0..1000 {
        let next = TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + own.wrapping_add(next) % COUNT)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free TCP port on the loopback address")
}
