//! Runs that are killed before and after every record that they write, and the world that they leave.

mod fake;

use std::sync::Arc;

use fake::{Fake, Kill, SWITCHOVER};

use super::*;
use crate::actions::Standing;
use crate::run::{Begun, Runner};
use crate::{Plan, Registry};

/// Writes at which a kill is tried: more than the longest of these runs has.
const WRITES_MAX: usize = 120;

fn begin(plan: &str, facts: &[(&str, &str)]) -> Record {
    let plan = Plan::from_toml("plan.toml", plan).unwrap();
    let facts = facts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let setting = plan.setting(false, &BTreeMap::new(), &facts.collect()).unwrap();
    let begun = Begun {
        run: "r1".to_owned(),
        groups: setting.groups(&plan).into_iter().map(|g| (g.clone(), g)).collect(),
        plan: plan.raw,
        setting,
        actor: "ada".to_owned(),
        runner: Runner { gateway: "g1".to_owned(), site: "west".to_owned() },
        keepers: Vec::new(),
        absent: Vec::new(),
    };
    let event = Event::Begun(Box::new(begun));
    Record { number: 1, term: 1, at_ms: 0, event }
}

/// Runs it until it ends, beginning anew after each kill; how it ended.
async fn until_ended(fake: &Arc<Fake>) -> Run {
    for _start in 0..4 {
        let run = Run::replay(&fake.journal()).unwrap();
        let world: Arc<dyn World> = Arc::<Fake>::clone(fake);
        let (orders, heard) = mpsc::channel(4);
        fake.see(&run, &Event::TurnedBack { step: String::new() });
        let operator = fake.answer(orders);
        tokio::select! {
            ended = execute(run, world, heard) => match ended {
                Ok(_) => return Run::replay(&fake.journal()).unwrap(),
                Err(Halt::Journal(why)) => assert_eq!(why, "killed"),
                Err(other) => panic!("{other}"),
            },
            never = operator => panic!("{never:?}"),
        }
    }
    panic!("it was killed once and did not end");
}

/// Every kill of a run that is the same each time: the number of kills that were made.
async fn kill_everywhere(begun: &Record, check: impl Fn(&Fake, &Run)) -> usize {
    let mut kills = 0;
    for write in 0..WRITES_MAX {
        for kill in [Kill::Before(write), Kill::After(write)] {
            let fake = Fake::new(begun.clone(), Some(kill));
            let run = until_ended(&fake).await;
            check(&fake, &run);
            if fake.was_killed() {
                kills += 1;
            } else {
                assert!(kills > 2 * 17, "the run has at least two records for each step");
                return kills;
            }
        }
    }
    panic!("{WRITES_MAX} writes are not enough");
}

#[tokio::test(start_paused = true)]
async fn a_run_of_seventeen_steps_survives_a_kill_at_every_record() {
    let begun = begin(SWITCHOVER, &[]);
    let kills = kill_everywhere(&begun, |fake, run| {
        assert_eq!(run.standing(), crate::run::Standing::Ended(Ending::Completed));
        for (plan, step) in run.plan.steps.iter().zip(&run.steps) {
            let is_done = matches!(step.state, State::Done);
            let times = u32::from(is_done);
            assert_eq!(fake.done(&plan.id), times, "{}: {:?}", plan.id, step.state);
            assert_eq!(fake.undone(&plan.id), 0, "{}", plan.id);
        }
        assert_eq!(fake.done("s07"), 0, "it was left out by its condition");
        // What a step made and another one removed is not listed.
        let left: Vec<&str> = run.left.iter().map(|left| left.what.id.as_str()).collect();
        assert_eq!(left, ["made-by-s12"]);
    })
    .await;
    println!("{kills} kills");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_fails_takes_everything_back_whenever_it_is_killed() {
    let begun = begin(SWITCHOVER, &[("breaks", "true")]);
    let kills = kill_everywhere(&begun, |fake, run| {
        assert_eq!(run.standing(), crate::run::Standing::Ended(Ending::RolledBack), "{run:#?}");
        for (plan, step) in run.plan.steps.iter().zip(&run.steps) {
            let done = fake.done(&plan.id);
            assert_eq!(fake.undone(&plan.id), done, "{}: {:?}", plan.id, step.state);
        }
        assert!(fake.done("s13") == 1 && fake.done("s14") == 0 && run.left.is_empty());
    })
    .await;
    println!("{kills} kills");
}

#[tokio::test(start_paused = true)]
async fn nothing_before_the_point_of_no_return_is_taken_back_whenever_it_is_killed() {
    let plan = SWITCHOVER.replace("id = \"s12\"", "id = \"s12\"\npoint_of_no_return = true");
    let begun = begin(&plan, &[("breaks", "true")]);
    kill_everywhere(&begun, |fake, run| {
        // It stopped at the failed step, and the operator gave it up.
        assert_eq!(run.standing(), crate::run::Standing::Ended(Ending::Aborted));
        for plan in &run.plan.steps {
            let back = u32::from(plan.id == "s13");
            assert_eq!(fake.undone(&plan.id), back, "{}", plan.id);
        }
        assert_eq!(run.left.len(), 2, "{:?}", run.left);
    })
    .await;
}

const HEAD: &str = "name = \"p\"\nkind = \"other\"\n[sites]\nsource = \"east\"\n\
                    destination = \"west\"\n";

fn one_step(more: &str) -> Record {
    begin(&format!("{HEAD}[[steps]]\nid = \"a\"\naction = \"fake/{more}\n"), &[])
}

/// Runs until nothing moves; how it is then.
async fn until_still(fake: &Arc<Fake>, orders: Vec<Word>) -> Run {
    let run = Run::replay(&fake.journal()).unwrap();
    let world: Arc<dyn World> = Arc::<Fake>::clone(fake);
    let (sender, heard) = mpsc::channel(4);
    let says = async {
        for word in orders {
            fake.until_still().await;
            let (told, tell) = oneshot::channel();
            let order = Order { word, actor: "bob".to_owned(), told };
            sender.send(order).await.unwrap();
            tell.await.unwrap().unwrap();
        }
        fake.until_still().await;
    };
    tokio::select! {
        ended = execute(run, world, heard) => drop(ended),
        () = says => {}
    }
    Run::replay(&fake.journal()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn attempts_are_made_again_with_growing_pauses_and_then_a_person_is_asked() {
    let fake = Fake::new(one_step("fails\"\nretries = 3\nbackoff = \"10s\""), None);
    let began = Instant::now();
    let run = until_still(&fake, Vec::new()).await;
    assert_eq!(run.standing(), crate::run::Standing::Stopped);
    assert_eq!(run.steps[0].failures, 4);
    // 10 s, 20 s and 40 s of pauses.
    assert_eq!(began.elapsed().as_secs(), 70);

    let run = until_still(&fake, vec![Word::Skip { step: None, why: "by hand".to_owned() }]).await;
    assert_eq!(run.standing(), crate::run::Standing::Ended(Ending::Completed));
    assert!(matches!(&run.steps[0].state, State::Skipped(why) if why == "by hand"));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_or_never_ends_is_given_up_at_its_time() {
    for action in ["hangs", "pends"] {
        let fake = Fake::new(one_step(&format!("{action}\"\ntimeout = \"1m\"")), None);
        let began = Instant::now();
        let run = until_still(&fake, Vec::new()).await;
        assert_eq!(began.elapsed().as_secs(), 60, "{action}");
        let State::Failed { error, .. } = &run.steps[0].state else { panic!("{:?}", run.steps) };
        assert_eq!(error.code, "timeout");
    }
}

#[tokio::test(start_paused = true)]
async fn an_abort_takes_back_what_is_under_way_too() {
    let fake = Fake::new(one_step("pends\"\ntimeout = \"24h\""), None);
    let run = until_still(&fake, vec![Word::Abort { why: "no".to_owned() }]).await;
    assert_eq!(run.standing(), crate::run::Standing::Ended(Ending::RolledBack));
    assert_eq!((fake.done("a"), fake.undone("a")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn what_a_run_found_done_or_could_not_begin_is_not_taken_back() {
    let text = format!(
        "{HEAD}[[steps]]\nid = \"a\"\naction = \"fake/was-so\"\n[[steps]]\nid = \"b\"\n\
         action = \"fake/plain\"\n[[steps]]\nid = \"c\"\naction = \"fake/blocked\"\nretries = 1\n\
         on_failure = \"roll-back\"\n"
    );
    let fake = Fake::new(begin(&text, &[]), None);
    let run = until_still(&fake, Vec::new()).await;
    assert_eq!(run.standing(), crate::run::Standing::Ended(Ending::RolledBack), "{run:#?}");
    assert_eq!((fake.undone("a"), fake.undone("b"), fake.undone("c")), (0, 1, 0));
    assert!(run.steps[0].found && run.steps[0].state == State::Done, "{:?}", run.steps[0]);
    assert_eq!(run.steps[2].failures, 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_found_done_after_a_kill_may_be_the_runs_own_and_is_taken_back() {
    let begun = one_step(
        "plain\"\n[[steps]]\nid = \"b\"\naction = \"fake/fails\"\non_failure = \"roll-back\"",
    );
    // The record of what the first step did is the second that is written after the run's beginning.
    let fake = Fake::new(begun, Some(Kill::Before(1)));
    let run = until_ended(&fake).await;
    assert!(fake.was_killed() && run.steps[0].found);
    assert_eq!((fake.done("a"), fake.undone("a")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_undo_that_fails_stops_and_asks_and_what_stays_is_listed() {
    let text = format!(
        "{HEAD}[[steps]]\nid = \"a\"\naction = \"fake/sticks\"\n[[steps]]\nid = \"b\"\n\
         action = \"fake/fails\"\non_failure = \"roll-back\"\n"
    );
    let fake = Fake::new(begin(&text, &[]), None);
    let run = until_still(&fake, Vec::new()).await;
    assert_eq!(run.standing(), crate::run::Standing::Stopped);
    assert_eq!(run.steps[0].word(), "undo_failed");

    let words = vec![
        Word::Retry { step: Some("a".to_owned()) },
        Word::Skip { step: Some("a".to_owned()), why: "it stays".to_owned() },
    ];
    let run = until_still(&fake, words).await;
    assert_eq!(run.standing(), crate::run::Standing::Ended(Ending::Aborted));
    assert_eq!(run.left.len(), 1, "{:?}", run.left);
    assert!(run.ended.unwrap().1.contains("stays: a"));
}

#[tokio::test(start_paused = true)]
async fn what_a_provider_says_too_much_of_gets_into_no_journal() {
    let fake = Fake::new(one_step("floods\""), None);
    let run = until_still(&fake, Vec::new()).await;
    let State::Failed { error, .. } = &run.steps[0].state else { panic!("{:?}", run.steps) };
    assert_eq!(error.code, "too_much");
}

#[tokio::test(start_paused = true)]
async fn an_action_whose_token_changes_for_ever_fails_and_can_be_taken_back() {
    let fake = Fake::new(one_step("churns\"\ntimeout = \"24h\"\nretries = 100"), None);
    let run = Run::replay(&fake.journal()).unwrap();
    let world: Arc<dyn World> = Arc::<Fake>::clone(&fake);
    let (sender, heard) = mpsc::channel(4);
    let says = async {
        tokio::time::sleep(Duration::from_secs(12 * 3600)).await;
        let run = Run::replay(&fake.journal()).unwrap();
        let State::Failed { error, attempt } = &run.steps[0].state else {
            panic!("{} records, {}", run.records, run.steps[0].word());
        };
        assert_eq!((error.code.as_str(), *attempt), ("journal_full", 1));
        assert!(run.bytes < 2 * crate::limits::STEP_BYTES_MAX, "{} bytes", run.bytes);
        assert_eq!(run.standing(), crate::run::Standing::Stopped);
        let (told, tell) = oneshot::channel();
        let word = Word::Abort { why: "enough".to_owned() };
        sender.send(Order { word, actor: "bob".to_owned(), told }).await.unwrap();
        tell.await.unwrap().unwrap();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = execute(run, world, heard) => assert_eq!(ended, Ok(Ending::RolledBack)),
        () = says => {}
    }
    assert_eq!((fake.done("a"), fake.undone("a")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn that_a_keeper_is_lost_is_written_before_the_call_that_follows() {
    let fake = Fake::new(one_step("plain\""), None);
    // The record after the one that begins the run is the intent; the call is made after it.
    fake.part_at(2);
    let run = until_still(&fake, Vec::new()).await;
    assert_eq!(run.standing(), crate::run::Standing::Ended(Ending::Completed));
    let journal = fake.journal();
    assert!(matches!(&journal[1].event, Event::Intent { .. }), "{journal:#?}");
    let Event::Parted { sites, .. } = &journal[2].event else { panic!("{journal:#?}") };
    assert_eq!(*sites, ["east"]);
    assert!(matches!(&journal[3].event, Event::Done { .. }), "{journal:#?}");
    assert_eq!(fake.done("a"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_gone_may_come_back() {
    let fake = Fake::new(one_step("plain\"\nretries = 5"), None);
    fake.registry().remove("fake");
    let run = until_still(&fake, Vec::new()).await;
    assert_eq!(run.standing(), crate::run::Standing::Stopped);
    fake.put_provider();
    let run = until_still(&fake, vec![Word::Retry { step: None }]).await;
    assert_eq!(run.standing(), crate::run::Standing::Ended(Ending::Completed));
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_changes_nothing_and_says_what_would_be_done() {
    let Event::Begun(begun) = begin(SWITCHOVER, &[]).event else { panic!("it begins") };
    let plan = Plan::prove("p", begun.plan.clone()).unwrap();
    let fake = Fake::new(begin(SWITCHOVER, &[]), None);
    let world: Arc<dyn World> = Arc::<Fake>::clone(&fake);
    let steps = dry_run(&plan, &begun.setting, ("ada", &world)).await;
    assert_eq!(steps.len(), 17);
    for step in &steps {
        assert_eq!(fake.done(&step.id), 0);
        match step.id.as_str() {
            "s07" => assert!(step.left_out.is_some() && step.standing.is_none()),
            // It refers to what an earlier step will say.
            "s16" => assert!(step.standing.is_none() && step.description.is_ok()),
            _ => assert_eq!(step.standing, Some(Ok(Standing::Ready)), "{}", step.id),
        }
    }
    assert!(Registry::default().names().is_empty());
}
