//! The two halves of a session: each gateway's view of its own, and what becomes of the volume when
//! it turns into a half, or stops being one.
//!
//! ```text
//!   a volume ──take──▶ a half: a mirror's copy ──release──▶ a volume again, of a group of its own
//! ```
//!
//! Invariant: a volume is taken only whole: it has no session, no host, the source's size, and
//! nothing on it that anybody did not consent to lose. A half becomes a volume only if its content is
//! one point in time. Either change is one record: a gateway that is killed finds the one or the
//! other.

mod answers;

use std::sync::Arc;

use api::Code;
use block::{GatewayId, Generation, GroupId, Identity, Quality, VolumeId};
use mirror::{Command, GroupStatus, LegStatus, LinkState, Role, Serving, SessionState};
use store::VolumeRecord;
use uuid::Uuid;

use super::asks::{Answer, Question, Take};
use super::{Gateway, Known};
use crate::book::{GroupEntry, VolumeEntry};
use crate::refusal::Refused;
use crate::restore;
use crate::status::Moment;

/// A session, as this gateway holds it.
#[derive(Clone, Debug)]
pub(crate) struct Half {
    /// The session.
    pub(crate) session: Uuid,
    /// Its volume here.
    pub(crate) volume: VolumeId,
    /// The group.
    pub(crate) entry: GroupEntry,
    /// What the group says.
    pub(crate) status: Arc<GroupStatus>,
    /// When.
    pub(crate) moment: Moment,
    /// The other gateway.
    pub(crate) peer: GatewayId,
    /// Its site.
    pub(crate) site: String,
    /// The leg that carries it, where this gateway is its source.
    pub(crate) leg: Option<LegStatus>,
}

impl Half {
    /// Whether the other side is connected.
    #[must_use]
    pub(crate) fn is_connected(&self) -> bool {
        let link = match &self.leg {
            Some(leg) => Some(leg.link),
            None => self.status.upstream.as_ref().map(|upstream| upstream.link),
        };
        link == Some(LinkState::Connected)
    }

    /// Bytes that may have been written here since the session was suspended. While it is not, what
    /// the two may differ in (after a crash, all that was under way) is no history of its own: the
    /// core compares it.
    #[must_use]
    pub(crate) fn own_bytes(&self) -> u64 {
        let detached = self.status.serving == Serving::Detached;
        let apart = |leg: &&LegStatus| detached || leg.state == SessionState::Suspended;
        let mine = self.status.legs.iter().filter(|leg| leg.gateway == self.peer).filter(apart);
        let sessions = mine.flat_map(|leg| &leg.sessions);
        sessions.filter(|s| s.session.uuid() == self.session).map(|s| s.out_of_sync_bytes).sum()
    }
}

/// The sessions of a group, as this gateway holds them.
fn halves_of(entry: &GroupEntry, status: &Arc<GroupStatus>, moment: Moment) -> Vec<Half> {
    let half = |session: Uuid, volume, (peer, site): (GatewayId, &str), leg| Half {
        session,
        volume,
        entry: entry.clone(),
        status: Arc::clone(status),
        moment,
        peer,
        site: site.to_owned(),
        leg,
    };
    match (status.role, &status.upstream) {
        (Role::Secondary, Some(upstream)) => {
            let pairs = upstream.sessions.iter().zip(&status.volumes);
            let whom = (upstream.gateway, upstream.site.as_str());
            pairs.map(|(s, volume)| half(s.uuid(), volume.volume, whom, None)).collect()
        }
        (Role::Secondary, None) => Vec::new(),
        (Role::Primary | Role::Fenced, _) => {
            let is_source = status.role == Role::Primary;
            let legs = status.legs.iter();
            legs.flat_map(|leg| leg.sessions.iter().map(move |session| (leg, session)))
                .map(|(leg, s)| {
                    let carried = is_source.then(|| leg.clone());
                    half(s.session.uuid(), s.volume, (leg.gateway, &leg.site), carried)
                })
                .collect()
        }
    }
}

impl Gateway {
    /// Every session of which this gateway has a half.
    pub(crate) async fn halves(&self) -> Vec<Half> {
        let known = self.look().await;
        let statuses = known.iter().filter_map(|(entry, known)| match known {
            Known::Status(status, moment) => Some((entry, status, *moment)),
            Known::Nothing(_) => None,
        });
        statuses.flat_map(|(entry, status, moment)| halves_of(entry, status, moment)).collect()
    }

    /// The half of this session.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub(crate) async fn half(&self, session: Uuid) -> Result<Half, Refused> {
        let found = self.halves().await.into_iter().find(|half| half.session == session);
        found.ok_or_else(|| {
            let detail = format!("{} has no half of session {session}", self.config.site.name);
            Refused::new(Code::NotFound, detail)
        })
    }

    /// The half of this session whose other half that gateway has.
    pub(super) async fn half_with(&self, session: Uuid, peer: &Identity) -> Result<Half, Refused> {
        let half = self.half(session).await?;
        if half.peer == peer.gateway {
            return Ok(half);
        }
        let detail = format!("session {session} is none with {}", peer.site);
        Err(Refused::new(Code::Forbidden, detail))
    }

    /// What another gateway asked.
    ///
    /// # Errors
    /// Why it is not done.
    #[expect(clippy::cognitive_complexity, reason = "one line for each question")]
    pub(super) async fn answer(
        self: &Arc<Self>,
        peer: &Identity,
        question: Question,
    ) -> Result<Answer, Refused> {
        match question {
            Question::Take(take) => {
                self.take_volume(peer, &take).await.map(|name| Answer::Taken { name })
            }
            Question::Name { session, remote } => self.name_half(session, remote).await,
            Question::Look { session } => Ok(self.look_at_half(session, peer).await),
            Question::Detach { session } => self.detach_half(session, peer).await,
            Question::Promote { session, carried } => {
                let half = self.half_with(session, peer).await?;
                self.promote_half(&half, &carried).await?;
                Ok(Answer::Done)
            }
            Question::PartOf { name } => self.part_of(peer, &name).await,
            Question::Accompany { group } => self.accompany(peer, group).await,
            Question::Companion { group, state } => {
                self.hear_companion(peer, (group, &state)).await
            }
            Question::PartLook { group } => self.look_for(peer, group).await,
            Question::Do { group, deed } => self.do_for(peer, (group, deed)).await,
            Question::Point { group, snapshot, name } => {
                self.point_for(peer, (group, snapshot), name).await
            }
            Question::Block(lost) => self.block_for(peer, lost).await,
            Question::Reserve(carried) => self.reserve_for(peer, &carried).await,
            Question::Survey { group } => self.survey_for(group, peer).await,
            Question::HandOver { group, drop_hosts } => {
                self.hand_over_for(peer, (group, drop_hosts)).await
            }
            Question::Portals(side) => self.hear_portals(peer, side).await,
            Question::Luns { group, luns } => self.hear_luns(peer, group, luns.into()).await,
            Question::InitiatorLuns { group, luns } => self.hear_luns(peer, group, luns).await,
            Question::Place(place) => self.tell_place(peer, place).await,
            Question::Evs(question) => self.answer_evs(peer, *question).await.map(Answer::Evs),
            Question::Release { session } => {
                let half = self.half_with(session, peer).await?;
                self.release_half(&half).await?;
                Ok(Answer::Done)
            }
            Question::Discard { session, looks } => self.discard_half(peer, (session, looks)).await,
            Question::Part { session } => self.part_with(session, peer).await,
            Question::Run(question) => self.answer_of_run(peer, *question).await.map(Answer::Run),
        }
    }

    /// Makes a copy the source of its session.
    ///
    /// # Errors
    /// [`Code::NeedsConsent`] for one that is not one point in time, or the group's refusal.
    pub(crate) async fn promote_half(
        &self,
        half: &Half,
        carried: &super::asks::Carried,
    ) -> Result<(), Refused> {
        let consent = restore::consent(&half.status).ok_or_else(|| {
            let detail = format!(
                "the copy at {} is half copied and cannot be the source: let the session become \
                 equivalent first",
                self.config.site.name
            );
            Refused::new(Code::NeedsConsent, detail)
        })?;
        let group = half.entry.group();
        self.command(group, Command::Promote { consent }).await?;
        self.events.tell("group", &half.entry.name, "this site became the source: reversed");
        let patch = api::PolicyPatch {
            split: carried.split.clone(),
            recovery: carried.recovery.clone(),
            ..api::PolicyPatch::default()
        };
        self.patch_session(&half.session.to_string(), &patch).await?;
        Ok(())
    }

    // --- a volume becomes a half ---

    /// Makes a volume here the destination of a session whose source is at `peer`; its name.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::BadSize`], [`Code::VolumeInUse`], [`Code::NeedsConsent`], or the
    /// pool's.
    pub(super) async fn take_volume(
        &self,
        peer: &Identity,
        take: &Take,
    ) -> Result<String, Refused> {
        super::volumes::check_size(take.bytes)?;
        let _alone = self.change_alone().await;
        let numbers = self.numbers.read().await?;
        let pages = self.book.read();
        let number = numbers.volume_numbered(take.number);
        let found = match &take.name {
            Some(name) => pages.volume(name),
            None => number.and_then(|n| pages.volume_by_id(VolumeId::from_uuid(n.id))),
        };
        let Some((group, volume)) = found else {
            let what = match &take.name {
                Some(name) => format!("called {name:?}"),
                None => format!("with the number {}", take.number),
            };
            return Err(Refused::new(Code::NotFound, format!("there is no volume {what}")));
        };
        if group.id == take.group && volume.id == take.volume {
            // It is the half that an earlier session left.
            return Ok(volume.name.clone());
        }
        if let Some((other, _)) = pages.volume_by_id(VolumeId::from_uuid(take.volume))
            && other.id != group.id
        {
            let detail = format!("a copy of that source is here already, in group {}", other.name);
            return Err(Refused::new(Code::VolumeInUse, detail));
        }
        let status = self.status_of(group.group()).await?;
        let was_its_mirror = volume.id == take.volume
            && numbers
                .volume(volume.id)
                .is_some_and(|n| n.was_mirror_of == Some(peer.gateway.uuid()));
        let may_lose = take.overwrite || take.keep || was_its_mirror;
        check_free(group, &status, (take.bytes, may_lose))?;
        let id = group.group();
        let shard = self.shard_of(id).clone();
        if shard.call(move |state| state.users_of(id)).await? > 0 {
            let detail = format!("hosts are attached to {}", volume.name);
            return Err(Refused::new(Code::VolumeInUse, detail));
        }
        let (group, volume) = (group.clone(), volume.clone());
        shard.run(move |state| async move { state.shut(id).await }).await?;
        let taken = self.change_half(&group, &volume, take).await;
        if taken.is_err() && self.book.read().group_by_id(id).is_some() {
            self.open_group_soon(&group).await?;
        }
        taken?;
        self.board.remove(id);
        let text = format!("became the destination of a session from {}", peer.site);
        self.events.tell("volume", &volume.name, text);
        Ok(volume.name)
    }

    /// Replaces a closed group of one volume by a mirror's.
    async fn change_half(
        &self,
        group: &GroupEntry,
        volume: &VolumeEntry,
        take: &Take,
    ) -> Result<(), Refused> {
        self.require_filled(group)?;
        self.require_fills_nobody(&volume.name, VolumeId::from_uuid(volume.id))?;
        let id = VolumeId::from_uuid(take.volume);
        let replaced = volume.id != take.volume;
        if replaced && !take.keep {
            self.refuse_locked(group.group(), &[VolumeId::from_uuid(volume.id)]).await?;
        }
        let new = GroupId::from_uuid(take.group);
        let record = if replaced {
            // Its name in the pool is for repairs only; the old one holds its own until it is gone.
            let created = self.clock.unix_s();
            let fresh = VolumeRecord {
                id,
                name: take.volume.to_string(),
                bytes: take.bytes,
                created,
                origin: None,
            };
            let (keep, old) = (take.keep, VolumeId::from_uuid(volume.id));
            self.on_pool(move |pool| {
                if pool.volume(id).is_some() {
                    // Left by an attempt that was cut short: nobody was ever told of it.
                    pool.delete_volume(id)?;
                }
                // Content that stays has both identities until the old one is removed.
                if keep { pool.share_volume(old, fresh) } else { pool.create_volume(fresh) }
            })
            .await?;
            if keep {
                mirror::found_holding(new, &group.name, vec![id])
            } else {
                mirror::found_secondary(new, &group.name, vec![id])
            }
        } else if take.keep {
            mirror::found_holding(new, &group.name, vec![id])
        } else {
            mirror::found_adopted(new, &group.name, vec![id])
        };
        let entry = GroupEntry {
            id: take.group,
            name: group.name.clone(),
            volumes: vec![VolumeEntry { id: take.volume, ..volume.moved() }],
        };
        let mut records = vec![record];
        if replaced {
            // With the content go the names of its snapshots, and what host protocols keep of it.
            for key in [mirror::Group::snapshots_key, mirror::Group::attributes_key] {
                let old = key(VolumeId::from_uuid(volume.id));
                if take.keep {
                    let kept = self.record(group.group(), old.clone()).await?;
                    records.push((key(id), kept));
                }
                records.push((old, None));
            }
        }
        self.replace_group(group, &entry, records, |numbers| {
            numbers.change_identity(volume.id, take.volume);
        })
        .await?;
        self.open_group_soon(&entry).await?;
        if replaced {
            self.remove_from_pool(VolumeId::from_uuid(volume.id)).await?;
        }
        Ok(())
    }

    /// A record of the ledger, which a group's thread reads.
    pub(crate) async fn record(
        &self,
        group: GroupId,
        key: String,
    ) -> Result<Option<bytes::Bytes>, Refused> {
        let read =
            move |state: &std::rc::Rc<crate::shard::state::ShardState>| state.ledger().get(&key);
        Ok(self.shard_of(group).call(read).await??)
    }

    /// One record: the old group is gone, the new one is there, and the numbers say so.
    async fn replace_group(
        &self,
        old: &GroupEntry,
        new: &GroupEntry,
        fresh: Vec<(String, Option<bytes::Bytes>)>,
        renumber: impl FnOnce(&mut crate::numbers::Numbers),
    ) -> Result<(), Refused> {
        let mut numbers = self.numbers.begin().await?;
        renumber(&mut numbers.next);
        let mut records = vec![(mirror::Group::record_key(old.group()), None)];
        records.extend(fresh);
        records.push(numbers.record());
        self.book
            .change(records, |pages| {
                for entry in pages.groups.iter_mut().filter(|entry| entry.id == old.id) {
                    *entry = new.clone();
                }
                Ok::<(), Refused>(())
            })
            .await?;
        numbers.done();
        Ok(())
    }

    // --- a half becomes a volume ---

    /// Makes a copy whose session is deleted a group of its own, with all its volumes, which hosts can
    /// attach. Hosts that were attached to it are dropped once.
    ///
    /// # Errors
    /// [`Code::NotSecondary`] where this gateway is the source; [`Code::CopyStale`] for a half copied
    /// one, which is of no use to hosts.
    pub(crate) async fn release_half(&self, half: &Half) -> Result<(), Refused> {
        let _alone = self.change_alone().await;
        let old = half.entry.clone();
        let status = self.status_of(old.group()).await?;
        if half.leg.is_some() || status.role == Role::Primary {
            return Err(Refused::new(Code::NotSecondary, "this gateway is the source"));
        }
        let is_point = match status.quality {
            Quality::Blank | Quality::Outdated | Quality::InSync | Quality::Source => true,
            // One that follows behind is a point in time only where its newest cut is, which only a
            // promotion goes back to. What was taken with its content, and not changed since, is what
            // it was.
            Quality::Inconsistent | Quality::Consistent => status.is_foreign,
        };
        if !is_point {
            // It stays closed; its session is listed no more, and it can be deleted or taken again.
            let sessions = status.upstream.as_ref().map(|up| up.sessions.clone());
            let delete = |numbers: &mut crate::numbers::Numbers| {
                for session in sessions.into_iter().flatten() {
                    numbers.give_session(session.uuid()).is_deleted = true;
                }
            };
            self.numbers.change(&self.book, delete).await?;
            let detail =
                format!("the copy of {} is no point in time: no host can use it", old.name);
            let next = format!("twinspan session delete {} --half --with-volume", old.name);
            return Err(Refused::new(Code::CopyStale, detail).next(next));
        }
        let new = GroupEntry { id: Uuid::now_v7(), ..old.clone() };
        let generation = Generation::from_uuid(Uuid::now_v7());
        let record = mirror::found_primary(new.group(), &new.name, old.volume_ids(), generation);
        let group = old.group();
        let shard = self.shard_of(group).clone();
        shard.run(move |state| async move { state.shut(group).await }).await?;
        let was_mirror_of = half.peer.uuid();
        let replaced = self.replace_group(&old, &new, vec![record], |numbers| {
            for volume in &old.volumes {
                numbers.give_volume(volume.id).was_mirror_of = Some(was_mirror_of);
            }
        });
        if let Err(refused) = replaced.await {
            self.open_group_soon(&old).await?;
            return Err(refused);
        }
        self.board.remove(group);
        self.forget_maps(&status).await?;
        self.open_group_soon(&new).await?;
        let text = format!("is on its own; its session with {} is deleted", half.site);
        self.events.tell("volume", &new.name, text);
        Ok(())
    }

    /// What mirrors may lack of a group that is gone concerns nobody.
    pub(super) async fn forget_maps(&self, status: &GroupStatus) -> Result<(), Refused> {
        let group = status.group;
        let keys = status.legs.iter().flat_map(|leg| {
            let volumes = status.volumes.iter();
            volumes.map(|v| (mirror::Group::dirty_key(group, leg.gateway, v.volume), None))
        });
        let keys: Vec<_> = keys.collect();
        if keys.is_empty() {
            return Ok(());
        }
        self.book.change(keys, |_pages| Ok::<(), Refused>(())).await
    }
}

/// Whether a volume can become a destination.
fn check_free(
    group: &GroupEntry,
    status: &GroupStatus,
    (bytes, may_lose): (u64, bool),
) -> Result<(), Refused> {
    let ([entry], [volume]) = (group.volumes.as_slice(), status.volumes.as_slice()) else {
        let detail = format!("it is one of {} volumes of its group", group.volumes.len());
        return Err(Refused::new(Code::VolumeInUse, detail));
    };
    let is_alone = status.role == Role::Primary && status.legs.is_empty();
    if !is_alone || status.serving != Serving::Yes {
        let detail = format!("{} is the source or the destination of another session", entry.name);
        return Err(Refused::new(Code::VolumeInUse, detail));
    }
    if volume.bytes != bytes {
        let detail = format!(
            "the source has {bytes} bytes and {} has {}: a session needs the same size",
            entry.name, volume.bytes
        );
        return Err(Refused::new(Code::BadSize, detail));
    }
    if volume.mapped_bytes > 0 && !may_lose {
        let held = api::units::bytes_text(volume.mapped_bytes);
        let detail = format!("{} holds {held} that would be lost", entry.name);
        return Err(Refused::new(Code::NeedsConsent, detail));
    }
    Ok(())
}
