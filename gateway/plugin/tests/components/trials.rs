//! Trials of components: one that keeps the contract passes, and each rule that one breaks is named.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use twinspan_plugin::{Answers, Mood, Rule, Trial, Verdict};

use crate::rig::component;

fn trial(scratch: &Path, name: &str) -> Trial {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    Trial {
        scratch: scratch.to_owned(),
        component: component(name),
        config: None,
        grants: Vec::new(),
        params: BTreeMap::new(),
        answers: Answers::default(),
    }
}

async fn tried(name: &str) -> Verdict {
    let scratch = tempfile::tempdir().unwrap();
    trial(scratch.path(), name).run().await.unwrap()
}

/// The same as an operator would have set it up. What was made is forgotten by the other side of a trial, so
/// whether an undo finds it again is not judged.
async fn configured(name: &str, config: Value, (grants, answers): (&[&str], Value)) -> Verdict {
    let scratch = tempfile::tempdir().unwrap();
    let trial = Trial {
        config: Some(config),
        grants: grants.iter().map(|grant| grant.parse().unwrap()).collect(),
        answers: Answers::parse(answers.to_string().as_bytes()).unwrap(),
        ..trial(scratch.path(), name)
    };
    let mut verdict = trial.run().await.unwrap();
    verdict.findings.retain(|found| !matches!(found.rule, Rule::CleansUp | Rule::Undoes));
    verdict
}

#[tokio::test]
async fn a_plugin_that_keeps_the_contract_passes_in_every_mood() {
    let verdict = tried("hello").await;
    assert_eq!(verdict.findings, []);
    assert_eq!(verdict.untried, []);
    let moods = Mood::ALL.len() as u64;
    assert!(verdict.calls >= moods * 6, "only {} calls", verdict.calls);
}

#[tokio::test]
async fn the_first_party_plugins_keep_the_contract_in_every_mood() {
    for name in ["eternus_rec", "evs_pairing", "lserver_switchover"] {
        let verdict = tried(name).await;
        assert_eq!(verdict.findings, [], "{name}");
        assert_eq!(verdict.untried, [], "{name}");
        assert_eq!(verdict.requests, 0, "{name} is not told where anybody is");
    }
}

#[tokio::test]
async fn a_configured_evs_pairing_keeps_the_contract_with_a_cloud_in_every_mood() {
    let config = json!({
        "compute": "https://cloud.example/v1/p", "network": "https://cloud.example/v1/p",
        "volumes": "https://cloud.example/v2/p", "token": "cloud-token",
        "pairs": [{ "zones": ["a", "b"] }],
    });
    let server = json!({
        "id": "trial", "name": "trial", "status": "SHUTOFF", "OS-EXT-AZ:availability_zone": "a",
        "metadata": { "vpc_id": "vpc-1" }, "image": { "id": "debian" },
        "flavor": { "id": "s2", "vcpus": "2", "ram": "4096" },
        "os-extended-volumes:volumes_attached": [{ "id": "other", "device": "/dev/vda" }],
        "addresses": { "net": [{ "addr": "10.0.0.5", "OS-EXT-IPS:type": "fixed",
            "OS-EXT-IPS:port_id": "port-1", "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:00:00:01" }] },
    });
    let answers = json!([
        { "request": "GET /v1/p/cloudservers/{id}", "body": { "server": server } },
        { "request": "GET /v1/p/ports/{id}", "body": { "port": { "id": "trial", "network_id": "n" } } },
        { "request": "POST /v1/p/ports", "status": 201, "body": { "port": { "id": "made",
            "fixed_ips": [{ "ip_address": "10.0.0.9" }] } } },
        { "request": "GET /v1/p/publicips/{id}", "body": { "publicip": { "port_id": "old" } } },
    ]);
    let verdict = configured("evs_pairing", config, (&["http:cloud.example"], answers)).await;
    assert_eq!(verdict.findings, []);
    assert_eq!(verdict.untried, []);
    assert!(verdict.requests > verdict.calls / 4, "only {} requests", verdict.requests);
}

#[tokio::test]
async fn a_configured_eternus_rec_keeps_the_contract_with_two_systems_in_every_mood() {
    let config = json!({
        "local": "https://box-a.example/api/v1", "remote": "https://box-b.example/api/v1",
        "local_token": "box-a", "remote_token": "box-b",
    });
    let grants = ["http:box-a.example", "http:box-b.example", "secret:box-a", "secret:box-b"];
    let verdict = configured("eternus_rec", config, (&grants, json!([]))).await;
    assert_eq!(verdict.findings, []);
    assert_eq!(verdict.untried, []);
    assert!(verdict.requests > 0);
}

#[tokio::test]
async fn a_configured_lserver_switchover_keeps_the_contract_with_an_orchestrator_in_every_mood() {
    let config = json!({
        "manager": "https://manager.example", "token": "orchestrator", "folder": "orders",
        "interval_s": 0,
    });
    let grants = ["http:manager.example", "secret:orchestrator", "folder:orders"];
    let answers = json!([
        { "request": "GET /v1/status", "body": { "revision": 1, "busy": 0, "free_servers": 8 } },
        { "request": "GET /v1/items", "body": { "revision": 1, "items": {} } },
    ]);
    let verdict = configured("lserver_switchover", config, (&grants, answers)).await;
    assert_eq!(verdict.findings, []);
    assert_eq!(verdict.untried, []);
    assert!(verdict.requests > 0);
}

#[tokio::test]
async fn what_an_instance_and_a_call_cost_is_measured() {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let scratch = tempfile::tempdir().unwrap();
    let figures = twinspan_plugin::measure(scratch.path(), component("hello"), 5).await.unwrap();
    assert_eq!(&*figures.about.name, "hello");
    let all = [figures.instantiate, figures.first_call, figures.call, figures.whole];
    assert!(all.iter().all(|time| !time.is_zero()), "{figures:?}");
    assert!(figures.whole > figures.call, "{figures:?}");
    assert!(figures.memory_bytes > 0, "{figures:?}");
}

#[tokio::test]
async fn each_rule_that_a_hostile_plugin_breaks_is_named_with_its_action() {
    let verdict = tried("hostile").await;
    let breaks = |rule, action: &str, mood| {
        let found = verdict
            .findings
            .iter()
            .find(|found| found.rule == rule && found.action.as_deref() == Some(action));
        let found =
            found.unwrap_or_else(|| panic!("{rule:?} by {action}: {:#?}", verdict.findings));
        assert_eq!(found.mood, mood, "{found:?}");
        found.detail.clone()
    };
    for action in ["loop", "sleep", "allocate", "trap", "flood-output", "bad-token", "long-token"] {
        breaks(Rule::NoFault, action, Mood::Well);
    }
    breaks(Rule::ChangesNothing, "lie", Mood::Well);
    let twice = breaks(Rule::Once, "lie", Mood::Well);
    assert!(twice.contains("POST http://127.0.0.1/things"), "{twice}");
    breaks(Rule::Honest, "lie", Mood::Unreachable);
    breaks(Rule::KeepsSecrets, "blab", Mood::Well);
    let left = breaks(Rule::CleansUp, "keep", Mood::Well);
    assert!(left.contains("thing key-keep-Well"), "{left}");
    // What it does well is held against nobody.
    for action in ["print", "count", "wait"] {
        let of = verdict.findings.iter().find(|found| found.action.as_deref() == Some(action));
        assert_eq!(of, None);
    }
}

#[tokio::test]
async fn parameters_that_do_not_fit_are_told_and_nothing_is_called_with_them() {
    let scratch = tempfile::tempdir().unwrap();
    let params = [("greet".to_owned(), json!([]))].into();
    let trial = Trial { params, ..trial(scratch.path(), "hello") };
    let verdict = trial.run().await.unwrap();
    let [(action, why)] = verdict.untried.as_slice() else { panic!("{:?}", verdict.untried) };
    assert!(action == "greet" && why.contains("object"), "{why}");
}
