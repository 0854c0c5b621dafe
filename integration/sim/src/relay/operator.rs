//! Operators of a cascade: who makes its sessions, promotes, and brings everything back.
//!
//! Invariant: an operator lets something be discarded only where two gateways may have gone on from the
//! same history, or hosts wrote to a detached copy.

use std::rc::Rc;
use std::time::Duration;

use block::{LegId, Mode, SessionId};
use mirror::{
    Cause, Command, Consent, LegStatus, LinkState, Phase, Policy, Refusal, Role, SessionState,
};

use super::gateway::id_of;
use super::{EAST, GATEWAYS, NORTH, Scene, WEST, host};
use crate::chain::Chain;

/// How long it may take until everything is as it should be.
const PATIENCE_MS: u64 = 300_000;
/// So many looks without a primary, and one is promoted by force.
const HEADLESS_MAX: u32 = 20;

pub(super) async fn command(
    scene: &Rc<Scene>,
    gateway: usize,
    command: Command,
) -> Result<(), Refusal> {
    let Some(group) = scene.group(gateway) else { return Err(Refusal::Interrupted) };
    let Some(life) = scene.life(gateway) else { return Err(Refusal::Interrupted) };
    scene.log(format_args!("{} is asked: {command:?}", scene.name(gateway)));
    let (answer, waiting) = tokio::sync::oneshot::channel();
    life.spawn(
        scene,
        Box::pin(async move {
            // Whoever asked may have given up.
            drop(answer.send(group.command(command).await));
        }),
    );
    let answer = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    let answer = answer.ok().and_then(Result::ok).unwrap_or(Err(Refusal::Interrupted));
    scene.log(format_args!("{} answers: {answer:?}", scene.name(gateway)));
    answer
}

/// The same, when it does not matter whether it is done.
async fn ask(scene: &Rc<Scene>, gateway: usize, what: Command) {
    drop(command(scene, gateway, what).await);
}

fn policy(scene: &Scene, mode: Mode) -> Policy {
    Policy {
        mode,
        ack_deadline_ms: scene.ack_deadline_ms,
        cut_interval_ms: 300,
        transfer_every_s: 1,
        ..Policy::default()
    }
}

/// The command with which a gateway mirrors to another one, as a primary or as a mirror.
fn add_leg(scene: &Scene, [from, to]: [usize; 2]) -> Command {
    let policy = if [from, to] == [WEST, NORTH] {
        Policy { transfer_every_s: scene.every_s, ..policy(scene, Mode::Stack) }
    } else {
        policy(scene, scene.mode.get())
    };
    let session = |volume| SessionId::of((50 + from * 100 + to * 10 + volume) as u128);
    Command::AddLeg {
        gateway: id_of(to),
        site: scene.name(to).to_owned(),
        sessions: (0..scene.volumes).map(session).collect(),
        policy,
        holds_content: false,
    }
}

fn leg_of(scene: &Scene, [from, to]: [usize; 2]) -> Option<LegStatus> {
    let legs = scene.status(from)?.legs;
    legs.into_iter().find(|leg| leg.gateway == id_of(to))
}

fn leg_id(scene: &Scene, between: [usize; 2]) -> Option<LegId> {
    leg_of(scene, between).map(|leg| leg.leg)
}

/// Makes both sessions.
pub(super) async fn begin(scene: &Rc<Scene>) {
    ask(scene, EAST, add_leg(scene, [EAST, WEST])).await;
    for _ in 0..50 {
        tokio::time::sleep(scene.rng.millis(10, 400)).await;
        // Before it has heard of the primary it is no mirror of anything.
        if command(scene, WEST, add_leg(scene, [WEST, NORTH])).await.is_ok() {
            return;
        }
    }
}

// --- what operators do meanwhile ---

/// Promotes a copy with no more than this consent, asking for a while. Says whether it is done.
pub(super) async fn promote(scene: &Rc<Scene>, gateway: usize, consent: Consent) -> bool {
    for _ in 0..20 {
        let promoted = command(scene, gateway, Command::Promote { consent }).await;
        if promoted.is_ok() {
            return true;
        }
        tokio::time::sleep(scene.rng.millis(50, 500)).await;
    }
    false
}

/// Switches the mode of the first session.
pub(super) async fn switch(scene: &Rc<Scene>) {
    let mode = scene.rng.pick(&[Mode::Sync, Mode::Consistency, Mode::Stack]);
    let Some(leg) = leg_id(scene, [EAST, WEST]) else { return };
    let set = Command::SetPolicy { leg, policy: policy(scene, mode) };
    if command(scene, EAST, set).await.is_ok() {
        scene.mode.set(mode);
        scene.happened("an operator switches the mode");
    }
}

/// Swaps the roles of the first two gateways. Nothing is lost by it, whatever becomes of it.
pub(super) async fn swap(scene: &Rc<Scene>) {
    let (from, to) = match scene.serving() {
        Some(EAST) => (EAST, WEST),
        Some(WEST) => (WEST, EAST),
        _ => return,
    };
    let Some(leg) = leg_of(scene, [from, to]).filter(|leg| leg.in_sync) else { return };
    let swapped = command(scene, from, Command::Reverse { leg: leg.leg }).await;
    match swapped {
        Ok(()) => {
            scene.stats.borrow_mut().handovers += 1;
            scene.happened("roles are swapped before a relay");
        }
        Err(_) => {
            if let Some(group) = scene.group(from) {
                group.recall_handover();
            }
        }
    }
}

/// Deletes the session behind the mirror, and makes it again.
pub(super) async fn remake_relay(scene: &Rc<Scene>) {
    let Some(leg) = leg_id(scene, [WEST, NORTH]) else { return };
    if command(scene, WEST, Command::RemoveLeg { leg }).await.is_ok() {
        scene.happened("a session behind a mirror is deleted and made again");
        tokio::time::sleep(scene.rng.millis(0, 1_500)).await;
        ask(scene, WEST, add_leg(scene, [WEST, NORTH])).await;
    }
}

/// Deletes the first session, and makes it again.
pub(super) async fn remake_first(scene: &Rc<Scene>) {
    let Some(leg) = leg_id(scene, [EAST, WEST]) else { return };
    if command(scene, EAST, Command::RemoveLeg { leg }).await.is_ok() {
        scene.happened("a session before a relay is deleted and made again");
        tokio::time::sleep(scene.rng.millis(0, 3_000)).await;
        ask(scene, EAST, add_leg(scene, [EAST, WEST])).await;
    }
}

pub(super) async fn suspend_relay(scene: &Rc<Scene>) {
    let Some(leg) = leg_id(scene, [WEST, NORTH]) else { return };
    ask(scene, WEST, Command::Suspend { leg }).await;
    tokio::time::sleep(scene.rng.millis(0, 2_000)).await;
    ask(scene, WEST, Command::Resume { leg, discard: false }).await;
}

/// The first session is suspended, the copy in the middle opened to hosts, and taken back.
pub(super) async fn detach(scene: &Rc<Scene>) {
    let Some(leg) = leg_id(scene, [EAST, WEST]).filter(|_| scene.serving() == Some(EAST)) else {
        return;
    };
    ask(scene, EAST, Command::Suspend { leg }).await;
    tokio::time::sleep(scene.rng.millis(20, 400)).await;
    if command(scene, WEST, Command::Detach).await.is_ok() {
        host::intrude(scene).await;
        tokio::time::sleep(scene.rng.millis(0, 1_500)).await;
    }
    ask(scene, EAST, Command::Resume { leg, discard: true }).await;
}

/// Brings back what stopped.
pub(super) async fn attend(scene: &Rc<Scene>) {
    let all = [[EAST, WEST], [WEST, NORTH], [WEST, EAST]];
    let between = all[scene.rng.index(all.len())];
    let Some(leg) = leg_of(scene, between) else { return };
    if leg.state == SessionState::Active {
        ask(scene, between[0], Command::Transfer { leg: leg.leg }).await;
    } else {
        ask(scene, between[0], Command::Resume { leg: leg.leg, discard: false }).await;
    }
}

// --- the end ---

/// The primary of the highest epoch.
pub(super) fn chief(scene: &Scene) -> Option<usize> {
    let all = (0..GATEWAYS).filter_map(|gateway| Some((scene.status(gateway)?, gateway)));
    let primaries = all.filter(|(status, _)| status.role == Role::Primary);
    primaries.max_by_key(|(status, _)| status.epoch).map(|(_, gateway)| gateway)
}

/// Whether the far end was promoted and somebody else rules: a relay takes no such copy back.
fn is_far_end_apart(scene: &Scene, chief: usize) -> bool {
    scene.north_rules.get() && chief != NORTH
}

/// Where copies are in the end.
pub(super) fn copies_of(scene: &Scene, chief: usize) -> &'static [usize] {
    match (chief, is_far_end_apart(scene, chief)) {
        (EAST, true) => &[WEST],
        (WEST, true) => &[EAST],
        (EAST, false) => &[WEST, NORTH],
        (WEST, false) => &[EAST, NORTH],
        _ => &[WEST],
    }
}

/// The sessions that are there in the end.
fn sessions_of(scene: &Scene, chief: usize) -> &'static [[usize; 2]] {
    match (chief, is_far_end_apart(scene, chief)) {
        (EAST, true) => &[[EAST, WEST]],
        (WEST, true) => &[[WEST, EAST]],
        (EAST, false) => &[[EAST, WEST], [WEST, NORTH]],
        (WEST, false) => &[[WEST, EAST], [WEST, NORTH]],
        _ => &[[NORTH, WEST]],
    }
}

/// Brings everything back: every copy has what the primary has (P8).
pub(super) async fn restore(scene: &Rc<Scene>) {
    scene.calm.set(true);
    let end = scene.now_ms() + PATIENCE_MS;
    let (mut good, mut headless) = (0, 0);
    while scene.now_ms() < end && !scene.has_failed() {
        tokio::time::sleep(Duration::from_millis(500)).await;
        (0..GATEWAYS).for_each(|gateway| scene.start(gateway));
        let chief = chief(scene);
        headless = if chief.is_none() { headless + 1 } else { 0 };
        if headless > HEADLESS_MAX {
            headless = 0;
            force(scene).await;
        }
        let Some(chief) = chief else { continue };
        let is_whole = scene.serving() == Some(chief)
            && sessions_of(scene, chief).iter().all(|between| has_all(scene, *between));
        good = if is_whole { good + 1 } else { 0 };
        if good == 3 {
            return;
        }
        if !is_whole {
            for between in sessions_of(scene, chief) {
                mend(scene, *between).await;
            }
        }
    }
    if !scene.has_failed() {
        let all = (0..GATEWAYS).filter_map(|gateway| {
            let status = scene.status(gateway)?;
            let legs = status.legs.iter().map(|leg| {
                let (state, phase, cause) = (leg.state, leg.phase, leg.cause.clone());
                (leg.site.clone(), state, phase, leg.link, cause, dirty_bytes(leg))
            });
            let legs: Vec<_> = legs.collect();
            let name = scene.name(gateway);
            let (role, serving, quality) = (status.role, status.serving, status.quality);
            Some(format!("{name}: {role:?} {serving:?} {quality:?} {legs:?}"))
        });
        let text: Vec<_> = all.collect();
        scene.fail("P8", format!("not whole again: {}", text.join("; ")));
    }
}

fn dirty_bytes(leg: &LegStatus) -> u64 {
    leg.sessions.iter().map(|session| session.out_of_sync_bytes).sum()
}

/// Whether a mirror has everything, as its source says.
fn has_all(scene: &Scene, between: [usize; 2]) -> bool {
    let Some(leg) = leg_of(scene, between) else { return false };
    let is_there = match leg.phase {
        Phase::Equivalent => true,
        Phase::Following | Phase::Tracking => leg.lag_ms.is_none_or(|lag| lag == 0),
        Phase::NoPair | Phase::Copying => false,
    };
    leg.state == SessionState::Active && is_there && dirty_bytes(&leg) == 0
}

/// The next sane step for one session.
async fn mend(scene: &Rc<Scene>, between: [usize; 2]) {
    let [from, to] = between;
    let Some(leg) = leg_of(scene, between) else {
        return ask(scene, from, add_leg(scene, between)).await;
    };
    let told = matches!(leg.cause, Some(Cause::SplitBrain { .. } | Cause::Refused(_)));
    if leg.link == LinkState::Off && leg.state != SessionState::Active {
        let is_split = matches!(leg.cause, Some(Cause::SplitBrain { .. }));
        if is_split && [from, to] == [WEST, NORTH] && !scene.forked.get() {
            let text = "north has what west has not, and nobody was promoted".to_owned();
            return scene.fail("P13", text);
        }
        ask(scene, from, Command::Resume { leg: leg.leg, discard: told }).await;
    } else if leg.link == LinkState::Off && dirty_bytes(&leg) > 0 {
        ask(scene, from, Command::Transfer { leg: leg.leg }).await;
    }
}

/// Nobody is the primary, and nobody will be without a word.
async fn force(scene: &Rc<Scene>) {
    let gateway = if scene.north_rules.get() { NORTH } else { WEST };
    scene.log("--- nobody is left, and a copy is promoted by force");
    scene.stats.borrow_mut().forced += 1;
    scene.lawless.set(true);
    scene.forked.set(true);
    scene.chains.borrow_mut().iter_mut().for_each(Chain::forget);
    ask(scene, gateway, Command::Promote { consent: Consent::Inconsistent }).await;
}
