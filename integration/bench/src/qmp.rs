//! QEMU's control socket, as far as starting a mirror needs it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// How long QEMU may take to answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Carries out these commands, one after the other.
///
/// # Errors
/// When QEMU does not answer or refuses one.
pub(crate) fn run(socket: &Path, commands: &[(&str, Value)]) -> Result<()> {
    let mut stream = UnixStream::connect(socket).context("connect to QMP")?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    lines.next().context("QMP says nothing")??;
    let mut ask = |command: &str, arguments: &Value| -> Result<()> {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(stream, "{request}")?;
        loop {
            let line = lines.next().context("QMP ended")??;
            let answer: Value = serde_json::from_str(&line)?;
            if answer.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
            // Anything else is an event.
            ensure!(answer.get("event").is_some(), "{command}: {answer}");
        }
    };
    ask("qmp_capabilities", &json!({}))?;
    for (command, arguments) in commands {
        ask(command, arguments)?;
    }
    Ok(())
}
