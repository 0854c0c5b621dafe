//! Volumes that join and leave the group, and mirrors that follow.
//!
//! Invariant: who belongs is written in the same record as the group's own list, as the gateway's
//! book is. A volume that does not belong is written to by nobody.

use std::rc::Rc;

use block::{Completions, GroupId, Ledger, Op, Open, Request, SessionId, Store};
use bytes::Bytes;
use mirror::{Group, GroupStatus, Leaver, LinkState, Role, Serving};

use crate::process::Process;
use crate::world::{GROUP, World};

/// Where a gateway keeps who belongs.
const KEY: &str = "sim/members";

/// A record of who belongs.
fn record(members: &[usize]) -> (String, Option<Bytes>) {
    let index = |member: &usize| u8::try_from(*member).expect("there are few volumes");
    (KEY.to_owned(), Some(members.iter().map(index).collect()))
}

/// Who belongs, as a gateway remembers it.
pub(crate) fn recorded(ledger: &dyn Ledger, founding: usize) -> Vec<usize> {
    let bytes = ledger.get(KEY).ok().flatten();
    bytes.map_or_else(
        || (0..founding).collect(),
        |bytes| bytes.iter().map(|byte| usize::from(*byte)).collect(),
    )
}

/// Whether the group's own word on this primary is no, whatever volumes it names.
fn will_refuse(status: &GroupStatus, open: &Open, from: usize, world: &World) -> bool {
    let by = status.serving.fenced_by();
    let known = by.map_or(status.epoch, |by| by.max(status.epoch));
    let other = status.upstream.as_ref().is_some_and(|upstream| {
        world.site_of(upstream.gateway) != Some(from) && upstream.link == LinkState::Connected
    });
    let detached = status.serving == Serving::Detached && !open.discard;
    open.epoch < known
        || detached
        || (open.epoch == known && (status.role == Role::Primary || other))
}

/// Asks a store that answers later to make everything durable.
async fn flush(store: Rc<dyn Store>) {
    let queue = Completions::new();
    let request = Request { op: Op::Flush, fua: false, ticket: queue.ticket(0) };
    store.submit(&mut vec![request]);
    std::future::poll_fn(|context| queue.poll_ready(context)).await;
}

impl World {
    /// Who belongs to the group, as a site knows it.
    pub(crate) fn members(&self, site: usize) -> Vec<usize> {
        self.sites[site].members.borrow().clone()
    }

    /// Whether a volume belongs to the group at a site.
    pub(crate) fn is_member(&self, site: usize, volume: usize) -> bool {
        self.sites[site].members.borrow().contains(&volume)
    }

    /// A volume that may join or leave does the one or the other.
    pub(crate) fn change_members(self: &Rc<Self>) {
        let rules = |site: &usize| {
            let role = self.group(*site).map(|group| group.status().role);
            role == Some(Role::Primary)
        };
        let Some(site) = (0..self.sites.len()).find(rules) else { return };
        let Some(process) = self.process(site) else { return };
        let extras = self.volumes.len() - self.setup.founding;
        let volume = self.setup.founding + self.rng.index(extras);
        if self.is_member(site, volume) {
            self.dismiss(&process, volume);
        } else {
            self.enlist(&process, volume);
        }
    }

    fn enlist(self: &Rc<Self>, process: &Rc<Process>, volume: usize) {
        let (world, gateway) = (Rc::clone(self), Rc::clone(process));
        let site = process.site;
        let Some(group) = process.group().filter(|_| !process.has_left(volume)) else { return };
        process.spawn(
            self,
            Box::pin(async move {
                flush(gateway.store(volume)).await;
                let Some(branch) = world.serve_branch(site) else { return };
                let Some(image) = world.image(site) else { return };
                if world.is_member(site, volume) {
                    return;
                }
                branch.borrow_mut().rebase_volume(volume, |sector| image.peek(volume, sector));
                for other in world.others(site).filter(|other| world.is_member(*other, volume)) {
                    // It was away when the volume left, and has it as it was then.
                    world.sites[other].dated.borrow_mut().insert(volume);
                }
                world.expect_full(site);
                let mut members = world.members(site);
                members.push(volume);
                let first = u128::from(world.count()) * 100;
                let sessions = (0..8).map(|n| SessionId::of(first + n)).collect();
                let id = world.volumes[volume];
                let joining = (id, format!("volume-{volume}"), gateway.store(volume));
                let name = world.sites[site].name;
                world.log(format_args!("volume {volume} joins at {name}"));
                let answer = group.enlist(joining, sessions, vec![record(&members)]).await;
                world.log(format_args!("volume {volume} joins at {name}: {answer:?}"));
                if answer.is_ok() {
                    world.happened("a volume joins the group");
                    *world.sites[site].members.borrow_mut() = members;
                }
            }),
        );
    }

    fn dismiss(self: &Rc<Self>, process: &Rc<Process>, volume: usize) {
        let (world, gateway) = (Rc::clone(self), Rc::clone(process));
        let site = process.site;
        let Some(group) = process.group() else { return };
        process.spawn(
            self,
            Box::pin(async move {
                let Some(branch) = world.serve_branch(site) else { return };
                // What becomes of it from here on is its own affair.
                branch.borrow_mut().let_go(volume);
                let mut members = world.members(site);
                members.retain(|member| *member != volume);
                let to = (GroupId::of(u128::from(world.count())), "own".to_owned());
                let name = world.sites[site].name;
                world.log(format_args!("volume {volume} leaves at {name}"));
                let id = world.volumes[volume];
                let answer = group.dismiss(id, to, vec![record(&members)]).await;
                world.log(format_args!("volume {volume} leaves at {name}: {answer:?}"));
                if answer.is_ok() {
                    world.happened("a volume leaves the group");
                    gateway.leaves(volume);
                    *world.sites[site].members.borrow_mut() = members;
                }
            }),
        );
    }

    /// A primary offers a list of volumes that is not the one here; says whether the group takes
    /// the offer as it is. If not, it is changed first, and the primary comes again.
    pub(crate) fn takes(self: &Rc<Self>, process: &Rc<Process>, open: &Open, from: usize) -> bool {
        let site = process.site;
        let find = |id| self.volumes.iter().position(|volume| *volume == id);
        let offered: Option<Vec<usize>> = open.volumes.iter().map(|o| find(o.volume)).collect();
        let Some(offered) = offered else { return true };
        let Some(group) = process.group() else { return true };
        if process.is_following() {
            // The group is closed: nobody is there to take an offer.
            return false;
        }
        let known = self.members(site);
        if offered == known || will_refuse(&group.status(), open, from, self) {
            return true;
        }
        if !process.begins_to_follow() {
            return false;
        }
        self.happened("a mirror follows a change of members");
        let (world, gateway, open) = (Rc::clone(self), Rc::clone(process), open.clone());
        process.spawn(
            self,
            Box::pin(async move {
                let name = world.sites[site].name;
                world.log(format_args!("{name} has {known:?} and is told {offered:?}"));
                let closed = group.close().await;
                world.log(format_args!("{name} closed: {closed:?}"));
                follow(&world, &gateway, (&open, &known, &offered)).await;
                let kept = Rc::clone(&world);
                world.spawn(async move {
                    if kept.process(site).is_some_and(|now| now.number == gateway.number) {
                        kept.kill(site);
                        kept.start(site);
                    }
                    // What a disk without room did not take did not happen: the copy keeps its cut.
                    let now = kept.process(site).unwrap_or(gateway);
                    let members = recorded(&*now.ledger(), kept.setup.founding);
                    let is_new =
                        |volume: &&usize| !known.contains(volume) && members.contains(volume);
                    for volume in offered.iter().filter(is_new) {
                        kept.note_new(site, *volume);
                        kept.sites[site].points.borrow_mut().clear();
                    }
                });
            }),
        );
        false
    }
}

/// Records the members that are offered.
async fn follow(
    world: &Rc<World>,
    process: &Rc<Process>,
    (open, known, offered): (&Open, &[usize], &[usize]),
) {
    let ledger = process.ledger();
    let Ok(Some(was)) = ledger.get(&Group::record_key(GROUP)) else { return };
    let leaver = |volume: &usize| Leaver {
        volume: world.volumes[*volume],
        group: GroupId::of(u128::from(world.count())),
        name: "own".to_owned(),
    };
    let leavers: Vec<Leaver> =
        known.iter().filter(|volume| !offered.contains(volume)).map(leaver).collect();
    let Ok(mut records) = mirror::regroup_mirror(&was, open, &leavers) else { return };
    records.push(record(offered));
    let queue = Completions::new();
    ledger.put(records, queue.ticket(0));
    std::future::poll_fn(|context| queue.poll_ready(context)).await;
}
