//! Operators of a group over several gateways, as the server serves them: a promotion is a plan over
//! all parts, then a run.
//!
//! Invariant: a companion is excluded only while it is not running.

use std::rc::Rc;
use std::time::Duration;

use block::{PartFacts, Quality, SessionId};
use mirror::{
    Cause, Command, Consent, Cut, CutStep, GroupStatus, LinkState, Phase, Policy, Refusal, Role,
    SessionState,
};

use super::gateway::id_of;
use super::{GATEWAYS, Scene, companion, opposite, part_of, site_of};

/// How long it may take until everything is as it should be.
const PATIENCE_MS: u64 = 300_000;

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

fn add_leg(scene: &Scene, gateway: usize) -> Command {
    let to = opposite(gateway);
    let part = part_of(gateway);
    let session = |index| SessionId::of((50 + scene.volume(part, index)) as u128);
    Command::AddLeg {
        gateway: id_of(to),
        site: ["east", "west"][site_of(to)].to_owned(),
        sessions: (0..scene.volumes).map(session).collect(),
        policy: Policy { ack_deadline_ms: scene.ack_deadline_ms, ..Policy::default() },
        holds_content: false,
    }
}

/// Mirrors both parts.
pub(super) async fn mirror_all(scene: &Rc<Scene>) {
    for gateway in [0, 1] {
        drop(command(scene, gateway, add_leg(scene, gateway)).await);
    }
}

fn status(scene: &Scene, gateway: usize) -> Option<GroupStatus> {
    scene.group(gateway).map(|group| group.status())
}

/// Whether a primary says that its mirror has everything that it acknowledged.
pub(super) fn has_mirror_in_sync(scene: &Scene, gateway: usize) -> bool {
    status(scene, gateway).is_some_and(|status| {
        status.role == Role::Primary && status.legs.iter().any(|leg| leg.phase == Phase::Equivalent)
    })
}

fn facts(status: &GroupStatus) -> Option<PartFacts> {
    status.parts.as_ref().map(|parts| parts.state.facts)
}

/// Promotes both parts of a site at one cut, with no more than this consent. Says whether it is done.
pub(super) async fn promote(scene: &Rc<Scene>, site: usize, consent: Consent) -> bool {
    let gateways = [site * 2, site * 2 + 1];
    let Some(found) = gateways.map(|g| status(scene, g)).into_iter().collect::<Option<Vec<_>>>()
    else {
        return false;
    };
    let Some(parts) = found.iter().map(facts).collect::<Option<Vec<_>>>() else { return false };
    let cut = Cut::of(&parts);
    let needed = parts.iter().zip(&found).map(|(facts, s)| cut.consent(facts, s.quality)).max();
    scene.log(format_args!("promotion at site {site}: {cut:?} needs {needed:?}"));
    if needed.is_none_or(|needed| needed > consent) {
        return false;
    }
    // What a swap left to be looked at is another matter from here on.
    scene.swapped.set(false);
    scene.survives.take();
    for (gateway, facts) in gateways.into_iter().zip(&parts) {
        let step = cut.step(facts);
        match step {
            CutStep::Done => continue,
            CutStep::Back => scene.stats.borrow_mut().ways_back += 1,
            CutStep::AsItIs => {}
            CutStep::Apart => {
                scene.stats.borrow_mut().forced += 1;
                scene.chains.borrow_mut().iter_mut().for_each(crate::chain::Chain::forget);
            }
        }
        if consent < Consent::Inconsistent && part_of(gateway) > 0 && scene.rng.chance(20) {
            // It dies just when the other one is promoted.
            scene.kill(gateway);
        }
        let take_over = Command::TakeOver { consent, cut: cut.number, apart: cut.apart };
        if command(scene, gateway, take_over).await.is_err() {
            scene.happened("a promotion stops between two parts");
            return false;
        }
        scene.stats.borrow_mut().promotions += 1;
        if scene.rng.chance(30) {
            tokio::time::sleep(scene.rng.millis(0, 1_500)).await;
        }
    }
    true
}

/// Swaps the roles of both sites. Nothing is lost by it, whatever becomes of it.
pub(super) async fn swap(scene: &Rc<Scene>, site: usize) {
    let mut runs = Vec::new();
    for gateway in [site * 2, site * 2 + 1] {
        let leg = status(scene, gateway).and_then(|s| s.legs.first().map(|leg| leg.leg));
        let Some(leg) = leg else { return };
        let kept = Rc::clone(scene);
        let (done, wait) = tokio::sync::oneshot::channel();
        scene.spawn(async move {
            let answer = command(&kept, gateway, Command::Reverse { leg }).await;
            // Whoever waited may have given up.
            let _unheard = done.send(answer.is_ok());
        });
        runs.push(wait);
    }
    let drain = scene.rng.millis(500, 8_000);
    let both = async {
        let mut all = true;
        for run in &mut runs {
            all &= run.await.unwrap_or(false);
        }
        all
    };
    match tokio::time::timeout(drain, both).await {
        Ok(true) => {
            scene.swapped.set(true);
            scene.stats.borrow_mut().handovers += 1;
            scene.happened("both parts swap roles");
        }
        Ok(false) => scene.happened("a swap of roles is given up"),
        Err(_) => {
            for gateway in [site * 2, site * 2 + 1] {
                if let Some(group) = scene.group(gateway) {
                    group.recall_handover();
                }
            }
            scene.happened("a swap of roles is recalled");
        }
    }
}

/// An operator says that a companion that does not run is out.
pub(super) async fn exclude(scene: &Rc<Scene>, gateway: usize) {
    let other = companion(gateway);
    if scene.life(other).is_some() || !scene.is_primary(gateway) {
        return;
    }
    scene.chains.borrow_mut().iter_mut().for_each(crate::chain::Chain::forget);
    if command(scene, gateway, Command::Exclude { gateway: id_of(other) }).await.is_ok() {
        scene.happened("a companion is excluded");
    }
}

/// Brings everything back: both parts served at one site, their mirrors in one stretch (P8).
pub(super) async fn restore(scene: &Rc<Scene>) {
    let end = scene.now_ms() + PATIENCE_MS;
    let mut calm = 0;
    while scene.now_ms() < end && !scene.has_failed() {
        tokio::time::sleep(Duration::from_millis(500)).await;
        // A mirror at the end of a narrow line does not come up behind busy hosts.
        scene.calm.set(end.saturating_sub(scene.now_ms()) < PATIENCE_MS / 2);
        calm = if is_whole(scene) { calm + 1 } else { 0 };
        if calm == 3 {
            return;
        }
        if calm == 0 {
            step(scene).await;
        }
    }
    if !scene.has_failed() {
        let text = (0..GATEWAYS).filter_map(|gateway| {
            let status = status(scene, gateway)?;
            let legs: Vec<_> =
                status.legs.iter().map(|l| (l.phase, l.link, l.cause.clone())).collect();
            let (role, serving) = (status.role, status.serving);
            Some(format!(
                "{}: {role:?} {serving:?} {:?} {legs:?} {:?}",
                scene.name(gateway),
                status.quality,
                status.parts
            ))
        });
        let text: Vec<_> = text.collect();
        scene.fail("P8", format!("not in one stretch again: {}", text.join("; ")));
    }
}

fn is_whole(scene: &Scene) -> bool {
    let Some(site) = scene.serving_site() else { return false };
    (0..2).all(|part| {
        status(scene, site * 2 + part)
            .is_some_and(|s| s.legs.iter().any(|leg| leg.phase == Phase::Equivalent))
    })
}

/// The next sane step.
async fn step(scene: &Rc<Scene>) {
    for gateway in 0..GATEWAYS {
        scene.start(gateway);
    }
    let Some(all) = (0..GATEWAYS).map(|g| status(scene, g)).collect::<Option<Vec<_>>>() else {
        return;
    };
    // One that was excluded is there again.
    for (gateway, status) in all.iter().enumerate() {
        let Some(parts) = &status.parts else { continue };
        let out = parts.companions.iter().find(|c| c.excluded && c.reachable == Some(true));
        if let Some(out) = out {
            let include = Command::Include { gateway: out.gateway };
            drop(command(scene, gateway, include).await);
            return;
        }
    }
    let primaries =
        |site: usize| (0..2).filter(|part| all[site * 2 + part].role == Role::Primary).count();
    let epoch = |site: usize| (0..2).map(|part| all[site * 2 + part].epoch).max();
    let site = usize::from((primaries(1), epoch(1)) > (primaries(0), epoch(0)));
    let from = |part: usize| facts(&all[site * 2 + part]).map_or(0, |facts| facts.from);
    if primaries(site) < 2 || from(0) != from(1) {
        promote(scene, site, Consent::Inconsistent).await;
        return;
    }
    for gateway in [site * 2, site * 2 + 1] {
        let status = &all[gateway];
        match status.legs.first() {
            None => drop(command(scene, gateway, add_leg(scene, gateway)).await),
            Some(leg) if leg.link == LinkState::Off => {
                let told = matches!(leg.cause, Some(Cause::SplitBrain { .. } | Cause::Refused(_)));
                let resume = Command::Resume { leg: leg.leg, discard: told };
                drop(command(scene, gateway, resume).await);
            }
            Some(_) => {}
        }
    }
}

/// Any command at any time.
pub(super) async fn anything(scene: &Rc<Scene>) {
    let rng = &scene.rng;
    let gateway = rng.index(GATEWAYS);
    let Some(status) = status(scene, gateway) else { return };
    let leg = status.legs.first().map(|leg| (leg.leg, leg.state));
    match (rng.below(5), leg) {
        (0, Some((leg, SessionState::Active))) => {
            drop(command(scene, gateway, Command::Suspend { leg }).await);
        }
        (0 | 1, Some((leg, _))) => {
            drop(command(scene, gateway, Command::Resume { leg, discard: false }).await);
        }
        (2, _) => swap(scene, site_of(gateway)).await,
        (3, _) if status.quality == Quality::InSync => {
            promote(scene, site_of(gateway), rng.pick(&[Consent::InSync, Consent::Outdated])).await;
        }
        _ => exclude(scene, gateway).await,
    }
}
