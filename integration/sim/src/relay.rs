//! Histories of a mirror that is mirrored on: dependent writes at the primary, and what the far end of
//! the cascade would be promoted to.
//!
//! ```text
//!   east ──any mode──▶ west ──relay──▶ north       the promise: north is one point in the order of
//!                                                   writes, no older than it was (P6, P13), and none
//!                                                   that west has not; in the end all are equal (P2)
//! ```
//!
//! Invariant: as in the other histories: what runs is the product, and a seed decides everything.

mod gateway;
mod host;
mod nemesis;
mod operator;
mod points;

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use block::{Epoch, GroupId, Mode, VolumeId};
use mirror::machine::Note;
use mirror::{Group, GroupStatus, HeartbeatTimes, Role};

use self::gateway::{Life, Place};
use crate::chain::Chain;
use crate::history::Outcome;
use crate::net::{Net, Path};
use crate::rng::Rng;
use crate::sabotage::Sabotage;
use crate::setup;
use crate::telling::{self, Telling};

const GROUP: GroupId = GroupId::of(1);
const GATEWAYS: usize = 3;
/// The first primary, its mirror, and the mirror of that one.
const EAST: usize = 0;
const WEST: usize = 1;
const NORTH: usize = 2;
const VOLUME_BYTES: u64 = 1 << 20;

/// Everything that there is.
struct Scene {
    rng: Rc<Rng>,
    net: Rc<Net>,
    places: Vec<Place>,
    volumes: usize,
    heartbeat: HeartbeatTimes,
    ack_deadline_ms: u64,
    /// The mode of the first session, as it was drawn or switched to.
    mode: Cell<Mode>,
    /// From one transfer behind the mirror to the next; 0: only when an operator asks.
    every_s: u64,
    sabotage: Sabotage,
    chains: RefCell<Vec<Chain>>,
    stopped: Cell<bool>,
    /// Hosts issue nothing for the time being.
    calm: Cell<bool>,
    /// By chain: the newest acknowledged step of the point that the far end had last.
    far: RefCell<Vec<Option<usize>>>,
    /// The same of the last that it is known to have recorded: one that it only took dies with it.
    recorded: RefCell<Vec<Option<usize>>>,
    /// Two gateways may have gone on from the same history, so that one must be discarded by a word.
    forked: Cell<bool>,
    /// The far end was promoted.
    north_rules: Cell<bool>,
    /// A copy was promoted by force: what anybody has is anybody's guess.
    lawless: Cell<bool>,
    /// A copy was promoted at what hosts had written to it while it was detached.
    keeps_own: Cell<bool>,
    telling: Telling,
}

pub(crate) fn perform(seed: u64, sabotage: Sabotage) -> Outcome {
    telling::perform(
        || Scene::new(seed, sabotage),
        history,
        |scene| (0..GATEWAYS).for_each(|gateway| scene.kill(gateway)),
    )
}

async fn history(scene: &Rc<Scene>) {
    scene.happened("a copy is sent on by its mirror");
    (0..GATEWAYS).for_each(|gateway| scene.start(gateway));
    operator::begin(scene).await;
    host::start(scene);
    scene.spawn(watch(Rc::clone(scene)));
    if scene.rng.chance(85) {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
    }
    nemesis::rage(scene).await;
    match scene.rng.below(3) {
        0 => {}
        1 => nemesis::lose_primary(scene).await,
        _ => nemesis::promote_far_end(scene).await,
    }
    if scene.rng.chance(50) {
        nemesis::rage(scene).await;
    }
    nemesis::heal(scene).await;
    operator::restore(scene).await;
    if scene.has_failed() {
        return;
    }
    scene.stopped.set(true);
    scene.look();
    scene.compare();
}

/// Looks at what the far end keeps, again and again.
async fn watch(scene: Rc<Scene>) {
    while !scene.stopped.get() && !scene.has_failed() {
        tokio::time::sleep(scene.rng.millis(50, 400)).await;
        scene.look();
    }
}

impl Scene {
    fn new(seed: u64, sabotage: Sabotage) -> Rc<Self> {
        let rng = Rc::new(Rng::new(seed));
        let path = Path { latency: rng.millis(0, 6), speed: rng.pick(&[500, 5_000, 50_000]) };
        let volumes = rng.index(2) + 1;
        let net = Net::new(GATEWAYS, path);
        let far = Path { latency: rng.millis(0, 20), speed: rng.pick(&[500, 5_000, 50_000]) };
        net.set_path([WEST, NORTH], far);
        let place = |gateway: usize| Place::new(gateway, volumes, setup::pace(&rng));
        Rc::new(Self {
            places: (0..GATEWAYS).map(place).collect(),
            volumes,
            net,
            heartbeat: setup::heartbeat(&rng),
            ack_deadline_ms: rng.pick(&[1_500, 3_000, 8_000]),
            mode: Cell::new(rng.pick(&[Mode::Sync, Mode::Sync, Mode::Consistency, Mode::Stack])),
            every_s: rng.pick(&[0, 1, 1, 1, 3]),
            sabotage,
            chains: RefCell::default(),
            stopped: Cell::new(false),
            calm: Cell::new(false),
            far: RefCell::default(),
            recorded: RefCell::default(),
            forked: Cell::new(false),
            north_rules: Cell::new(false),
            lawless: Cell::new(false),
            keeps_own: Cell::new(false),
            telling: Telling::new(),
            rng,
        })
    }

    fn happened(&self, fault: &'static str) {
        self.log(format_args!("--- {fault}"));
        self.happened_quietly(fault);
    }

    fn life(&self, gateway: usize) -> Option<Rc<Life>> {
        self.places[gateway].life.borrow().clone()
    }

    fn group(&self, gateway: usize) -> Option<Rc<Group>> {
        self.life(gateway).and_then(|life| life.group())
    }

    fn status(&self, gateway: usize) -> Option<GroupStatus> {
        self.group(gateway).map(|group| group.status())
    }

    fn name(&self, gateway: usize) -> &'static str {
        self.places[gateway].name
    }

    fn volume_id(volume: usize) -> VolumeId {
        VolumeId::of(2 + volume as u128)
    }

    /// The gateway that hosts go to: of those that serve as the primary, the one of the highest epoch.
    fn serving(&self) -> Option<usize> {
        let epoch = |gateway: usize| -> Option<(Epoch, usize)> {
            let life = self.life(gateway).filter(|life| !life.is_paused())?;
            let group = life.group().filter(|group| group.is_serving())?;
            let status = group.status();
            (status.role == Role::Primary).then_some((status.epoch, gateway))
        };
        (0..GATEWAYS).filter_map(epoch).max().map(|(_, gateway)| gateway)
    }

    // --- processes ---

    fn start(self: &Rc<Self>, gateway: usize) {
        if self.life(gateway).is_some() {
            return;
        }
        self.log(format_args!("{} starts", self.name(gateway)));
        match Life::start(self, gateway) {
            Ok(life) => {
                *self.places[gateway].life.borrow_mut() = Some(life);
                if gateway == NORTH {
                    // What it starts with it had recorded.
                    self.note_recorded();
                }
            }
            Err(error) => {
                self.fail("P10", format!("{} cannot start: {error}", self.name(gateway)));
            }
        }
    }

    fn kill(&self, gateway: usize) {
        let place = &self.places[gateway];
        let Some(life) = place.life.take() else { return };
        self.log(format_args!("{} is killed", place.name));
        life.kill();
        place.disks.kill();
        if gateway == NORTH {
            self.far.borrow_mut().clone_from(&self.recorded.borrow());
        }
    }

    fn on_note(self: &Rc<Self>, gateway: usize, note: &Note) {
        self.log(format_args!("{}: {note:?}", self.name(gateway)));
        let (WEST, Note::Transferred { leg }) = (gateway, note) else { return };
        self.stats.borrow_mut().cuts += 1;
        let (scene, leg) = (Rc::clone(self), *leg);
        // The one who says so is busy at the moment.
        self.spawn(async move {
            let legs = scene.status(WEST).map(|status| status.legs).unwrap_or_default();
            let is_far = |other: &mirror::LegStatus| {
                other.leg == leg && other.gateway == gateway::id_of(NORTH)
            };
            if legs.iter().any(is_far) {
                scene.note_recorded();
            }
        });
    }
}

impl Deref for Scene {
    type Target = Telling;

    fn deref(&self) -> &Telling {
        &self.telling
    }
}
