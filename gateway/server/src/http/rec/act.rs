//! What is done to sessions, and when it may be.
//!
//! Invariant: a rule is checked before the call is accepted, where the caller can be told at once;
//! the group checks its own again. What concerns the other half is asked of its gateway, and a
//! gateway that cannot be asked never makes data unsafe: at worst a half stays closed and listed
//! there.

use std::time::Duration;

use api::units::bytes_text;
use api::{Code, RecTransferMode};
use mirror::{Command, LegStatus, Phase, Serving, SessionState};

use super::jobs::Work;
use super::status::{self, Status};
use crate::gateway::Gateway;
use crate::gateway::asks::{Carried, Question, Seen};
use crate::gateway::halves::Half;
use crate::gateway::suspensions::DRAIN_MAX;
use crate::refusal::Refused;
use crate::status::leg_out_of_sync;

/// A mirror is told of a suspension on one connection and asked on another: it may need a moment.
const DETACH_TRIES_MAX: u32 = 40;
const DETACH_PAUSE: Duration = Duration::from_millis(50);

/// The leg that carries a session, at its source.
///
/// # Errors
/// [`Code::NotPrimary`] at its destination, naming where it is ruled.
pub(super) fn source_leg(half: &Half) -> Result<&LegStatus, Refused> {
    half.leg.as_ref().ok_or_else(|| {
        let detail = format!("its source is {}: ask the gateway there", half.site);
        Refused::new(Code::NotPrimary, detail)
    })
}

// --- suspend ---

/// Whether a session may be suspended.
///
/// # Errors
/// [`Code::NotInSync`] for one that is not equivalent, unless forced; [`Code::WrongState`] for one in
/// error; [`Code::NotPrimary`] at the destination while its source is there.
pub(super) fn may_suspend(half: &Half, force: bool) -> Result<(), Refused> {
    let Some(leg) = &half.leg else {
        return match (half.is_connected(), force) {
            (true, _) => source_leg(half).map(|_leg| ()),
            (false, true) => Ok(()),
            (false, false) => {
                let detail = format!("the path to its source {} is lost: use force", half.site);
                Err(Refused::new(Code::WrongState, detail))
            }
        };
    };
    match status::of_leg(leg) {
        Status::Suspend => Ok(()),
        Status::Error => {
            let detail = "its status is Error: remove the cause, then delete it and create it anew";
            Err(Refused::new(Code::WrongState, detail))
        }
        Status::Active | Status::Halt | Status::Unknown
            if force || matches!(leg.phase, Phase::Equivalent | Phase::Following) =>
        {
            Ok(())
        }
        Status::Active | Status::Halt | Status::Unknown => {
            let detail = format!(
                "it is {}, {} differ: wait until it is Equivalent, or use force, which makes the \
                 destination unusable",
                status::phase(half),
                bytes_text(leg_out_of_sync(leg))
            );
            Err(Refused::new(Code::NotInSync, detail))
        }
    }
}

/// Suspends a session and opens its destination to hosts, if that is one point in time: unless it is
/// forced, the destination has everything by then.
///
/// # Errors
/// [`Code::NotInSync`] when it does not have everything in time; the group's refusal.
pub(super) async fn suspend(
    gateway: &Gateway,
    half: &Half,
    force: bool,
    work: &mut Work,
) -> Result<(), Refused> {
    let Some(leg) = &half.leg else {
        work.running.step("suspend");
        work.running.done(format!(
            "nothing comes from {} any more; the copy stays closed until it is reversed",
            half.site
        ));
        return Ok(());
    };
    work.running.step(&format!("suspend {}", half.entry.name));
    let mut detail = "changes here are tracked".to_owned();
    if leg.state != SessionState::Suspended {
        let session = half.session.to_string();
        let suspended = if force {
            gateway.suspend_as_it_is(&session).await?
        } else {
            let tell = |left: &str| work.running.waits(left);
            gateway.suspend_whole(&session, DRAIN_MAX, tell).await?
        };
        if let Some(session) = suspended.filter(|of| of.leg.left_whole == Some(false)) {
            let missing = bytes_text(session.out_of_sync_bytes);
            detail = format!("{detail}; {missing} are not at {}", half.site);
        }
    }
    work.running.done(detail);
    work.running.step(&format!("open the destination at {}", half.site));
    let detail = match detach(gateway, half).await {
        Ok(()) => "hosts can attach it; changes there are tracked".to_owned(),
        Err(refused) => format!("it stays closed: {}", refused.0.detail),
    };
    work.running.done(detail);
    Ok(())
}

async fn detach(gateway: &Gateway, half: &Half) -> Result<(), Refused> {
    let question = Question::Detach { session: half.session };
    let mut tries = 0;
    loop {
        match gateway.ask(half.peer.uuid(), &question).await {
            Err(refused) if refused.is(Code::NotSuspended) && tries < DETACH_TRIES_MAX => {
                tries += 1;
                tokio::time::sleep(DETACH_PAUSE).await;
            }
            result => return result.map(|_done| ()),
        }
    }
}

// --- resume ---

/// Whether a session may run again.
///
/// # Errors
/// [`Code::WrongState`] for one that is not suspended; [`Code::NeedsConsent`] when the destination has
/// changes of its own and nobody confirmed that they may be lost.
pub(super) async fn may_resume(
    gateway: &Gateway,
    half: &Half,
    confirmed: bool,
) -> Result<(), Refused> {
    let leg = source_leg(half)?;
    let now = status::of_leg(leg);
    if now != Status::Suspend {
        let detail = format!("it is {}: only a suspended session is resumed", now.word());
        return Err(Refused::new(Code::WrongState, detail));
    }
    if confirmed {
        return Ok(());
    }
    // One that cannot be asked is found out by the copy itself, which discards nothing unconfirmed.
    match look(gateway, half).await {
        Ok(Seen { own_bytes, .. }) if own_bytes > 0 => Err(would_discard(half, own_bytes)),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn would_discard(half: &Half, bytes: u64) -> Refused {
    let detail = format!(
        "up to {} written at {} since the session was suspended would be lost",
        bytes_text(bytes),
        half.site
    );
    Refused::new(Code::NeedsConsent, detail)
        .next("repeat it with {\"confirm_discard\": true}, or reverse the session to keep them")
}

async fn look(gateway: &Gateway, half: &Half) -> Result<Seen, Refused> {
    gateway.ask(half.peer.uuid(), &Question::Look { session: half.session }).await?.seen()
}

/// Lets a session run again.
///
/// # Errors
/// [`Code::NeedsConsent`], and it is suspended as before; or the group's refusal.
pub(super) async fn resume(
    gateway: &Gateway,
    half: &Half,
    discard: bool,
    work: &mut Work,
) -> Result<(), Refused> {
    let leg = source_leg(half)?.leg;
    let group = half.entry.group();
    let command = Command::Resume { leg, discard };
    let resumed = gateway.follow_again(&mut work.running, group, (&half.site, command)).await;
    match resumed {
        Err(refused) if refused.is(Code::NeedsConsent) => {
            gateway.command(group, Command::Suspend { leg }).await?;
            let detail = refused.0.detail.clone();
            Err(Refused::new(Code::NeedsConsent, detail)
                .next("repeat it with {\"confirm_discard\": true}"))
        }
        other => other,
    }
}

// --- reverse ---

/// Whether source and destination may be swapped.
///
/// # Errors
/// [`Code::WrongState`] for a session that is not suspended; [`Code::NeedsConsent`], unless forced,
/// when the destination lacks what was acknowledged before it was.
pub(super) async fn may_reverse(
    gateway: &Gateway,
    half: &Half,
    force: bool,
) -> Result<(), Refused> {
    let now = status::status(half);
    let is_lost = half.leg.is_none() && now == Status::Halt && !half.is_connected();
    if now != Status::Suspend && !(is_lost && force) {
        let how = if is_lost { "use force: its source is not heard" } else { "suspend it first" };
        let detail = format!("it is {}: {how}", now.word());
        return Err(Refused::new(Code::WrongState, detail));
    }
    let suspended = half.leg.as_ref().filter(|leg| leg.state == SessionState::Suspended);
    let Some(leg) = suspended.filter(|_| !force) else { return Ok(()) };
    // One that cannot be asked is not reversed either.
    let quality = look(gateway, half).await.ok().and_then(|seen| seen.quality);
    if !lacks_acknowledged(leg, quality) {
        return Ok(());
    }
    let detail = format!(
        "up to {} that was acknowledged here is not at {}, some of it from before the session was \
         suspended: hosts there would find an older point in time",
        bytes_text(leg_out_of_sync(leg)),
        half.site
    );
    Err(Refused::new(Code::NeedsConsent, detail).next(
        "resume it and suspend it without force; or repeat it with {\"force\": true} to lose that",
    ))
}

/// Whether the destination lacks what was acknowledged before its session was suspended. What the
/// source wrote since is asked for when the session is resumed.
fn lacks_acknowledged(leg: &LegStatus, quality: Option<api::Quality>) -> bool {
    use api::Quality;
    match (leg.left_whole, quality) {
        (Some(whole), _) => !whole,
        // This gateway was restarted since. One that was told to be old had everything then.
        (None, Some(Quality::Outdated | Quality::Source)) => false,
        // It was not connected when it was suspended.
        (None, Some(Quality::InSync)) => leg_out_of_sync(leg) > 0,
        (None, Some(Quality::Consistent | Quality::Inconsistent | Quality::Blank)) => true,
        (None, None) => leg.policy.mode != mirror::Mode::Sync,
    }
}

/// Makes the destination the source. Nothing is copied before the session is resumed there.
///
/// # Errors
/// [`Code::NeedsConsent`] for a destination that is half copied; [`Code::PeerUnreachable`] when it is
/// at another gateway that does not answer.
pub(super) async fn reverse(
    gateway: &Gateway,
    half: &Half,
    work: &mut Work,
) -> Result<(), Refused> {
    let Some(leg) = &half.leg else {
        work.running.step("become the source");
        gateway.promote_half(half, &Carried::default()).await?;
        work.running.done(format!("resume the session here to copy to {}", half.site));
        return Ok(());
    };
    work.running.step(&format!("make {} the source", half.site));
    let policy = crate::status::policy(&leg.policy);
    let carried = Carried { split: Some(policy.split), recovery: Some(policy.recovery) };
    let question = Question::Promote { session: half.session, carried };
    gateway.ask(half.peer.uuid(), &question).await?;
    work.running.done(format!("resume the session at {} to copy here", half.site));
    Ok(())
}

// --- delete ---

/// Whether a session may be deleted.
///
/// # Errors
/// [`Code::NotInSync`] and [`Code::PeerUnreachable`], unless forced; [`Code::NotPrimary`] at the
/// destination of a session that its source still has.
pub(super) async fn may_delete(gateway: &Gateway, half: &Half, force: bool) -> Result<(), Refused> {
    if half.entry.volumes.len() > 1 {
        let (count, of) = (half.entry.volumes.len(), &half.entry.name);
        let detail = format!("it is one of the sessions of {count} volumes of group {of}");
        let next = match &half.leg {
            Some(_) => format!("twinspan session delete {of}:{}", half.site),
            None => format!("twinspan session delete {of} --half"),
        };
        return Err(Refused::new(Code::InGroup, detail).next(next));
    }
    let Some(leg) = &half.leg else {
        return match look(gateway, half).await {
            Ok(Seen { is_known: true, .. }) => source_leg(half).map(|_leg| ()),
            Ok(Seen { is_known: false, .. }) => Ok(()),
            Err(_) if force => Ok(()),
            Err(refused) => {
                let detail = format!(
                    "whether {} still has the session is not known ({}): use force",
                    half.site, refused.0.detail
                );
                Err(Refused::new(Code::PeerUnreachable, detail))
            }
        };
    };
    if force {
        return Ok(());
    }
    let now = status::of_leg(leg);
    let mode = status::transfer_mode(leg);
    if mode == RecTransferMode::Consistency {
        let detail = "a session in mode Consistency is deleted by force only: suspend it first, so \
                      that what was written is there";
        return Err(Refused::new(Code::WrongState, detail).next("repeat it with force"));
    }
    if now != Status::Suspend && (now != Status::Active || leg.phase != Phase::Equivalent) {
        let detail = format!(
            "it is {} and {}: wait until it is Equivalent, or use force",
            now.word(),
            status::phase(half)
        );
        return Err(Refused::new(Code::NotInSync, detail));
    }
    look(gateway, half).await.map(|_seen| ()).map_err(|refused| {
        let detail = format!(
            "{}; the half at {} would stay behind: use force if that is meant",
            refused.0.detail, half.site
        );
        Refused::new(Code::PeerUnreachable, detail)
    })
}

/// Deletes a session; both its volumes stay.
///
/// # Errors
/// The group's refusal.
pub(super) async fn delete(gateway: &Gateway, half: &Half, work: &mut Work) -> Result<(), Refused> {
    if half.leg.is_none() {
        work.running.step("make the copy a volume of its own");
        let detail = release_here(gateway, half).await?;
        work.running.done(detail);
        return Ok(());
    }
    work.running.step("forget the destination");
    let command = |leg| Command::RemoveLeg { leg };
    gateway.session_command(&half.session.to_string(), "deleted", command).await?;
    work.running.done("nothing is copied any more");
    work.running.step(&format!("make the copy at {} a volume of its own", half.site));
    let question = Question::Release { session: half.session };
    let detail = match gateway.ask(half.peer.uuid(), &question).await {
        Ok(_) => "hosts can attach it".to_owned(),
        Err(refused) if refused.is(Code::CopyStale) => {
            format!("it stays closed: {}", refused.0.detail)
        }
        Err(refused) => format!(
            "the half at {} is left behind, delete the session there: {}",
            half.site, refused.0.detail
        ),
    };
    work.running.done(detail);
    Ok(())
}

/// Turns the half here into a volume; one that is half copied stays closed and is only not listed
/// any more. What came of it, in words.
///
/// # Errors
/// The group's refusal.
pub(super) async fn release_here(gateway: &Gateway, half: &Half) -> Result<String, Refused> {
    match gateway.release_half(half).await {
        Ok(()) => Ok("hosts can attach it".to_owned()),
        Err(refused) if refused.is(Code::CopyStale) => {
            Ok(format!("it stays closed: {}", refused.0.detail))
        }
        Err(refused) => Err(refused),
    }
}

/// Whether a host could write to the half here.
#[must_use]
pub(super) fn is_open(half: &Half) -> bool {
    half.leg.is_some() || half.status.serving == Serving::Detached
}

#[cfg(test)]
mod tests {
    use api::Quality;

    use super::*;
    use crate::migration::tests::well;

    #[test]
    fn rec_11_a_destination_that_lacks_what_was_acknowledged_is_reversed_only_by_a_word() {
        let mut leg = well(2, "west");
        for (whole, quality, lacks) in [
            (Some(true), Some(Quality::Outdated), false),
            (Some(false), Some(Quality::Consistent), true),
            (Some(false), Some(Quality::Outdated), true),
            (None, Some(Quality::Outdated), false),
            (None, Some(Quality::Consistent), true),
            (None, Some(Quality::InSync), false),
            (None, None, false),
        ] {
            leg.left_whole = whole;
            assert_eq!(lacks_acknowledged(&leg, quality), lacks, "{whole:?} {quality:?}");
        }
        // The path was cut before it was suspended, and hosts went on here.
        leg.sessions[0].out_of_sync_bytes = 4096;
        assert!(lacks_acknowledged(&leg, Some(Quality::InSync)));
    }
}
