//! A plugin that does what no plugin should, on request: the tests of the gateway call it.

wit_bindgen::generate!({ path: "../../wit", world: "full-plugin", generate_all });

use exports::twinspan::plugin::actions::{Description, Guest as Actions, Standing};
use exports::twinspan::plugin::placement::{Guest as Placement, Proposal};
use exports::twinspan::plugin::plans::Guest as Plans;
use exports::twinspan::plugin::plugin::{Action, Descriptor, Guest, Health, HealthReport, Want};
use twinspan::plugin::types::{
    Context, Created, Diagnostic, Error, ErrorCode, Group, Mode, Outcome, Pending, Progress,
    Question, Report, Retry, Severity, Site,
};
use twinspan::plugin::{folder, http, kv, log, metrics, run, secrets, volumes};

struct Hostile;

const NAMES: [&str; 25] = [
    "loop",
    "sleep",
    "allocate",
    "trap",
    "flood-log",
    "flood-output",
    "flood-metrics",
    "print",
    "bad-token",
    "long-token",
    "read-files",
    "connect",
    "call",
    "count",
    "secret",
    "folder",
    "see",
    "wait",
    "make",
    "lie",
    "blab",
    "keep",
    "slow",
    // Hooks of recovery points; of a group with a bad name it refuses to.
    "freeze",
    "thaw",
];

fn error(code: ErrorCode, message: impl ToString) -> Error {
    Error { code, message: message.to_string(), retry: Retry::Never, vendor_code: None }
}

fn done(summary: impl ToString) -> Result<Outcome, Error> {
    let summary = summary.to_string();
    Ok(Outcome::Done(Report { summary, created: vec![], removed: vec![], outputs: vec![] }))
}

fn pending(token: String) -> Result<Outcome, Error> {
    let progress = Progress { percent: Some(50), message: "half of it".to_owned() };
    Ok(Outcome::Pending(Pending { token, poll_after_ms: 10, progress }))
}

fn text<'a>(params: &'a serde_json::Value, key: &str) -> &'a str {
    params[key].as_str().unwrap_or("")
}

/// How often or how much of something; once where nothing is said.
fn number(params: &serde_json::Value, key: &str) -> usize {
    params[key].as_u64().map_or(1, |number| usize::try_from(number).unwrap_or(usize::MAX))
}

fn call(params: &serde_json::Value) -> Result<Outcome, Error> {
    let auth = match text(params, "secret") {
        "" => http::Auth::None,
        name => http::Auth::Bearer(name.to_owned()),
    };
    let request = http::Request {
        method: "GET".to_owned(),
        url: text(params, "url").to_owned(),
        headers: vec![("x-plugin".to_owned(), "hostile".to_owned())],
        body: vec![],
        auth,
        timeout_ms: 2_000,
    };
    match http::send(&request) {
        Ok(answer) => done(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body))),
        Err(why) => Err(error(ErrorCode::Unavailable, format!("{why:?}"))),
    }
}

/// Makes something at the other side, whatever comes of it, and without a key.
fn lie() {
    let request = http::Request {
        method: "POST".to_owned(),
        url: "http://127.0.0.1/things".to_owned(),
        headers: vec![],
        body: vec![],
        auth: http::Auth::None,
        timeout_ms: 1_000,
    };
    let _ignored = http::send(&request);
}

/// Says what it was not to say.
fn blab() -> Result<Outcome, Error> {
    let key = secrets::reveal("key").map_err(|why| error(ErrorCode::Denied, format!("{why:?}")))?;
    Err(error(ErrorCode::Unauthorized, format!("not with {}", String::from_utf8_lossy(&key))))
}

fn count() -> Result<Outcome, Error> {
    let wrong = |why: kv::KvError| error(ErrorCode::Unavailable, format!("{why:?}"));
    let entry = kv::get("count").map_err(wrong)?;
    let (count, revision) = entry.map_or((0, 0), |entry| {
        (String::from_utf8_lossy(&entry.value).parse::<u64>().unwrap_or(0), entry.revision)
    });
    kv::put("count", (count + 1).to_string().as_bytes(), Some(revision)).map_err(wrong)?;
    done(count + 1)
}

fn act(ctx: &Context, name: &str, params: &serde_json::Value) -> Result<Outcome, Error> {
    match name {
        "loop" => loop {
            std::hint::black_box(());
        },
        "sleep" => {
            println!("asleep");
            std::thread::sleep(std::time::Duration::from_secs(3_600));
            done("slept")
        }
        "allocate" => {
            let mut all = Vec::new();
            loop {
                all.push(vec![1_u8; 1 << 20]);
                std::hint::black_box(&all);
            }
        }
        "trap" => panic!("it does not want to"),
        "flood-log" => {
            for i in 0..100_000 {
                log::log(log::Level::Error, &format!("{i} {}", "x".repeat(10_000)), &[]);
            }
            done("said it all")
        }
        "flood-output" => done("x".repeat(20 << 20)),
        "flood-metrics" => {
            for i in 0..10_000 {
                metrics::add("n", &i.to_string(), 1);
                metrics::set("n", &i.to_string(), 1.0);
            }
            done("counted")
        }
        "print" => {
            println!("printed {}", ctx.actor);
            eprint!("and complained");
            done("printed")
        }
        "bad-token" => pending("no JSON".to_owned()),
        "long-token" => pending(format!("\"{}\"", "x".repeat(100_000))),
        "read-files" => {
            let files = std::fs::read_dir("/").map(Iterator::count);
            let variables = std::env::vars().count();
            done(format!("{files:?} {variables}"))
        }
        "connect" => {
            done(format!("{:?}", std::net::TcpStream::connect(text(params, "to")).is_ok()))
        }
        "call" => {
            (1..number(params, "times")).for_each(|_| drop(call(params)));
            call(params)
        }
        "count" => count(),
        "secret" => {
            let name = text(params, "name");
            let signed = secrets::hmac_sha256(name, b"data").map(|bytes| bytes.len());
            let seen = secrets::reveal(name).map(|b| String::from_utf8_lossy(&b).into_owned());
            done(format!("{signed:?} {seen:?}"))
        }
        "folder" => {
            let volume = text(params, "volume");
            let wrote = folder::write(volume, "f", b"content", None);
            let read = folder::read(volume, "f").map(|found| found.map(|(_, content)| content));
            done(format!("{wrote:?} {read:?}"))
        }
        "see" => match volumes::groups() {
            Ok(groups) => {
                let names: Vec<_> = groups.into_iter().map(|group| group.name).collect();
                done(names.join(","))
            }
            Err(why) => Err(why),
        },
        "wait" => pending(r#"{"asked":0}"#.to_owned()),
        "make" => {
            let id = ctx.idempotency_key.clone();
            run::register(&Created { kind: "server".to_owned(), id, name: "s1".to_owned() })?;
            panic!("after it was made");
        }
        "lie" => {
            lie();
            done("made it")
        }
        "blab" => blab(),
        "freeze" | "thaw" => {
            let group = text(params, "group");
            log::log(log::Level::Info, &format!("{name} {group}"), &[]);
            if name == "freeze" && group.starts_with("locked") {
                return Err(error(ErrorCode::Conflict, "a dump has it"));
            }
            done(name)
        }
        "keep" => {
            let (key, name) = (&ctx.idempotency_key, "t".repeat(number(params, "bytes")));
            for time in 1..=number(params, "times") {
                let id = if time == 1 { key.clone() } else { format!("{key}-{time}") };
                run::register(&Created { kind: "thing".to_owned(), id, name: name.clone() })?;
            }
            done("made a thing")
        }
        // Makes something, and takes its time then.
        "slow" => {
            let id = ctx.idempotency_key.clone();
            run::register(&Created { kind: "thing".to_owned(), id, name: "t".to_owned() })?;
            let ms = params["ms"].as_u64().unwrap_or(0);
            std::thread::sleep(std::time::Duration::from_millis(ms));
            done(format!("took {ms} ms"))
        }
        _ => Err(error(ErrorCode::InvalidArgument, format!("no action {name}"))),
    }
}

impl Guest for Hostile {
    fn describe() -> Descriptor {
        let action = |name: &str| Action {
            name: name.to_owned(),
            title: format!("Misbehave: {name}"),
            params_schema: r#"{ "type": "object", "properties": { "url": { "type": "string" } } }"#
                .to_owned(),
            is_reversible: name == "keep",
            timeout_s: if name == "sleep" { 1 } else { 30 },
        };
        Descriptor {
            name: "hostile".to_owned(),
            vendor: "Nobody".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description: "Misbehaves on request.".to_owned(),
            config_schema: r#"{ "type": "object", "properties": { "mood": { "type": "string" } }, "additionalProperties": false }"#.to_owned(),
            actions: NAMES.iter().map(|name| action(name)).collect(),
            wants: vec![Want::Kv, Want::HttpHost("127.0.0.1".to_owned()), Want::Secret("key".to_owned()), Want::RevealSecret("key".to_owned()), Want::Volumes],
        }
    }

    fn check_config(config: String) -> Vec<Diagnostic> {
        if config.contains("reach") {
            // What only computes may not look at the store.
            let _denied = kv::get("x");
        }
        if !config.contains("bad") {
            return vec![];
        }
        vec![Diagnostic {
            severity: Severity::Error,
            code: "bad-mood".to_owned(),
            message: "not in a bad mood".to_owned(),
            path: Some("/mood".to_owned()),
            vendor_code: None,
        }]
    }

    fn probe() -> Result<HealthReport, Error> {
        Ok(HealthReport { health: Health::Degraded, message: twinspan::plugin::config::get() })
    }
}

impl Actions for Hostile {
    fn describe(name: String, _: String) -> Result<Description, Error> {
        Ok(Description {
            summary: format!("misbehave by {name}"),
            warnings: vec!["really".to_owned()],
        })
    }

    fn check(_: Context, name: String, _: String) -> Result<Standing, Error> {
        if name == "lie" {
            lie();
        }
        Ok(if name == "trap" {
            Standing::Blocked("it would trap".to_owned())
        } else {
            Standing::Ready
        })
    }

    fn run(ctx: Context, name: String, params: String) -> Result<Outcome, Error> {
        let params =
            serde_json::from_str(&params).map_err(|why| error(ErrorCode::Internal, why))?;
        act(&ctx, &name, &params)
    }

    fn resume(
        _: Context,
        _: String,
        _: String,
        token: String,
        answer: Option<String>,
    ) -> Result<Outcome, Error> {
        match (token.as_str(), answer) {
            (r#"{"asked":0}"#, None) => Ok(Outcome::Ask(Question {
                prompt: "Really?".to_owned(),
                choices: vec!["yes".to_owned(), "no".to_owned()],
                token: r#"{"asked":1}"#.to_owned(),
            })),
            (_, answer) => done(format!("{answer:?}")),
        }
    }

    fn undo(_: Context, name: String, _: String, done: Report) -> Result<Outcome, Error> {
        if name == "keep" {
            let summary = "forgot the thing".to_owned();
            return Ok(Outcome::Done(Report { summary, created: vec![], ..done }));
        }
        if !done.created.is_empty() {
            // It cannot remove anything, and says so.
            return Ok(Outcome::Done(Report { summary: "nothing is removed".to_owned(), ..done }));
        }
        Ok(Outcome::Skipped(format!("{name} stays: {}", done.summary)))
    }
}

impl Placement for Hostile {
    fn suggest(_: Context, source: Site, _: Mode, sites: Vec<Site>) -> Result<Vec<String>, Error> {
        Ok(sites.into_iter().map(|site| site.name).filter(|name| *name != source.name).collect())
    }

    fn check_session(_: Context, proposal: Proposal) -> Result<Vec<Diagnostic>, Error> {
        let same = proposal.source.zone == proposal.destination.zone;
        Ok(same
            .then(|| Diagnostic {
                severity: Severity::Error,
                code: "same-zone".to_owned(),
                message: "both sites are in one zone".to_owned(),
                path: None,
                vendor_code: Some("1025".to_owned()),
            })
            .into_iter()
            .collect())
    }
}

impl Plans for Hostile {
    fn kinds() -> Vec<String> {
        vec!["nothing".to_owned()]
    }

    fn make(_: Context, kind: String, groups: Vec<Group>, _: String) -> Result<String, Error> {
        Ok(format!(r#"{{ "kind": "{kind}", "groups": {} }}"#, groups.len()))
    }

    fn check(_: Context, _plan: String) -> Result<Vec<Diagnostic>, Error> {
        Ok(vec![])
    }
}

export!(Hostile);
