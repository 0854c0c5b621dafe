//! One history from its seed.

use std::rc::Rc;
use std::time::Duration;

use crate::sabotage::Sabotage;
use crate::setup::Modes;
use crate::stats::Stats;
use crate::telling::{self, Failure};
use crate::world::World;
use crate::{host, nemesis, operator, parts, relay};

/// What became of a history.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Everything that happened, a line each.
    pub log: String,
    /// The property that did not hold, if there is one.
    pub failure: Option<Failure>,
    /// What happened, counted.
    pub stats: Stats,
}

/// Runs the history of a seed. The properties, with the rules of the mirror that they stand for:
///
/// - P1 (1, 3, 10) every acknowledged write survives whatever leaves one copy that had it; every
///   flushed one survives the loss of power; nothing is discarded without a word
/// - P2, P3 (2, 3, 4) copies are equal whenever a leg is Equivalent and nothing is under way
/// - P4 (6, 13) two gateways never acknowledge at one epoch; epochs only rise; nobody answers what is
///   asked of it after another was promoted with the word of a witness
/// - P5 (6) nothing is acknowledged after the fence; hosts are dropped first
/// - P6 (5) a dependent write is never there without the one it depends on
/// - P7 (7, 13) a promotion that needs no consent loses nothing; under a witness nobody acknowledged
///   anything without the mirror that is promoted
/// - P8 (12) every request is answered, also while a mirror stands still; every session comes back
/// - P9 (3, 4, 9) what a mirror is sent to come back is no more than what it can have lacked; it is
///   not copied whole as long as its leg is there
/// - P10 no assertion fails
/// - P11 (14) a snapshot that a copy keeps holds everything that was acknowledged before it was asked
///   for and nothing that was asked for after it was answered, and the same at every copy; it is there
///   until an operator removes it
/// - P12 (15) a snapshot that is locked is removed by nobody until its time has passed, whatever clocks
///   on walls say
/// - P13 (8, 9) the far end of a relay is at a point of its source, never at an older one than before
///   and at none that its source is not past
#[must_use]
pub fn run(seed: u64, sabotage: Sabotage) -> Outcome {
    run_in(Modes::default(), seed, sabotage)
}

/// The same, with legs of these modes.
#[must_use]
pub fn run_in(modes: Modes, seed: u64, sabotage: Sabotage) -> Outcome {
    match modes.of(seed) {
        Modes::Parts => parts::perform(seed, sabotage),
        Modes::Relay => relay::perform(seed, sabotage),
        modes => perform((seed, modes), sabotage, false),
    }
}

/// The same, with every message and every request in the log.
#[must_use]
pub fn trace(modes: Modes, seed: u64, sabotage: Sabotage) -> Outcome {
    match modes.of(seed) {
        Modes::Parts => parts::perform(seed, sabotage),
        Modes::Relay => relay::perform(seed, sabotage),
        modes => perform((seed, modes), sabotage, true),
    }
}

fn perform((seed, modes): (u64, Modes), sabotage: Sabotage, traced: bool) -> Outcome {
    telling::perform(
        || World::new((seed, modes), sabotage, traced),
        async |world: &Rc<World>| history(world, seed).await,
        |world| (0..world.sites.len()).for_each(|site| world.kill(site)),
    )
}

async fn history(world: &Rc<World>, seed: u64) {
    world.log(format_args!("{:?}", world.setup));
    if world.setup.pool {
        world.happened("the pool on a simulated disk");
    }
    if world.sites.len() > 2 {
        world.happened("three gateways");
    }
    if world.setup.holds_content {
        world.happened("a copy is said to hold the content");
    }
    if world.setup.days_apart {
        world.happened("clocks are a day apart");
        world.sites[1].clock_ms.set(-86_400_000);
    }
    (0..world.sites.len()).for_each(|site| world.start(site));
    for mirror in world.others(0) {
        // One command at a time: the second one is asked when the first is recorded.
        operator::ask(
            world,
            0,
            operator::add_leg(world, [0, mirror], operator::policy(world, mirror)),
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.sabotage.begin(world);
    host::start(world);
    world.spawn(nemesis::rot::go_on(Rc::clone(world), seed));
    if world.setup.attentive {
        world.spawn(operator::attend(Rc::clone(world)));
    }
    if world.rng.chance(80) {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    }
    nemesis::rage(world).await;
    // Faults that end later by themselves must not disturb the end.
    tokio::time::sleep(Duration::from_millis(5_500)).await;
    nemesis::heal(world);
    world.paused.set(false);
    tokio::time::sleep(Duration::from_millis(world.rng.between(1, 3_000))).await;
    world.stopped.set(true);
    operator::restore(world).await;
    if world.has_failed() {
        return;
    }
    if let Some((site, mirrors)) = world.equivalent() {
        world.compare_copies(site, &mirrors);
    }
    (0..world.sites.len()).for_each(|site| world.look_at(site));
    // Twice, because what one says of another is known after the first.
    for site in (0..world.sites.len()).chain(0..world.sites.len()) {
        world.check_snapshots(site);
    }
}
