//! Runs of a gateway that is asked by others, and stopped right after it answered.

use block::{BootId, GatewayId, Identity};
use mirror::{Command, SessionState};

use super::*;
use crate::gateway::tests::Rig;
use crate::runs::calls::{Act, ActCall, RunAnswer};
use crate::runs::tests::begun;

/// A gateway at another site.
fn other(number: u128, site: &str) -> Identity {
    Identity {
        gateway: GatewayId::from_uuid(Uuid::from_u128(number)),
        boot: BootId::from_uuid(Uuid::from_u128(number)),
        site: site.to_owned(),
    }
}

fn as_keeper(of: &Identity) -> Runner {
    Runner { gateway: of.gateway.uuid().to_string(), site: of.site.clone() }
}

/// The gateway in this directory, with the journals that lie there.
async fn open(dir: &std::path::Path) -> Rig {
    let rig = Rig::open_with(dir, |config| config.data_dir = dir.join("data")).await;
    rig.gateway.read_runs().await;
    rig
}

#[tokio::test]
async fn a_run_that_was_handed_over_is_not_gone_on_with_after_a_kill_right_then() {
    let (dir, id) = (tempfile::tempdir().unwrap(), Uuid::from_u128(9));
    let (west, north) = (other(77, "west"), other(78, "north"));
    let rig = open(dir.path()).await;
    let gateway = Arc::clone(&rig.gateway);
    let keepers = vec![as_keeper(&west), as_keeper(&north)];
    let first = begun(id, gateway.as_runner(), keepers);
    gateway.keep_first(id, vec![first.clone()]).await.unwrap();

    let ask =
        |term: u64| RunQuestion::Yield { run: id, term, from: 1, actor: Some("ada".to_owned()) };
    let answer = gateway.answer_of_run(&west, ask(2)).await.unwrap();
    let RunAnswer::Yielded { records, more: false } = answer.clone() else { panic!("{answer:?}") };
    let [begins, taken] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!(*begins, first);
    let expected = Event::Taken { runner: as_keeper(&west), actor: "ada".to_owned() };
    assert_eq!((taken.term, &taken.event), (2, &expected));

    // The answer was lost: it is asked again. Nobody else gets the run from here any more.
    let again = gateway.answer_of_run(&west, ask(2)).await.unwrap();
    assert_eq!(again, RunAnswer::Yielded { records: records.clone(), more: false });
    for term in [2, 3] {
        let refused = gateway.answer_of_run(&north, ask(term)).await.unwrap_err();
        assert_eq!(refused.0.code, Code::RunElsewhere.as_str());
    }

    // Killed right after the answer: what was answered was on stable storage before.
    let path = dir.path().join("data/runs").join(format!("{id}.run"));
    let bytes = std::fs::read(&path).unwrap();
    drop(gateway);
    rig.close().await;
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "the stop added nothing");
    let rig = open(dir.path()).await;
    let run = rig.gateway.run_known(id).unwrap();
    assert_eq!((run.term, run.runner), (2, as_keeper(&west)));
    rig.gateway.execute_here(id);
    let held = || match rig.gateway.runs.all().get(&id).map(|known| known.place.clone()) {
        Some(Place::Held(why)) => why,
        _ => String::new(),
    };
    while held().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(held().contains("taken over with term 2"), "{}", held());
    let known = rig.gateway.run_known(id).unwrap();
    assert_eq!(known.records, 2, "nothing of it was done here");
    rig.close().await;
}

#[tokio::test]
async fn a_copy_that_says_otherwise_than_the_one_that_executes_the_run_is_set_aside() {
    let (dir, id) = (tempfile::tempdir().unwrap(), Uuid::from_u128(9));
    let west = other(77, "west");
    let rig = open(dir.path()).await;
    let gateway = &rig.gateway;
    let first = begun(id, gateway.as_runner(), vec![as_keeper(&west)]);
    gateway.keep_first(id, vec![first.clone()]).await.unwrap();
    let ask = RunQuestion::Yield { run: id, term: 2, from: 1, actor: None };
    gateway.answer_of_run(&west, ask).await.unwrap();

    // The other site never heard the answer, was told that this one is stopped, and wrote its own.
    let run = Run::replay(std::slice::from_ref(&first)).unwrap();
    let event = Event::Taken { runner: as_keeper(&west), actor: "bob".to_owned() };
    let theirs = vec![first, Record { term: 2, ..run.record(event, 99) }];
    let keep = || RunQuestion::Keep { run: id, term: 2, records: theirs.clone() };
    let answer = gateway.answer_of_run(&west, keep()).await.unwrap();
    assert_eq!(answer, RunAnswer::Kept { have: 0 });
    let answer = gateway.answer_of_run(&west, keep()).await.unwrap();
    assert_eq!(answer, RunAnswer::Kept { have: 2 });
    assert_eq!(gateway.runs.all().get(&id).unwrap().records, theirs);
    rig.close().await;
}

#[tokio::test]
async fn nothing_is_done_for_another_site_before_the_record_of_it_is_here() {
    let (dir, id) = (tempfile::tempdir().unwrap(), Uuid::from_u128(9));
    let west = other(77, "west");
    let rig = open(dir.path()).await;
    let gateway = &rig.gateway;
    let first = begun(id, as_keeper(&west), vec![gateway.as_runner()]);
    gateway.keep_first(id, vec![first.clone()]).await.unwrap();
    let act = |records: Option<u64>| {
        RunQuestion::Act(Box::new(Act {
            run: id,
            term: 1,
            action: "x/a".to_owned(),
            params: serde_json::Value::Null,
            context: None,
            call: ActCall::Run,
            records,
            errand: None,
        }))
    };
    let refused = gateway.answer_of_run(&west, act(Some(2))).await.unwrap_err();
    assert_eq!(refused.0.code, Code::RunState.as_str());
    assert!(refused.0.detail.contains("does not say yet"), "{refused:?}");

    let run = Run::replay(std::slice::from_ref(&first)).unwrap();
    let intent = run.record(Event::Intent { step: "a".to_owned(), attempt: 1 }, 2);
    let keep = RunQuestion::Keep { run: id, term: 1, records: vec![intent] };
    assert_eq!(gateway.answer_of_run(&west, keep).await.unwrap(), RunAnswer::Kept { have: 2 });
    // It is let in now: that nobody has this action here is said by whoever would call it.
    for records in [Some(2), None] {
        let answer = gateway.answer_of_run(&west, act(records)).await.unwrap();
        assert!(matches!(answer, RunAnswer::Acted(_)), "{answer:?}");
    }
    rig.close().await;
}

/// Suspends a session, and then comes to a step that nobody allows.
const APART: &str = r#"
name = "apart"
kind = "other"
[sites]
source = "east"
destination = "west"
[[steps]]
id = "apart"
action = "core/suspend"
params = { group = "orders", to = "west" }
[[steps]]
id = "tell"
action = "core/notify"
params = { url = "http://127.0.0.1:9/x", text = "hi" }
on_failure = "roll-back"
"#;

/// Goes on with a run of [`APART`] whose journal says this, to its end; what it says then.
async fn go_on(gateway: &Arc<Gateway>, id: Uuid, events: Vec<Event>) -> Vec<Record> {
    let plan = Plan::from_toml("apart.toml", APART).unwrap();
    let setting = plan.setting(false, &BTreeMap::new(), &BTreeMap::new()).unwrap();
    let first = begun(id, gateway.as_runner(), Vec::new());
    let Event::Begun(begun) = first.event else { panic!("it begins") };
    let begun = Begun { plan: plan.raw, setting, ..*begun };
    let mut records = vec![Record { event: Event::Begun(Box::new(begun)), ..first }];
    for event in events {
        let run = Run::replay(&records).unwrap();
        records.push(run.record(event, 2));
    }
    gateway.keep_first(id, records).await.unwrap();
    gateway.execute_here(id);
    let is_over = async {
        while gateway.run_known(id).unwrap().ended.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_mins(1), is_over).await;
    let records = gateway.runs.all().get(&id).unwrap().records.clone();
    in_time.unwrap_or_else(|_elapsed| panic!("it has not ended: {records:#?}"));
    records
}

/// A kill between the suspension and the record of it had left the session suspended for ever, and the
/// roles behind it not swapped back.
#[tokio::test]
async fn whose_suspension_it_was_is_known_wherever_the_kill_came() {
    let dir = tempfile::tempdir().unwrap();
    let rig = open(dir.path()).await;
    let gateway = &rig.gateway;
    rig.make_orders().await;
    rig.know_west().await;
    let wanted = api::SessionCreate {
        volume: "orders".to_owned(),
        to: "west".to_owned(),
        policy: api::PolicyPatch::default(),
        skip_initial_copy: false,
        destination: None,
    };
    let session = gateway.create_session(wanted).await.unwrap().id.to_string();
    let is_suspended = || async {
        let group = gateway.find_group("orders").unwrap().group();
        gateway.status_of(group).await.unwrap().legs[0].state == SessionState::Suspended
    };
    let ended = |records: &[Record]| match records.last().map(|last| &last.event) {
        Some(Event::Ended { result, .. }) => *result,
        other => panic!("{other:?}"),
    };
    let intent = || Event::Intent { step: "apart".to_owned(), attempt: 1 };

    // Nobody is killed: that it is about to is written before it does.
    let records = go_on(gateway, Uuid::from_u128(1), Vec::new()).await;
    assert_eq!(ended(&records), Ending::RolledBack, "{records:#?}");
    let about = records[2].event.clone();
    assert!(matches!(&about, Event::Pending { step, .. } if step == "apart"), "{records:#?}");
    assert!(!is_suspended().await, "{records:#?}");

    // Killed after it had been suspended, before the record of it: it is the run's own.
    let suspend = |leg| Command::Suspend { leg };
    gateway.session_command(&session, "suspended", suspend).await.unwrap();
    let records = go_on(gateway, Uuid::from_u128(2), vec![intent(), about.clone()]).await;
    assert_eq!(ended(&records), Ending::RolledBack, "{records:#?}");
    assert!(matches!(&records[3].event, Event::Done { found: true, .. }), "{records:#?}");
    assert!(!is_suspended().await, "{records:#?}");

    // Killed before it was: it is suspended then, and taken back.
    let records = go_on(gateway, Uuid::from_u128(3), vec![intent(), about]).await;
    assert!(matches!(&records[3].event, Event::Done { found: false, .. }), "{records:#?}");
    assert!(!is_suspended().await, "{records:#?}");

    // Killed between a look that found it suspended and the record of that: it is somebody else's.
    let suspend = |leg| Command::Suspend { leg };
    gateway.session_command(&session, "suspended", suspend).await.unwrap();
    let records = go_on(gateway, Uuid::from_u128(4), vec![intent()]).await;
    assert_eq!(ended(&records), Ending::RolledBack, "{records:#?}");
    assert!(is_suspended().await, "{records:#?}");
    rig.close().await;
}
