//! The contract's side of this plugin: what it exports, and the gateway as the rest of it sees it.
//!
//! Invariant: it decides nothing; it puts one side's words into the other's.

mod making;

wit_bindgen::generate!({ path: "../../wit", world: "orchestrator-plugin", generate_all });

use serde_json::{Map, Value, json};

use self::exports::twinspan::plugin::actions::{Description, Guest as Actions, Standing};
use self::exports::twinspan::plugin::plans::Guest as Plans;
use self::exports::twinspan::plugin::plugin::{
    Action, Descriptor, Guest, Health, HealthReport, Want,
};
use self::exports::twinspan::plugin::upkeep::Guest as Upkeep;
use self::making::{looked_at, made};
use self::twinspan::plugin::types::{
    Context, Diagnostic, Error, ErrorCode, Group, Outcome, Pending, Progress, Report, Retry, Role,
    Severity,
};
use self::twinspan::plugin::{config, folder, http, kv, volumes};
use crate::collect;
use crate::manager::Manager;
use crate::model::text;
use crate::outside::{self, Call, Code, File, NoAnswer, Outside, Request, Response, Trouble};
use crate::plan::{self, KINDS};
use crate::steps::{self, ACTIONS, Step};

/// An orchestrator answers within this time, or is asked again.
const TIMEOUT_MS: u32 = 3_000;
/// One call of an action: a batch stops long before.
const ACTION_S: u32 = 60;

const CONFIG: &str = r#"{
  "type": "object",
  "required": ["manager", "token", "folder"],
  "additionalProperties": false,
  "properties": {
    "manager": { "type": "string", "pattern": "^https?://", "description": "where this site's orchestrator answers" },
    "token": { "type": "string", "minLength": 1, "description": "the name of the secret that is its token" },
    "folder": { "type": "string", "minLength": 1, "description": "the volume that is the information folder" },
    "interval_s": { "type": "integer", "minimum": 0, "description": "collect so often, until somebody says otherwise" },
    "on_event": { "type": "boolean", "description": "collect whenever something changed" }
  }
}"#;

/// What an action can be told; which of it each needs, LSERVER.md says.
const PARAMS: [&str; 19] = [
    "source",
    "export",
    "level",
    "mode",
    "type",
    "tenants",
    "exclude",
    "pools",
    "what",
    "timeout_s",
    "noretry",
    "fresh_s",
    "additional",
    "run",
    "physical",
    "vm_guest",
    "firewalls",
    "sso",
    "charging",
];

struct Plugin;

/// The gateway.
struct Gateway;

fn kv_trouble(error: kv::KvError) -> Trouble {
    match error {
        kv::KvError::Denied => {
            let why = "not granted: twinspan plugin grant lserver-switchover kv";
            Trouble::never(Code::Denied, why)
        }
        kv::KvError::TooLarge | kv::KvError::Quota => {
            Trouble::never(Code::Quota, "the plugin keeps as much at this site as it may")
        }
        kv::KvError::Revision(_) => Trouble::later(Code::Conflict, "it was changed meanwhile"),
        kv::KvError::Unavailable(why) => Trouble::later(Code::Unavailable, why),
    }
}

fn folder_trouble(volume: &str, error: folder::FolderError) -> Trouble {
    use folder::FolderError as E;
    let say = |why: String| format!("folder {volume}: {why}");
    match error {
        E::Denied(why) => Trouble::never(Code::Denied, say(why)),
        E::NoVolume => {
            Trouble::never(Code::NotFound, say("there is no such volume here".to_owned()))
        }
        E::Elsewhere(why) => Trouble::later(Code::WrongState, say(why)),
        E::Held(why) => Trouble::later(Code::Conflict, say(why)),
        E::Revision(_) => {
            Trouble::later(Code::Conflict, say("it was changed meanwhile".to_owned()))
        }
        E::TooLarge => {
            Trouble::never(Code::Quota, say("what was exported has more than 4 MiB".to_owned()))
        }
        E::Full => Trouble::never(Code::Quota, say("it is full: grow the volume".to_owned())),
        E::Damaged(why) => Trouble::later(Code::WrongState, say(why)),
        E::Unavailable(why) => Trouble::later(Code::Unavailable, say(why)),
    }
}

fn of_contract(error: Error) -> Trouble {
    let again_ms = match error.retry {
        Retry::Never => None,
        Retry::Now => Some(0),
        Retry::AfterMs(ms) => Some(ms),
    };
    let code = match error.code {
        ErrorCode::Denied => Code::Denied,
        ErrorCode::NotFound => Code::NotFound,
        _ => Code::Unavailable,
    };
    Trouble { code, message: error.message, again_ms }
}

fn error(trouble: Trouble) -> Error {
    let code = match trouble.code {
        Code::Argument => ErrorCode::InvalidArgument,
        Code::Config => ErrorCode::InvalidConfig,
        Code::Unauthorized => ErrorCode::Unauthorized,
        Code::Denied => ErrorCode::Denied,
        Code::NotFound => ErrorCode::NotFound,
        Code::Conflict => ErrorCode::Conflict,
        Code::WrongState => ErrorCode::WrongState,
        Code::Quota => ErrorCode::QuotaExceeded,
        Code::Unavailable => ErrorCode::Unavailable,
        Code::Timeout => ErrorCode::Timeout,
        Code::Internal => ErrorCode::Internal,
    };
    let retry = trouble.again_ms.map_or(Retry::Never, Retry::AfterMs);
    Error { code, message: trouble.message, retry, vendor_code: None }
}

impl Outside for Gateway {
    fn send(&self, request: &Request) -> Result<Response, NoAnswer> {
        use http::HttpError as E;
        let sent = http::Request {
            method: request.method.to_owned(),
            url: request.url.clone(),
            headers: request.headers.clone(),
            body: request.body.clone(),
            auth: http::Auth::Bearer(request.secret.clone()),
            timeout_ms: TIMEOUT_MS,
        };
        match http::send(&sent) {
            Ok(answer) => {
                let is_it =
                    |(name, _): &&(String, String)| name.eq_ignore_ascii_case("retry-after");
                let retry_after = answer.headers.iter().find(is_it).map(|(_, value)| value.clone());
                Ok(Response { status: answer.status, retry_after, body: answer.body })
            }
            Err(E::Denied(why) | E::InvalidRequest(why)) => Err(NoAnswer::Never(why)),
            Err(E::ResponseTooLarge) => {
                Err(NoAnswer::Never("it answered more than 4 MiB".to_owned()))
            }
            // Every request can be repeated, so it does not matter whether something was done.
            Err(E::Connect(why) | E::Interrupted(why)) => Err(NoAnswer::Again(why)),
            Err(E::Timeout) => Err(NoAnswer::Again("it did not answer in time".to_owned())),
            Err(E::TooManyRequests) => {
                Err(NoAnswer::Again("one call may send no more requests".to_owned()))
            }
        }
    }

    fn pause(&self, ms: u64) {
        std::thread::sleep(std::time::Duration::from_millis(ms));
    }

    #[expect(clippy::disallowed_methods, reason = "a component is given no other clock")]
    fn now_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn here(&self) -> Result<String, Trouble> {
        volumes::here().map_err(of_contract)
    }

    fn serves(&self, volume: &str) -> Result<bool, Trouble> {
        let groups = volumes::groups().map_err(of_contract)?;
        let has = |group: &&Group| group.volumes.iter().any(|of| of.name == volume);
        let serving = |group: &Group| matches!(group.role, Role::Primary | Role::Alone);
        Ok(groups.iter().find(has).is_some_and(serving))
    }

    fn config(&self) -> Value {
        serde_json::from_str(&config::get()).unwrap_or_default()
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Trouble> {
        kv::get(key).map(|entry| entry.map(|entry| entry.value)).map_err(kv_trouble)
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<(), Trouble> {
        kv::put(key, value, None).map(drop).map_err(kv_trouble)
    }

    fn delete(&self, key: &str) -> Result<(), Trouble> {
        kv::delete(key).map_err(kv_trouble)
    }

    fn keys(&self, prefix: &str) -> Result<Vec<String>, Trouble> {
        kv::keys(prefix, None, 1_000).map_err(kv_trouble)
    }

    fn files(&self, volume: &str, prefix: &str) -> Result<Vec<File>, Trouble> {
        let files = folder::files(volume, prefix).map_err(|e| folder_trouble(volume, e))?;
        let file =
            |of: folder::File| File { name: of.name, bytes: of.size_bytes, at_ms: of.written_at };
        Ok(files.into_iter().map(file).collect())
    }

    fn read(&self, volume: &str, name: &str) -> Result<Option<Vec<u8>>, Trouble> {
        let found = folder::read(volume, name).map_err(|e| folder_trouble(volume, e))?;
        Ok(found.map(|(_, content)| content))
    }

    fn write(&self, volume: &str, name: &str, content: &[u8]) -> Result<(), Trouble> {
        folder::write(volume, name, content, None).map(drop).map_err(|e| folder_trouble(volume, e))
    }

    fn remove(&self, volume: &str, name: &str) -> Result<(), Trouble> {
        folder::remove(volume, name).map_err(|e| folder_trouble(volume, e))
    }
}

fn report(report: outside::Report) -> Report {
    Report { summary: report.summary, created: vec![], removed: vec![], outputs: report.outputs }
}

fn outcome(said: Result<outside::Outcome, Trouble>) -> Result<Outcome, Error> {
    Ok(match said.map_err(error)? {
        outside::Outcome::Done(done) => Outcome::Done(report(done)),
        outside::Outcome::Skipped(why) => Outcome::Skipped(why),
        outside::Outcome::Pending { token, after_ms, percent, progress } => {
            Outcome::Pending(Pending {
                token: token.to_string(),
                poll_after_ms: after_ms,
                progress: Progress { percent, message: progress },
            })
        }
    })
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

fn call(ctx: &Context) -> Call {
    // What is taken back is another deed than what was done.
    let way = if ctx.is_undo { "back" } else { "forth" };
    let key = format!("{}/{way}", ctx.idempotency_key);
    Call { run: ctx.run.clone(), step: ctx.step.clone(), key }
}

impl Guest for Plugin {
    fn describe() -> Descriptor {
        let properties: Map<String, Value> =
            PARAMS.iter().map(|name| ((*name).to_owned(), json!({ "type": "string" }))).collect();
        let schema = json!({
            "type": "object", "additionalProperties": false, "properties": properties,
        });
        let action = |(name, title, is_reversible): &(&str, &str, bool)| Action {
            name: (*name).to_owned(),
            title: (*title).to_owned(),
            params_schema: schema.to_string(),
            is_reversible: *is_reversible,
            timeout_s: ACTION_S,
        };
        Descriptor {
            name: "lserver-switchover".to_owned(),
            vendor: "Twinspan".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description:
                "Switches L-Servers of a resource orchestrator over to another site. Also \
                          grant http:HOST:PORT of the orchestrator, secret:NAME of its token and \
                          folder:VOLUME."
                    .to_owned(),
            config_schema: CONFIG.to_owned(),
            actions: ACTIONS.iter().map(action).collect(),
            wants: vec![Want::Kv, Want::Volumes],
        }
    }

    fn check_config(_config: String) -> Vec<Diagnostic> {
        vec![]
    }

    fn probe() -> Result<HealthReport, Error> {
        let healthy = || -> Result<String, Trouble> {
            let status = Manager::of(&Gateway, "")?.status()?;
            let volume = collect::volume(&Gateway)?;
            let files = Gateway.files(&volume, "exports/")?.len();
            let revision = status.get("revision").cloned().unwrap_or_default();
            Ok(format!(
                "the orchestrator is at revision {revision}; the folder has {files} exports"
            ))
        };
        Ok(match healthy() {
            Ok(message) => HealthReport { health: Health::Ok, message },
            Err(trouble) => HealthReport { health: Health::Failed, message: trouble.message },
        })
    }
}

impl Actions for Plugin {
    fn describe(name: String, params: String) -> Result<Description, Error> {
        let params = json_of(&params);
        let title = ACTIONS.iter().find(|(of, ..)| *of == name).map(|(_, title, _)| *title);
        let mut summary = title.unwrap_or_default().to_lowercase();
        for key in PARAMS {
            let value = text(&params, key);
            if !value.is_empty() {
                summary = format!("{summary}, {key}={value}");
            }
        }
        let warnings = match name.as_str() {
            "recover" => vec!["It deletes the destination's own environment first".to_owned()],
            "cleanup" => vec!["It deletes what moved at the source".to_owned()],
            _ => vec![],
        };
        Ok(Description { summary, warnings })
    }

    fn check(ctx: Context, name: String, params: String) -> Result<Standing, Error> {
        if name != "prove" {
            return Ok(Standing::Ready);
        }
        let (call, params) = (call(&ctx), json_of(&params));
        let step = Step { outside: &Gateway, call: &call, params: &params };
        let (findings, ..) = steps::prove(&step).map_err(error)?;
        let words: Vec<String> =
            findings.iter().map(|of| format!("{}: {}", of.code, of.message)).collect();
        Ok(if words.is_empty() { Standing::Ready } else { Standing::Blocked(words.join("; ")) })
    }

    fn run(ctx: Context, name: String, params: String) -> Result<Outcome, Error> {
        if ctx.dry_run {
            return Ok(Outcome::Skipped("nothing is changed by a rehearsal".to_owned()));
        }
        let (call, params) = (call(&ctx), json_of(&params));
        let step = Step { outside: &Gateway, call: &call, params: &params };
        outcome(steps::run(&name, &step, &Value::Null))
    }

    fn resume(
        ctx: Context,
        name: String,
        params: String,
        token: String,
        _answer: Option<String>,
    ) -> Result<Outcome, Error> {
        let (call, params, token) = (call(&ctx), json_of(&params), json_of(&token));
        let step = Step { outside: &Gateway, call: &call, params: &params };
        outcome(if ctx.is_undo {
            steps::undo(&name, &step, &token)
        } else {
            steps::run(&name, &step, &token)
        })
    }

    fn undo(ctx: Context, name: String, params: String, _done: Report) -> Result<Outcome, Error> {
        let ctx = Context { is_undo: true, ..ctx };
        let (call, params) = (call(&ctx), json_of(&params));
        let step = Step { outside: &Gateway, call: &call, params: &params };
        outcome(steps::undo(&name, &step, &Value::Null))
    }
}

impl Upkeep for Plugin {
    fn words() -> Vec<(String, String)> {
        let owned = |(word, meaning): &(&str, &str)| ((*word).to_owned(), (*meaning).to_owned());
        collect::WORDS.iter().chain(&steps::WORDS).map(owned).collect()
    }

    fn tick(_ctx: Context) -> Result<u32, Error> {
        let next = collect::tick(&Gateway).map_err(error)?;
        Ok(u32::try_from(next).unwrap_or(u32::MAX))
    }

    fn say(ctx: Context, word: String, params: String) -> Result<String, Error> {
        let (call, params) = (call(&ctx), json_of(&params));
        let step = Step { outside: &Gateway, call: &call, params: &params };
        let is_ours = steps::WORDS.iter().any(|(of, _)| *of == word);
        let said =
            if is_ours { steps::say(&word, &step) } else { collect::say(&Gateway, &word, &params) };
        said.map(|answer| answer.to_string()).map_err(error)
    }
}

impl Plans for Plugin {
    fn kinds() -> Vec<String> {
        KINDS.iter().map(ToString::to_string).collect()
    }

    fn make(
        _ctx: Context,
        kind: String,
        groups: Vec<Group>,
        options: String,
    ) -> Result<String, Error> {
        made(kind, &groups, &options).map(|plan| plan.to_string()).map_err(error)
    }

    fn check(_ctx: Context, plan: String) -> Result<Vec<Diagnostic>, Error> {
        let plan = json_of(&plan);
        let against = |(path, code, message): (String, &str, String)| Diagnostic {
            severity: Severity::Error,
            code: code.to_owned(),
            message,
            path: Some(path),
            vendor_code: None,
        };
        let mut all: Vec<Diagnostic> = plan::check(&plan).into_iter().map(against).collect();
        all.extend(looked_at(&plan));
        Ok(all)
    }
}

export!(Plugin);
