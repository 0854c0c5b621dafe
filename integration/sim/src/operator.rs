//! Operators: any command at any time, and in the end a sane one who brings everything back.
//!
//! Invariant: nothing is discarded without a word; the sane operator gives it only when asked.

use std::rc::Rc;
use std::time::Duration;

use block::Quality;
use mirror::{
    Cause, Command, Consent, GroupStatus, LinkState, Phase, Policy, Refusal, Role, Serving,
};

use crate::world::World;

/// Asks a group for something and goes on.
pub(crate) fn ask(world: &Rc<World>, site: usize, command: Command) {
    let Some(group) = world.group(site) else { return };
    let Some(process) = world.process(site) else { return };
    let name = world.sites[site].name;
    world.log(format_args!("{name} is asked: {command:?}"));
    if let Command::Resume { discard: true, .. } = command {
        world.stats.borrow_mut().discards += 1;
        world.sites.iter().for_each(|site| site.unconsented.set(0));
    }
    let kept = Rc::clone(world);
    process.spawn(
        world,
        Box::pin(async move {
            let promotes = matches!(command, Command::Promote { .. });
            let answer = group.command(command).await;
            if promotes && answer != Err(Refusal::Busy) {
                kept.sites[site].promoting.set(None);
            }
            kept.log(format_args!("{name} answers: {answer:?}"));
        }),
    );
}

/// Promotes the copy of a site.
pub(crate) fn promote(world: &Rc<World>, site: usize, consent: Consent) {
    let Some(group) = world.group(site) else { return };
    let Some(process) = world.process(site) else { return };
    let (status, state) = (group.status(), &world.sites[site]);
    if status.role != Role::Primary && state.promoting.get() != Some(process.number) {
        state.promotion.set(Some((consent, status.quality)));
        state.promoting.set(Some(process.number));
    }
    ask(world, site, Command::Promote { consent });
}

pub(crate) fn add_leg(world: &World, site: usize, policy: Policy) -> Command {
    let other = &world.sites[1 - site];
    Command::AddLeg {
        gateway: other.gateway,
        site: other.name.to_owned(),
        sessions: world.sessions(),
        policy,
    }
}

/// How long it may take until everything is as it should be.
const PATIENCE: Duration = Duration::from_secs(240);

/// Brings everything back: one primary, a mirror that is Equivalent (P8).
pub(crate) async fn restore(world: &Rc<World>) {
    let end = world.now_ms() + u64::try_from(PATIENCE.as_millis()).expect("short");
    let mut calm = 0;
    while world.now_ms() < end && !world.has_failed() {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let quiet = world.attachments.borrow().iter().all(|a| a.is_quiet());
        if quiet && world.equivalent().is_some() {
            calm += 1;
            if calm == 3 {
                return;
            }
            continue;
        }
        calm = 0;
        let [Some(east), Some(west)] = [world.group(0), world.group(1)] else { continue };
        step(world, &[east.status(), west.status()]);
    }
    if !world.has_failed() {
        explain(world);
    }
}

/// While things go wrong: resumes what stopped, restarts what is latched.
pub(crate) async fn attend(world: Rc<World>) {
    while !world.stopped.get() && !world.has_failed() {
        tokio::time::sleep(world.rng.millis(200, 1_500)).await;
        for site in 0..2 {
            let Some(group) = world.group(site) else { continue };
            let status = group.status();
            if status.serving == Serving::Latched {
                world.kill(site);
                world.start(site);
            } else if status.role == Role::Primary
                && let Some(leg) = status.legs.first()
                && leg.link == LinkState::Off
            {
                let told = matches!(leg.cause, Some(Cause::SplitBrain { .. }));
                ask(&world, site, Command::Resume { leg: leg.leg, discard: told });
            }
        }
    }
}

/// The next sane command, if one is due.
fn step(world: &Rc<World>, status: &[GroupStatus; 2]) {
    for (site, status) in status.iter().enumerate() {
        if status.serving == Serving::Latched {
            world.log(format_args!("{} is latched", world.sites[site].name));
            world.kill(site);
            world.start(site);
            return;
        }
    }
    let newest = status.iter().map(|s| s.epoch).max();
    let primaries = |site: &usize| status[*site].role == Role::Primary;
    let primary = (0..2).filter(primaries).max_by_key(|site| status[*site].epoch);
    let Some(site) = primary else {
        // The better copy is the one that needs less consent.
        let [east, west] = [consent_for(&status[0]), consent_for(&status[1])];
        promote(world, usize::from(west < east), east.min(west));
        return;
    };
    if Some(status[site].epoch) < newest {
        // The one with the highest epoch may be on its way back; a fenced one is not.
        let other = 1 - site;
        if status[other].role != Role::Primary {
            return;
        }
    }
    let Some(leg) = status[site].legs.first() else {
        if matches!(status[site].serving, Serving::Yes) {
            ask(world, site, add_leg(world, site, Policy::default()));
        }
        return;
    };
    if leg.link == LinkState::Off || status[site].serving == Serving::Halted {
        let told = matches!(leg.cause, Some(Cause::SplitBrain { .. } | Cause::Refused(_)));
        ask(world, site, Command::Resume { leg: leg.leg, discard: told });
    }
}

/// The least that an operator must accept to promote this copy.
pub(crate) fn consent_for(status: &GroupStatus) -> Consent {
    match status.quality {
        Quality::InSync | Quality::Source => Consent::InSync,
        Quality::Outdated | Quality::Consistent => Consent::Outdated,
        Quality::Inconsistent | Quality::Blank => Consent::Inconsistent,
    }
}

/// Why it does not come back.
fn explain(world: &World) {
    for attachment in world.attachments.borrow().iter() {
        for pending in attachment.pending.borrow().values() {
            let site = world.sites[attachment.process.site].name;
            let waits = pending.at.elapsed().as_millis();
            world.log(format_args!(
                "host {} at {site} waits for {:?} since {waits} ms",
                attachment.host, pending.asked
            ));
        }
    }
    let mut text = "not Equivalent again, or requests unanswered".to_owned();
    for site in 0..2 {
        let Some(group) = world.group(site) else { continue };
        let status = group.status();
        let leg = status.legs.first().map(|leg| {
            let phase: Phase = leg.phase;
            (leg.state, phase, leg.link, leg.cause.clone(), leg.in_sync, leg.inflight_writes)
        });
        text += &format!(
            "; {}: {:?} {:?} {:?} epoch {} {leg:?}",
            world.sites[site].name, status.role, status.serving, status.quality, status.epoch
        );
    }
    world.fail("P8", text);
}
