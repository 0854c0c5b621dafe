//! The four flows: a mirrored volume is made, its session goes over to another mode for a while, the
//! operation volume is restored from it, and it is deleted.
//!
//! Invariant: nothing is made that is there; what a flow has to remember beyond what can be seen is one
//! word, noted before it is needed.

use serde::Deserialize;
use serde_json::{Value, json};

use super::arrays::{Arrays, Side};
use super::error;
use super::turn::{Seen, Turn};
use super::twinspan::plugin::types::{Error, ErrorCode};

const NONE: &[(&str, &str)] = &[];

#[derive(Debug, Deserialize)]
pub struct Create {
    /// The operation volume's name.
    pub volume: String,
    /// The mirrored volume's.
    pub mirror: String,
    #[serde(default = "automatic")]
    pub split_mode: String,
}

fn automatic() -> String {
    "Automatic".to_owned()
}

#[derive(Debug, Deserialize)]
pub struct Switch {
    pub volume: String,
    pub mode: String,
}

#[derive(Debug, Deserialize)]
pub struct Recover {
    pub mirror: String,
    /// The session is left reversed.
    #[serde(default)]
    pub stay: bool,
}

#[derive(Debug, Deserialize)]
pub struct Delete {
    pub volume: String,
    #[serde(default)]
    pub force: bool,
    #[serde(default)]
    pub with_mirror: bool,
}

#[derive(Debug, Deserialize)]
pub struct Find {
    pub volume: String,
}

fn done(summary: String, outputs: &[(&str, &str)]) -> Result<Seen, Error> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Ok(Seen::Done(summary, outputs.iter().map(own).collect()))
}

fn volume(arrays: &impl Arrays, side: Side, name: &str) -> Result<Option<Value>, Error> {
    let all = arrays.get(side, "/volume")?;
    let all = all["volume_list"].as_array();
    Ok(all.and_then(|all| all.iter().find(|of| of["name"] == name)).cloned())
}

fn box_id(arrays: &impl Arrays, side: Side) -> Result<String, Error> {
    Ok(arrays.get(side, "/storage")?["boxid"].as_str().unwrap_or_default().to_owned())
}

/// The sessions of which a volume with this name is the end there.
fn sessions(arrays: &impl Arrays, side: Side, name: &str) -> Result<Vec<Value>, Error> {
    let all = arrays.get(side, "/copysession")?;
    let is_its = |of: &&Value| {
        let end = if of["is_local_source_volume"] == true { "source" } else { "destination" };
        of[format!("{end}_volume_name")] == name
    };
    let all = all["copysession_list"].as_array().into_iter().flatten();
    Ok(all.filter(is_its).cloned().collect())
}

fn only_session(arrays: &impl Arrays, side: Side, name: &str) -> Result<Value, Error> {
    let mut all = sessions(arrays, side, name)?;
    match (all.pop(), all.len()) {
        (Some(session), 0) => Ok(session),
        (None, _) => {
            let why = format!("{name} has no copy session ({side:?})");
            Err(error(ErrorCode::NotFound, why))
        }
        (Some(_), more) => {
            let why = format!("{name} has {} copy sessions ({side:?}), not one", more + 1);
            Err(error(ErrorCode::WrongState, why))
        }
    }
}

fn number(of: &Value, field: &str) -> Result<u64, Error> {
    of[field].as_u64().ok_or_else(|| {
        error(ErrorCode::WrongState, format!("a storage system tells no {field}: {of}"))
    })
}

fn is_suspended(session: &Value) -> bool {
    session["status"] == "Suspend"
}

fn is_equivalent(session: &Value) -> bool {
    session["status"] == "Active" && session["phase"] == "Equivalent"
}

/// A session that does not go on by itself is told of.
fn waits(session: &Value) -> Result<Seen, Error> {
    if session["status"] == "Error" {
        let words = session["error_message"].as_str().unwrap_or("no reason");
        let why = format!(
            "session {} is in Error: {words}. Remove the cause, delete the session and make it anew",
            session["copysession_id"]
        );
        return Err(error(ErrorCode::WrongState, why));
    }
    let (status, phase) = (&session["status"], &session["phase"]);
    Ok(Seen::Not(format!("the session is {status} and {phase}, {} %", session["progress"])))
}

/// Box ids and numbers, which plans need not know.
pub fn find(arrays: &impl Arrays, of: &Find) -> Result<Seen, Error> {
    let missing = || error(ErrorCode::NotFound, format!("there is no volume {}", of.volume));
    let found = volume(arrays, Side::Local, &of.volume)?.ok_or_else(missing)?;
    let (here, there) = (box_id(arrays, Side::Local)?, box_id(arrays, Side::Remote)?);
    let its = number(&found, "volume_id")?.to_string();
    let outputs = [("boxid", here.as_str()), ("remote_boxid", &there), ("volume", &its)];
    done(format!("{} is volume {its} of box {here}", of.volume), &outputs)
}

// --- made ---

pub fn create(
    arrays: &impl Arrays,
    (key, of): (&str, &Create),
    turn: &mut Turn,
) -> Result<Seen, Error> {
    let missing = || error(ErrorCode::NotFound, format!("there is no volume {}", of.volume));
    let source = volume(arrays, Side::Local, &of.volume)?.ok_or_else(missing)?;
    let Some(mirror) = volume(arrays, Side::Remote, &of.mirror)? else {
        if !turn.is_dry {
            arrays.note(key, "made")?;
        }
        let body = json!({ "name": of.mirror, "capacity": source["capacity"], "tpp_id": 0 });
        return turn.push(arrays, (Side::Remote, "make the volume"), (("POST", "/volume"), &body));
    };
    if mirror["capacity"] != source["capacity"] {
        let why = format!("{} and {} differ in capacity", of.volume, of.mirror);
        return Err(error(ErrorCode::WrongState, why));
    }
    let (from, to) = (number(&source, "volume_id")?, number(&mirror, "volume_id")?);
    let (here, there) = (box_id(arrays, Side::Local)?, box_id(arrays, Side::Remote)?);
    let its = sessions(arrays, Side::Local, &of.volume)?.into_iter().find(|session| {
        session["remote_boxid"] == there && session["destination_volume_number"] == to
    });
    let Some(session) = its else {
        let body = json!({
            "source_volume_id": from, "destination_volume_id": to, "source_boxid": here,
            "destination_boxid": there, "transfer_mode": "Synchronous",
            "split_mode": of.split_mode, "recovery_mode": "Automatic",
        });
        let call = (("POST", "/copysession/rec"), &body);
        return turn.push(arrays, (Side::Local, "make the session"), call);
    };
    if !is_equivalent(&session) {
        return waits(&session);
    }
    let (id, to) = (number(&session, "copysession_id")?.to_string(), to.to_string());
    let made = arrays.noted(key)?.is_some().to_string();
    let outputs =
        [("session", id.as_str()), ("mirror", &to), ("remote_boxid", &there), ("made", &made)];
    done(format!("{} is mirrored as {} by session {id}", of.volume, of.mirror), &outputs)
}

/// Takes it back: the session goes, and the volume if it was made.
pub fn uncreate(
    arrays: &impl Arrays,
    (key, of): (&str, &Create),
    turn: &mut Turn,
) -> Result<Seen, Error> {
    let delete = Delete { volume: of.volume.clone(), force: true, with_mirror: false };
    let its = sessions(arrays, Side::Local, &of.volume)?;
    let its = its.iter().find(|session| session["destination_volume_name"] == of.mirror.as_str());
    if let Some(session) = its {
        return end(arrays, session, (&delete, turn));
    }
    match volume(arrays, Side::Remote, &of.mirror)? {
        Some(mirror) if arrays.noted(key)?.is_some() => {
            let body = json!({ "volume_id_list": [number(&mirror, "volume_id")?] });
            let call = (("DELETE", "/volume"), &body);
            turn.push(arrays, (Side::Remote, "delete the volume"), call)
        }
        _ => done(format!("{} is not mirrored", of.volume), NONE),
    }
}

// --- another mode for a while ---

pub fn switch(
    arrays: &impl Arrays,
    (key, of): (&str, &Switch),
    turn: &mut Turn,
) -> Result<Seen, Error> {
    let session = only_session(arrays, Side::Local, &of.volume)?;
    if session["is_local_source_volume"] != true {
        let why = format!("{} is the destination: its mode is changed at its source", of.volume);
        return Err(error(ErrorCode::WrongState, why));
    }
    let now = session["transfer_mode"].as_str().unwrap_or_default().to_owned();
    let from = match arrays.noted(key)? {
        Some(from) => from,
        None => {
            if !turn.is_dry {
                arrays.note(key, &now)?;
            }
            now.clone()
        }
    };
    let path = format!("/copysession/{}", number(&session, "copysession_id")?);
    let resume = format!("{path}/resume");
    let is_stack = now == "Stack";
    if now == of.mode || turn.failed.is_some() {
        if is_suspended(&session) {
            let call = (("POST", resume.as_str()), &json!({}));
            return turn.push(arrays, (Side::Local, "resume"), call);
        }
        // Between its transfers a session in mode Stack is never equivalent.
        let runs = is_equivalent(&session) || (is_stack && session["status"] == "Active");
        if !runs {
            return waits(&session);
        }
        if let Some(why) = &turn.failed {
            return Err(error(ErrorCode::WrongState, format!("it goes on as {now}: {why}")));
        }
        return done(format!("{from} -> {now}"), &[("from_mode", &from), ("mode", &now)]);
    }
    if is_suspended(&session) {
        let body = json!({ "transfer_mode": of.mode });
        let call = (("PATCH", path.as_str()), &body);
        return match turn.push(arrays, (Side::Local, "change the mode"), call) {
            // Refused: it is not left suspended.
            Err(why) if why.code != ErrorCode::Unavailable => {
                turn.failed = Some(why.message);
                Ok(Seen::Not("the mode is refused: resume it as it was".to_owned()))
            }
            other => other,
        };
    }
    if !is_equivalent(&session) && !is_stack {
        return waits(&session);
    }
    let (suspend, body) = (format!("{path}/suspend"), json!({ "force": is_stack }));
    turn.push(arrays, (Side::Local, "suspend"), (("POST", suspend.as_str()), &body))
}

/// Back to the mode that it had.
pub fn unswitch(
    arrays: &impl Arrays,
    (key, of): (&str, &Switch),
    turn: &mut Turn,
) -> Result<Option<Seen>, Error> {
    let Some(mode) = arrays.noted(key)? else { return Ok(None) };
    let back = Switch { volume: of.volume.clone(), mode };
    switch(arrays, (&format!("{key}/back"), &back), turn).map(Some)
}

// --- restored ---

/// The operation volume gets what its mirror holds, and the session its first direction again.
const TURN: &str = "turn";
const TURN_LOST: &str = "turn, the local system is lost";
const BACK: &str = "back";

pub fn recover(
    arrays: &impl Arrays,
    (key, of): (&str, &Recover),
    turn: &mut Turn,
) -> Result<Seen, Error> {
    let there = only_session(arrays, Side::Remote, &of.mirror)?;
    let is_source = there["is_local_source_volume"] == true;
    let path = format!("/copysession/{}", number(&there, "copysession_id")?);
    let phase = match arrays.noted(key)? {
        Some(phase) => phase,
        None if is_source => {
            let why = format!("{} is the source already: there is nothing to restore", of.mirror);
            return Err(error(ErrorCode::WrongState, why));
        }
        None => {
            if turn.is_dry {
                return Ok(Seen::Not(format!("restore from {}", of.mirror)));
            }
            arrays.note(key, TURN)?;
            TURN.to_owned()
        }
    };
    let post = |tail: &str| format!("{path}/{tail}");
    if phase == BACK {
        return back(arrays, (&there, &path), turn);
    }
    let is_lost = phase == TURN_LOST;
    match (is_source, is_suspended(&there)) {
        (false, false) => split(arrays, (key, &there), (is_lost, turn)),
        (false, true) => {
            // Split by force, it may lack what the old source wrote last; that is to be undone.
            let (call, body) = (post("reverse"), json!({ "force": true }));
            turn.push(arrays, (Side::Remote, "reverse"), (("POST", call.as_str()), &body))
        }
        (true, true) => {
            // What the old source wrote by itself is what the restore is to undo.
            let (call, body) = (post("resume"), json!({ "confirm_discard": true }));
            turn.push(arrays, (Side::Remote, "restore"), (("POST", call.as_str()), &body))
        }
        (true, false) if !is_equivalent(&there) => waits(&there),
        (true, false) if of.stay => {
            done(format!("restored from {}, which is the source now", of.mirror), NONE)
        }
        (true, false) => {
            arrays.note(key, BACK)?;
            Ok(Seen::Not("restored; the session turns back".to_owned()))
        }
    }
}

/// Splits by force at the local system, and at the remote one where that does not answer.
fn split(
    arrays: &impl Arrays,
    (key, there): (&str, &Value),
    (is_lost, turn): (bool, &mut Turn),
) -> Result<Seen, Error> {
    let force = json!({ "force": true });
    let here = format!("/copysession/{}/suspend", number(there, "remote_copysession_id")?);
    let at_remote = format!("/copysession/{}/suspend", number(there, "copysession_id")?);
    if is_lost {
        let call = (("POST", at_remote.as_str()), &force);
        return turn.push(arrays, (Side::Remote, "split by force"), call);
    }
    match turn.push(arrays, (Side::Local, "split"), (("POST", here.as_str()), &force)) {
        Err(why) if matches!(why.code, ErrorCode::Unavailable | ErrorCode::Timeout) => {
            arrays.note(key, TURN_LOST)?;
            Ok(Seen::Not(format!("the local system cannot be asked: {}", why.message)))
        }
        other => other,
    }
}

fn back(
    arrays: &impl Arrays,
    (there, path): (&Value, &str),
    turn: &mut Turn,
) -> Result<Seen, Error> {
    let here = format!("/copysession/{}", number(there, "remote_copysession_id")?);
    // Whoever becomes the source knows it first.
    let mine = arrays.get(Side::Local, &here)?;
    if mine["is_local_source_volume"] == true {
        if is_suspended(&mine) {
            let call = format!("{here}/resume");
            return turn.push(
                arrays,
                (Side::Local, "resume"),
                (("POST", call.as_str()), &json!({})),
            );
        }
        if !is_equivalent(&mine) {
            return waits(&mine);
        }
        return done("restored, and mirrored as before".to_owned(), NONE);
    }
    let call = if is_suspended(there) {
        (Side::Local, "reverse again", format!("{here}/reverse"))
    } else if is_equivalent(there) {
        (Side::Remote, "split again", format!("{path}/suspend"))
    } else {
        return waits(there);
    };
    let (side, what, call) = call;
    turn.push(arrays, (side, what), (("POST", call.as_str()), &json!({ "force": false })))
}

// --- deleted ---

pub fn delete(
    arrays: &impl Arrays,
    (key, of): (&str, &Delete),
    turn: &mut Turn,
) -> Result<Seen, Error> {
    let its = sessions(arrays, Side::Local, &of.volume)?;
    if !its.is_empty() {
        let session = only_session(arrays, Side::Local, &of.volume)?;
        let mirror = number(&session, "destination_volume_number")?;
        if !turn.is_dry {
            arrays.note(key, &mirror.to_string())?;
        }
        return end(arrays, &session, (of, turn));
    }
    let mirror = arrays.noted(key)?.and_then(|text| text.parse::<u64>().ok());
    let Some(mirror) = mirror else {
        let why = format!("{} has no copy session", of.volume);
        return Err(error(ErrorCode::NotFound, why));
    };
    if !of.with_mirror {
        return done(format!("the session is gone; volume {mirror} stays"), NONE);
    }
    let all = arrays.get(Side::Remote, "/volume")?;
    let all = all["volume_list"].as_array();
    if all.is_some_and(|all| all.iter().any(|of| of["volume_id"] == mirror)) {
        let body = json!({ "volume_id_list": [mirror] });
        let call = (("DELETE", "/volume"), &body);
        return turn.push(arrays, (Side::Remote, "delete the volume"), call);
    }
    done(format!("the session and volume {mirror} are gone"), NONE)
}

fn end(
    arrays: &impl Arrays,
    session: &Value,
    (of, turn): (&Delete, &mut Turn),
) -> Result<Seen, Error> {
    let call = format!("/copysession/{}", number(session, "copysession_id")?);
    let body = if of.force { json!({ "force": true }) } else { Value::Null };
    turn.push(arrays, (Side::Local, "delete the session"), (("DELETE", call.as_str()), &body))
}

#[cfg(test)]
mod tests;
