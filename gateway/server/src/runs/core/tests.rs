//! What the gateway itself offers to plans, against a gateway of its own.

use recovery::Direction;
use serde_json::json;

use super::*;
use crate::gateway::tests::Rig;

fn context(step: &str) -> Context {
    Context {
        run: "0197a1b2-0000-7000-8000-0123456789ab".to_owned(),
        step: step.to_owned(),
        idempotency_key: format!("r/{step}"),
        attempt: 1,
        deadline: std::time::Duration::from_secs(60),
        is_dry_run: false,
        actor: "ada".to_owned(),
        direction: Direction::Forward,
    }
}

fn done(outcome: Outcome) -> Report {
    let Outcome::Done(report) = outcome else { panic!("{outcome:?}") };
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_run_is_taken_once_found_and_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path()).await;
    rig.make_orders().await;
    let core = Core::new(&rig.gateway);
    let (context, params) = (context("keep"), json!({ "group": "orders" }));
    let ready = core.check("snapshot", &context, &params).await.unwrap();
    assert_eq!(ready, Standing::Ready);
    let report = done(core.run("snapshot", &context, &params).await.unwrap());
    assert_eq!(report.created[0].name, "orders/run.0123456789ab.keep");
    let found = core.check("snapshot", &context, &params).await.unwrap();
    assert_eq!(found, Standing::Done(report.clone()));

    let back = done(core.undo("snapshot", &context, &params, &report).await.unwrap());
    assert_eq!(back.removed, report.created);
    let again = core.undo("snapshot", &context, &params, &report).await.unwrap();
    assert!(matches!(again, Outcome::Skipped(_)), "{again:?}");
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_allowed_is_refused_with_the_key_that_would_allow_it() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path()).await;
    let core = Core::new(&rig.gateway);
    let context = context("out");
    for (action, params, key) in [
        ("notify", json!({ "url": "http://127.0.0.1:9/x", "text": "hi" }), "recovery.hosts"),
        ("http", json!({ "url": "file:///etc/passwd" }), "recovery.hosts"),
        ("script", json!({ "name": "rm" }), "[[recovery.scripts]]"),
        ("freeze", json!({ "group": "orders", "hook": "db" }), "[[points.hooks]]"),
    ] {
        let error = core.run(action, &context, &params).await.unwrap_err();
        assert!(error.next.clone().is_some_and(|next| next.contains(key)), "{error:?}");
        assert_eq!(error.retry, Retry::Never);
    }
    let error = core.describe("snapshot", &json!({ "grup": "orders" })).await.unwrap_err();
    assert!(error.detail.contains("unknown field `grup`"), "{error:?}");
    let error = core.describe("nothing", &json!({})).await.unwrap_err();
    assert!(error.detail.contains("core/nothing"), "{error:?}");
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_says_how_things_stand_and_what_came_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("switched");
    let text = format!(
        "case $1 in check) [ -e {0} ] && exit 0; exit 10;; run) echo $TWINSPAN_KEY > {0}; \
         echo address=$TWINSPAN_PARAM_TO;; undo) rm {0};; esac",
        state.display()
    );
    let command = ["/bin/sh", "-c", text.as_str(), "script"].map(str::to_owned).to_vec();
    let rig = Rig::open_with(dir.path(), |config| {
        config.recovery.scripts = vec![("dns".to_owned(), command)];
    })
    .await;
    let core = Core::new(&rig.gateway);
    let (context, params) = (context("dns"), json!({ "name": "dns", "params": { "to": "west" } }));
    let ready = core.check("script", &context, &params).await.unwrap();
    assert_eq!(ready, Standing::Ready);
    let report = done(core.run("script", &context, &params).await.unwrap());
    assert_eq!(report.outputs["address"], "west");
    assert_eq!(std::fs::read_to_string(&state).unwrap(), "r/dns\n");
    let found = core.check("script", &context, &params).await.unwrap();
    assert!(matches!(found, Standing::Done(_)), "{found:?}");
    done(core.undo("script", &context, &params, &report).await.unwrap());
    assert!(!state.exists());
    rig.close().await;
}
