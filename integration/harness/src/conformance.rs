//! `iscsi-test-cu`, the conformance suite of libiscsi, one process a test.
//!
//! Invariant: a test that hangs or crashes is a verdict of its own, and ends no other. The tool
//! counts a test that was skipped as passed; here it is skipped.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{Tool, require, wait_for};

const TOOL: &str = "iscsi-test-cu";
/// How long a test may take. The longest that ends takes four seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// All that it asserts holds.
    Pass,
    /// It asserts what does not hold.
    Fail,
    /// It did not look, because the target does not offer what it is about.
    Skip,
    /// It did not end in time.
    Hang,
    /// The tool died.
    Crash,
}

impl Verdict {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Pass, Self::Fail, Self::Skip, Self::Hang, Self::Crash];
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Skip => "skip",
            Self::Hang => "hang",
            Self::Crash => "crash",
        })
    }
}

/// How every test ended, by name.
pub type Verdicts = BTreeMap<String, Verdict>;

/// The names of all tests that the tool has.
///
/// # Errors
/// When it is not installed.
pub fn conformance_tests() -> Result<Vec<String>> {
    let list = Tool::new(TOOL).arg("--list").run()?;
    let whole = |line: &&str| line.starts_with("ALL.") && line.matches('.').count() == 2;
    let tests: Vec<String> = list.lines().map(str::trim).filter(whole).map(Into::into).collect();
    ensure!(!tests.is_empty(), "{TOOL} lists no test:\n{list}");
    Ok(tests)
}

/// Runs these tests against a unit that is reached by both addresses; what they printed goes to the
/// end of `log`.
///
/// # Errors
/// When the tool cannot be started or the log cannot be written.
pub fn conformance(tests: &[String], urls: [&str; 2], log: &Path) -> Result<Verdicts> {
    require(TOOL)?;
    let mut all = File::options().create(true).append(true).open(log).context("open the log")?;
    let mut verdicts = Verdicts::new();
    for test in tests {
        let (verdict, text) = one(test, urls)?;
        writeln!(all, "##### {test}: {verdict}\n{text}").context("write the log")?;
        verdicts.insert(test.clone(), verdict);
    }
    Ok(verdicts)
}

fn one(test: &str, urls: [&str; 2]) -> Result<(Verdict, String)> {
    let output = tempfile::NamedTempFile::new().context("make a file for the output")?;
    let file = File::options().append(true).open(output.path()).context("open the output")?;
    let mut child = Command::new(TOOL)
        // With -S the tests of SANITIZE are among them.
        .args(["--dataloss", "-v", "-S", "-t", test])
        .args(urls)
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("share the output")?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("start {TOOL}"))?;
    let ended = wait_for(test, LIMIT, || child.try_wait()?.context("it runs on"));
    if ended.is_err() {
        child.kill().context("kill a test that hangs")?;
        child.wait().context("await a test that was killed")?;
    }
    let text = std::fs::read(output.path()).context("read the output")?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let verdict = match ended {
        Err(_) => Verdict::Hang,
        Ok(status) if status.code().is_none() => Verdict::Crash,
        Ok(_) => verdict(&text),
    };
    Ok((verdict, text))
}

/// What the tool says of its one test.
fn verdict(text: &str) -> Verdict {
    // "tests" and the numbers of all, run, passed, failed and inactive ones.
    let summary = text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let numbers = (words.next()? == "tests").then_some(words)?;
        let numbers: Vec<u32> = numbers.map_while(|word| word.parse().ok()).collect();
        (numbers.len() >= 4).then_some(numbers)
    });
    let Some(numbers) = summary else {
        return Verdict::Crash;
    };
    if numbers[1] == 0 || numbers[3] > 0 {
        return Verdict::Fail;
    }
    // What the tool looks at before and after its test is skipped at times as well.
    let body = text.split_once("Test: ").map_or("", |(_, body)| body);
    let end = body.match_indices("passed").find(|(at, _)| !body[..*at].ends_with('['));
    let body = end.map_or(body, |(at, _)| &body[..at]);
    if body.contains("[SKIPPED]") { Verdict::Skip } else { Verdict::Pass }
}

/// Reads lines of a test's name and the verdicts that may be, of which a comma stands between two;
/// `#` begins a comment.
///
/// # Errors
/// With the line that is none.
pub fn expected(text: &str) -> Result<BTreeMap<String, Vec<Verdict>>> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim());
    lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (test, verdicts) = line.split_once(' ').context("a test without a verdict")?;
            let verdicts = verdicts.trim().split(',').map(|word| {
                let known = Verdict::ALL.into_iter().find(|v| v.to_string() == word);
                known.with_context(|| format!("{test}: {word} is no verdict"))
            });
            Ok((test.to_owned(), verdicts.collect::<Result<_>>()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "[SKIPPED] a probe\n  Test: Simple ...";

    fn said(body: &str, passed: u32) -> String {
        let failed = 1 - passed;
        format!("{HEAD}{body}\n   suites 1 1 n/a 0 0\n    tests  1  1  {passed}  {failed}  0\n")
    }

    #[test]
    fn a_test_that_was_skipped_did_not_pass() {
        assert_eq!(verdict(&said("passed [SKIPPED] a probe", 1)), Verdict::Pass);
        assert_eq!(verdict(&said("   [SKIPPED] not there\npassed", 1)), Verdict::Skip);
        assert_eq!(verdict(&said("   [SKIPPED] some\nFAILED", 0)), Verdict::Fail);
        assert_eq!(verdict(HEAD), Verdict::Crash);
    }

    #[test]
    fn expectations_are_read_and_nonsense_is_named() {
        let read = expected("# a comment\nALL.A.B pass\nALL.A.C fail,crash # why\n").unwrap();
        assert_eq!(read["ALL.A.C"], [Verdict::Fail, Verdict::Crash]);
        assert!(expected("ALL.A.B maybe").unwrap_err().to_string().contains("maybe"));
    }
}
