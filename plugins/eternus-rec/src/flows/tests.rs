//! The flows against two storage systems that are simulated as far as the flows see them: each job is done
//! when it is asked about, and what a flow does is the sequence of its pushes.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::twinspan::plugin::types::Retry;

#[derive(Default)]
struct World {
    volumes: [Vec<Value>; 2],
    /// As the remote system has it: whether it is the source, its state, its mode.
    session: Option<(bool, String, String)>,
    /// The state that the next start of the session ends in.
    pushed: Vec<String>,
    notes: BTreeMap<String, String>,
    is_lost: bool,
    refuses_mode: bool,
}

#[derive(Default)]
struct Fake(RefCell<World>);

fn at(side: Side) -> usize {
    usize::from(side == Side::Remote)
}

impl World {
    fn session_at(&self, side: Side) -> Vec<Value> {
        let Some((remote_is_source, state, mode)) = &self.session else { return Vec::new() };
        let is_source = (side == Side::Remote) == *remote_is_source;
        let phase = if state == "Active" { "Equivalent" } else { "Tracking" };
        let (source, destination) =
            if *remote_is_source { ("orders-dr", "orders") } else { ("orders", "orders-dr") };
        vec![json!({
            "copysession_id": 7 + at(side), "remote_copysession_id": 8 - at(side),
            "is_local_source_volume": is_source, "status": state, "phase": phase,
            "source_volume_name": source, "destination_volume_name": destination,
            "destination_volume_number": 3, "remote_boxid": (["B", "A"][at(side)]),
            "transfer_mode": mode, "progress": 100,
        })]
    }

    fn apply(&mut self, (method, path): (&str, &str), body: &Value) -> Result<(), Error> {
        let set = |session: &mut Option<(bool, String, String)>, state: &str| {
            if let Some(of) = session {
                state.clone_into(&mut of.1);
            }
        };
        match (method, path.rsplit('/').next().unwrap_or_default()) {
            ("POST", "volume") => {
                let made =
                    json!({ "volume_id": 3, "name": body["name"], "capacity": body["capacity"] });
                self.volumes[1].push(made);
            }
            ("POST", "rec") => {
                self.session = Some((false, "Active".to_owned(), "Synchronous".to_owned()));
            }
            ("POST", "suspend") => set(&mut self.session, "Suspend"),
            ("POST", "resume") => set(&mut self.session, "Active"),
            ("POST", "reverse") => {
                self.session.iter_mut().for_each(|of| of.0 = !of.0);
            }
            ("PATCH", _) if self.refuses_mode => {
                return Err(error(ErrorCode::InvalidArgument, "no buffer for that mode"));
            }
            ("PATCH", _) => {
                let mode = body["transfer_mode"].as_str().unwrap_or_default().to_owned();
                self.session.iter_mut().for_each(|of| of.2.clone_from(&mode));
            }
            ("DELETE", "volume") => self.volumes[1].clear(),
            ("DELETE", _) => self.session = None,
            _ => panic!("{method} {path}"),
        }
        Ok(())
    }
}

impl Arrays for Fake {
    fn get(&self, side: Side, path: &str) -> Result<Value, Error> {
        let world = self.0.borrow();
        if side == Side::Local && world.is_lost {
            let retry = Retry::AfterMs(1);
            return Err(Error { retry, ..error(ErrorCode::Unavailable, "nobody answers") });
        }
        Ok(match path {
            "/volume" => json!({ "volume_list": world.volumes[at(side)] }),
            "/storage" => json!({ "boxid": (["A", "B"][at(side)]) }),
            "/copysession" => json!({ "copysession_list": world.session_at(side) }),
            one if one.starts_with("/copysession/") => {
                world.session_at(side).pop().unwrap_or_default()
            }
            _ => json!({ "status": "Success" }),
        })
    }

    fn begin(&self, side: Side, call: (&str, &str), body: &Value) -> Result<u64, Error> {
        self.get(side, "/storage")?;
        let mut world = self.0.borrow_mut();
        world.pushed.push(format!("{side:?} {} {}", call.0, call.1));
        world.apply(call, body).map(|()| 1)
    }

    fn noted(&self, key: &str) -> Result<Option<String>, Error> {
        Ok(self.0.borrow().notes.get(key).cloned())
    }

    fn note(&self, key: &str, word: &str) -> Result<(), Error> {
        self.0.borrow_mut().notes.insert(key.to_owned(), word.to_owned());
        Ok(())
    }
}

fn world(session: Option<(bool, &str, &str)>) -> Fake {
    let volume = |id: u64, name: &str| json!({ "volume_id": id, "name": name, "capacity": 16 });
    let session = session.map(|(is, state, mode)| (is, state.to_owned(), mode.to_owned()));
    let there = if session.is_some() { vec![volume(3, "orders-dr")] } else { Vec::new() };
    let volumes = [vec![volume(1, "orders")], there];
    Fake(RefCell::new(World { volumes, session, ..World::default() }))
}

/// Looks until it is so; what was pushed. A token that is lost in between changes nothing.
fn carried_out(
    fake: &Fake,
    mut look: impl FnMut(&mut Turn) -> Result<Seen, Error>,
) -> Result<Vec<String>, Error> {
    let mut turn = Turn::default();
    for round in 0..40 {
        if round % 3 == 2 && turn.failed.is_none() {
            turn = Turn::default();
        }
        if let Seen::Done(..) = look(&mut turn)? {
            return Ok(fake.0.borrow().pushed.clone());
        }
    }
    panic!("it never ends: {:?}", fake.0.borrow().pushed)
}

fn create() -> Create {
    let (volume, mirror) = ("orders".to_owned(), "orders-dr".to_owned());
    Create { volume, mirror, split_mode: automatic() }
}

#[test]
fn rec_02_a_mirror_is_made_once_and_taken_back_with_the_volume_that_was_made() {
    let fake = world(None);
    let pushed = carried_out(&fake, |turn| super::create(&fake, ("k", &create()), turn)).unwrap();
    assert_eq!(pushed, ["Remote POST /volume", "Local POST /copysession/rec"]);
    let again = carried_out(&fake, |turn| super::create(&fake, ("k", &create()), turn)).unwrap();
    assert_eq!(again.len(), 2, "it was made twice");
    let undone = carried_out(&fake, |turn| uncreate(&fake, ("k", &create()), turn)).unwrap();
    assert_eq!(undone[2..], ["Local DELETE /copysession/7", "Remote DELETE /volume"]);
    // A volume that was there stays.
    let fake = world(Some((false, "Active", "Synchronous")));
    let undone = carried_out(&fake, |turn| uncreate(&fake, ("k", &create()), turn)).unwrap();
    assert_eq!(undone, ["Local DELETE /copysession/7"]);
}

#[test]
fn rec_13_a_mode_is_changed_while_suspended_and_a_refused_one_leaves_it_running() {
    let fake = world(Some((false, "Active", "Synchronous")));
    let of = Switch { volume: "orders".to_owned(), mode: "Consistency".to_owned() };
    let pushed = carried_out(&fake, |turn| switch(&fake, ("k", &of), turn)).unwrap();
    let path = "/copysession/7";
    assert_eq!(
        pushed,
        [
            format!("Local POST {path}/suspend"),
            format!("Local PATCH {path}"),
            format!("Local POST {path}/resume"),
        ]
    );
    let back = |turn: &mut Turn| unswitch(&fake, ("k", &of), turn).map(Option::unwrap);
    carried_out(&fake, back).unwrap();
    assert_eq!(fake.0.borrow().session.as_ref().unwrap().2, "Synchronous");
    let fake = world(Some((false, "Active", "Synchronous")));
    fake.0.borrow_mut().refuses_mode = true;
    let refused = carried_out(&fake, |turn| switch(&fake, ("k", &of), turn)).unwrap_err();
    assert!(refused.message.contains("no buffer for that mode"), "{}", refused.message);
    assert_eq!(fake.0.borrow().session.as_ref().unwrap().1, "Active", "it is left suspended");
}

#[test]
fn rec_12_a_volume_is_restored_once_and_the_session_turns_back() {
    let fake = world(Some((false, "Active", "Synchronous")));
    let of = Recover { mirror: "orders-dr".to_owned(), stay: false };
    let pushed = carried_out(&fake, |turn| recover(&fake, ("k", &of), turn)).unwrap();
    assert_eq!(
        pushed,
        [
            "Local POST /copysession/7/suspend",
            "Remote POST /copysession/8/reverse",
            "Remote POST /copysession/8/resume",
            "Remote POST /copysession/8/suspend",
            "Local POST /copysession/7/reverse",
            "Local POST /copysession/7/resume",
        ]
    );
    // Asked again, as after a kill: it is over.
    let again = carried_out(&fake, |turn| recover(&fake, ("k", &of), turn)).unwrap();
    assert_eq!(again.len(), 6);
}

#[test]
fn rec_11_a_lost_system_is_split_and_reversed_from_the_other_by_force() {
    let fake = world(Some((false, "Active", "Synchronous")));
    fake.0.borrow_mut().is_lost = true;
    let of = Recover { mirror: "orders-dr".to_owned(), stay: true };
    let pushed = carried_out(&fake, |turn| recover(&fake, ("k", &of), turn)).unwrap();
    assert_eq!(
        pushed,
        [
            "Remote POST /copysession/8/suspend",
            "Remote POST /copysession/8/reverse",
            "Remote POST /copysession/8/resume",
        ]
    );
    // It is the source: another restore from it makes no sense.
    let other = carried_out(&fake, |turn| recover(&fake, ("other", &of), turn)).unwrap_err();
    assert!(other.message.contains("the source already"), "{}", other.message);
}

#[test]
fn rec_24_a_session_is_deleted_and_its_volume_only_where_that_is_wanted() {
    for (with_mirror, count) in [(false, 1), (true, 2)] {
        let fake = world(Some((false, "Active", "Synchronous")));
        let of = Delete { volume: "orders".to_owned(), force: false, with_mirror };
        let pushed = carried_out(&fake, |turn| delete(&fake, ("k", &of), turn)).unwrap();
        assert_eq!(pushed.len(), count, "{pushed:?}");
        assert_eq!(fake.0.borrow().volumes[1].is_empty(), with_mirror);
    }
}

#[test]
fn rec_20_a_session_in_error_is_told_of_with_what_to_do() {
    let fake = world(Some((false, "Error", "Synchronous")));
    let refused = carried_out(&fake, |turn| super::create(&fake, ("k", &create()), turn));
    let words = refused.unwrap_err().message;
    assert!(words.contains("delete the session and make it anew"), "{words}");
}
