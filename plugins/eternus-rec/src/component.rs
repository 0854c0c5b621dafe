//! What the gateway calls.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::arrays::{Arrays, Boxes, Config, Side};
use super::exports::twinspan::plugin::actions::{Description, Guest as Actions, Standing};
use super::exports::twinspan::plugin::plugin::{
    Action, Descriptor, Guest, Health, HealthReport, Want,
};
use super::turn::{Seen, Turn};
use super::twinspan::plugin::run;
use super::twinspan::plugin::types::{
    Context, Created, Diagnostic, Error, ErrorCode, Outcome, Pending, Progress, Report, Severity,
};
use super::{error, flows};

/// Between two looks.
const LOOK_MS: u32 = 1_000;

pub struct Rec;

const CONFIG: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "local": { "type": "string" },
    "remote": { "type": "string" },
    "local_token": { "type": "string" },
    "remote_token": { "type": "string" }
  }
}"#;

/// Name, title, schema of its parameters, whether it is taken back.
const ALL: &[(&str, &str, &str, bool)] = &[
    (
        "find",
        "Find the numbers of a volume",
        r#"{ "type": "object", "additionalProperties": false,
        "required": ["volume"], "properties": { "volume": { "type": "string", "minLength": 1 } } }"#,
        false,
    ),
    (
        "create-mirror",
        "Make a mirrored volume in the remote storage system",
        r#"{ "type": "object", "additionalProperties": false, "required": ["volume", "mirror"],
        "properties": { "volume": { "type": "string", "minLength": 1 },
                        "mirror": { "type": "string", "minLength": 1 },
                        "split_mode": { "enum": ["Automatic", "Manual"] } } }"#,
        true,
    ),
    (
        "switch-mode",
        "Let a session go over to another transfer mode",
        r#"{ "type": "object", "additionalProperties": false, "required": ["volume", "mode"],
        "properties": { "volume": { "type": "string", "minLength": 1 },
                        "mode": { "enum": ["Synchronous", "Stack", "Consistency"] } } }"#,
        true,
    ),
    (
        "recover",
        "Restore an operation volume from its mirrored volume",
        r#"{ "type": "object", "additionalProperties": false, "required": ["mirror"],
        "properties": { "mirror": { "type": "string", "minLength": 1 },
                        "stay": { "type": "boolean" } } }"#,
        false,
    ),
    (
        "delete-mirror",
        "Delete a session, and its mirrored volume where that is wanted",
        r#"{ "type": "object", "additionalProperties": false, "required": ["volume"],
        "properties": { "volume": { "type": "string", "minLength": 1 },
                        "force": { "type": "boolean" }, "with_mirror": { "type": "boolean" } } }"#,
        false,
    ),
];

fn config() -> Result<Config, Error> {
    read_config(&super::twinspan::plugin::config::get())
}

fn read_config(text: &str) -> Result<Config, Error> {
    serde_json::from_str(text).map_err(|why| error(ErrorCode::InvalidConfig, why.to_string()))
}

fn read<T: DeserializeOwned>(params: &str) -> Result<T, Error> {
    serde_json::from_str(params).map_err(|why| error(ErrorCode::InvalidArgument, why.to_string()))
}

fn unknown(name: &str) -> Error {
    error(ErrorCode::Unsupported, format!("there is no action {name}"))
}

fn report(summary: String, outputs: Vec<(String, String)>, created: Vec<Created>) -> Report {
    Report { summary, created, removed: vec![], outputs }
}

/// What a volume is registered as that was made for a mirror.
fn made(name: &str, outputs: &[(String, String)]) -> Option<Created> {
    let of = |key: &str| outputs.iter().find(|(name, _)| name == key).map(|(_, value)| value);
    (of("made")? == "true").then(|| Created {
        kind: "volume".to_owned(),
        id: of("mirror").cloned().unwrap_or_default(),
        name: name.to_owned(),
    })
}

fn outcome(turn: &Turn, seen: Seen, params: &Value) -> Result<Outcome, Error> {
    match seen {
        Seen::Done(summary, outputs) => {
            let name = params["mirror"].as_str().unwrap_or_default();
            let created: Vec<Created> = made(name, &outputs).into_iter().collect();
            for of in created.iter().filter(|_| !turn.is_dry) {
                run::register(of)?;
            }
            Ok(Outcome::Done(report(summary, outputs, created)))
        }
        Seen::Not(what) if turn.is_dry => {
            Ok(Outcome::Done(report(format!("it would be done: {what}"), vec![], vec![])))
        }
        Seen::Not(message) => {
            let token = serde_json::to_string(turn)
                .map_err(|why| error(ErrorCode::Internal, why.to_string()))?;
            let progress = Progress { percent: None, message };
            Ok(Outcome::Pending(Pending { token, poll_after_ms: LOOK_MS, progress }))
        }
    }
}

fn go(ctx: &Context, name: &str, params: &str, mut turn: Turn) -> Result<Outcome, Error> {
    let boxes = &Boxes { config: config()? };
    turn.is_dry = ctx.dry_run;
    let key = ctx.idempotency_key.as_str();
    let to = &mut turn;
    let seen = match (name, ctx.is_undo) {
        ("find", _) => flows::find(boxes, &read(params)?)?,
        ("create-mirror", false) => flows::create(boxes, (key, &read(params)?), to)?,
        ("create-mirror", true) => flows::uncreate(boxes, (key, &read(params)?), to)?,
        ("switch-mode", false) => flows::switch(boxes, (key, &read(params)?), to)?,
        ("switch-mode", true) => match flows::unswitch(boxes, (key, &read(params)?), to)? {
            Some(seen) => seen,
            None => return Ok(Outcome::Skipped("the mode was not changed".to_owned())),
        },
        ("recover", _) => flows::recover(boxes, (key, &read(params)?), to)?,
        ("delete-mirror", _) => flows::delete(boxes, (key, &read(params)?), to)?,
        (other, _) => return Err(unknown(other)),
    };
    outcome(&turn, seen, &read(params)?)
}

impl Guest for Rec {
    fn describe() -> Descriptor {
        let action = |(name, title, schema, is_reversible): &(&str, &str, &str, bool)| Action {
            name: (*name).to_owned(),
            title: (*title).to_owned(),
            params_schema: (*schema).to_owned(),
            is_reversible: *is_reversible,
            timeout_s: 60,
        };
        Descriptor {
            name: "eternus-rec".to_owned(),
            vendor: "Twinspan".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description: "Remote copies between two storage systems, by the copy-session API."
                .to_owned(),
            config_schema: CONFIG.to_owned(),
            actions: ALL.iter().map(action).collect(),
            wants: vec![Want::Kv],
        }
    }

    fn check_config(config: String) -> Vec<Diagnostic> {
        let wrong = |message: String| {
            vec![Diagnostic {
                severity: Severity::Error,
                code: "config".to_owned(),
                message,
                path: None,
                vendor_code: None,
            }]
        };
        match read_config(&config) {
            Err(why) => wrong(why.message),
            Ok(config) if !config.local.is_empty() && config.local == config.remote => {
                wrong("local and remote are the same storage system".to_owned())
            }
            Ok(_) => vec![],
        }
    }

    fn probe() -> Result<HealthReport, Error> {
        let config = config()?;
        if config.local.is_empty() || config.remote.is_empty() {
            let message = "where the two storage systems are is not configured".to_owned();
            return Ok(HealthReport { health: Health::Degraded, message });
        }
        let boxes = Boxes { config };
        let mut told = Vec::new();
        for side in [Side::Local, Side::Remote] {
            match boxes.get(side, "/storage") {
                Ok(storage) => told.push(format!("{side:?} is box {}", storage["boxid"])),
                Err(why) => {
                    return Ok(HealthReport { health: Health::Failed, message: why.message });
                }
            }
        }
        Ok(HealthReport { health: Health::Ok, message: told.join(", ") })
    }
}

impl Actions for Rec {
    fn describe(name: String, params: String) -> Result<Description, Error> {
        let params: Value = read(&params)?;
        let (_, title, ..) = ALL.iter().find(|of| of.0 == name).ok_or_else(|| unknown(&name))?;
        let fields = params.as_object().into_iter().flatten();
        let told: Vec<String> = fields.map(|(name, of)| format!("{name} {of}")).collect();
        let warnings = match name.as_str() {
            "recover" => vec!["what only the operation volume holds is lost".to_owned()],
            "delete-mirror" if params["with_mirror"] == true => {
                vec!["the mirrored volume does not come back".to_owned()]
            }
            _ => vec![],
        };
        Ok(Description { summary: format!("{title}: {}", told.join(", ")), warnings })
    }

    fn check(_: Context, name: String, params: String) -> Result<Standing, Error> {
        if ALL.iter().all(|of| of.0 != name) {
            return Err(unknown(&name));
        }
        // Whether the volume can be found at all; the rest is looked at by each step of the flow.
        let boxes = Boxes { config: config()? };
        let params: Value = read(&params)?;
        let Some(volume) = params["volume"].as_str() else { return Ok(Standing::Ready) };
        match flows::find(&boxes, &flows::Find { volume: volume.to_owned() }) {
            Ok(_) => Ok(Standing::Ready),
            Err(why) if why.code == ErrorCode::NotFound => Ok(Standing::Blocked(why.message)),
            Err(why) => Err(why),
        }
    }

    fn run(ctx: Context, name: String, params: String) -> Result<Outcome, Error> {
        go(&ctx, &name, &params, Turn::default())
    }

    fn resume(
        ctx: Context,
        name: String,
        params: String,
        token: String,
        _answer: Option<String>,
    ) -> Result<Outcome, Error> {
        go(&ctx, &name, &params, Turn::read(&token)?)
    }

    fn undo(ctx: Context, name: String, params: String, _done: Report) -> Result<Outcome, Error> {
        match name.as_str() {
            "create-mirror" | "switch-mode" => {
                go(&Context { is_undo: true, ..ctx }, &name, &params, Turn::default())
            }
            other => Ok(Outcome::Skipped(format!("{other} does not come back"))),
        }
    }
}
