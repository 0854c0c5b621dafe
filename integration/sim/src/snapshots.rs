//! Snapshots with names: operators take, lock and remove them at any moment (P11, P12).
//!
//! Invariant: what is compared is read from the stores, whoever has the group.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::SnapshotId;
use mirror::{Command, Group, Marks, Role, SnapshotOrigin, SnapshotState};

use crate::checks::{differs, fits_in};
use crate::disks::Image;
use crate::model::Branch;
use crate::world::World;

/// A snapshot that was asked for.
pub(crate) struct Wish {
    id: SnapshotId,
    /// Where.
    site: usize,
    /// The volumes that belonged to the group there.
    members: Vec<usize>,
    /// What it may hold, once it was answered.
    content: Option<Branch>,
    /// What it holds, as it was first seen anywhere.
    image: Option<Image>,
    /// An operator asked for its end.
    removed: bool,
    /// The sites that said that they keep it.
    holders: BTreeSet<usize>,
    /// Until when it is locked, by the sites that an operator told so and that answered.
    locked: BTreeMap<usize, u64>,
}

/// One in so many is locked.
const LOCKED_ONE_IN: u64 = 2;
/// For how long: some locks end within the history, and some do not although a clock is set.
const LOCK_MS: [u64; 2] = [20_000, 3_600_000];

/// Takes one, or removes one.
pub(crate) fn strike(world: &Rc<World>) {
    let is_primary =
        |site: &usize| world.group(*site).is_some_and(|g| g.status().role == Role::Primary);
    let Some(site) = (0..world.sites.len()).find(is_primary) else { return };
    if world.rng.chance(40) {
        remove(world);
    } else {
        take(world, site);
    }
}

fn take(world: &Rc<World>, site: usize) {
    let Some(group) = world.group(site) else { return };
    let Some(process) = world.process(site) else { return };
    let name = world.sites[site].name;
    let kept = Rc::clone(world);
    process.spawn(
        world,
        Box::pin(async move {
            let Some(branch) = kept.serve_branch(site) else { return };
            let asked = kept.count();
            let id = SnapshotId::of(u128::from(asked));
            let members = kept.members(site);
            let number = kept.wishes.borrow().len();
            kept.wishes.borrow_mut().push(Wish {
                id,
                site,
                members,
                content: None,
                image: None,
                removed: false,
                holders: BTreeSet::new(),
                locked: BTreeMap::new(),
            });
            kept.log(format_args!("{name} is asked for snapshot {id}"));
            let (origin, unix_ms) = (SnapshotOrigin::Manual, asked);
            let wish = Command::Snapshot { snapshot: id, name: id.to_string(), origin, unix_ms };
            let answer = group.command(wish).await;
            kept.log(format_args!("{name} took snapshot {id}: {answer:?}"));
            if answer.is_ok() {
                kept.happened("a snapshot is taken");
                let content = branch.borrow().as_of((kept.count(), asked), site);
                if let Some(wish) = kept.wishes.borrow_mut().get_mut(number) {
                    wish.content = Some(content);
                    wish.holders.insert(site);
                }
                kept.check_snapshots(site);
                if asked.is_multiple_of(LOCKED_ONE_IN) {
                    lock(&kept, (site, number, id), &group).await;
                }
            }
        }),
    );
}

/// Locks one for a while.
async fn lock(world: &World, (site, number, id): (usize, usize, SnapshotId), group: &Rc<Group>) {
    let until = world.lock_ms() + LOCK_MS[number % 2];
    let marks = Marks { locked_until_ms: until, ..Marks::default() };
    let answer = group.command(Command::MarkSnapshot { snapshot: id, marks }).await;
    let name = world.sites[site].name;
    world.log(format_args!("{name} locked snapshot {id} until {until}: {answer:?}"));
    if answer.is_ok() {
        world.happened("a snapshot is locked");
        if let Some(wish) = world.wishes.borrow_mut().get_mut(number) {
            wish.locked.insert(site, until);
        }
    }
}

/// At any site that has one.
fn remove(world: &Rc<World>) {
    let site = world.rng.index(world.sites.len());
    let Some(group) = world.group(site) else { return };
    let snapshots = group.status().snapshots;
    if snapshots.is_empty() {
        return;
    }
    let id = snapshots[world.rng.index(snapshots.len())].id;
    let mut locked = false;
    if let Some(wish) = world.wishes.borrow_mut().iter_mut().find(|wish| wish.id == id) {
        wish.removed = true;
        locked = wish.locked.get(&site).is_some_and(|until| *until > world.lock_ms());
    }
    let kept = Rc::clone(world);
    world.spawn(async move {
        if locked {
            // Whoever wants to be rid of it sets the clock.
            let clock = &kept.sites[site].clock_ms;
            clock.set(clock.get() + 2 * 3_600_000);
            kept.happened("a clock is set to end a lock");
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        kept.happened("a snapshot is removed");
        crate::operator::ask(&kept, site, Command::RemoveSnapshot { snapshot: id });
    });
}

impl World {
    /// P11: what a site says that it keeps holds what it must, and the same as everywhere else; what
    /// was promised is there.
    pub(crate) fn check_snapshots(&self, site: usize) {
        let Some(group) = self.group(site) else { return };
        let listed = group.status().snapshots;
        let name = self.sites[site].name;
        for wish in self.wishes.borrow_mut().iter_mut() {
            let found = listed.iter().find(|snapshot| snapshot.id == wish.id);
            for gateway in found.iter().flat_map(|snapshot| &snapshot.held_by) {
                wish.holders.extend(self.site_of(*gateway));
            }
            let usable = found.filter(|snapshot| snapshot.state == SnapshotState::Available);
            let promised = wish.holders.contains(&site) && !wish.removed;
            let Some(snapshot) = usable else {
                let locked = wish.locked.get(&site).is_some_and(|until| *until > self.lock_ms());
                // It goes with the volumes that left the group.
                let stays = wish.members.iter().any(|member| self.is_member(site, *member));
                if locked && stays {
                    self.fail("P12", format!("{name} lost locked snapshot {}: {found:?}", wish.id));
                }
                if promised && stays {
                    self.fail("P11", format!("{name} lost snapshot {}: {found:?}", wish.id));
                }
                continue;
            };
            let places = snapshot.volumes.iter().filter_map(|(volume, here)| {
                let at = self.volumes.iter().position(|known| known == volume)?;
                Some((at, *here))
            });
            let places: Vec<(usize, SnapshotId)> = places.collect();
            let image = match self.sites[site].disks.look_at(&places) {
                Ok(image) => image,
                Err(text) => {
                    self.fail("P11", format!("snapshot {} at {name}: {text}", wish.id));
                    continue;
                }
            };
            let here: Vec<usize> = places.iter().map(|(at, _)| *at).collect();
            if let Some(content) = &wish.content
                && let Err(text) = fits_in(self, &here, content, &image)
            {
                self.fail("P11", format!("snapshot {} at {name}: {text}", wish.id));
            }
            match &wish.image {
                Some(first) => {
                    let others = here.iter().filter(|at| first.has(**at));
                    let text = others.filter_map(|at| differs(first, &image, *at)).next();
                    if let Some(text) = text {
                        let from = self.sites[wish.site].name;
                        let id = wish.id;
                        self.fail("P11", format!("snapshot {id} of {from} at {name}: {text}"));
                    }
                    if site != wish.site {
                        self.happened("a mirror keeps a snapshot");
                    }
                }
                None => wish.image = Some(image),
            }
        }
    }
}
