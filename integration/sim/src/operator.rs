//! Operators: any command at any time, and in the end a sane one who brings everything back.
//!
//! Invariant: nothing is discarded without a word; the sane operator gives it only when asked.

use std::rc::Rc;
use std::time::Duration;

use block::{Mode, Quality};
use mirror::{
    Cause, Command, Consent, GroupStatus, LegStatus, LinkState, Phase, Policy, Refusal, Role,
    Serving, SessionState,
};

use crate::sabotage::Sabotage;
use crate::site::Promotion;
use crate::world::World;

/// Asks a group for something and goes on.
pub(crate) fn ask(world: &Rc<World>, site: usize, command: Command) {
    let Some(group) = world.group(site) else { return };
    let Some(process) = world.process(site) else { return };
    let name = world.sites[site].name;
    let promotes = matches!(command, Command::Promote { .. });
    if promotes && world.sites[site].promoting.get() == Some(process.number) {
        // Nobody would know which of two words it was that took effect.
        return;
    }
    world.log(format_args!("{name} is asked: {command:?}"));
    if let Command::RemoveLeg { .. } = command {
        world.expect_full(site);
    }
    let command = world.sabotage.command(command);
    if let Command::Resume { discard: true, .. } = command
        && world.sabotage != Sabotage::DiscardsUnasked
    {
        world.stats.borrow_mut().discards += 1;
        world.sites.iter().for_each(|site| {
            site.unconsented.set([0; 3]);
            site.discardable.set(true);
        });
    }
    let kept = Rc::clone(world);
    process.spawn(
        world,
        Box::pin(async move {
            let noted = match command {
                Command::Promote { consent } => note_promotion(&kept, site, consent),
                _ => false,
            };
            let answer = group.command(command).await;
            if promotes {
                kept.sites[site].unnamed.set(answer == Err(Refusal::NotNamed));
            }
            // One that is refused because another is under way says nothing of that one.
            if noted {
                kept.sites[site].promoting.set(None);
                let place = &kept.sites[site].promotion;
                match answer {
                    Ok(()) | Err(Refusal::Interrupted) => {}
                    // Its record may be durable all the same.
                    Err(Refusal::Io(_)) => {
                        place.set(place.get().map(|p| Promotion { unheard: true, ..p }));
                    }
                    Err(_) => place.set(None),
                }
            }
            kept.log(format_args!("{name} answers: {answer:?}"));
        }),
    );
}

/// Promotes the copy of a site.
pub(crate) fn promote(world: &Rc<World>, site: usize, consent: Consent) {
    ask(world, site, Command::Promote { consent });
}

/// A copy is about to be promoted: what it is just before. Says whether it is not already.
fn note_promotion(world: &World, site: usize, consent: Consent) -> bool {
    let Some(process) = world.process(site) else { return false };
    let Some(group) = process.group() else { return false };
    let (status, state) = (group.status(), &world.sites[site]);
    if status.role == Role::Primary || state.promoting.get() == Some(process.number) {
        return false;
    }
    let from = status.upstream.and_then(|upstream| world.site_of(upstream.gateway));
    let kept = status.kept.map(|kept| kept.quality);
    let quality = status.quality;
    let promotion = Promotion { consent, quality, kept, from, unheard: false };
    if promotion.goes_back() == Some(Quality::Consistent) {
        state.at_point.set(true);
    }
    state.promotion.set(Some(promotion));
    state.consented.set(state.consented.get().max(consent));
    state.promoting.set(Some(process.number));
    true
}

/// The policies with which a site is mirrored to.
pub(crate) fn policy(world: &World, to: usize) -> Policy {
    Policy { mode: world.setup.modes[to], ..world.setup.policy.clone() }
}

/// The command that mirrors to a site.
pub(crate) fn add_leg(world: &World, [site, to]: [usize; 2], policy: Policy) -> Command {
    let other = &world.sites[to];
    Command::AddLeg {
        gateway: other.gateway,
        site: other.name.to_owned(),
        sessions: world.sessions(site, to),
        policy,
        holds_content: world.setup.holds_content,
    }
}

/// How long it may take until everything is as it should be.
const PATIENCE: Duration = Duration::from_secs(240);

/// Brings everything back: one primary, mirrors that are Equivalent (P8).
pub(crate) async fn restore(world: &Rc<World>) {
    // A send journal that is full is sent before anything is equal again.
    let (journal, speed) = (world.setup.journal, world.setup.path.speed);
    let journal_ms = (journal.memory_bytes + journal.spill_bytes) / speed.max(1);
    let patience_ms = u64::try_from(PATIENCE.as_millis()).expect("short");
    let end = world.now_ms() + patience_ms + journal_ms.min(patience_ms);
    let mut calm = 0;
    while world.now_ms() < end && !world.has_failed() {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let quiet = world.attachments.borrow().iter().all(|a| a.is_quiet());
        let whole = |(_, mirrors): (usize, Vec<usize>)| mirrors.len() + 1 == world.sites.len();
        if quiet && world.equivalent().is_some_and(whole) {
            calm += 1;
            if calm == 3 {
                return;
            }
            continue;
        }
        calm = 0;
        let groups: Option<Vec<_>> = (0..world.sites.len()).map(|s| world.group(s)).collect();
        let Some(groups) = groups else { continue };
        step(world, &groups.iter().map(|group| group.status()).collect::<Vec<_>>());
    }
    if !world.has_failed() {
        explain(world);
    }
}

/// While things go wrong: resumes what stopped, restarts what is latched.
pub(crate) async fn attend(world: Rc<World>) {
    while !world.stopped.get() && !world.has_failed() {
        tokio::time::sleep(world.rng.millis(200, 1_500)).await;
        for site in 0..world.sites.len() {
            let Some(group) = world.group(site) else { continue };
            let status = group.status();
            if status.serving == Serving::Latched {
                world.kill(site);
                world.start(site);
            } else if status.role == Role::Primary
                && let Some(leg) = status.legs.iter().find(|leg| is_stopped(leg))
            {
                let told = matches!(leg.cause, Some(Cause::SplitBrain { .. }));
                ask(&world, site, Command::Resume { leg: leg.leg, discard: told });
            }
        }
    }
}

/// The next sane command, if one is due.
fn step(world: &Rc<World>, status: &[GroupStatus]) {
    for (site, status) in status.iter().enumerate() {
        if status.serving == Serving::Latched {
            world.log(format_args!("{} is latched", world.sites[site].name));
            world.kill(site);
            world.start(site);
            return;
        }
    }
    let newest = status.iter().map(|s| s.epoch).max();
    let primaries: Vec<usize> =
        (0..status.len()).filter(|site| status[*site].role == Role::Primary).collect();
    let primary = primaries.iter().copied().max_by_key(|site| status[*site].epoch);
    let Some(site) = primary else {
        // The better copy is the one that needs less consent.
        let best = (0..status.len()).min_by_key(|site| consent_for(&status[*site]));
        let best = best.expect("there are sites");
        let needed = consent_for(&status[best]);
        // The witness knows of another, which is not to be had.
        let overrules = world.sites[best].unnamed.take();
        promote(world, best, if overrules { needed.max(Consent::Outdated) } else { needed });
        return;
    };
    if Some(status[site].epoch) < newest && primaries.len() > 1 {
        // The one with the highest epoch may be on its way back; a fenced one is not.
        return;
    }
    let ours = &status[site];
    let has_leg = |to: &usize| ours.legs.iter().any(|l| l.gateway == world.sites[*to].gateway);
    if let Some(grow) = growth(world, site, status) {
        ask(world, site, grow);
    } else if let Some(leg) = ours.legs.iter().find(|leg| is_resting(leg) && !is_caught_up(leg)) {
        ask(world, site, Command::Transfer { leg: leg.leg });
    } else if let Some(leg) = ours.legs.iter().find(|leg| is_stopped(leg)) {
        let told = leg.cause.as_ref().is_some_and(asks_for_a_word);
        ask(world, site, Command::Resume { leg: leg.leg, discard: told });
    } else if ours.serving == Serving::Halted
        && let Some(leg) = ours.legs.first()
    {
        ask(world, site, Command::Resume { leg: leg.leg, discard: false });
    } else if ours.serving == Serving::Yes
        && let Some(to) = world.others(site).find(|to| !has_leg(to))
    {
        ask(world, site, add_leg(world, [site, to], policy(world, to)));
    }
}

/// A copy that is longer here than at the primary, with content: the primary is grown first, as the
/// refusal says.
fn growth(world: &World, site: usize, status: &[GroupStatus]) -> Option<Command> {
    let ours = &status[site];
    let refused = |leg: &&LegStatus| matches!(&leg.cause, Some(Cause::Refused(why)) if why.contains("grow it there first"));
    let leg = ours.legs.iter().find(refused)?;
    let theirs = &status[world.site_of(leg.gateway)?];
    let mut volumes = ours.volumes.iter().zip(&theirs.volumes);
    let (volume, longer) = volumes.find(|(ours, theirs)| theirs.bytes > ours.bytes)?;
    Some(Command::Grow { volume: volume.volume, bytes: longer.bytes })
}

/// Whether it is between two transfers.
fn is_resting(leg: &LegStatus) -> bool {
    leg.policy.mode == Mode::Stack
        && leg.link == LinkState::Off
        && leg.state == SessionState::Active
}

fn is_stopped(leg: &LegStatus) -> bool {
    leg.link == LinkState::Off && !is_resting(leg)
}

/// Whether only a word brings a mirror back: what it has of its own may be given up. One whose copy
/// failed is to be reopened, and needs none.
fn asks_for_a_word(cause: &Cause) -> bool {
    match cause {
        Cause::SplitBrain { .. } => true,
        Cause::Refused(why) => !why.contains("must be reopened"),
        _ => false,
    }
}

/// Whether a mirror that follows behind, or that rests, has everything.
pub(crate) fn is_caught_up(leg: &LegStatus) -> bool {
    (leg.phase == Phase::Following || is_resting(leg)) && leg.lag_ms == Some(0)
}

/// The least that an operator must accept to promote this copy.
pub(crate) fn consent_for(status: &GroupStatus) -> Consent {
    Consent::needed(status.quality, status.kept.is_some())
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
    for site in 0..world.sites.len() {
        let Some(group) = world.group(site) else { continue };
        let status = group.status();
        let legs = status.legs.iter().map(|leg| {
            let phase: Phase = leg.phase;
            (leg.state, phase, leg.link, leg.cause.clone(), leg.policy.mode, leg.lag_ms)
        });
        let legs: Vec<_> = legs.collect();
        text += &format!(
            "; {}: {:?} {:?} {:?} epoch {} {legs:?}",
            world.sites[site].name, status.role, status.serving, status.quality, status.epoch
        );
    }
    world.fail("P8", text);
}
