//! Sessions of initiators at one or several volumes of a group.
//!
//! Invariant: a session has all the disks that its initiator was to be given, or is dropped. One at a
//! group's target is given those that are added while it lasts; none is taken from it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::{Rc, Weak};

use api::VolumeSettings;
use block::{GroupId, VolumeId};
use iscsi::{Attachment, InitiatorInfo, LoggedIn, Lun, More, Told};
use tokio_util::sync::CancellationToken;

use super::initiators::Disk;
use super::{OpenGroup, ShardState};
use crate::access::may_log_in;
use crate::book::VolumeEntry;
use crate::ways::Paths;

/// A volume that an initiator is given, and as which disk of its target.
pub(crate) struct Wanted {
    /// Which.
    pub(crate) volume: VolumeId,
    /// Its name, for metrics and logs.
    pub(crate) label: String,
    /// Its number.
    pub(super) lun: u8,
    /// Whether the initiator may only read.
    pub(super) read_only: bool,
    settings: VolumeSettings,
}

impl Wanted {
    /// The volume as the book has it.
    pub(crate) fn of(entry: &VolumeEntry, lun: u8) -> Self {
        let (volume, settings) = (VolumeId::from_uuid(entry.id), entry.settings.clone());
        Self { volume, label: entry.name.clone(), lun, read_only: settings.read_only, settings }
    }
}

/// A disk with all that one more session at it needs.
pub(super) struct Seat {
    /// Of what.
    pub(super) volume: VolumeId,
    /// The disk.
    pub(super) disk: Disk,
    /// Its number.
    pub(super) lun: u8,
    /// Its name, for metrics and logs.
    pub(super) label: String,
    /// Whether the session may only read, as the settings were when its initiator came: those of others,
    /// who came before, stay as they are.
    pub(super) read_only: bool,
    /// Those who have it.
    pub(super) count: Rc<Cell<usize>>,
    /// Cancelled when they are dropped.
    pub(super) closing: CancellationToken,
}

/// A session with a group's target.
pub(super) struct Together {
    group: GroupId,
    initiator: InitiatorInfo,
    target: String,
    /// What it has.
    volumes: RefCell<Vec<VolumeId>>,
    counts: RefCell<Vec<Rc<Cell<usize>>>>,
    more: More,
    stop: CancellationToken,
    over: CancellationToken,
}

impl ShardState {
    /// Seats an initiator's session at the only volume of its target.
    pub(crate) fn seat_initiator(&self, group: GroupId, wanted: Wanted, host: LoggedIn) {
        let Some(open) = self.group(group) else { return };
        let paths = self.parts.ways.of(&open.group.status());
        let target = host.target().name.clone();
        if let Some(seat) = self.seat_in(&open, wanted, (&target, &paths)) {
            self.seat_at(vec![seat], open.closing.child_token(), host);
        }
    }

    /// Seats an initiator's session at a group's target.
    pub(crate) fn seat_together(&self, group: GroupId, disks: Vec<Wanted>, host: LoggedIn) {
        let Some(open) = self.group(group) else { return };
        let paths = self.parts.ways.of(&open.group.status());
        let target = host.target().name.clone();
        let seats = disks.into_iter().map(|wanted| self.seat_in(&open, wanted, (&target, &paths)));
        let seats: Option<Vec<Seat>> = seats.collect();
        let Some(seats) = seats.filter(|seats| !seats.is_empty()) else { return };
        let session = Rc::new(Together {
            group,
            initiator: host.initiator().clone(),
            target,
            volumes: RefCell::new(seats.iter().map(|seat| seat.volume).collect()),
            counts: RefCell::default(),
            more: More::default(),
            stop: open.closing.child_token(),
            over: CancellationToken::new(),
        });
        let mut known = self.together.borrow_mut();
        known.retain(|session| session.strong_count() > 0);
        known.push(Rc::downgrade(&session));
        drop(known);
        let (more, stop) = (Rc::clone(&session.more), session.stop.clone());
        self.seat_with((seats, more), stop, host, move || {
            session.over.cancel();
            session.counts.take().iter().for_each(one_less);
        });
    }

    /// How many of these initiators, by their names in lower case, are logged in to a volume at its
    /// group's target.
    pub(crate) fn logged_in_as(
        &self,
        (group, volume): (GroupId, VolumeId),
        names: &BTreeSet<String>,
    ) -> usize {
        let known = self.together.borrow();
        let sessions = known.iter().filter_map(Weak::upgrade);
        let has = |session: &Rc<Together>| {
            session.group == group
                && names.contains(&session.initiator.name.to_ascii_lowercase())
                && session.volumes.borrow().contains(&volume)
        };
        sessions.filter(has).count()
    }

    /// Gives the sessions at a group's target what they do not have of these.
    pub(crate) fn grow_sessions(&self, group: GroupId, disks: &[VolumeEntry]) {
        let Some(open) = self.group(group) else { return };
        let sessions: Vec<_> = self.together.borrow().iter().filter_map(Weak::upgrade).collect();
        let paths = self.parts.ways.of(&open.group.status());
        for session in sessions.iter().filter(|session| session.group == group) {
            for entry in disks {
                let Some(lun) = entry.lun_for(&session.initiator.name) else { continue };
                let wanted = Wanted::of(entry, lun);
                let has = session.volumes.borrow().contains(&wanted.volume);
                if has || !may_log_in(&wanted.settings, &session.initiator) {
                    continue;
                }
                if let Some(seat) = self.seat_in(&open, wanted, (&session.target, &paths)) {
                    self.add(session, seat);
                }
            }
        }
    }

    fn add(&self, session: &Together, seat: Seat) {
        let Seat { volume, disk, lun: number, label, read_only, count, closing } = seat;
        let Disk { unit, volume: content, .. } = disk;
        count.set(count.get() + 1);
        session.volumes.borrow_mut().push(volume);
        session.counts.borrow_mut().push(count);
        session.more.borrow_mut().push(Lun { number, volume: content, unit, label, read_only });
        let (stop, over) = (session.stop.clone(), session.over.clone());
        self.spawn(async move {
            tokio::select! {
                () = closing.cancelled() => stop.cancel(),
                () = over.cancelled() => {}
            }
        });
    }

    fn seat_in(
        &self,
        open: &OpenGroup,
        wanted: Wanted,
        (target, paths): (&str, &Paths),
    ) -> Option<Seat> {
        let of = open.volume(wanted.volume).filter(|of| !of.is_closed.get())?;
        let disk = self.disk_of(open, &of, target, paths)?;
        disk.follow(&open.group, paths);
        let (count, closing) = (of.sessions, of.closing.borrow().clone());
        let Wanted { volume, label, lun, read_only, .. } = wanted;
        Some(Seat { volume, disk, lun, label, read_only, count, closing })
    }

    /// Serves a session at these disks until it ends or one of them is let go of.
    pub(super) fn seat_at(&self, seats: Vec<Seat>, stop: CancellationToken, host: LoggedIn) {
        self.seat_with((seats, More::default()), stop, host, || {});
    }

    fn seat_with(
        &self,
        (seats, more): (Vec<Seat>, More),
        stop: CancellationToken,
        host: LoggedIn,
        ended: impl FnOnce() + 'static,
    ) {
        let portals =
            seats.first().map_or_else(Told::default, |seat| Rc::clone(&seat.disk.portals));
        let (mut luns, mut counts, mut closings) = (Vec::new(), Vec::new(), Vec::new());
        for Seat { disk, lun: number, label, read_only, count, closing, .. } in seats {
            let Disk { unit, volume, .. } = disk;
            luns.push(Lun { number, volume, unit, label, read_only });
            count.set(count.get() + 1);
            counts.push(count);
            closings.push(closing);
        }
        let attachment = Attachment { luns, more, portals, stop: stop.clone() };
        self.spawn(async move {
            let closed = closings.iter().map(|token| Box::pin(token.cancelled()));
            let mut serving = std::pin::pin!(iscsi::serve(host, attachment));
            tokio::select! {
                _ending = &mut serving => {}
                _closed = futures_util::future::select_all(closed) => {
                    stop.cancel();
                    serving.await;
                }
            }
            counts.iter().for_each(one_less);
            ended();
        });
    }
}

fn one_less(count: &Rc<Cell<usize>>) {
    count.set(count.get().saturating_sub(1));
}
