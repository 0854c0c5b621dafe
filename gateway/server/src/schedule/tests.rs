//! Schedules over changes of the clock, overlaps and downtime.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn schedule(expression: &str, zone: &str) -> Schedule {
    Schedule::parse(expression, zone).unwrap()
}

fn run(due: &str, missed: u64) -> Act {
    Act::Run { due: at(due), missed }
}

/// Due times after a moment, as they are written in the zone.
fn dues(schedule: &Schedule, from: &str, count: usize) -> Vec<String> {
    let first = schedule.next_after(at(from));
    let all = std::iter::successors(first, |due| schedule.next_after(*due));
    let text = |due: Timestamp| due.to_zoned(schedule.zone().clone()).strftime("%dT%H:%M%:z");
    all.take(count).map(|due| text(due).to_string()).collect()
}

#[test]
fn expressions_of_five_and_six_fields_are_read_and_others_refused_by_name() {
    for good in ["0 * * * *", "*/15 * * * *", "0 0 */1 * * 0,1,2,3,4,5,6", "0 3 L * *", "@daily"] {
        assert!(Schedule::parse(good, "UTC").is_ok(), "{good}");
    }
    let refused = |expression: &str| Schedule::parse(expression, "UTC").unwrap_err().to_string();
    for bad in ["", "* * *", "60 * * * *", "0 0 * * * * 2030", "every hour", "* * * * * * * *"] {
        assert!(refused(bad).contains("is no cron expression"), "{bad}: {}", refused(bad));
    }
    assert!(refused(&"0,".repeat(200)).contains("more than 256 letters"));
    assert_eq!(refused("0 0 30 2 *"), "\"0 0 30 2 *\" is due at no time");
    // Only a leap year has it.
    assert_eq!(dues(&schedule("0 0 29 2 *", "UTC"), "2026-01-01T00:00:00Z", 1).len(), 1);
    let zone = Schedule::parse("0 * * * *", "Europe/Atlantis").unwrap_err();
    assert!(zone.to_string().contains("\"Europe/Atlantis\" is no time zone"));
}

#[test]
fn a_time_of_day_that_does_not_exist_is_due_after_the_clock_went_over_it() {
    // On 2026-03-29 Berlin goes from 02:00 to 03:00.
    let daily = schedule("30 2 * * *", "Europe/Berlin");
    assert_eq!(
        dues(&daily, "2026-03-27T12:00:00Z", 3),
        ["28T02:30+01:00", "29T03:00+02:00", "30T02:30+02:00"]
    );
    let hourly = schedule("0 * * * *", "Europe/Berlin");
    assert_eq!(
        dues(&hourly, "2026-03-28T23:30:00Z", 3),
        ["29T01:00+01:00", "29T03:00+02:00", "29T04:00+02:00"]
    );
}

#[test]
fn a_time_of_day_that_exists_twice_is_due_once_and_every_hour_is_an_hour() {
    // On 2026-10-25 Berlin goes from 03:00 to 02:00.
    let daily = schedule("30 2 * * *", "Europe/Berlin");
    assert_eq!(dues(&daily, "2026-10-24T12:00:00Z", 2), ["25T02:30+02:00", "26T02:30+01:00"]);
    let hourly = schedule("0 * * * *", "Europe/Berlin");
    assert_eq!(
        dues(&hourly, "2026-10-24T23:30:00Z", 3),
        ["25T02:00+02:00", "25T02:00+01:00", "25T03:00+01:00"]
    );
}

#[test]
fn a_due_time_is_run_once() {
    let hourly = schedule("0 * * * *", "UTC");
    let waits = hourly.look(at("2026-11-26T08:10:00Z"), at("2026-11-26T08:59:59.9Z"), false);
    assert_eq!((waits.act, waits.before), (Act::Wait, at("2026-11-26T08:10:00Z")));
    assert_eq!(waits.next, Some(at("2026-11-26T09:00:00Z")));
    let runs = hourly.look(waits.before, at("2026-11-26T09:00:00.1Z"), false);
    assert_eq!(runs.act, run("2026-11-26T09:00:00Z", 0));
    let again = hourly.look(runs.before, at("2026-11-26T09:00:00.2Z"), false);
    assert_eq!((again.act, again.next), (Act::Wait, Some(at("2026-11-26T10:00:00Z"))));
}

#[test]
fn bak_05_due_times_while_a_run_is_under_way_are_skipped_and_counted() {
    let hourly = schedule("0 * * * *", "UTC");
    let begun = at("2026-11-26T00:00:00Z");
    let skipped = hourly.look(begun, at("2026-11-26T01:00:00Z"), true);
    assert_eq!(skipped.act, Act::Skip { dues: 1 });
    // The run of midnight ends at 01:20: nothing is made up for, and 02:00 is run.
    let ended = hourly.look(skipped.before, at("2026-11-26T01:20:00Z"), false);
    assert_eq!(ended.act, Act::Wait);
    let next = hourly.look(ended.before, at("2026-11-26T02:00:01Z"), false);
    assert_eq!(next.act, run("2026-11-26T02:00:00Z", 0));
}

#[test]
fn what_was_missed_while_nobody_ran_is_one_run_and_is_told() {
    let hourly = schedule("0 * * * *", "UTC");
    let down = at("2026-11-26T00:00:00Z");
    let late = hourly.look(down, at("2026-11-26T05:30:00Z"), false);
    assert_eq!(late.act, run("2026-11-26T05:00:00Z", 5));
    let rested = hourly.look(late.before, at("2026-11-26T05:30:01Z"), false);
    assert_eq!(rested.act, Act::Wait);
    // Back just in time: the last one is not missed.
    let in_time = hourly.look(down, at("2026-11-26T05:00:10Z"), false);
    assert_eq!(in_time.act, run("2026-11-26T05:00:00Z", 4));
}

#[test]
fn a_long_downtime_of_a_fast_schedule_is_counted_to_a_limit() {
    let fast = schedule("* * * * * *", "UTC");
    let look = fast.look(at("2016-01-01T00:00:00Z"), at("2026-11-26T00:00:00.5Z"), false);
    assert_eq!(look.act, run("2026-11-26T00:00:00Z", COUNTED_MAX - 1));
}

#[test]
fn a_clock_that_was_moved_back_goes_on_from_there_and_a_small_step_runs_nothing_twice() {
    let hourly = schedule("0 * * * *", "UTC");
    let before = at("2026-11-26T09:00:00Z");
    let step = hourly.look(before, at("2026-11-26T08:59:30Z"), false);
    assert_eq!((step.act, step.before), (Act::Wait, before));
    assert_eq!(hourly.look(before, at("2026-11-26T09:00:10Z"), false).act, Act::Wait);
    let moved = hourly.look(before, at("2026-11-25T07:30:00Z"), false);
    assert_eq!(moved.act, Act::Back(SignedDuration::from_mins(25 * 60 + 30)));
    assert_eq!(moved.next, Some(at("2026-11-25T08:00:00Z")));
    let next = hourly.look(moved.before, at("2026-11-25T08:00:00Z"), false);
    assert_eq!(next.act, run("2026-11-25T08:00:00Z", 0));
}

#[test]
fn a_clock_that_was_moved_forward_and_set_right_costs_one_run() {
    let hourly = schedule("0 * * * *", "UTC");
    let ahead = hourly.look(at("2026-11-26T09:00:00Z"), at("2036-11-26T09:30:00Z"), false);
    assert_eq!(ahead.act, run("2036-11-26T09:00:00Z", COUNTED_MAX));
    let right = hourly.look(ahead.before, at("2026-11-26T09:31:00Z"), false);
    assert!(matches!(right.act, Act::Back(_)));
    assert_eq!(right.next, Some(at("2026-11-26T10:00:00Z")));
}

proptest::proptest! {
    /// Whatever the clock does and whenever runs are under way: a due time that is over is run, skipped
    /// or missed once, as long as the clock does not go back.
    #[test]
    fn each_due_time_is_accounted_for_once(
        steps in proptest::collection::vec((1_i64..20_000, proptest::bool::ANY), 1..40),
    ) {
        let quarter = schedule("*/15 * * * *", "America/New_York");
        // Over the night in which an hour exists twice.
        let start = at("2026-10-31T20:00:00Z");
        let (mut now, mut before, mut told) = (start, start, 0);
        for (seconds, is_running) in steps {
            now += SignedDuration::from_secs(seconds);
            let look = quarter.look(before, now, is_running);
            before = look.before;
            told += match look.act {
                Act::Wait => 0,
                Act::Skip { dues } => dues,
                Act::Run { due, missed } => {
                    let is_late = now.duration_since(due) > LATE;
                    if is_late { missed } else { missed + 1 }
                }
                Act::Back(_) => unreachable!("the clock only goes forward"),
            };
        }
        let all = std::iter::successors(quarter.next_after(start), |due| quarter.next_after(*due));
        let over = all.take_while(|due| *due <= now).count() as u64;
        proptest::prop_assert_eq!(told, over);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_is_looked_at_again_soon_and_until_the_gateway_stops() {
    let stopping = CancellationToken::new();
    let now = Rc::new(RefCell::new(at("2026-11-26T08:00:00Z")));
    let looks = Rc::new(RefCell::new(0));
    let began = tokio::time::Instant::now();
    let look = |seen: Timestamp| {
        let (now, looks, stopping) = (Rc::clone(&now), Rc::clone(&looks), stopping.clone());
        async move {
            *looks.borrow_mut() += 1;
            // The clock is moved on by an hour while the driver sleeps for an hour.
            *now.borrow_mut() = seen + SignedDuration::from_hours(1);
            if *looks.borrow() == 3 {
                stopping.cancel();
            }
            Some(seen + SignedDuration::from_hours(2))
        }
    };
    drive(|| *now.borrow(), (stopping.clone(), &Notify::new()), look).await;
    assert_eq!(*looks.borrow(), 3);
    assert!(began.elapsed() <= 3 * LOOK);
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_was_just_set_is_looked_at_at_once() {
    let (stopping, wake) = (CancellationToken::new(), Notify::new());
    let looks = Rc::new(RefCell::new(0));
    let began = tokio::time::Instant::now();
    let look = |_seen: Timestamp| {
        *looks.borrow_mut() += 1;
        if *looks.borrow() == 2 {
            stopping.cancel();
        }
        async { None }
    };
    wake.notify_one();
    drive(|| at("2026-11-26T08:00:00Z"), (stopping.clone(), &wake), look).await;
    assert_eq!((*looks.borrow(), began.elapsed()), (2, Duration::ZERO));
}
