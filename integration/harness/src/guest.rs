//! A real Linux as a host: a guest of QEMU without any help of the kernel here, so it runs wherever
//! QEMU does, slowly. It is made out of Debian's packages, once for each version of what makes it.
//!
//! Invariant: a guest changes nothing that outlives it; what it is told to do has an end, and it ends
//! with its owner.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::{Deadline, Process, Tool, binary, require, wait_for};

/// What makes the image. It is made anew when any of this changes.
const MADE_FROM: [(&str, &str); 3] = [
    ("image.sh", include_str!("guest/image.sh")),
    ("first.sh", include_str!("guest/first.sh")),
    ("second.sh", include_str!("guest/second.sh")),
];
/// Downloads, and packing a file system of a gigabyte.
const MAKE_LIMIT: Duration = Duration::from_mins(10);
/// From power on to the first command, emulated on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_mins(4);
/// How long a command may take unless it is told otherwise.
const COMMAND_LIMIT: Duration = Duration::from_mins(2);
/// Where the guest sees this machine's loopback addresses.
pub const GATEWAY_ADDRESS: &str = "10.0.2.2";

/// A running guest.
#[derive(Debug)]
pub struct Guest {
    process: Process,
    shell: UnixStream,
}

impl Guest {
    /// Starts one whose files, log and console lie in `dir`, and waits until it takes commands.
    ///
    /// # Errors
    /// When something of it is not installed or it does not come up, with the end of its console.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, &[])
    }

    /// The same with more arguments for QEMU. The first `-drive` of kind `virtio` is `/dev/vdb` there.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn start_with(dir: &Path, more: &[&str]) -> Result<Self> {
        require("qemu-system-x86_64")?;
        let image = image()?;
        let socket = dir.join("shell");
        let drive = image.join("root.ext4");
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1"])
            .args(["-m", "768", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-serial", "stdio", "-append"])
            .arg("console=ttyS0 panic=-1 net.ifnames=0 mitigations=off nokaslr tsc=reliable")
            .arg("-kernel")
            .arg(image.join("vmlinuz"))
            .arg("-initrd")
            .arg(image.join("initrd.cpio"))
            .arg("-drive")
            .arg(format!("file={},format=raw,if=virtio,readonly=on", drive.display()))
            .args(["-device", "virtio-serial-pci", "-chardev"])
            .arg(format!("socket,id=shell,path={},server=on,wait=off", socket.display()))
            .args(["-device", "virtserialport,chardev=shell,name=shell"])
            .args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="])
            .args(more);
        let mut process = Process::start("guest", &mut command, &dir.join("guest.log"))?;
        let shell = process.wait_until("its shell", BOOT_LIMIT, || {
            UnixStream::connect(&socket).context("connect")
        })?;
        let mut guest = Self { process, shell };
        guest.command("uname -a", BOOT_LIMIT).context("the first command")?;
        Ok(guest)
    }

    /// Runs a script to its end; what it printed.
    ///
    /// # Errors
    /// When it fails, with what it printed, or takes longer than two minutes.
    pub fn run(&mut self, script: &str) -> Result<String> {
        self.run_within(script, COMMAND_LIMIT)
    }

    /// The same, with a limit of its own.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn run_within(&mut self, script: &str, limit: Duration) -> Result<String> {
        let (code, said) = self.command(script, limit)?;
        ensure!(code == 0, "in the guest, {script:?} ended with {code}:\n{said}");
        Ok(said)
    }

    /// Runs a script until it succeeds and prints what `is_it` looks for.
    ///
    /// # Errors
    /// After `limit`, with what it printed last.
    pub fn wait_for(
        &mut self,
        script: &str,
        limit: Duration,
        is_it: impl Fn(&str) -> bool,
    ) -> Result<String> {
        wait_for(script, limit, || {
            let (code, said) = self.command(script, COMMAND_LIMIT)?;
            ensure!(code == 0 && is_it(&said), "it ended with {code} and said:\n{said}");
            Ok(said)
        })
    }

    /// Has it write out what it has in memory and switch off, and waits until its machine is gone: nothing
    /// of it is attached to anything any more.
    ///
    /// # Errors
    /// When it does not end in time, or otherwise than by itself, with the end of its console.
    pub fn switch_off(mut self) -> Result<()> {
        // What is off does not answer.
        const SCRIPT: &str = "sync; echo o > /proc/sysrq-trigger; sleep 120";
        write!(self.shell, "{}\n{SCRIPT}", SCRIPT.len()).context("send a script")?;
        let process = &mut self.process;
        let ended = wait_for("the guest to be off", COMMAND_LIMIT, || {
            process.ended()?.context("it is still running")
        });
        let ended = ended.with_context(|| self.process.tail())?;
        ensure!(ended.success(), "the guest ended with {ended}\n{}", self.process.tail());
        Ok(())
    }

    /// Runs a script; its exit code, and what it printed.
    ///
    /// # Errors
    /// When the guest died or does not answer in time, with the end of its console.
    pub fn command(&mut self, script: &str, limit: Duration) -> Result<(i32, String)> {
        let deadline = Deadline::after(limit);
        let answered = exchange(&mut self.shell, script, deadline);
        answered.with_context(|| format!("in the guest: {script:?}\n{}", self.process.tail()))
    }
}

fn exchange(shell: &mut UnixStream, script: &str, deadline: Deadline) -> Result<(i32, String)> {
    write!(shell, "{}\n{script}", script.len()).context("send a script")?;
    let mut head = Vec::new();
    while head.last() != Some(&b'\n') {
        let mut byte = [0];
        read(shell, &mut byte, deadline)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).context("an answer begins with numbers")?;
    let (code, len) = head.trim().split_once(' ').context("with two numbers")?;
    let mut said = vec![0; len.parse().context("a length")?];
    read(shell, &mut said, deadline)?;
    Ok((code.parse().context("an exit code")?, String::from_utf8_lossy(&said).into_owned()))
}

fn read(shell: &mut UnixStream, mut into: &mut [u8], deadline: Deadline) -> Result<()> {
    while !into.is_empty() {
        let left = deadline.left();
        ensure!(!left.is_zero(), "it took longer than {:?}", deadline.elapsed());
        shell.set_read_timeout(Some(left)).context("set a timeout")?;
        match shell.read(into) {
            Ok(0) => bail!("the guest is gone"),
            Ok(len) => into = into.split_at_mut(len).1,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context("read what it said"),
        }
    }
    Ok(())
}

/// The folder of the image, which is made when it is not there or was made from something else.
fn image() -> Result<PathBuf> {
    let program = binary()?;
    let target = program.ancestors().nth(2).context("the program lies in a target folder")?;
    let folder = target.join("guest");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    // Of two tests that need it at once one makes it, and the other waits.
    let alone = File::create(folder.join("lock")).context("open the lock of the image")?;
    alone.lock().context("lock the image")?;
    let stamp = folder.join("made-from");
    let wanted: String = MADE_FROM.iter().map(|(_, text)| *text).collect();
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(folder);
    }
    for program in ["mmdebstrap", "busybox", "cpio", "mke2fs", "depmod"] {
        require(program)?;
    }
    let scripts = tempfile::tempdir().context("make a folder")?;
    for (name, text) in MADE_FROM {
        std::fs::write(scripts.path().join(name), text).context("write what makes the image")?;
    }
    let make = Tool::new("sh").arg(scripts.path().join("image.sh")).arg(&folder);
    make.limit(MAKE_LIMIT).run().context("make the image of the guest")?;
    std::fs::write(&stamp, wanted).context("note what it was made from")?;
    Ok(folder)
}
