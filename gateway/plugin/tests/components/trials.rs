//! Trials of components: one that keeps the contract passes, and each rule that one breaks is named.

use std::collections::BTreeMap;

use serde_json::json;
use twinspan_plugin::{Answers, Mood, Rule, Trial, Verdict};

use crate::rig::component;

async fn tried(name: &str) -> Verdict {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let scratch = tempfile::tempdir().unwrap();
    let trial = Trial {
        scratch: scratch.path().to_owned(),
        component: component(name),
        config: None,
        params: BTreeMap::new(),
        answers: Answers::default(),
    };
    trial.run().await.unwrap()
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
    }
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
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let scratch = tempfile::tempdir().unwrap();
    let trial = Trial {
        scratch: scratch.path().to_owned(),
        component: component("hello"),
        config: None,
        params: [("greet".to_owned(), json!([]))].into(),
        answers: Answers::default(),
    };
    let verdict = trial.run().await.unwrap();
    let [(action, why)] = verdict.untried.as_slice() else { panic!("{:?}", verdict.untried) };
    assert!(action == "greet" && why.contains("object"), "{why}");
}
