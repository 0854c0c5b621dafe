//! Why a group is not ready, in words, with what to do about it.
#![warn(clippy::wildcard_enum_match_arm)]

use api::units::{bytes_text, micros_text};
use api::{Code, Explanation, Health};
use block::Quality;
use mirror::{
    Cause, GroupStatus, LegStatus, LinkState, Phase, Role, Serving, SessionState, UpstreamStatus,
};

use super::{Moment, explanation, leg_is_well, leg_out_of_sync, words};

pub(super) type Finding = (Health, Explanation);

/// Everything that is not as it should be, each with how bad it is.
#[must_use]
pub(crate) fn explain(status: &GroupStatus, moment: Moment) -> Vec<Finding> {
    let mut findings = Vec::new();
    if status.split_brain && !status.legs.iter().any(is_split) {
        let cause = "both sides have writes that the other lacks";
        findings.push((Health::SplitBrain, explanation(Code::SplitBrain, cause)));
    }
    match status.role {
        Role::Primary => primary(status, moment, &mut findings),
        Role::Secondary => {
            secondary(status, moment, &mut findings);
            relays(status, moment, &mut findings);
        }
        Role::Fenced => fenced(status, &mut findings),
    }
    witness(status, &mut findings);
    super::parts::findings(status, &mut findings);
    for finding in &mut findings {
        finding.1.next = finding.1.next.replace("GROUP", &status.name);
        if let Some(volume) = status.volumes.first() {
            finding.1.next = finding.1.next.replace("VOLUME", &volume.name);
        }
    }
    findings
}

fn witness(status: &GroupStatus, findings: &mut Vec<Finding>) {
    let Some(witness) = status.witness.filter(|witness| witness.arbitrated) else { return };
    if witness.forgotten {
        let cause =
            "the witness knows nothing of the group any more: it lost its data, or is another";
        findings.push((Health::AtRisk, explanation(Code::WitnessForgot, cause)));
    } else if witness.reachable == Some(false) {
        let cause =
            "the witness does not answer; a mirror that is lost now could not be left behind";
        findings.push((Health::Degraded, explanation(Code::WitnessUnreachable, cause)));
    }
}

fn is_split(leg: &LegStatus) -> bool {
    matches!(leg.cause, Some(Cause::SplitBrain { .. }))
}

fn fenced(status: &GroupStatus, findings: &mut Vec<Finding>) {
    let own = status.epoch;
    let by = match status.serving.fenced_by() {
        Some(by) if by.turn() == own.turn() => {
            format!("epoch {by} was taken here and at another site, and the other one goes on")
        }
        Some(by) => format!("epoch {own} is fenced by {by}"),
        None => format!("epoch {own} is fenced"),
    };
    let cause = format!("{by}: the group was promoted at another site; nobody is served here");
    findings.push((Health::AtRisk, explanation(Code::Fenced, cause)));
}

fn primary(status: &GroupStatus, moment: Moment, findings: &mut Vec<Finding>) {
    match &status.serving {
        Serving::Yes | Serving::NotPrimary | Serving::Detached => {}
        Serving::Fenced { .. } => fenced(status, findings),
        Serving::WaitingForMirror => {
            let sites: Vec<&str> = status.legs.iter().map(|leg| leg.site.as_str()).collect();
            let cause = format!(
                "started after a crash; nobody is served before {} is heard, which could have \
                 been promoted meanwhile",
                sites.join(" or ")
            );
            findings.push((Health::AtRisk, explanation(Code::WaitingForMirror, cause)));
        }
        Serving::Halted => {
            let cause = "a mirror is missing and split is manual: writes are refused";
            findings.push((Health::AtRisk, explanation(Code::Halted, cause)));
        }
        Serving::NoWitness => {
            let cause = "a mirror is missing and the witness cannot be asked whether to go on \
                         without it: writes are refused";
            findings.push((Health::AtRisk, explanation(Code::NoWitness, cause)));
        }
        Serving::WaitingForWitness => {
            let cause =
                "started; nobody is served before the witness says that nobody was promoted";
            findings.push((Health::AtRisk, explanation(Code::WaitingForWitness, cause)));
        }
        // What a companion has to do with it is told with the parts.
        Serving::WaitingForCompanion | Serving::NoCompanion | Serving::Excluded => {}
        Serving::HandingOver => {
            findings.push(handing_over(status));
        }
        Serving::RollingBack => {
            let cause = "the group goes back to a snapshot";
            findings.push((Health::AtRisk, explanation(Code::RollingBack, cause)));
        }
        Serving::Latched => {
            let cause = "the copy here failed a sync and answers nothing";
            findings.push((Health::AtRisk, explanation(Code::Latched, cause)));
        }
    }
    if status.legs.is_empty() {
        let cause = "there is one copy, at this site";
        findings.push((Health::Unprotected, explanation(Code::Unmirrored, cause)));
    }
    for leg in status.legs.iter().filter(|leg| !leg_is_well(leg)) {
        findings.push(leg_finding(status, leg, moment));
    }
}

fn handing_over(status: &GroupStatus) -> Finding {
    let unanswered = status.handover.filter(|handover| handover.unanswered);
    let Some(handover) = unanswered else {
        let cause = "roles are being swapped; requests are held";
        return (Health::Degraded, explanation(Code::HandingOver, cause));
    };
    let leg = status.legs.iter().find(|leg| leg.leg == handover.leg);
    let site = leg.map_or("the mirror", |leg| leg.site.as_str());
    let cause = format!(
        "{site} was asked to take over at epoch {} and did not answer; requests are held until it \
         says whether it did",
        handover.epoch
    );
    (Health::AtRisk, explanation(Code::HandoverUnanswered, cause))
}

/// The volume whose copy stopped the leg, by name, if that is known.
fn failed_volume<'a>(status: &'a GroupStatus, leg: &LegStatus) -> Option<&'a str> {
    let failed = leg.failed?;
    let volume = status.volumes.iter().find(|volume| volume.volume == failed)?;
    Some(volume.name.as_str())
}

fn leg_finding(status: &GroupStatus, leg: &LegStatus, moment: Moment) -> Finding {
    let site = &leg.site;
    let missing = leg_out_of_sync(leg);
    let (health, code, cause) = match &leg.cause {
        Some(Cause::SplitBrain { theirs_bytes }) => (
            Health::SplitBrain,
            Code::SplitBrain,
            format!(
                "{site} {} that this site lacks, and this site has {} that {site} lacks",
                super::own_content(*theirs_bytes),
                bytes_text(missing)
            ),
        ),
        Some(Cause::LinkLost(why)) => {
            (Health::AtRisk, Code::LinkLost, heard(leg, moment, &format!("peer {site}: {why}")))
        }
        Some(Cause::Unreachable(why)) => (
            Health::AtRisk,
            Code::MirrorUnreachable,
            heard(leg, moment, &format!("peer {site} cannot be reached: {why}")),
        ),
        Some(Cause::MirrorFailed(error)) => {
            let what = failed_volume(status, leg)
                .map_or_else(|| "the copy".to_owned(), |volume| format!("the copy of {volume}"));
            (Health::AtRisk, Code::MirrorFailed, format!("{what} at {site} failed: {error}"))
        }
        Some(Cause::TooSlow) => (
            Health::AtRisk,
            Code::MirrorSlow,
            format!("{site} did not acknowledge within {} ms", leg.policy.ack_deadline_ms),
        ),
        Some(Cause::JournalFull) => (
            Health::AtRisk,
            Code::JournalFull,
            format!("more waited to be durable at {site} than its send journal has room for"),
        ),
        Some(cause @ Cause::PeerTooOld { .. }) => {
            (Health::AtRisk, Code::PeerTooOld, format!("{site}: {}", words::cause_text(cause)))
        }
        Some(Cause::Refused(why)) => {
            (Health::AtRisk, Code::MirrorRefused, format!("{site} refused: {why}"))
        }
        Some(Cause::Operator) => (
            Health::AtRisk,
            Code::Suspended,
            format!("the session to {site} is suspended; {} differ", bytes_text(missing)),
        ),
        Some(cause @ (Cause::StretchEnded { .. } | Cause::Regrouped)) => {
            let regrouped = *cause == Cause::Regrouped;
            let code = if regrouped { Code::Copying } else { Code::PartsApart };
            (Health::Degraded, code, format!("{site}: {}", words::cause_text(cause)))
        }
        Some(Cause::AwaitingReprotect) => (
            Health::AtRisk,
            Code::AwaitingReprotect,
            format!("{site} does not follow since the failover; this is the only copy that grows"),
        ),
        None => without_cause(leg, moment),
    };
    let mut explanation = explanation(code, cause);
    if let Some(session) = leg.sessions.first() {
        explanation.next = explanation.next.replace("SESSION", &session.session.to_string());
    }
    if let (Some(volume), true) = (failed_volume(status, leg), status.volumes.len() > 1) {
        explanation.next = format!(
            "{}; or let the others go on without it: twinspan group remove GROUP {volume}",
            explanation.next
        );
    }
    (health, explanation)
}

/// A leg that says of no fault: it is on its way, or stopped without one.
fn without_cause(leg: &LegStatus, moment: Moment) -> (Health, Code, String) {
    let site = &leg.site;
    match (leg.state, leg.phase) {
        (SessionState::Active, Phase::Copying | Phase::Tracking | Phase::NoPair)
            if leg.link == LinkState::Connected =>
        {
            (Health::Degraded, Code::Copying, copying(leg))
        }
        (SessionState::Active, Phase::Following) => {
            let lag = leg.lag_ms.map_or_else(
                || "an unknown time".to_owned(),
                |lag| micros_text(lag.saturating_mul(1000)),
            );
            let why = if leg.degraded { "was too slow and follows" } else { "is" };
            let waits = bytes_text(leg.journal_bytes.saturating_add(leg.inflight_bytes));
            let text = format!("{site} {why} {lag} behind; {waits} are on their way to it");
            (Health::Degraded, Code::Behind, text)
        }
        (SessionState::Active, Phase::Equivalent) if leg.link == LinkState::Connected => (
            Health::Degraded,
            Code::Copying,
            format!("{site} is connected and about to be counted as in sync"),
        ),
        (SessionState::Suspended, _) => {
            (Health::AtRisk, Code::Suspended, format!("the session to {site} is suspended"))
        }
        (SessionState::Active | SessionState::Halted | SessionState::Error, _) => {
            let text = heard(leg, moment, &format!("peer {site} is not connected"));
            (Health::AtRisk, Code::LinkLost, text)
        }
    }
}

fn heard(leg: &LegStatus, moment: Moment, text: &str) -> String {
    match moment.ago(leg.last_heard_ms) {
        Some(ago) => format!("{text}; last heard {} ago", micros_text(ago.saturating_mul(1000))),
        None => format!("{text}; not heard since this gateway started"),
    }
}

fn copying(leg: &LegStatus) -> String {
    let (mut total, mut copied, mut full) = (0u64, 0u64, false);
    for session in &leg.sessions {
        total = total.saturating_add(session.resync_total_bytes);
        copied = copied.saturating_add(session.resync_copied_bytes.min(session.resync_total_bytes));
        full |= session.full;
    }
    let kind = match full {
        _ if leg.comparing => "comparison",
        true => "full copy",
        false => "delta",
    };
    let rate = match leg.resync_rate {
        _ if leg.bytes_per_second_max == Some(0) => ", paused by its bandwidth".to_owned(),
        Some(0) => ", stalled".to_owned(),
        Some(rate) => format!(", {}/s", bytes_text(rate)),
        None => String::new(),
    };
    format!("{} to {}: {} of {}{rate}", kind, leg.site, bytes_text(copied), bytes_text(total))
}

/// Where this mirror sends its own copy on and that is not as it should be. Nothing that the primary
/// promises hangs on it.
fn relays(status: &GroupStatus, moment: Moment, findings: &mut Vec<Finding>) {
    for leg in status.legs.iter().filter(|leg| leg.relay && !leg_is_well(leg)) {
        let (_, explanation) = leg_finding(status, leg, moment);
        findings.push((Health::Degraded, explanation));
    }
}

fn secondary(status: &GroupStatus, moment: Moment, findings: &mut Vec<Finding>) {
    let Some(upstream) = &status.upstream else {
        let worth = words::quality_text(status.quality);
        let cause = format!("no primary is known; the copy here is {worth}");
        findings.push((Health::AtRisk, explanation(Code::CopyStale, cause)));
        return;
    };
    if status.serving == Serving::Detached {
        let own = status.legs.iter().filter(|leg| !leg.relay);
        let written: u64 = own.map(leg_out_of_sync).max().unwrap_or(0);
        let cause = format!(
            "the copy here is open to hosts on its own while {} goes on as the primary; {} were \
             written here and will be discarded when the session is resumed",
            upstream.site,
            bytes_text(written)
        );
        findings.push((Health::AtRisk, explanation(Code::Detached, cause)));
        return;
    }
    if status.quality == Quality::Consistent && is_between_transfers(upstream) {
        let cause = format!(
            "{} brings this copy up to date by transfers; it was heard {}",
            upstream.site,
            moment.ago(upstream.last_heard_ms).map_or_else(
                || "before this gateway started".to_owned(),
                |ago| format!("{} ago", micros_text(ago.saturating_mul(1000)))
            )
        );
        findings.push((Health::Degraded, explanation(Code::Behind, cause)));
        return;
    }
    if upstream.link != LinkState::Connected {
        findings.push((Health::AtRisk, silent(upstream, moment)));
        if status.quality != Quality::InSync {
            let worth = words::quality_text(status.quality);
            let cause = format!("the copy here is {worth}");
            findings.push((Health::AtRisk, explanation(Code::CopyStale, cause)));
        }
        return;
    }
    // One that follows behind in whole cuts is what it should be.
    if !matches!(status.quality, Quality::InSync | Quality::Consistent) {
        let missing = upstream.theirs.map_or_else(
            || "an unknown amount".to_owned(),
            |theirs| bytes_text(theirs.out_of_sync_bytes),
        );
        let cause = format!(
            "the copy here is being brought up to date from {}: {missing} differ",
            upstream.site
        );
        findings.push((Health::Degraded, explanation(Code::Copying, cause)));
    }
}

fn is_between_transfers(upstream: &UpstreamStatus) -> bool {
    upstream.mode == mirror::Mode::Stack && upstream.link != LinkState::Connected
}

fn silent(upstream: &UpstreamStatus, moment: Moment) -> Explanation {
    let site = &upstream.site;
    let cause = match (moment.ago(upstream.last_heard_ms), upstream.orderly) {
        (Some(ago), true) => {
            let ago = micros_text(ago.saturating_mul(1000));
            format!(
                "{site} stopped in an orderly way {ago} ago: it acknowledged nothing after that"
            )
        }
        (Some(ago), false) => {
            format!("{site} has not been heard for {}", micros_text(ago.saturating_mul(1000)))
        }
        (None, _) => format!("{site} has not been heard since this gateway started"),
    };
    explanation(Code::PrimarySilent, cause)
}
