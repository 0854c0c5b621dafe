//! Our words and the API's: one exhaustive match each, so that a new one breaks the build here.
#![warn(clippy::wildcard_enum_match_arm)]

use mirror::{
    Cause, Failover, LinkState, Mode, OnSlow, Phase, Policy, Priority, Recovery, Role, Serving,
    SessionState, Split, WINDOWS_MAX, Window,
};

/// The API's word for a role.
#[must_use]
pub(crate) const fn role(role: Role) -> api::Role {
    match role {
        Role::Primary => api::Role::Primary,
        Role::Secondary => api::Role::Secondary,
        Role::Fenced => api::Role::Fenced,
    }
}

/// The API's word for whether hosts are served.
#[must_use]
pub(crate) const fn serving(serving: &Serving) -> api::Serving {
    match serving {
        Serving::Yes => api::Serving::Yes,
        Serving::NotPrimary => api::Serving::NotPrimary,
        Serving::Fenced { .. } => api::Serving::Fenced,
        Serving::WaitingForMirror => api::Serving::WaitingForMirror,
        Serving::Halted => api::Serving::Halted,
        Serving::NoWitness => api::Serving::NoWitness,
        Serving::WaitingForWitness => api::Serving::WaitingForWitness,
        Serving::WaitingForCompanion => api::Serving::WaitingForCompanion,
        Serving::NoCompanion => api::Serving::NoCompanion,
        Serving::Excluded => api::Serving::Excluded,
        Serving::HandingOver => api::Serving::HandingOver,
        Serving::Latched => api::Serving::Latched,
        Serving::RollingBack => api::Serving::RollingBack,
        Serving::Detached => api::Serving::Detached,
    }
}

/// The API's word for what a copy is worth.
#[must_use]
pub(crate) const fn quality(quality: block::Quality) -> api::Quality {
    match quality {
        block::Quality::Blank => api::Quality::Blank,
        block::Quality::Inconsistent => api::Quality::Inconsistent,
        block::Quality::Outdated => api::Quality::Outdated,
        block::Quality::Consistent => api::Quality::Consistent,
        block::Quality::InSync => api::Quality::InSync,
        block::Quality::Source => api::Quality::Source,
    }
}

/// The same for a sentence.
pub(crate) const fn quality_text(quality: block::Quality) -> &'static str {
    match quality {
        block::Quality::Blank => "blank",
        block::Quality::Inconsistent => "half copied, not one point in time",
        block::Quality::Outdated => "an old one",
        block::Quality::Consistent => "behind, with its newest whole cut kept",
        block::Quality::InSync => "in sync",
        block::Quality::Source => "the source",
    }
}

/// What a gateway has that another one lacks. One that counted nothing does not know how much that is.
pub(crate) fn own_content(bytes: u64) -> String {
    if bytes == 0 {
        "has content, how much is not known,".to_owned()
    } else {
        format!("has {}", api::units::bytes_text(bytes))
    }
}

/// Why a mirror was lost, for a sentence.
pub(crate) fn cause_text(cause: &Cause) -> String {
    match cause {
        Cause::LinkLost(why) => format!("the link ended: {why}"),
        Cause::Unreachable(why) => format!("it cannot be reached: {why}"),
        Cause::MirrorFailed(error) => format!("its copy failed: {error}"),
        Cause::TooSlow => "it did not acknowledge in time".to_owned(),
        Cause::JournalFull => "its send journal was full".to_owned(),
        Cause::PeerTooOld { version, needs } => {
            format!("it speaks protocol version {version}, and this session needs {needs}")
        }
        Cause::SplitBrain { theirs_bytes } => {
            format!("it {} of its own", own_content(*theirs_bytes))
        }
        Cause::Refused(why) => format!("it refused: {why}"),
        Cause::Operator => "an operator suspended the session".to_owned(),
        Cause::StretchEnded { by: Some(gateway) } => {
            format!("companion {gateway} stopped: the parts stop at one cut and follow again")
        }
        Cause::StretchEnded { by: None } => {
            "the parts stop at one cut and follow again together".to_owned()
        }
        Cause::Regrouped => "the group is changed; it is opened again at once".to_owned(),
        Cause::AwaitingReprotect => "it waits for a reprotect".to_owned(),
    }
}

/// The API's word for a session's status.
#[must_use]
pub(crate) const fn session_state(state: SessionState) -> api::SessionState {
    match state {
        SessionState::Active => api::SessionState::Active,
        SessionState::Suspended => api::SessionState::Suspended,
        SessionState::Halted => api::SessionState::Halted,
        SessionState::Error => api::SessionState::Error,
    }
}

/// The API's word for a session's phase.
#[must_use]
pub(crate) const fn phase(phase: Phase) -> api::Phase {
    match phase {
        Phase::NoPair => api::Phase::NoPair,
        Phase::Copying => api::Phase::Copying,
        Phase::Equivalent => api::Phase::Equivalent,
        Phase::Following => api::Phase::Following,
        Phase::Tracking => api::Phase::Tracking,
    }
}

/// The API's word for a connection.
#[must_use]
pub(crate) const fn link_state(link: LinkState) -> api::LinkState {
    match link {
        LinkState::Off => api::LinkState::Off,
        LinkState::Connecting => api::LinkState::Connecting,
        LinkState::Connected => api::LinkState::Connected,
    }
}

/// The API's words for policies.
#[must_use]
pub(crate) fn policy(policy: &Policy) -> api::SessionPolicy {
    let split = match policy.split {
        Split::Automatic => "automatic",
        Split::Manual => "manual",
    };
    let recovery = match policy.recovery {
        Recovery::Automatic => "automatic",
        Recovery::Manual => "manual",
    };
    let on_slow = match policy.on_slow {
        OnSlow::Error => "error",
        OnSlow::Block => "block",
        OnSlow::Degrade => "degrade",
    };
    let failover = match policy.failover {
        Failover::Manual => "manual",
        Failover::Automatic => "automatic",
    };
    api::SessionPolicy {
        mode: mode(policy.mode).to_owned(),
        split: split.to_owned(),
        recovery: recovery.to_owned(),
        on_slow: on_slow.to_owned(),
        failover: failover.to_owned(),
        ack_deadline_ms: policy.ack_deadline_ms,
        cut_interval_ms: policy.cut_interval_ms,
        transfer_every_s: policy.transfer_every_s,
        bandwidth: api::units::rate_text(policy.bandwidth.usual),
        bandwidth_windows: policy.bandwidth.windows.iter().map(window).collect(),
        priority: match policy.priority {
            Priority::Low => "low",
            Priority::Normal => "normal",
            Priority::High => "high",
        }
        .to_owned(),
        mode_after_swap: policy.mode_after_swap.map(|after| mode(after).to_owned()),
    }
}

pub(crate) const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Sync => "sync",
        Mode::Consistency => "consistency",
        Mode::Stack => "stack",
    }
}

/// A cut is a snapshot and a record at the mirror: more often than this it would do little else.
const CUT_INTERVAL_MS_MIN: u64 = 100;

/// Policies with some of them changed.
///
/// # Errors
/// The word that is none, and those that would be.
pub(crate) fn patched(mut policy: Policy, patch: &api::PolicyPatch) -> Result<Policy, String> {
    if let Some(word) = &patch.mode {
        policy.mode = match word.as_str() {
            "sync" => Mode::Sync,
            "consistency" => Mode::Consistency,
            "stack" => Mode::Stack,
            _ => return Err(format!("mode is sync, consistency or stack, not {word:?}")),
        };
        policy.mode_after_swap = None;
    }
    if let Some(word) = &patch.split {
        policy.split = match word.as_str() {
            "automatic" => Split::Automatic,
            "manual" => Split::Manual,
            _ => return Err(format!("split is automatic or manual, not {word:?}")),
        };
    }
    if let Some(word) = &patch.recovery {
        policy.recovery = match word.as_str() {
            "automatic" => Recovery::Automatic,
            "manual" => Recovery::Manual,
            _ => return Err(format!("recovery is automatic or manual, not {word:?}")),
        };
    }
    if let Some(word) = &patch.on_slow {
        policy.on_slow = match word.as_str() {
            "error" => OnSlow::Error,
            "block" => OnSlow::Block,
            "degrade" => OnSlow::Degrade,
            _ => return Err(format!("on_slow is error, block or degrade, not {word:?}")),
        };
    }
    if let Some(word) = &patch.failover {
        policy.failover = match word.as_str() {
            "manual" => Failover::Manual,
            "automatic" => Failover::Automatic,
            _ => return Err(format!("failover is manual or automatic, not {word:?}")),
        };
    }
    if let Some(deadline) = patch.ack_deadline_ms {
        if deadline == 0 {
            return Err("ack_deadline_ms must be at least 1".to_owned());
        }
        policy.ack_deadline_ms = deadline;
    }
    if let Some(interval) = patch.cut_interval_ms {
        if interval < CUT_INTERVAL_MS_MIN {
            return Err(format!("cut_interval_ms must be at least {CUT_INTERVAL_MS_MIN}"));
        }
        policy.cut_interval_ms = interval;
    }
    policy.transfer_every_s = patch.transfer_every_s.unwrap_or(policy.transfer_every_s);
    patch_copying(&mut policy, patch)?;
    Ok(policy)
}

fn patch_copying(policy: &mut Policy, patch: &api::PolicyPatch) -> Result<(), String> {
    if let Some(rate) = &patch.bandwidth {
        policy.bandwidth.usual = api::units::parse_rate(rate)?;
    }
    if let Some(texts) = &patch.bandwidth_windows {
        policy.bandwidth.windows = windows(texts)?.into();
    }
    if let Some(word) = &patch.priority {
        policy.priority = match word.as_str() {
            "low" => Priority::Low,
            "normal" => Priority::Normal,
            "high" => Priority::High,
            _ => return Err(format!("priority is low, normal or high, not {word:?}")),
        };
    }
    Ok(())
}

fn window(window: &Window) -> String {
    format!("{window}={}", api::units::rate_text(Some(window.bytes_per_second)))
}

/// Windows as operators write them: `mon-fri 08:00-18:00 Europe/Berlin=10MiB/s`.
///
/// # Errors
/// What is wrong with one of them, or that they are too many.
pub(crate) fn windows(texts: &[String]) -> Result<Vec<Window>, String> {
    if texts.len() > WINDOWS_MAX {
        return Err(format!("a session has up to {WINDOWS_MAX} windows, not {}", texts.len()));
    }
    texts.iter().map(|text| window_of(text)).collect()
}

fn window_of(text: &str) -> Result<Window, String> {
    let (when, rate) = text.rsplit_once('=').ok_or_else(|| {
        format!("{text:?} is no window like \"mon-fri 08:00-18:00 Europe/Berlin=10MiB/s\"")
    })?;
    let rate = api::units::parse_rate(rate)?.ok_or_else(|| {
        format!("{text:?}: a window has a limit; where there is none, none holds")
    })?;
    let window = Window::parse(when, rate).map_err(|why| why.to_string())?;
    // A zone that nobody knows would count as open for ever.
    if window.zone.wall_time(0).is_none() {
        return Err(format!("there is no time zone {:?}", window.zone.name()));
    }
    Ok(window)
}
