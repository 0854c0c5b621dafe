//! The volumes of a group that is mirrored here: they are what its primary says when it opens it.
//!
//! Invariant: a volume that is served here, or follows another primary, is never taken from its
//! group by an offer. What the primary no longer names goes on here as an old copy in a group of
//! its own. Whoever is to be fenced or sent away changes nothing here.

use std::collections::BTreeMap;

use block::{Epoch, GatewayId, GroupId, Open, VolumeId, VolumeOffer};
use mirror::{GROUP_VOLUMES_MAX, GroupStatus, Leaver, LinkState, Role, Serving};
use uuid::Uuid;

use super::Gateway;
use super::incoming::NotNow;
use super::members::own_name;
use super::volumes::{NewVolume, check_size};
use crate::book::{GroupEntry, VolumeEntry};
use crate::names::is_name;
use crate::refusal::Refused;

/// What has to happen here before an offer can be taken.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    /// Volumes that are not here at all.
    pub(crate) new: Vec<VolumeOffer>,
    /// Groups of one volume each, unserved copies, whose volumes the offer names.
    pub(crate) adopted: Vec<GroupEntry>,
}

impl Needs {
    /// The volume that was adopted, as the book knew it, or as it will know the new one.
    pub(crate) fn entry(&self, offer: &VolumeOffer) -> VolumeEntry {
        let adopted = self.adopted.iter().flat_map(|group| &group.volumes);
        let known = adopted.into_iter().find(|volume| volume.id == offer.volume.uuid());
        known.map(VolumeEntry::moved).unwrap_or_else(|| VolumeEntry {
            id: offer.volume.uuid(),
            name: offer.name.clone(),
            settings: api::VolumeSettings::default(),
            lun: None,
            initiator_luns: BTreeMap::new(),
        })
    }
}

fn highest_epoch(status: &GroupStatus) -> Epoch {
    status.serving.fenced_by().map_or(status.epoch, |by| by.max(status.epoch))
}

/// How a volume that a deleted session left becomes its destination again: nobody knows any more what
/// changed since, and a comparison is cheaper than to delete it and copy everything.
fn way_back(name: &str, site: &str) -> String {
    format!(
        ". It is a volume of its own since its session was deleted; to have it compared, and sent what \
         differs: twinspan session delete {name}:{site}, then twinspan session create {name} --to \
         {site} --skip-initial-copy"
    )
}

/// Whether the group's own word on this primary is no, whatever volumes it names.
fn will_refuse(status: &GroupStatus, open: &Open, from: GatewayId) -> bool {
    let known = highest_epoch(status);
    let other = |status: &GroupStatus| {
        status.upstream.as_ref().is_some_and(|upstream| {
            upstream.gateway != from && upstream.link == LinkState::Connected
        })
    };
    let detached = status.serving == Serving::Detached && !open.discard;
    let sourced = status.upstream.as_ref().is_some_and(|upstream| upstream.gateway != from);
    let relayed = open.relayed && (status.role != Role::Secondary || sourced);
    open.epoch < known
        || detached
        || relayed
        || (open.epoch == known && (status.role == Role::Primary || other(status)))
}

fn never(refused: Refused) -> NotNow {
    NotNow::Never(refused.0.detail)
}

fn later(refused: Refused) -> NotNow {
    NotNow::Later(refused.0.detail)
}

impl Gateway {
    /// Looks at what an offer names and the group does not have here (`group`: if it exists).
    ///
    /// # Errors
    /// What does not fit, by name.
    pub(crate) async fn needs_of(
        &self,
        open: &Open,
        group: Option<&GroupEntry>,
        from: GatewayId,
    ) -> Result<Needs, NotNow> {
        if open.volumes.is_empty() || open.volumes.len() > GROUP_VOLUMES_MAX {
            let why = format!("a group has 1 to {GROUP_VOLUMES_MAX} volumes");
            return Err(NotNow::Never(why));
        }
        let mut needs = Needs::default();
        let pages = self.book.read();
        for offer in &open.volumes {
            check_size(offer.bytes).map_err(never)?;
            match pages.volume_by_id(offer.volume) {
                Some((there, _)) if group.is_some_and(|group| group.id == there.id) => {}
                Some((there, _)) => {
                    self.check_adoption(there, offer, from).await?;
                    needs.adopted.push(there.clone());
                }
                None if !is_name(&offer.name) => {
                    return Err(NotNow::Never("a name is not valid here".to_owned()));
                }
                None if pages.volume(&offer.name).is_some() => {
                    let why =
                        format!("a volume {:?} exists here with another identity", offer.name);
                    return Err(NotNow::Never(why));
                }
                None => needs.new.push(offer.clone()),
            }
        }
        Ok(needs)
    }

    /// A volume that is here in another group may be taken over if nobody else has a use for it: an
    /// old copy, alone, that follows nobody else.
    async fn check_adoption(
        &self,
        there: &GroupEntry,
        offer: &VolumeOffer,
        from: GatewayId,
    ) -> Result<(), NotNow> {
        let status = self.status_of(there.group()).await.map_err(later)?;
        let upstream = status.upstream.as_ref();
        let follows_another = upstream.is_some_and(|upstream| upstream.gateway != from);
        if !follows_another && upstream.is_some_and(|u| u.link == LinkState::Connected) {
            // Its primary has let go of it already; that link is about to end.
            return Err(NotNow::Later(format!("volume {} is still mirrored here", offer.name)));
        }
        let is_idle = status.role == Role::Secondary && status.serving != Serving::Detached;
        if there.volumes.len() == 1 && is_idle && !follows_another {
            return Ok(());
        }
        let (name, site) = (&offer.name, &self.config.site.name);
        let is_own = status.role == Role::Primary && status.legs.is_empty();
        let way =
            if is_own && there.volumes.len() == 1 { way_back(name, site) } else { String::new() };
        let group = &there.name;
        Err(NotNow::Never(format!("volume {name:?} is in another group at {site}: {group}{way}")))
    }

    /// Makes the group's volumes those of the offer. The caller holds the right to change.
    ///
    /// # Errors
    /// What does not fit, by name; then nothing was changed.
    pub(crate) async fn follow_members(
        &self,
        entry: &GroupEntry,
        open: &Open,
        from: GatewayId,
    ) -> Result<(), NotNow> {
        let group = entry.group();
        let status = self.status_of(group).await.map_err(later)?;
        if will_refuse(&status, open, from) {
            return Ok(());
        }
        if status.serving == Serving::Detached && !open.discard {
            let name = &entry.name;
            let why = format!("the copy of {name} here is detached, and its volumes would change");
            return Err(NotNow::Never(why));
        }
        let needs = self.needs_of(open, Some(entry), from).await?;
        let new = needs.new.iter().map(NewVolume::offered).collect();
        self.make_volumes(new).await.map_err(never)?;
        let pages = self.book.read();
        let leavers: Vec<Leaver> = entry
            .volumes
            .iter()
            .filter(|volume| !open.volumes.iter().any(|offer| offer.volume.uuid() == volume.id))
            .map(|volume| Leaver {
                volume: VolumeId::from_uuid(volume.id),
                group: GroupId::from_uuid(Uuid::now_v7()),
                name: own_name(&pages, &volume.name, None),
            })
            .collect();
        self.shut_group(group).await.map_err(later)?;
        for adopted in &needs.adopted {
            self.shut_group(adopted.group()).await.map_err(later)?;
        }
        let changed = self.record_members(entry, open, (&needs, &leavers)).await;
        let reopened = self.open_all_of(entry, &needs, &leavers, changed.is_ok()).await;
        changed.map_err(later)?;
        reopened.map_err(later)?;
        let count = open.volumes.len();
        let text = format!("it has {count} volumes now, as its primary says");
        self.events.tell("group", &entry.name, text);
        Ok(())
    }

    async fn record_members(
        &self,
        entry: &GroupEntry,
        open: &Open,
        (needs, leavers): (&Needs, &[Leaver]),
    ) -> Result<(), Refused> {
        let key = mirror::Group::record_key(entry.group());
        let shard = self.shard_of(entry.group()).clone();
        let record = shard.call(move |state| state.ledger().get(&key)).await??;
        let unreadable = |why: String| Refused::new(api::Code::NotOpened, why);
        let record = record.ok_or_else(|| unreadable("the group has no record".to_owned()))?;
        let mut records = mirror::regroup_mirror(&record, open, leavers)
            .map_err(|error| unreadable(error.to_string()))?;
        let adopted = needs.adopted.iter();
        records.extend(adopted.map(|group| (mirror::Group::record_key(group.group()), None)));
        let volumes = members_after(entry, open, needs);
        let own: Vec<GroupEntry> = leavers.iter().map(|leaver| own_group(entry, leaver)).collect();
        self.book
            .change(records, |pages| {
                pages.groups.retain(|g| !needs.adopted.iter().any(|adopted| adopted.id == g.id));
                for group in pages.groups.iter_mut().filter(|group| group.id == entry.id) {
                    group.volumes.clone_from(&volumes);
                }
                pages.groups.extend(own);
                Ok(())
            })
            .await
    }

    async fn open_all_of(
        &self,
        entry: &GroupEntry,
        needs: &Needs,
        leavers: &[Leaver],
        is_changed: bool,
    ) -> Result<(), Refused> {
        let pages = self.book.read();
        let now = pages.group_by_id(entry.group()).unwrap_or(entry);
        self.open_group_soon(now).await?;
        if is_changed {
            for leaver in leavers {
                self.open_group_soon(&own_group(entry, leaver)).await?;
            }
        } else {
            for adopted in &needs.adopted {
                self.open_group_soon(adopted).await?;
            }
        }
        Ok(())
    }
}

fn members_after(entry: &GroupEntry, open: &Open, needs: &Needs) -> Vec<VolumeEntry> {
    open.volumes
        .iter()
        .map(|offer| {
            let known = entry.volumes.iter().find(|volume| volume.id == offer.volume.uuid());
            known.cloned().unwrap_or_else(|| needs.entry(offer))
        })
        .collect()
}

fn own_group(entry: &GroupEntry, leaver: &Leaver) -> GroupEntry {
    let volumes = entry.volumes.iter().filter(|volume| volume.id == leaver.volume.uuid());
    GroupEntry {
        id: leaver.group.uuid(),
        name: leaver.name.clone(),
        volumes: volumes.map(VolumeEntry::moved).collect(),
    }
}
