//! Two sites and one mirrored volume, as most tests need them.
//!
//! Invariant: all that the other site is asked for, a client could ask too: copies are compared by
//! reading them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Answer, Proxy, Site, Tool, wait_for};
use serde_json::Value;
use tempfile::TempDir;

/// The volume.
pub(crate) const VOLUME: &str = "orders";
/// From anything to a mirror that is in sync.
pub(crate) const SYNC_LIMIT: Duration = Duration::from_secs(60);
/// For what takes moments, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Two sites that trust each other.
#[derive(Debug)]
pub(crate) struct Pair {
    /// The one that serves.
    pub(crate) primary: Site,
    /// The other.
    pub(crate) mirror: Site,
    /// What links to each of them go through, if anything.
    pub(crate) network: Vec<Proxy>,
    /// Kept until both are gone.
    pub(crate) dir: TempDir,
}

impl Pair {
    /// Two sites, joined; nothing is mirrored.
    pub(crate) fn joined() -> Result<Self> {
        Self::begin(false)
    }

    /// Two sites, joined, with relays between them; nothing is mirrored.
    pub(crate) fn joined_by_relay() -> Result<Self> {
        Self::begin(true)
    }

    /// Two sites with one volume of this size, in sync.
    pub(crate) fn mirrored(size: &str) -> Result<Self> {
        Self::begin(false)?.with_volume(size)
    }

    /// The same, with relays between the sites.
    pub(crate) fn relayed(size: &str) -> Result<Self> {
        Self::begin(true)?.with_volume(size)
    }

    fn begin(is_relayed: bool) -> Result<Self> {
        let dir = tempfile::tempdir().context("make a folder")?;
        let primary = Site::new(dir.path(), "east")?;
        let mirror = Site::new(dir.path(), "west")?;
        let mut network = Vec::new();
        if is_relayed {
            for site in [&primary, &mirror] {
                let relay = Proxy::start(site.link_address())?;
                set(site, "link", &format!("advertise = \"{}\"", relay.address()))?;
                network.push(relay);
            }
        }
        let mut pair = Self { primary, mirror, network, dir };
        pair.primary.spawn()?;
        pair.mirror.spawn()?;
        pair.primary.await_ready()?;
        pair.mirror.await_ready()?;
        pair.primary.join(&pair.mirror)?;
        Ok(pair)
    }

    fn with_volume(self, size: &str) -> Result<Self> {
        self.primary.cli(&["volume", "create", VOLUME, "--size", size])?;
        self.primary.mirror(VOLUME, &self.mirror)?;
        self.primary.wait_equivalent(SYNC_LIMIT)?;
        Ok(self)
    }

    /// After a change of roles.
    pub(crate) fn swap(&mut self) {
        std::mem::swap(&mut self.primary, &mut self.mirror);
    }

    /// The link is down, for both.
    pub(crate) fn cut(&self) {
        for relay in &self.network {
            relay.cut();
        }
    }

    /// The link is as it should be.
    pub(crate) fn mend(&self) {
        for relay in &self.network {
            relay.mend();
        }
    }

    /// Every block of both copies was read, and they are the same.
    pub(crate) fn is_identical(&self) -> Result<()> {
        let digests = [digest(&self.primary)?, digest(&self.mirror)?];
        ensure!(digests[0] == digests[1], "the copies differ: {digests:?}");
        Ok(())
    }
}

/// A gateway by itself, running.
pub(crate) fn single(dir: &Path, name: &str) -> Result<Site> {
    let mut site = Site::new(dir, name)?;
    site.start()?;
    Ok(site)
}

/// Adds a line to a section of a site's configuration.
pub(crate) fn set(site: &Site, section: &str, line: &str) -> Result<()> {
    let path = site.config_file();
    let text = std::fs::read_to_string(&path).context("read the configuration")?;
    let head = format!("[{section}]\n");
    let text = if text.contains(&head) {
        text.replacen(&head, &format!("{head}{line}\n"), 1)
    } else {
        format!("{text}{head}{line}\n")
    };
    std::fs::write(&path, text).context("write the configuration")
}

/// What every block of the copy at a site sums up to.
pub(crate) fn digest(site: &Site) -> Result<String> {
    let answer = site.cli(&["volume", "digest", VOLUME])?;
    text(&answer, "/digest")
}

/// The copy at a site, as a file.
pub(crate) fn read_copy(site: &Site, volume: &str, name: &str) -> Result<PathBuf> {
    let path = site.dir().join(name);
    let file = path.to_str().context("the folder is no text")?;
    let answer = site.ask(&["volume", "read", volume, file])?;
    ensure!(answer.code == 0, "volume read ended with {}\n{}", answer.code, answer.text);
    Ok(path)
}

/// Two files, byte for byte.
pub(crate) fn compare(one: &Path, other: &Path) -> Result<()> {
    Tool::new("cmp").arg(one).arg(other).run().map(drop)
}

/// A text at a place in an answer.
pub(crate) fn text(answer: &Value, place: &str) -> Result<String> {
    let found = answer.pointer(place).and_then(Value::as_str);
    found.map(str::to_owned).with_context(|| format!("no text at {place} of {answer}"))
}

/// A number at a place in an answer.
pub(crate) fn number(answer: &Value, place: &str) -> Result<u64> {
    let found = answer.pointer(place).and_then(Value::as_u64);
    found.with_context(|| format!("no number at {place} of {answer}"))
}

/// The group of the volume, as a site sees it.
pub(crate) fn group(site: &Site) -> Result<Value> {
    let answer = site.ask(&["group", "show", VOLUME])?;
    ensure!(answer.json.is_object(), "group show ended with {}\n{}", answer.code, answer.text);
    Ok(answer.json)
}

/// Waits until a site sees its group so.
pub(crate) fn await_group(
    site: &Site,
    what: &str,
    limit: Duration,
    is_it: impl Fn(&Value) -> bool,
) -> Result<Value> {
    wait_for(&format!("{what} at {}", site.name()), limit, || {
        let group = group(site)?;
        ensure!(is_it(&group), "the group is {group:#}");
        Ok(group)
    })
}

/// Whether hosts are served there.
pub(crate) fn serves(group: &Value) -> bool {
    group.pointer("/role").and_then(Value::as_str) == Some("primary")
        && group.pointer("/serving").and_then(Value::as_str) == Some("yes")
}

/// Plans a failover to a site, when one is possible there, and runs it; the plan.
pub(crate) fn fail_over(to: &Site) -> Result<Value> {
    let plan = to.wait_for(&["failover", "plan", VOLUME], SOON, |plan| {
        plan.pointer("/token").is_some_and(Value::is_string)
    })?;
    let token = text(&plan, "/token")?;
    to.cli(&["failover", "run", VOLUME, "--token", &token])?;
    Ok(plan)
}

/// Plans a migration and runs it.
pub(crate) fn migrate(from: &Site, to: &Site) -> Result<()> {
    let plan = from.cli(&["migrate", "plan", VOLUME, "--to", to.name()])?;
    let token = text(&plan, "/token")?;
    from.cli(&["migrate", "run", VOLUME, "--token", &token]).map(drop)
}

/// Asks, and expects this exit code and this in the answer.
pub(crate) fn expect(site: &Site, arguments: &[&str], code: i32, word: &str) -> Result<Answer> {
    let answer = site.ask(arguments)?;
    ensure!(
        answer.code == code && answer.text.contains(word),
        "{arguments:?}: wanted {code} and {word:?}, got {}\n{}",
        answer.code,
        answer.text
    );
    Ok(answer)
}
