//! Freeze hooks: what is called before a point is taken, so that what writes to the volumes comes to
//! rest, and after it, so that it goes on.
//!
//! Invariant: each call ends within the hook's time limit. Whoever called to freeze calls to thaw, also
//! when the first call failed or was given up: it may have taken effect all the same.

use std::process::Stdio;
use std::time::Duration;

use recovery::{Context, Direction, Outcome, Registry};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use uuid::Uuid;

use crate::config::{Hook, HookKind};

/// What a script may say of its failure, at most.
const WORDS_MAX: u64 = 500;
/// A guest agent's answers are short.
const ANSWER_MAX: u64 = 64 << 10;
/// Before it a guest agent forgets what it was in the middle of.
const FLUSH: u8 = 0xff;

/// What is asked of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Come to rest.
    Freeze,
    /// Go on.
    Thaw,
}

impl Action {
    const fn word(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
        }
    }
}

/// Calls a hook.
///
/// # Errors
/// Why it did not do it, in words; also when it took longer than it may.
///
/// # Cancellation
/// A script is killed; what a call did by then stays done.
pub(crate) async fn call(
    hook: &Hook,
    (action, group): (Action, &str),
    plugins: &Registry,
) -> Result<(), String> {
    let doing = async {
        match &hook.kind {
            HookKind::Command(words) => run(words, action, group).await,
            HookKind::Url(url) => post(url, action, group, hook.timeout).await,
            HookKind::QemuAgent(socket) => ask_agent(socket, action).await,
            HookKind::Plugin(name) => {
                ask_plugin(name, (action, group), plugins, hook.timeout).await
            }
        }
    };
    let name = &hook.name;
    let result = match tokio::time::timeout(hook.timeout, doing).await {
        Ok(result) => result,
        Err(_elapsed) => Err(format!("it took longer than {:?}", hook.timeout)),
    };
    result.map_err(|why| format!("hook {name} could not {}: {why}", action.word()))
}

async fn run(words: &[String], action: Action, group: &str) -> Result<(), String> {
    let (program, arguments) = words.split_first().ok_or("it names no program")?;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .arg(action.word())
        .env("TWINSPAN_GROUP", group)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    let mut words = Vec::new();
    if let Some(said) = child.stderr.take() {
        let mut said = said.take(WORDS_MAX);
        said.read_to_end(&mut words).await.map_err(|error| error.to_string())?;
        // Whatever it says beyond that is not waited for, and must not stop it.
        let mut rest = said.into_inner();
        tokio::io::copy(&mut rest, &mut tokio::io::sink())
            .await
            .map_err(|error| error.to_string())?;
    }
    let status = child.wait().await.map_err(|error| error.to_string())?;
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&words);
    Err(format!("{program} ended with {status}: {}", said.trim()))
}

async fn post(url: &str, action: Action, group: &str, limit: Duration) -> Result<(), String> {
    let words = |error: reqwest::Error| crate::refusal::chain_text(&error);
    let client = reqwest::Client::builder().timeout(limit).build().map_err(words)?;
    let body = json!({ "action": action.word(), "group": group }).to_string();
    let answer = client
        .post(url)
        .header(reqwest::header::CONTENT_TYPE, "application/json")
        .body(body)
        .send()
        .await
        .map_err(words)?;
    if answer.status().is_success() {
        return Ok(());
    }
    Err(format!("it answered {}", answer.status()))
}

/// Calls a plugin's action, to its end.
async fn ask_plugin(
    plugin: &str,
    (action, group): (Action, &str),
    plugins: &Registry,
    limit: Duration,
) -> Result<(), String> {
    let name = action.word();
    let full = format!("{plugin}/{name}");
    let has = plugins.has(&full);
    let actions = plugins.provider_of(&full).filter(|_| has);
    let actions = actions.ok_or_else(|| format!("no plugin here has the action {full}"))?;
    let context = Context {
        run: String::new(),
        step: String::new(),
        idempotency_key: Uuid::now_v7().to_string(),
        attempt: 1,
        deadline: limit,
        is_dry_run: false,
        actor: "recovery points".to_owned(),
        direction: Direction::Forward,
    };
    let params = json!({ "group": group });
    let mut said = actions.run(name, &context, &params).await;
    loop {
        let token = match said.map_err(|error| error.detail)? {
            Outcome::Done(_) | Outcome::Skipped(_) => return Ok(()),
            Outcome::NeedsOperator { prompt, .. } => {
                return Err(format!("it asks a person, and there is none: {prompt}"));
            }
            Outcome::Pending { token, poll_after, .. } => {
                tokio::time::sleep(poll_after).await;
                token
            }
        };
        said = actions.resume(name, &context, &params, &token, None).await;
    }
}

/// Speaks with the agent of a QEMU guest, which freezes and thaws its file systems.
async fn ask_agent(socket: &std::path::Path, action: Action) -> Result<(), String> {
    let said = |error: std::io::Error| format!("{}: {error}", socket.display());
    let stream = UnixStream::connect(socket).await.map_err(said)?;
    let mut agent = BufReader::new(stream);
    // What is left of an earlier talk is skipped: the answer with this number is ours.
    let number = std::process::id();
    let sync = json!({ "execute": "guest-sync-delimited", "arguments": { "id": number } });
    let mut line = vec![FLUSH];
    line.extend(format!("{sync}\n").into_bytes());
    agent.write_all(&line).await.map_err(said)?;
    loop {
        let answer = hear(&mut agent).await?;
        if answer.get("return") == Some(&Value::from(number)) {
            break;
        }
    }
    let command = match action {
        Action::Freeze => "guest-fsfreeze-freeze",
        Action::Thaw => "guest-fsfreeze-thaw",
    };
    let line = format!("{}\n", json!({ "execute": command }));
    agent.write_all(line.as_bytes()).await.map_err(said)?;
    let answer = hear(&mut agent).await?;
    if answer.get("return").is_some() {
        return Ok(());
    }
    let why = answer.pointer("/error/desc").and_then(Value::as_str).unwrap_or("it says no reason");
    Err(format!("the guest agent refused: {why}"))
}

/// The next answer of an agent; what is none is skipped.
async fn hear(agent: &mut BufReader<UnixStream>) -> Result<Value, String> {
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut *agent).take(ANSWER_MAX);
        let read = limited.read_until(b'\n', &mut line).await.map_err(|error| error.to_string())?;
        if read == 0 {
            return Err("the guest agent hung up".to_owned());
        }
        let start = line.iter().rposition(|byte| *byte == FLUSH).map_or(0, |at| at + 1);
        if let Ok(answer) = serde_json::from_slice(&line[start..]) {
            return Ok(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use recovery::{ActionError, Actions, Description, Doing, Report, Standing};
    use tokio::net::UnixListener;

    use super::*;

    fn script(text: &str, limit_ms: u64) -> Hook {
        let words = ["/bin/sh", "-c", text, "hook"].map(str::to_owned).to_vec();
        let timeout = Duration::from_millis(limit_ms);
        Hook { name: "db".to_owned(), kind: HookKind::Command(words), timeout }
    }

    #[tokio::test]
    async fn a_script_hears_what_to_do_and_for_which_group() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("said");
        let hook = script(&format!("echo $1 $TWINSPAN_GROUP >> {}", file.display()), 60_000);
        for action in [Action::Freeze, Action::Thaw] {
            assert_eq!(call(&hook, (action, "orders"), &Registry::default()).await, Ok(()));
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "freeze orders\nthaw orders\n");
    }

    #[tokio::test]
    async fn a_script_that_fails_or_is_not_there_says_why() {
        let failing = script("echo no lock >&2; exit 3", 60_000);
        let failed = call(&failing, (Action::Freeze, "g"), &Registry::default()).await;
        let why = failed.unwrap_err();
        assert!(why.contains("hook db could not freeze") && why.contains("no lock"), "{why}");
        let mut hook = script("", 60_000);
        hook.kind = HookKind::Command(vec!["/nowhere/at/all".to_owned()]);
        assert!(
            call(&hook, (Action::Thaw, "g"), &Registry::default())
                .await
                .unwrap_err()
                .contains("/nowhere/at/all")
        );
    }

    /// Freezes in two looks, and says what it was asked.
    #[derive(Default)]
    struct Database(std::sync::Mutex<Vec<String>>);

    fn done<'a>() -> Doing<'a, Outcome> {
        Box::pin(async { Ok(Outcome::Done(Report::of("done"))) })
    }

    impl Actions for Database {
        fn names(&self) -> Vec<String> {
            vec!["freeze".to_owned(), "thaw".to_owned()]
        }

        fn describe<'a>(&'a self, _: &'a str, _: &'a Value) -> Doing<'a, Description> {
            Box::pin(async { Ok(Description::default()) })
        }

        fn check<'a>(&'a self, _: &'a str, _: &'a Context, _: &'a Value) -> Doing<'a, Standing> {
            Box::pin(async { Ok(Standing::Ready) })
        }

        fn run<'a>(
            &'a self,
            action: &'a str,
            _: &'a Context,
            params: &'a Value,
        ) -> Doing<'a, Outcome> {
            self.0.lock().unwrap().push(format!("{action} {}", params["group"]));
            if params["group"] == "locked" {
                return Box::pin(async { Err(ActionError::never("busy", "a dump has it")) });
            }
            let poll_after = Duration::ZERO;
            let (token, progress) = (json!(1), "half of it".to_owned());
            Box::pin(async move { Ok(Outcome::Pending { token, poll_after, progress }) })
        }

        fn resume<'a>(
            &'a self,
            action: &'a str,
            _: &'a Context,
            _: &'a Value,
            token: &'a Value,
            _: Option<&'a str>,
        ) -> Doing<'a, Outcome> {
            self.0.lock().unwrap().push(format!("{action} goes on with {token}"));
            done()
        }

        fn undo<'a>(
            &'a self,
            _: &'a str,
            _: &'a Context,
            _: &'a Value,
            _: &'a Report,
        ) -> Doing<'a, Outcome> {
            done()
        }
    }

    #[tokio::test]
    async fn a_plugin_freezes_and_thaws_by_its_actions_and_one_that_is_not_there_is_named() {
        let (plugins, database) = (Registry::default(), Arc::new(Database::default()));
        let kind = HookKind::Plugin("database".to_owned());
        let hook = Hook { name: "db".to_owned(), kind, timeout: Duration::from_secs(60) };
        let none = call(&hook, (Action::Freeze, "orders"), &plugins).await.unwrap_err();
        assert!(none.contains("no plugin here has the action database/freeze"), "{none}");
        plugins.put("database", Arc::clone(&database) as Arc<dyn Actions>);
        for action in [Action::Freeze, Action::Thaw] {
            assert_eq!(call(&hook, (action, "orders"), &plugins).await, Ok(()));
        }
        let said = database.0.lock().unwrap().join(", ");
        let wanted =
            "freeze \"orders\", freeze goes on with 1, thaw \"orders\", thaw goes on with 1";
        assert_eq!(said, wanted);
        let why = call(&hook, (Action::Freeze, "locked"), &plugins).await.unwrap_err();
        assert!(why.contains("hook db could not freeze: a dump has it"), "{why}");
    }

    #[tokio::test]
    async fn a_script_that_is_slow_is_given_up_at_its_limit() {
        let why = call(&script("exec sleep 600", 50), (Action::Freeze, "g"), &Registry::default())
            .await
            .unwrap_err();
        assert!(why.contains("took longer than 50ms"), "{why}");
    }

    /// Takes one request, answers it, and says what it was.
    async fn answer(listener: tokio::net::TcpListener, status: &str) -> String {
        let (stream, _) = listener.accept().await.unwrap();
        let mut host = BufReader::new(stream);
        let mut heard = String::new();
        while !heard.ends_with('}') {
            let mut byte = [0];
            host.read_exact(&mut byte).await.unwrap();
            heard.push(char::from(byte[0]));
        }
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        host.write_all(head.as_bytes()).await.unwrap();
        heard
    }

    #[tokio::test]
    async fn a_url_is_posted_to_and_its_status_decides() {
        let _installed = rustls::crypto::ring::default_provider().install_default();
        for (status, expected) in [("204 No Content", None), ("503 Busy", Some("503"))] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/quiesce", listener.local_addr().unwrap());
            let timeout = Duration::from_secs(60);
            let hook = Hook { name: "app".to_owned(), kind: HookKind::Url(url), timeout };
            let plugins = Registry::default();
            let asked = call(&hook, (Action::Thaw, "orders"), &plugins);
            let (result, heard) = tokio::join!(asked, answer(listener, status));
            assert!(heard.starts_with("POST /quiesce "), "{heard}");
            assert!(heard.contains("\"action\":\"thaw\"") && heard.contains("orders"), "{heard}");
            match expected {
                None => assert_eq!(result, Ok(())),
                Some(word) => assert!(result.unwrap_err().contains(word)),
            }
        }
    }

    /// Answers as an agent does, after something that was left of an earlier talk.
    async fn agent(listener: UnixListener, freeze: &'static str) {
        let (stream, _) = listener.accept().await.unwrap();
        let mut host = BufReader::new(stream);
        let mut line = Vec::new();
        host.read_until(b'\n', &mut line).await.unwrap();
        assert_eq!(line[0], FLUSH);
        let asked: Value = serde_json::from_slice(&line[1..]).unwrap();
        let id = &asked["arguments"]["id"];
        let answer = format!("{{\"return\": 5}}\n\u{0}{{\"return\": {id}}}\n");
        let answer = answer.into_bytes().into_iter().map(|b| if b == 0 { FLUSH } else { b });
        host.write_all(&answer.collect::<Vec<u8>>()).await.unwrap();
        line.clear();
        host.read_until(b'\n', &mut line).await.unwrap();
        let asked: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(asked["execute"], "guest-fsfreeze-freeze");
        host.write_all(freeze.as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn a_guest_agent_is_asked_and_its_refusal_is_told() {
        let dir = tempfile::tempdir().unwrap();
        for (answer, expected) in [
            ("{\"return\": 2}\n", None),
            ("{\"error\": {\"class\": \"GenericError\", \"desc\": \"frozen\"}}\n", Some("frozen")),
            ("", Some("hung up")),
        ] {
            let socket = dir.path().join("agent");
            let _old = std::fs::remove_file(&socket);
            let listener = UnixListener::bind(&socket).unwrap();
            let hook = Hook {
                name: "vm".to_owned(),
                kind: HookKind::QemuAgent(socket),
                timeout: Duration::from_secs(60),
            };
            let plugins = Registry::default();
            let (result, ()) =
                tokio::join!(call(&hook, (Action::Freeze, "g"), &plugins), agent(listener, answer));
            match expected {
                None => assert_eq!(result, Ok(())),
                Some(words) => assert!(result.unwrap_err().contains(words)),
            }
        }
    }
}
