//! Other people's clients and tools.
//!
//! Invariant: a tool that is missing is an error that names its package; a test never passes
//! because it could not run.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::wait_for;

/// How long a tool may take unless it is told otherwise.
const LIMIT: Duration = Duration::from_secs(120);

/// Debian's packages of the tools that tests use.
const PACKAGES: [(&str, &str); 31] = [
    ("busybox", "busybox-static"),
    ("ceph", "ceph-common"),
    ("ceph-authtool", "ceph-common"),
    ("ceph-mon", "ceph-mon"),
    ("ceph-osd", "ceph-osd"),
    ("depmod", "kmod"),
    ("fio", "fio"),
    ("iscsi-inq", "libiscsi-bin"),
    ("iscsi-ls", "libiscsi-bin"),
    ("iscsi-readcapacity16", "libiscsi-bin"),
    ("iscsi-swp", "libiscsi-bin"),
    ("iscsi-test-cu", "libiscsi-bin"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mmdebstrap", "mmdebstrap"),
    ("nbd-server", "nbd-server"),
    ("nbdcopy", "libnbd-bin"),
    ("nbdfuse", "libnbd-bin"),
    ("nbdinfo", "libnbd-bin"),
    ("nbdkit", "nbdkit"),
    ("node", "nodejs"),
    ("prometheus", "prometheus"),
    ("promtool", "prometheus"),
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("qemu-nbd", "qemu-utils"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("radosgw", "radosgw"),
    ("radosgw-admin", "radosgw"),
    ("strace", "strace"),
    ("tgtadm", "tgt"),
    ("tgtd", "tgt"),
];

/// An error unless the program is installed.
///
/// # Errors
/// With the package that has it.
pub fn require(program: &str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    // Debian keeps the tools of root where only root looks.
    let found = found || Path::new("/usr/sbin").join(program).is_file();
    let package = PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, p)| p);
    ensure!(
        found,
        "{program} is not installed: `cargo xtask test` installs it (package {package})"
    );
    Ok(())
}

/// A run of a tool.
#[derive(Debug)]
pub struct Tool {
    command: Command,
    input: Option<String>,
    limit: Duration,
}

impl Tool {
    /// This program.
    #[must_use]
    pub fn new(program: &str) -> Self {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        Self { command, input: None, limit: LIMIT }
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// With more arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// In this folder.
    #[must_use]
    pub fn current_dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// With this on its standard input.
    #[must_use]
    pub fn input(mut self, text: &str) -> Self {
        self.input = Some(text.into());
        self
    }

    /// Killed after this long.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it; what it printed.
    ///
    /// # Errors
    /// When it is not installed, fails or takes too long, with everything that it printed.
    pub fn run(self) -> Result<String> {
        let (code, text) = self.run_to_end()?;
        ensure!(code.0 == Some(0), "{} failed ({:?})\n{text}", code.1, code.0);
        Ok(text)
    }

    /// Runs it; its exit code, and what it printed to both its outputs.
    ///
    /// # Errors
    /// When it is not installed, is killed by a signal or takes too long.
    pub fn code(self) -> Result<(i32, String)> {
        let ((code, line), text) = self.run_to_end()?;
        let code = code.with_context(|| format!("{line} was killed\n{text}"))?;
        Ok((code, text))
    }

    fn run_to_end(mut self) -> Result<((Option<i32>, String), String)> {
        let program = self.command.get_program().to_string_lossy().into_owned();
        if !program.contains('/') {
            require(&program)?;
        }
        let arguments = self.command.get_args().map(OsStr::to_string_lossy);
        let line =
            [program.as_str().into()].into_iter().chain(arguments).collect::<Vec<_>>().join(" ");
        // Files, not pipes: a tool that prints a lot must not wait for a reader.
        let output = tempfile::NamedTempFile::new().context("make a file for the output")?;
        let file = File::options().append(true).open(output.path()).context("open the output")?;
        let mut child = self
            .command
            .stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(file.try_clone().context("share the output")?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {line}"))?;
        if let (Some(text), Some(mut input)) = (self.input, child.stdin.take()) {
            input.write_all(text.as_bytes()).with_context(|| format!("feed {line}"))?;
        }
        let ended = wait_for("its end", self.limit, || child.try_wait()?.context("it runs on"));
        let read = || {
            String::from_utf8_lossy(&std::fs::read(output.path()).unwrap_or_default()).into_owned()
        };
        let Ok(status) = ended else {
            child.kill().with_context(|| format!("kill {line}"))?;
            child.wait().with_context(|| format!("await {line}"))?;
            bail!("{line} took longer than {:?}\n{}", self.limit, read());
        };
        Ok(((status.code(), line), read()))
    }
}

/// Runs a script in Debian's Python, where `import nbd` is libnbd; what it printed.
///
/// # Errors
/// When the script fails, with its traceback, or libnbd's module is missing.
pub fn python(script: &str) -> Result<String> {
    // From /, because a folder called `nbd` in the current one would be taken for the module.
    let module =
        Tool::new("/usr/bin/python3").args(["-c", "import nbd"]).current_dir("/").code()?;
    ensure!(module.0 == 0, "libnbd for Python is not installed (package python3-libnbd)");
    Tool::new("/usr/bin/python3").arg("-").current_dir("/").input(script).run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_output_and_code_and_names_a_missing_package() {
        assert_eq!(Tool::new("cat").input("hello").run().unwrap(), "hello");
        let (code, text) = Tool::new("sh").args(["-c", "echo no >&2; exit 4"]).code().unwrap();
        assert_eq!((code, text.as_str()), (4, "no\n"));
        let missing = Tool::new("no-such-tool").run().unwrap_err().to_string();
        assert!(missing.contains("not installed"), "{missing}");
    }

    #[test]
    fn kills_what_takes_too_long() {
        let slow = Tool::new("sleep").arg("60").limit(Duration::from_millis(50)).run();
        assert!(slow.unwrap_err().to_string().contains("longer"));
    }
}
