//! Histories of a group over two gateways a site: dependent writes go over both parts.
//!
//! ```text
//!   east   part 0 ── companions ── part 1        hosts: chains that write to both in turn
//!             │ link                  │ link     the promise: no later step without an earlier one,
//!   west   part 0 ── companions ── part 1        at whichever site both parts are served (P6)
//! ```
//!
//! Invariant: as in the other histories: what runs is the product, and a seed decides everything.

mod gateway;
mod host;
mod nemesis;
mod operator;
mod snapshots;

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use block::{GroupId, VolumeId};
use mirror::machine::Note;
use mirror::{Group, HeartbeatTimes, Role};

use self::gateway::{Life, Place};
use crate::chain::Chain;
use crate::history::Outcome;
use crate::net::{Net, Path};
use crate::rng::Rng;
use crate::sabotage::Sabotage;
use crate::setup;
use crate::slow::Pace;
use crate::telling::{self, Telling};

const GROUP: GroupId = GroupId::of(1);
/// Gateways: two a site.
const GATEWAYS: usize = 4;
const VOLUME_BYTES: u64 = 1 << 20;
/// By place: the volume's index over all parts, and the sector.
type Places = Vec<(usize, u64)>;

/// Everything that there is.
struct Scene {
    rng: Rc<Rng>,
    net: Rc<Net>,
    places: Vec<Place>,
    /// Volumes of each part.
    volumes: usize,
    heartbeat: HeartbeatTimes,
    ack_deadline_ms: u64,
    sabotage: Sabotage,
    chains: RefCell<Vec<Chain>>,
    stopped: Cell<bool>,
    /// Hosts issue nothing for the time being.
    calm: Cell<bool>,
    /// The site at which both parts were served last.
    served: Cell<Option<usize>>,
    /// The snapshots that all parts keep.
    wholes: RefCell<Vec<snapshots::Whole>>,
    /// A swap of roles is under way that was answered well so far: it loses nothing.
    swapped: Cell<bool>,
    /// A site was lost whose mirrors had everything, and they were promoted as such: how many steps
    /// each chain had begun, of which those that were acknowledged are there.
    survives: RefCell<Option<Vec<usize>>>,
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
    scene.happened("a group over two gateways a site");
    (0..GATEWAYS).for_each(|gateway| scene.start(gateway));
    operator::mirror_all(scene).await;
    host::start(scene);
    scene.spawn(watch(Rc::clone(scene)));
    if scene.rng.chance(85) {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    }
    nemesis::rage(scene).await;
    nemesis::heal(scene);
    operator::restore(scene).await;
    if scene.has_failed() {
        return;
    }
    scene.stopped.set(true);
    tokio::time::sleep(Duration::from_secs(3)).await;
    scene.look();
    scene.compare();
    snapshots::compare(scene);
}

/// Looks at what is served, again and again.
async fn watch(scene: Rc<Scene>) {
    while !scene.stopped.get() && !scene.has_failed() {
        tokio::time::sleep(scene.rng.millis(50, 400)).await;
        scene.look();
    }
}

/// The other gateway of the site.
const fn companion(gateway: usize) -> usize {
    gateway ^ 1
}

/// The gateway with the same part at the other site.
const fn opposite(gateway: usize) -> usize {
    gateway ^ 2
}

const fn site_of(gateway: usize) -> usize {
    gateway / 2
}

const fn part_of(gateway: usize) -> usize {
    gateway % 2
}

impl Scene {
    fn new(seed: u64, sabotage: Sabotage) -> Rc<Self> {
        let rng = Rc::new(Rng::new(seed));
        let path = Path { latency: rng.millis(0, 6), speed: rng.pick(&[500, 5_000, 50_000]) };
        let volumes = rng.index(2) + 1;
        let pace = |_| setup::pace(&rng);
        let paces: Vec<Pace> = (0..GATEWAYS).map(pace).collect();
        let heartbeat = setup::heartbeat(&rng);
        let ack_deadline_ms = rng.pick(&[1_500, 3_000, 8_000]);
        let net = Net::new(GATEWAYS, path);
        for lan in [[0, 1], [2, 3]] {
            net.set_path(lan, Path { latency: rng.millis(0, 2), speed: 50_000 });
        }
        let place = |gateway: usize| Place::new(gateway, volumes, paces[gateway]);
        Rc::new(Self {
            places: (0..GATEWAYS).map(place).collect(),
            volumes,
            net,
            heartbeat,
            ack_deadline_ms,
            sabotage,
            chains: RefCell::default(),
            stopped: Cell::new(false),
            calm: Cell::new(false),
            served: Cell::new(None),
            wholes: RefCell::default(),
            swapped: Cell::new(false),
            survives: RefCell::default(),
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

    fn name(&self, gateway: usize) -> &'static str {
        self.places[gateway].name
    }

    /// The number of a volume over all parts.
    fn volume(&self, part: usize, index: usize) -> usize {
        part * self.volumes + index
    }

    fn volume_id(volumes: usize, volume: usize) -> VolumeId {
        let (part, index) = (volume / volumes, volume % volumes);
        VolumeId::of((2 + part * 10 + index) as u128)
    }

    /// The site at which both parts are served, by processes that run.
    fn serving_site(&self) -> Option<usize> {
        (0..2).find(|site| (0..2).all(|part| self.serves(site * 2 + part)))
    }

    fn serves(&self, gateway: usize) -> bool {
        let life = self.life(gateway).filter(|life| !life.is_paused());
        life.and_then(|life| life.group()).is_some_and(|group| group.is_serving())
    }

    // --- properties ---

    /// What each chain sees at a site.
    fn seen(&self, site: usize, places: &Places) -> Result<Vec<u64>, String> {
        let images: Vec<_> = (0..2)
            .map(|part| self.places[site * 2 + part].disks.look())
            .collect::<Result<_, _>>()?;
        let peek = |(volume, sector): &(usize, u64)| {
            images[volume / self.volumes].peek(volume % self.volumes, *sector)
        };
        Ok(places.iter().map(peek).collect())
    }

    /// P6: wherever both parts are served, no step is there without those before it.
    fn look(&self) {
        let Some(site) = self.serving_site() else { return };
        let moved = self.served.replace(Some(site)).is_some_and(|before| before != site);
        let chains = self.chains.borrow().clone();
        let survives = self.survives.borrow_mut().take_if(|_| moved);
        for (number, chain) in chains.iter().enumerate() {
            let seen = match self.seen(site, &chain.places) {
                Ok(seen) => seen,
                Err(error) => return self.fail("P10", error),
            };
            if let Some(missing) = chain.missing(&seen) {
                let site = ["east", "west"][site];
                self.fail("P6", format!("chain {number} at {site}: {missing}; it holds {seen:?}"));
                return;
            }
            if moved && self.swapped.get() && chain.lacks_acknowledged(&seen) {
                self.fail("P7", format!("a swap of roles lost a step of chain {number}: {seen:?}"));
                return;
            }
            let steps = survives.as_ref().and_then(|steps| steps.get(number));
            if steps.is_some_and(|steps| chain.lacks_acknowledged_of(&seen, *steps)) {
                self.fail("P1", format!("chain {number} lost a step with a site: {seen:?}"));
                return;
            }
        }
        if survives.is_some() {
            self.happened_quietly("a site was lost, and nothing with it");
        }
        if moved {
            self.swapped.set(false);
            self.happened("both parts are served at the other site");
        }
    }

    /// P2: in the end both sites hold the same.
    fn compare(&self) {
        for part in 0..2 {
            let images = [part, part + 2].map(|gateway| self.places[gateway].disks.look());
            let [Ok(east), Ok(west)] = images else {
                return self.fail("P10", "a disk cannot be read".to_owned());
            };
            for volume in 0..self.volumes {
                let zero = vec![0; 4096];
                let of = |image: &crate::disks::Image| {
                    let blocks = image.blocks(volume).iter();
                    let some = blocks.filter(|(_, data)| ***data != zero[..]);
                    some.map(|(at, data)| (*at, data.to_vec())).collect::<Vec<_>>()
                };
                if of(&east) != of(&west) {
                    return self.fail("P2", format!("part {part}: volume {volume} differs"));
                }
            }
        }
    }

    // --- processes ---

    fn start(self: &Rc<Self>, gateway: usize) {
        if self.life(gateway).is_some() {
            return;
        }
        self.log(format_args!("{} starts", self.name(gateway)));
        match Life::start(self, gateway) {
            Ok(life) => *self.places[gateway].life.borrow_mut() = Some(life),
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
    }

    fn on_note(self: &Rc<Self>, gateway: usize, note: &Note) {
        self.log(format_args!("{}: {note:?}", self.name(gateway)));
        match note {
            Note::StretchJoined { .. } => self.stats.borrow_mut().joins += 1,
            Note::StretchEnded { .. } => self.happened_quietly("parts stop at one cut"),
            Note::ExcludedBy { .. } => {
                self.happened_quietly("an excluded gateway refuses to serve")
            }
            _ => {}
        }
    }

    fn is_primary(&self, gateway: usize) -> bool {
        self.group(gateway).is_some_and(|group| group.status().role == Role::Primary)
    }
}

impl Deref for Scene {
    type Target = Telling;

    fn deref(&self) -> &Telling {
        &self.telling
    }
}
