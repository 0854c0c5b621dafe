//! Plugins that misbehave in every way, against the host: each harms itself alone, and is told by name.
//!
//! The components are those of `plugins/`, as `cargo xtask plugins` builds them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod rig;
mod trials;

use std::time::Duration;

use serde_json::{Value, json};
use twinspan_plugin::contract::{ErrorCode, Outcome, Severity, Standing};
use twinspan_plugin::{CallError, Grant, Grants, LoadError, Refused};

use crate::rig::{Rig, component, context};

fn grants(texts: &[&str]) -> Grants {
    Grants::new(texts.iter().map(|text| text.parse::<Grant>().unwrap()))
}

impl Rig {
    /// What an action of the hostile plugin says it did.
    async fn act(&self, name: &str, params: Value) -> Result<String, String> {
        let ran = self.plugins.run_action(("hostile", name), context("r", "s"), &params).await;
        match ran {
            Ok(Ok(Outcome::Done(report))) => Ok(report.summary),
            Ok(Ok(other)) => Err(format!("{other:?}")),
            Ok(Err(error)) => Err(error.message),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn fault(&self, name: &str) -> CallError {
        let ran = self.plugins.run_action(("hostile", name), context("r", "s"), &json!({})).await;
        ran.expect_err("it did not fault")
    }

    fn said(&self) -> Vec<String> {
        self.plugins.logs("hostile").unwrap().into_iter().map(|line| line.text).collect()
    }
}

#[tokio::test]
async fn a_plugin_says_who_it_is_and_what_it_wants() {
    let rig = Rig::new(&["hello", "hostile"]).await;
    let names: Vec<_> = rig.plugins.list().into_iter().map(|of| of.name).collect();
    assert_eq!(names, ["hello", "hostile"]);
    let hostile = rig.plugins.get("hostile").unwrap();
    let about = hostile.about.as_ref().unwrap();
    assert_eq!(about.exports, ["actions", "placement", "plans"]);
    assert_eq!(about.digest.len(), 64);
    let missing: Vec<_> = hostile.missing().map(ToString::to_string).collect();
    assert_eq!(missing, ["http:127.0.0.1", "secret:key", "reveal:key", "kv", "volumes"]);
    assert_eq!(rig.plugins.get("hello").unwrap().about.unwrap().exports, ["actions"]);
}

#[tokio::test]
async fn an_action_is_described_checked_run_and_undone() {
    let rig = Rig::new(&["hello"]).await;
    let greet = ("hello", "greet");
    let said = rig.plugins.describe_action(greet, &json!({})).await.unwrap();
    assert_eq!(said.unwrap().0, "greet whoever runs the plan");
    let stands = rig.plugins.check_action(greet, context("r", "s"), &json!({})).await.unwrap();
    assert!(matches!(stands, Ok(Standing::Ready)), "{stands:?}");
    let ran = rig.plugins.run_action(greet, context("r", "s"), &json!({})).await.unwrap().unwrap();
    let Outcome::Done(report) = ran else { panic!("{ran:?}") };
    assert_eq!(report.outputs, [("greeting".to_owned(), "Hello, tester!".to_owned())]);
    let undone = rig.plugins.undo_action(greet, context("r", "s"), &json!({}), report).await;
    assert!(matches!(undone, Ok(Ok(Outcome::Skipped(_)))), "{undone:?}");
}

#[tokio::test]
async fn what_was_not_described_is_not_called() {
    let rig = Rig::new(&["hello"]).await;
    let run = |plugin, action, params: Value| {
        let plugins = rig.plugins.clone();
        async move {
            plugins.run_action((plugin, action), context("r", "s"), &params).await.unwrap_err()
        }
    };
    assert_eq!(run("nobody", "greet", json!({})).await, CallError::Unknown("nobody".to_owned()));
    assert_eq!(
        run("hello", "shout", json!({})).await,
        CallError::UnknownAction("shout".to_owned())
    );
    assert!(matches!(run("hello", "greet", json!([])).await, CallError::Parameters(_)));
    let kinds = rig.plugins.plan_kinds("hello").await;
    assert_eq!(kinds, Err(CallError::Unsupported("plans")));
}

#[tokio::test]
async fn a_plugin_that_loops_sleeps_or_traps_ends_within_its_limits() {
    let rig = Rig::new(&["hostile"]).await;
    assert!(matches!(rig.fault("loop").await, CallError::Cpu(_)));
    assert_eq!(rig.fault("sleep").await, CallError::Time(Duration::from_secs(1)));
    let CallError::Trap(why) = rig.fault("trap").await else { panic!("no trap") };
    assert!(why.contains("it does not want to"), "the panic's words are told: {why}");
}

#[tokio::test]
async fn a_plugin_that_allocates_without_end_ends_at_its_limit() {
    let rig = Rig::new(&["hostile"]).await;
    assert!(matches!(rig.fault("allocate").await, CallError::Memory(_)));
    assert!(matches!(rig.fault("flood-output").await, CallError::Output(_)));
    // What it had is given back: the next call has room.
    assert_eq!(rig.act("print", json!({})).await.unwrap(), "printed");
}

#[tokio::test]
async fn a_flood_of_log_and_numbers_is_cut() {
    let rig = Rig::new(&["hostile"]).await;
    assert_eq!(rig.act("flood-log", json!({})).await.unwrap(), "said it all");
    let said = rig.said();
    assert_eq!(said.len(), 201);
    assert!(said.iter().all(|line| line.len() <= 2_048) && said[200].contains("cut"));
    assert_eq!(rig.act("flood-metrics", json!({})).await.unwrap(), "counted");
    assert_eq!(rig.act("print", json!({})).await.unwrap(), "printed");
    assert_eq!(rig.said()[201..], ["printed tester", "and complained"]);
}

#[tokio::test]
async fn calls_of_hosts_that_were_not_granted_are_counted_and_so_are_their_lines() {
    let rig = Rig::new(&["hostile"]).await;
    let call = json!({ "url": "http://192.0.2.1/", "times": 10_000 });
    let refused = rig.act("call", call).await.unwrap_err();
    assert!(refused.contains("TooManyRequests"), "{refused}");
    assert_eq!(rig.said().len(), 100);
}

#[tokio::test]
async fn what_a_call_says_that_it_made_is_bounded() {
    let rig = Rig::new(&["hostile"]).await;
    assert_eq!(rig.act("keep", json!({ "times": 256 })).await.unwrap(), "made a thing");
    let refused = rig.act("keep", json!({ "times": 257 })).await.unwrap_err();
    assert!(refused.contains("at most 256"), "{refused}");
    let refused = rig.act("keep", json!({ "bytes": 600_000 })).await.unwrap_err();
    assert!(refused.contains("1024 bytes"), "{refused}");
}

#[tokio::test]
async fn an_answer_that_breaks_the_contract_is_none() {
    let rig = Rig::new(&["hostile"]).await;
    for name in ["bad-token", "long-token"] {
        assert!(matches!(rig.fault(name).await, CallError::Answer(_)), "{name}");
    }
}

#[tokio::test]
async fn files_environment_and_network_are_not_there() {
    let rig = Rig::new(&["hostile"]).await;
    let said = rig.act("read-files", json!({})).await.unwrap();
    assert!(said.starts_with("Err") && said.ends_with(" 0"), "{said}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap().to_string();
    assert_eq!(rig.act("connect", json!({ "to": to })).await.unwrap(), "false");
}

#[tokio::test]
async fn only_granted_hosts_are_called_and_the_gateway_puts_the_secret_in() {
    let rig = Rig::new(&["hostile"]).await;
    let (at, heard) = rig::answer_once("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
    let url = format!("http://{at}/x");
    let denied = rig.act("call", json!({ "url": url })).await.unwrap_err();
    assert!(
        denied.contains("not granted: twinspan plugin grant hostile http:127.0.0.1"),
        "{denied}"
    );
    rig.plugins.grant("hostile", grants(&["http:127.0.0.1"])).unwrap();
    let denied = rig.act("call", json!({ "url": url, "secret": "key" })).await.unwrap_err();
    assert!(denied.contains("secret key is not granted"), "{denied}");
    rig.plugins.grant("hostile", grants(&["http:127.0.0.1", "secret:key"])).unwrap();
    let said = rig.act("call", json!({ "url": url, "secret": "key" })).await.unwrap();
    assert_eq!(said, "200 hi");
    let heard = heard.await.unwrap();
    assert!(
        heard.contains("authorization: Bearer s3cret") && heard.contains("x-plugin: hostile"),
        "{heard}"
    );
    for url in ["ftp://127.0.0.1/", "http://u:p@127.0.0.1/", "http://127.0.0.2/", "nonsense"] {
        assert!(rig.act("call", json!({ "url": url })).await.is_err(), "{url}");
    }
    // Nothing of the secret is in what the plugin's log keeps.
    assert!(!rig.said().iter().any(|line| line.contains("s3cret")));
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_leads_nowhere() {
    let rig = Rig::new(&["hostile"]).await;
    rig.plugins.grant("hostile", grants(&["http:127.0.0.1"])).unwrap();
    let answer = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.2/\r\ncontent-length: 0\r\n\r\n";
    let (at, _heard) = rig::answer_once(answer).await;
    assert_eq!(rig.act("call", json!({ "url": format!("http://{at}/") })).await.unwrap(), "302 ");
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let rig = Rig::new(&["hostile"]).await;
    rig.plugins.grant("hostile", grants(&["http:127.0.0.1"])).unwrap();
    let long =
        format!("HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n{}", "x".repeat(9_000_000));
    let (at, _heard) = rig::answer_once(&long).await;
    let said = rig.act("call", json!({ "url": format!("http://{at}/") })).await.unwrap_err();
    assert!(said.contains("ResponseTooLarge"), "{said}");
}

#[tokio::test]
async fn keys_secrets_and_volumes_need_their_grants() {
    let rig = Rig::new(&["hostile"]).await;
    assert_eq!(rig.act("count", json!({})).await.unwrap_err(), "KvError::Denied");
    let secret = json!({ "name": "key" });
    assert!(rig.act("secret", secret.clone()).await.unwrap().contains("Denied"));
    assert!(rig.act("see", json!({})).await.unwrap_err().contains("not granted"));
    rig.plugins.grant("hostile", grants(&["kv", "secret:key", "volumes"])).unwrap();
    for n in ["1", "2", "3"] {
        assert_eq!(rig.act("count", json!({})).await.unwrap(), n);
    }
    let said = rig.act("secret", secret.clone()).await.unwrap();
    assert!(said.starts_with("Ok(32)") && said.contains("Denied"), "used, not seen: {said}");
    rig.plugins.grant("hostile", grants(&["reveal:key", "volumes"])).unwrap();
    assert!(rig.act("secret", secret).await.unwrap().contains("s3cret"));
    assert_eq!(rig.act("see", json!({})).await.unwrap(), "of-r", "a step sees its run's groups");
}

#[tokio::test]
async fn a_folder_is_opened_by_the_name_of_its_volume_and_written_as_the_gateway_lets_it() {
    let rig = Rig::new(&["hostile"]).await;
    let folder = |volume: &str| json!({ "volume": volume });
    rig.plugins.grant("hostile", grants(&["folder:drinfo"])).unwrap();
    let denied = rig.act("folder", folder("orders")).await.unwrap();
    assert!(denied.contains("plugin grant hostile folder:orders"), "{denied}");
    let said = rig.act("folder", folder("drinfo")).await.unwrap();
    assert_eq!(said, format!("Ok(1) Ok(Some({:?}))", b"content"));
    // A call of no step: the gateway says that a run has it, and the plugin hears so.
    let nobody = context("", "");
    let ran = rig.plugins.run_action(("hostile", "folder"), nobody, &folder("drinfo")).await;
    let Ok(Ok(Outcome::Done(report))) = ran else { panic!("{ran:?}") };
    assert!(report.summary.contains("Held(\"a run has it\")"), "{}", report.summary);
}

#[tokio::test]
async fn what_is_pending_goes_on_with_its_token_and_an_answer() {
    let rig = Rig::new(&["hostile"]).await;
    let wait = ("hostile", "wait");
    let ran = rig.plugins.run_action(wait, context("r", "s"), &json!({})).await.unwrap().unwrap();
    let Outcome::Pending(pending) = ran else { panic!("{ran:?}") };
    let token: Value = serde_json::from_str(&pending.token).unwrap();
    let on = rig.plugins.resume_action(wait, context("r", "s"), &json!({}), (&token, None)).await;
    let Ok(Ok(Outcome::Ask(question))) = on else { panic!("{on:?}") };
    let token: Value = serde_json::from_str(&question.token).unwrap();
    let answer = Some("yes".to_owned());
    let on = rig.plugins.resume_action(wait, context("r", "s"), &json!({}), (&token, answer)).await;
    assert!(matches!(on, Ok(Ok(Outcome::Done(report))) if report.summary.contains("yes")));
}

#[tokio::test]
async fn what_it_made_is_known_although_it_trapped_afterwards() {
    let rig = Rig::new(&["hostile"]).await;
    assert!(matches!(rig.fault("make").await, CallError::Trap(_)));
    assert_eq!(rig.world.made(), [("r".to_owned(), "s".to_owned(), "server key-of-s".to_owned())]);
}

#[tokio::test]
async fn a_plugin_that_faults_again_and_again_rests_and_says_why() {
    let rig = Rig::new(&["hostile", "hello"]).await;
    for _ in 0..3 {
        assert!(matches!(rig.fault("trap").await, CallError::Trap(_)));
    }
    let CallError::Resting { why, .. } = rig.fault("trap").await else {
        panic!("it does not rest")
    };
    assert!(why.contains("it does not want to"), "{why}");
    assert!(rig.plugins.get("hostile").unwrap().rests.is_some());
    let greet = rig.plugins.run_action(("hello", "greet"), context("r", "s"), &json!({})).await;
    assert!(greet.is_ok(), "others go on: {greet:?}");
    // It is called again when it has rested.
    while rig.plugins.get("hostile").unwrap().rests.is_some() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(rig.act("print", json!({})).await.unwrap(), "printed");
}

#[tokio::test]
async fn a_configuration_is_checked_by_schema_and_plugin_and_outlives_a_restart() {
    let rig = Rig::new(&["hostile"]).await;
    let wrong = rig.plugins.configure("hostile", json!({ "mood": 7 })).await;
    assert!(matches!(wrong, Err(Refused::Config(why)) if why.contains("/mood")));
    let wrong = rig.plugins.configure("hostile", json!({ "other": "x" })).await;
    assert!(matches!(wrong, Err(Refused::Config(_))));
    let wrong = rig.plugins.configure("hostile", json!({ "mood": "bad" })).await;
    assert!(matches!(wrong, Err(Refused::Config(why)) if why == "not in a bad mood"));
    let reaching = rig.plugins.configure("hostile", json!({ "mood": "reach" })).await;
    assert!(matches!(reaching, Err(Refused::Call(CallError::Trap(why))) if why.contains("kv.get")));
    let remarks = rig.plugins.configure("hostile", json!({ "mood": "good" })).await.unwrap();
    assert!(!remarks.iter().any(|remark| remark.severity == Severity::Error));
    rig.plugins.grant("hostile", grants(&["kv"])).unwrap();
    let rig = rig.again().await;
    let report = rig.plugins.probe("hostile").await.unwrap().unwrap();
    assert_eq!(report.message, r#"{"mood":"good"}"#);
    assert!(rig.plugins.get("hostile").unwrap().granted.has(&Grant::Kv));
}

#[tokio::test]
async fn placement_and_plans_are_asked() {
    let rig = Rig::new(&["hostile"]).await;
    assert_eq!(rig.plugins.placing(), ["hostile"]);
    let against = |zone| rig.plugins.check_session("hostile", context("", ""), rig::proposal(zone));
    let said = against("a").await.unwrap().unwrap();
    assert_eq!(said[0].vendor_code.as_deref(), Some("1025"));
    assert_eq!(against("b").await.unwrap().unwrap().len(), 0);
    assert_eq!(rig.plugins.plan_kinds("hostile").await.unwrap(), ["nothing"]);
    let plan =
        rig.plugins.make_plan(("hostile", "nothing"), context("", ""), (vec![], json!({}))).await;
    assert_eq!(plan.unwrap().unwrap(), json!({ "kind": "nothing", "groups": 0 }));
    let missing =
        rig.plugins.check_action(("hostile", "trap"), context("r", "s"), &json!({})).await;
    assert!(matches!(missing, Ok(Ok(Standing::Blocked(_)))));
    let wrong = rig
        .plugins
        .run_action(("hostile", "call"), context("r", "s"), &json!({ "url": "x:y" }))
        .await;
    assert!(matches!(wrong, Ok(Err(error)) if error.code == ErrorCode::Unavailable));
}

#[tokio::test]
async fn a_component_is_replaced_while_a_call_goes_on_with_the_one_before() {
    let rig = Rig::new(&["hostile"]).await;
    let sleeping = rig.sleeping().await;
    // Another component of the same name: the same one with a section that nobody reads.
    let mut other = component("hostile");
    other.extend([0, 5, 4, b'n', b'o', b't', b'e']);
    let before = rig.plugins.get("hostile").unwrap().about.unwrap().digest.clone();
    rig.plugins.grant("hostile", grants(&["kv"])).unwrap();
    let about = rig.plugins.install(other, None).await.unwrap();
    assert_ne!(about.digest, before);
    assert!(rig.plugins.get("hostile").unwrap().granted.has(&Grant::Kv), "its grants stay");
    assert_eq!(sleeping.await.unwrap(), CallError::Time(Duration::from_secs(1)));
    assert_eq!(rig.act("print", json!({})).await.unwrap(), "printed");
}

#[tokio::test]
async fn what_is_no_plugin_replaces_nothing_and_says_why() {
    let rig = Rig::new(&["hello"]).await;
    for (bytes, word) in [
        (b"\0asm\x01\0\0\0".to_vec(), "no WebAssembly component"),
        (b"nonsense".to_vec(), "no WebAssembly component"),
        // The empty component.
        (b"\0asm\x0d\0\x01\0".to_vec(), "does not export"),
    ] {
        let error = rig.plugins.install(bytes.clone(), None).await.unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        std::fs::write(rig.directory().join("hello.wasm"), bytes).unwrap();
        rig.plugins.scan().await;
        let hello = rig.plugins.get("hello").unwrap();
        assert!(hello.about.is_some() && hello.refused.unwrap().contains(word));
    }
    std::fs::copy(rig::file("hello"), rig.directory().join("hello.wasm")).unwrap();
    rig.plugins.scan().await;
    assert_eq!(rig.plugins.get("hello").unwrap().refused, None);
}

#[tokio::test]
async fn a_file_that_comes_goes_or_has_the_wrong_name_is_seen() {
    let rig = Rig::new(&[]).await;
    std::fs::copy(rig::file("hello"), rig.directory().join("bonjour.wasm")).unwrap();
    rig.plugins.scan().await;
    let wrong = rig.plugins.get("bonjour").unwrap();
    assert!(
        wrong.about.is_none() && wrong.refused.unwrap().contains("rename the file to hello.wasm")
    );
    std::fs::rename(rig.directory().join("bonjour.wasm"), rig.directory().join("hello.wasm"))
        .unwrap();
    rig.plugins.scan().await;
    assert!(rig.plugins.get("bonjour").is_none());
    assert!(rig.plugins.get("hello").unwrap().about.is_some());
    rig.plugins.remove("hello", true).await.unwrap();
    assert!(rig.plugins.get("hello").is_none());
    rig.plugins.remove("hello", false).await.unwrap();
}

#[tokio::test]
async fn where_signatures_are_required_nothing_else_is_taken() {
    use ring::signature::KeyPair;
    let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let rig = Rig::signed(pair.public_key().as_ref()).await;
    let error = rig.plugins.install(component("hello"), None).await.unwrap_err();
    assert!(matches!(error, LoadError::Signature(_)), "{error}");
    let signature = pair.sign(&component("hostile")).as_ref().to_vec();
    let error = rig.plugins.install(component("hello"), Some(signature)).await.unwrap_err();
    assert!(matches!(error, LoadError::Signature(_)), "{error}");
    let signature = pair.sign(&component("hello")).as_ref().to_vec();
    rig.plugins.install(component("hello"), Some(signature)).await.unwrap();
    let rig = rig.again().await;
    assert!(rig.plugins.get("hello").unwrap().about.is_some(), "its signature lies beside it");
}

#[tokio::test]
async fn calls_end_when_the_gateway_stops() {
    let rig = Rig::new(&["hostile"]).await;
    let sleeping = rig.sleeping().await;
    rig.plugins.stop();
    assert_eq!(sleeping.await.unwrap(), CallError::Stopped);
}
