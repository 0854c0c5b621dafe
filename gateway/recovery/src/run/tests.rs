//! Runs as lists of records: whatever providers and people do, the rules hold and it can end.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const PLAN: &str = r#"
name = "p"
kind = "other"
[sites]
source = "east"
destination = "west"
[[steps]]
id = "a"
action = "x/a"
retries = 1
[[steps]]
id = "b"
action = "x/b"
parallel = "both"
approval = "go on?"
[[steps]]
id = "c"
action = "x/c"
parallel = "both"
on_failure = "carry-on"
[[steps]]
id = "d"
action = "x/d"
on_failure = "roll-back"
reversible = false
[[steps]]
id = "e"
action = "x/e"
on_failure = "roll-back"
point_of_no_return = true
[[steps]]
id = "f"
action = "x/f"
on_failure = "roll-back"
[[steps]]
id = "g"
action = "x/g"
after = ["a"]
"#;

fn begin() -> Record {
    let plan = Plan::from_toml("p.toml", PLAN).unwrap();
    let setting = plan.setting(false, &BTreeMap::new(), &BTreeMap::new()).unwrap();
    let runner = Runner { gateway: "g".to_owned(), site: "east".to_owned() };
    let begun = Begun {
        run: "r".to_owned(),
        plan: plan.raw,
        setting,
        groups: Vec::new(),
        actor: "ada".to_owned(),
        runner,
        keepers: Vec::new(),
        absent: Vec::new(),
    };
    Record { number: 1, term: 1, at_ms: 1, event: Event::Begun(Box::new(begun)) }
}

/// What is drawn: which of the effects, what comes of it, what people say.
#[derive(Clone, Debug)]
struct Draw {
    effect: usize,
    outcome: u8,
    word: u8,
}

fn draw() -> impl Strategy<Value = Draw> {
    (0..64_usize, 0..8_u8, 0..12_u8).prop_map(|(effect, outcome, word)| Draw {
        effect,
        outcome,
        word,
    })
}

fn outcome(run: &Run, call: &Call, outcome: u8) -> Event {
    let step = run.plan.steps[call.place].id.clone();
    let back = call.direction == Direction::Back;
    match outcome {
        0 | 1 | 6 if back => Event::Undone { step, summary: String::new(), left: Vec::new() },
        // It was done; it was so before; it was so, by whom is not known.
        0 | 1 | 6 => {
            let (found, untouched) = (outcome != 0, outcome == 1);
            Event::Done { step, report: Report::default(), found, untouched }
        }
        2 => Event::Pending { step, token: json!(run.records) },
        3 => {
            let choices = vec!["y".to_owned()];
            Event::Asked { step, prompt: String::new(), choices, token: json!(1) }
        }
        4 | 7 => Event::Failed {
            step,
            attempt: call.attempt,
            error: ActionError::now("x", "may work later"),
            untouched: outcome == 7,
        },
        _ => {
            let (attempt, error) = (call.attempt, ActionError::never("x", "no"));
            Event::Failed { step, attempt, error, untouched: false }
        }
    }
}

/// What people say, if that can be said now; of several steps they name the first that takes it.
fn word(run: &Run, word: u8) -> Option<Event> {
    let names = run.plan.steps.iter().map(|step| Some(step.id.clone()));
    let answer = |step, answer: &str| Word::Answer { step, answer: answer.to_owned() };
    std::iter::once(None).chain(names).find_map(|step| {
        let word = match word {
            0 => Word::Abort { why: "enough".to_owned() },
            1 | 2 => Word::Retry { step },
            3 => Word::Skip { step, why: "by hand".to_owned() },
            4 => answer(step, REJECT),
            5 | 6 => answer(step, "y"),
            7 | 8 => answer(step, APPROVE),
            _ => return None,
        };
        run.hear(&word, "ada").ok()
    })
}

/// The next record, if there is any to come of this draw.
fn step(run: &Run, draw: &Draw) -> Option<Event> {
    if let Some(event) = word(run, draw.word) {
        return Some(event);
    }
    let effects = run.next();
    if effects.is_empty() {
        return None;
    }
    match &effects[draw.effect % effects.len()] {
        Effect::Write(event) | Effect::Pause { then: event, .. } => Some(event.clone()),
        Effect::Call(call) => Some(outcome(run, call, draw.outcome)),
    }
}

/// Whether a step did something, or may have, by the time the run turned back.
fn may_have_acted(records: &[Record], id: &str) -> bool {
    let turns =
        |record: &Record| matches!(record.event, Event::Aborted { .. } | Event::TurnedBack { .. });
    let (mut acted, mut under_way) = (false, false);
    let before = records.iter().take_while(|record| !turns(record));
    for record in before.filter(|record| record.event.step() == Some(id)) {
        match &record.event {
            Event::Intent { .. } => under_way = true,
            Event::Pending { .. } | Event::Asked { .. } => acted = true,
            Event::Done { untouched, .. } | Event::Failed { untouched, .. } => {
                (acted, under_way) = (acted || !untouched, false);
            }
            Event::Skipped { .. } => under_way = false,
            _ => {}
        }
    }
    acted || under_way
}

/// Rules that need the whole journal.
fn rules(records: &[Record], run: &Run) {
    let intents = |id: &str| {
        let is_it =
            |record: &&Record| matches!(&record.event, Event::Intent { step, .. } if step == id);
        records.iter().filter(is_it).map(|record| record.number).collect::<Vec<_>>()
    };
    let no_return = intents("e");
    let turned = records
        .iter()
        .find(|record| matches!(record.event, Event::Aborted { .. } | Event::TurnedBack { .. }));
    for record in records {
        if let Event::Intent { step, .. } = &record.event
            && turned.is_some_and(|turned| turned.number < record.number)
        {
            assert!(may_have_acted(records, step), "{step} is not the run's to take back");
        }
        if let Event::Undone { step, .. } = &record.event {
            assert!(turned.is_some_and(|turned| turned.number < record.number));
            let first = intents(step)[0];
            assert!(no_return.first().is_none_or(|e| first > *e), "{step} is before the point");
            assert_ne!(step, "d", "it is not reversible");
        }
        if let Event::Done { step, .. } = &record.event {
            assert!(intents(step).first().is_some_and(|intent| *intent < record.number));
        }
    }
    if let Some((Ending::RolledBack, ..)) = run.ended {
        for (plan, step) in run.plan.steps.iter().zip(&run.steps) {
            let is_back = matches!(step.state, State::Undone(_) | State::Skipped(_));
            assert!(is_back || !may_have_acted(records, &plan.id), "{} stays", plan.id);
        }
    }
    if let Some((Ending::Completed, ..)) = run.ended {
        assert!(run.steps.iter().all(|step| step.direction == Direction::Forward));
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_rules_hold_and_it_can_end(draws in prop::collection::vec(draw(), 0..80)) {
        let mut records = vec![begin()];
        let mut run = Run::replay(&records).unwrap();
        let well = |word: u8| Draw { effect: 0, outcome: 0, word };
        let mut patience = 0;
        let mut draws = draws.into_iter();
        while run.ended.is_none() {
            // After what was drawn everything goes well, and people say what helps.
            let next = draws.next();
            let event = match &next {
                Some(draw) => step(&run, draw),
                None => [2, 7, 5, 9].into_iter().find_map(|number| step(&run, &well(number))),
            };
            if next.is_none() {
                patience += 1;
                prop_assert!(patience < 200, "it does not end: {:#?}", run);
            }
            let Some(event) = event else { continue };
            let record = run.record(event, 1);
            let applied = run.apply(&record);
            prop_assert!(applied.is_ok(), "{applied:?} of {record:?}");
            records.push(record);
        }
        prop_assert_eq!(Run::replay(&records).unwrap(), run.clone());
        prop_assert!(run.next().is_empty());
        rules(&records, &run);
    }
}

fn apply(run: &mut Run, event: Event) -> Result<(), Unreadable> {
    let record = run.record(event, 1);
    run.apply(&record)
}

#[test]
fn a_higher_term_goes_on_and_a_lower_one_is_refused() {
    let mut run = Run::replay(&[begin()]).unwrap();
    let runner = Runner { gateway: "h".to_owned(), site: "west".to_owned() };
    let taken = Event::Taken { runner: runner.clone(), actor: "ada".to_owned() };
    let taken = Record { term: 2, ..run.record(taken, 2) };
    run.apply(&taken).unwrap();
    assert_eq!((run.term, &run.runner), (2, &runner));
    let intent = Event::Intent { step: "a".to_owned(), attempt: 1 };
    let late = Record { term: 1, ..run.record(intent.clone(), 3) };
    assert!(run.clone().apply(&late).unwrap_err().why.contains("term 1"));
    assert!(apply(&mut run, intent).is_ok());
}

#[test]
fn a_journal_that_says_what_cannot_be_is_refused() {
    let run = Run::replay(&[begin()]).unwrap();
    let early = Event::Intent { step: "d".to_owned(), attempt: 1 };
    let done = Event::Done {
        step: "a".to_owned(),
        report: Report::default(),
        found: false,
        untouched: false,
    };
    let nobody = Event::Intent { step: "z".to_owned(), attempt: 1 };
    for (event, why) in [(early, "too early"), (done, "no intent"), (nobody, "no step")] {
        let found = apply(&mut run.clone(), event).unwrap_err();
        assert!(found.why.contains(why), "{found}");
    }
    let gap = Record { number: 3, ..run.record(Event::TurnedBack { step: "a".to_owned() }, 1) };
    assert!(run.clone().apply(&gap).is_err());
    assert!(Run::replay(&[gap]).is_err());
    assert!(Run::replay(&[]).is_err());
}

#[test]
fn a_person_hears_what_can_be_said() {
    let mut run = Run::replay(&[begin()]).unwrap();
    let say = |run: &Run, word: Word| run.hear(&word, "ada").unwrap_err().to_string();
    assert_eq!(say(&run, Word::Retry { step: None }), "no step is failed");
    let named = Word::Retry { step: Some("a".to_owned()) };
    assert!(say(&run, named).contains("step a is waiting"));
    apply(&mut run, Event::Intent { step: "a".to_owned(), attempt: 1 }).unwrap();
    let report = Report::default();
    apply(&mut run, Event::Done { step: "a".to_owned(), report, found: false, untouched: false })
        .unwrap();
    apply(&mut run, Event::ApprovalAsked { step: "b".to_owned() }).unwrap();
    let wrong = Word::Answer { step: None, answer: "perhaps".to_owned() };
    assert!(say(&run, wrong).contains("but: approve, reject"));
    let right = Word::Answer { step: None, answer: APPROVE.to_owned() };
    let event = run.hear(&right, "ada").unwrap();
    apply(&mut run, event).unwrap();
    assert_eq!(run.steps[1].state, State::Approved);
}

#[test]
fn what_a_step_made_is_known_before_it_ends_and_however_it_ends() {
    let mut run = Run::replay(&[begin()]).unwrap();
    let server = Created { kind: "server".to_owned(), id: "7".to_owned(), name: "s".to_owned() };
    let disk = Created { kind: "disk".to_owned(), id: "7".to_owned(), name: "d".to_owned() };
    let note = |step: &str, created: &[&Created], removed: &[&Created]| Word::Note {
        step: step.to_owned(),
        created: created.iter().copied().cloned().collect(),
        removed: removed.iter().copied().cloned().collect(),
    };
    assert!(run.hear(&note("z", &[&server], &[]), "plugin").is_err());
    apply(&mut run, Event::Intent { step: "a".to_owned(), attempt: 1 }).unwrap();
    let event = run.hear(&note("a", &[&server, &disk], &[]), "plugin").unwrap();
    apply(&mut run, event).unwrap();
    assert!(matches!(run.steps[0].state, State::Running { .. }), "it goes on");
    let left = |run: &Run| run.left.iter().map(|of| of.what.kind.clone()).collect::<Vec<_>>();
    assert_eq!(left(&run), ["server", "disk"]);
    let error = ActionError::now("trap", "it trapped");
    apply(&mut run, Event::Failed { step: "a".to_owned(), attempt: 1, error, untouched: false })
        .unwrap();
    assert_eq!(left(&run), ["server", "disk"], "whoever failed has made them all the same");
    apply(&mut run, Event::Intent { step: "a".to_owned(), attempt: 2 }).unwrap();
    let event = run.hear(&note("a", &[], &[&disk]), "plugin").unwrap();
    apply(&mut run, event).unwrap();
    // What the report says again is there once; a thing of another kind is another thing.
    let report = Report { created: vec![server], ..Report::default() };
    apply(&mut run, Event::Done { step: "a".to_owned(), report, found: false, untouched: false })
        .unwrap();
    assert_eq!(left(&run), ["server"]);
}

#[test]
fn a_journal_of_an_earlier_release_takes_everything_back_that_was_begun() {
    let done = r#"{ "record": "done", "step": "a", "report": { "summary": "" }, "found": true }"#;
    let mut run = Run::replay(&[begin()]).unwrap();
    apply(&mut run, Event::Intent { step: "a".to_owned(), attempt: 1 }).unwrap();
    apply(&mut run, serde_json::from_str(done).unwrap()).unwrap();
    apply(&mut run, Event::Aborted { actor: "ada".to_owned(), why: "enough".to_owned() }).unwrap();
    let undo = Event::Intent { step: "a".to_owned(), attempt: 1 };
    assert_eq!(run.next(), [Effect::Write(undo)]);
}

/// Gives tokens of a step until there is no room for another one; how many.
fn churn(run: &mut Run, step: &str) -> u64 {
    let (place, before) = (run.plan.place(step).unwrap(), run.records);
    while run.has_room(place) {
        let token = json!({ "look": run.records, "all": "x".repeat(60 << 10) });
        apply(run, Event::Pending { step: step.to_owned(), token }).unwrap();
    }
    run.records - before
}

#[test]
fn what_can_be_repeated_leaves_room_for_the_end_and_for_the_other_steps() {
    let mut run = Run::replay(&[begin()]).unwrap();
    let intent = |step: &str| Event::Intent { step: step.to_owned(), attempt: 1 };
    let thing = Created { kind: "disk".to_owned(), id: "7".to_owned(), name: "d".to_owned() };
    let note = Word::Note { step: "a".to_owned(), created: vec![thing], removed: Vec::new() };
    let retry = Word::Retry { step: Some("a".to_owned()) };
    let full =
        |run: &Run, word: &Word| matches!(run.hear(word, "ada"), Err(WordError::Full { .. }));
    apply(&mut run, intent("a")).unwrap();
    let mut rounds = 0;
    loop {
        assert!(churn(&mut run, "a") > 1);
        assert!(full(&run, &note), "nothing more is noted");
        let error = ActionError::never("journal_full", "too often");
        apply(
            &mut run,
            Event::Failed { step: "a".to_owned(), attempt: 1, error, untouched: false },
        )
        .unwrap();
        rounds += 1;
        if full(&run, &retry) {
            break;
        }
        // A person who had a reason gets another share, while there is one.
        let event = run.hear(&retry, "ada").unwrap();
        apply(&mut run, event).unwrap();
        apply(&mut run, intent("a")).unwrap();
    }
    assert_eq!(rounds, 4, "{} bytes", run.bytes);
    let bytes = run.bytes;
    assert!(bytes < crate::limits::COMMON_BYTES_MAX + crate::limits::STEP_BYTES_MAX);

    // It is left out; another step has its own share, and the way back has one of each.
    let event = run.hear(&Word::Skip { step: None, why: "by hand".to_owned() }, "ada").unwrap();
    apply(&mut run, event).unwrap();
    apply(&mut run, intent("g")).unwrap();
    assert!(churn(&mut run, "g") > 2);
    apply(&mut run, Event::Aborted { actor: "ada".to_owned(), why: "enough".to_owned() }).unwrap();
    apply(&mut run, intent("g")).unwrap();
    assert!(churn(&mut run, "g") > 2);
    assert!(run.bytes - bytes < 2 << 20, "{} bytes", run.bytes - bytes);
}

#[test]
fn a_step_notes_no_more_than_is_told_to_whoever_takes_it_back() {
    let mut run = Run::replay(&[begin()]).unwrap();
    apply(&mut run, Event::Intent { step: "a".to_owned(), attempt: 1 }).unwrap();
    let thing =
        |id: usize| Created { kind: "disk".to_owned(), id: id.to_string(), name: String::new() };
    let all: Vec<Created> = (0..crate::limits::CREATED_MAX).map(thing).collect();
    let note = |created: Vec<Created>, removed: Vec<Created>| Word::Note {
        step: "a".to_owned(),
        created,
        removed,
    };
    let event = run.hear(&note(all, Vec::new()), "plugin").unwrap();
    apply(&mut run, event).unwrap();
    let one_more = note(vec![thing(9_999)], Vec::new());
    assert!(matches!(run.hear(&one_more, "plugin"), Err(WordError::Full { .. })));
    assert!(run.hear(&note(vec![thing(7)], Vec::new()), "plugin").is_ok(), "it is noted already");
    let event = run.hear(&note(Vec::new(), vec![thing(3)]), "plugin").unwrap();
    apply(&mut run, event).unwrap();
    assert!(run.hear(&one_more, "plugin").is_ok(), "what is gone makes room");
}
