//! Which disk of which iSCSI target a volume is: said at the primary, and told to its mirrors, so that a
//! host finds at each site what it finds at the other.
//!
//! Invariant: a volume is at one target, and two volumes of a target have different numbers. Neither
//! changes while an initiator is known to be logged in to the volume. A mirror goes by its primary.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api::{Code, Volume};
use block::{GroupId, Identity, VolumeId};
use mirror::{LinkState, Role};
use uuid::Uuid;

use super::Gateway;
use super::asks::{Answer, Question};
use crate::book::{GroupEntry, VolumeEntry};
use crate::refusal::Refused;
use crate::targets::{TARGET_NAME_BYTES_MAX, group_tail};

/// How soon a mirror is told that was not reached.
const RETRY: Duration = Duration::from_secs(2);

/// Refusals that pass, beside those of any question: the mirror does not follow yet, lacks a volume that
/// is joining, or has an initiator who is to log out first.
const PASSES: [Code; 3] = [Code::Forbidden, Code::NotFound, Code::VolumeInUse];

/// The volumes of a group that have a number.
pub(crate) type Luns = Vec<(Uuid, u8)>;

/// A gateway, and the group that it mirrors.
type Mirror = (Uuid, Uuid);

/// What each mirror has heard.
type Told = HashMap<Mirror, Luns>;

impl Gateway {
    /// Makes a volume a disk of its group's target, or again the only disk of a target of its own.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::Exists`] when another volume of the group has the number;
    /// [`Code::VolumeInUse`] while initiators are logged in to it; [`Code::NotPrimary`] at a mirror;
    /// [`Code::Invalid`] for a group with parts at several gateways, and for one whose name does not fit.
    pub(crate) async fn set_lun(&self, name: &str, lun: Option<u8>) -> Result<Volume, Refused> {
        let _alone = self.change_alone().await;
        let (group, volume) = self.find_volume(name)?;
        if volume.lun == lun {
            return self.volume(name).await;
        }
        let status = self.status_of(group.group()).await?;
        if status.role != Role::Primary {
            let detail = format!("group {} is not primary here", group.name);
            let next =
                "say it at the site whose gateway is primary: its mirrors hear it from there";
            return Err(Refused::new(Code::NotPrimary, detail).next(next));
        }
        if let Some(lun) = lun {
            self.require_free_number(&group, &volume, lun).await?;
        }
        let place = (group.group(), VolumeId::from_uuid(volume.id));
        let shard = self.shard_of(place.0).clone();
        let hosts = shard.call(move |state| state.logged_in(place)).await?;
        if hosts > 0 {
            let detail = format!("{hosts} initiators are logged in to {}", volume.name);
            let next = "log them out: they would find another disk, or none, in its place";
            return Err(Refused::new(Code::VolumeInUse, detail).next(next));
        }
        self.number(HashMap::from([(volume.id, lun)])).await?;
        self.grow_sessions(place.0);
        self.numbered.notify_one();
        let text = match lun {
            Some(lun) => format!("it is LUN {lun} of the target of group {}", group.name),
            None => "it has a target of its own".to_owned(),
        };
        self.events.tell("volume", &volume.name, text);
        self.volume(name).await
    }

    async fn require_free_number(
        &self,
        group: &GroupEntry,
        volume: &VolumeEntry,
        lun: u8,
    ) -> Result<(), Refused> {
        let mut others = group.volumes.iter().filter(|other| other.id != volume.id);
        if let Some(other) = others.find(|other| other.lun == Some(lun)) {
            let detail = format!("volume {} is LUN {lun} of group {}", other.name, group.name);
            return Err(Refused::new(Code::Exists, detail).next("choose another number"));
        }
        let name = self.config.iscsi.prefix.len() + 1 + group_tail(&group.name).len();
        if name > TARGET_NAME_BYTES_MAX {
            let detail = format!("the name of its target would be {name} bytes long");
            let next = format!("it may be {TARGET_NAME_BYTES_MAX}: shorten iscsi.prefix");
            return Err(Refused::new(Code::Invalid, detail).next(next));
        }
        if self.status_of(group.group()).await?.parts.is_some() {
            let detail = format!("group {} has parts at several gateways", group.name);
            let next = "leave its volumes at targets of their own: each gateway would show other \
                        disks under one name";
            return Err(Refused::new(Code::Invalid, detail).next(next));
        }
        Ok(())
    }

    /// Writes down which numbers these volumes have.
    async fn number(&self, luns: HashMap<Uuid, Option<u8>>) -> Result<(), Refused> {
        self.book
            .change(Vec::new(), |pages| {
                for entry in pages.volumes_mut() {
                    if let Some(lun) = luns.get(&entry.id) {
                        entry.lun = *lun;
                    }
                }
                Ok::<(), Refused>(())
            })
            .await
    }

    /// Gives initiators that are logged in to a group's target what they may see there now.
    pub(super) fn grow_sessions(&self, group: GroupId) {
        let pages = self.book.read();
        let Some(entry) = pages.group_by_id(group) else { return };
        let numbered =
            entry.volumes.iter().filter_map(|volume| Some((volume.clone(), volume.lun?)));
        let disks: Vec<(VolumeEntry, u8)> = numbered.collect();
        let posted = self.shard_of(group).post(move |state| state.grow_sessions(group, &disks));
        if posted.is_err() {
            tracing::warn!(%group, "initiators are not told of disks: the thread has ended");
        }
    }

    // --- between a primary and its mirrors ---

    /// Tells the mirrors of every group that is primary here which numbers its volumes have, until each
    /// has heard it, and again when one changes.
    pub(crate) fn begin_telling_luns(self: &Arc<Self>) {
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let tell = async {
                let mut told = HashMap::new();
                loop {
                    gateway.tell_luns(&mut told).await;
                    let changed = gateway.numbered.notified();
                    drop(tokio::time::timeout(RETRY, changed).await);
                }
            };
            // A stop does not wait for a gateway that does not answer.
            gateway.stopping.run_until_cancelled(tell).await;
        });
    }

    async fn tell_luns(&self, told: &mut Told) {
        let due = self.untold_luns(told);
        let telling = due.into_iter().map(async |(mirror, luns)| {
            let (peer, group) = mirror;
            let question = Question::Luns { group, luns: luns.clone() };
            let heard = self.ask(peer, &question).await;
            (mirror, luns, heard.err())
        });
        for (mirror, luns, refused) in futures_util::future::join_all(telling).await {
            if let Some(refused) = refused {
                let code = Code::parse(&refused.0.code);
                if refused.passes() || code.is_some_and(|code| PASSES.contains(&code)) {
                    continue;
                }
                // One of an older release does not know the question; it has no numbers.
                let (peer, why) = (mirror.0, refused.0.detail);
                tracing::info!(%peer, why, "a gateway does not take the numbers of disks");
            }
            told.insert(mirror, luns);
        }
    }

    /// Which mirrors have not heard what is so now.
    fn untold_luns(&self, told: &mut Told) -> Vec<(Mirror, Luns)> {
        let (mut all, mut due) = (HashSet::new(), Vec::new());
        for group in &self.book.read().groups {
            let seen = self.board.get(group.group());
            let Some(seen) = seen.filter(|seen| seen.status.role == Role::Primary) else {
                continue;
            };
            let numbered = group.volumes.iter().filter_map(|volume| Some((volume.id, volume.lun?)));
            let luns: Luns = numbered.collect();
            for leg in seen.status.legs.iter().filter(|leg| leg.link == LinkState::Connected) {
                let mirror = (leg.gateway.uuid(), group.id);
                all.insert(mirror);
                if told.get(&mirror) != Some(&luns) {
                    due.push((mirror, luns.clone()));
                }
            }
        }
        // Whoever comes back may have heard another primary meanwhile.
        told.retain(|mirror, _| all.contains(mirror));
        due
    }

    /// The primary of a group says which numbers its volumes have.
    ///
    /// # Errors
    /// [`Code::Forbidden`] when that gateway is not whom the group follows here; [`Code::NotFound`] when
    /// a volume has not joined here yet; [`Code::VolumeInUse`] while an initiator is logged in to one
    /// whose number changes; [`Code::Invalid`] when two have one number.
    pub(super) async fn hear_luns(
        &self,
        peer: &Identity,
        (group, luns): (Uuid, Luns),
    ) -> Result<Answer, Refused> {
        let id = GroupId::from_uuid(group);
        let status = self.status_of(id).await?;
        let follows = status.upstream.as_ref().is_some_and(|up| up.gateway == peer.gateway);
        if !follows || status.role == Role::Primary {
            let detail = format!("the group does not follow {} here", peer.site);
            return Err(Refused::new(Code::Forbidden, detail));
        }
        let entry = self.book.read().group_by_id(id).cloned();
        let entry = entry.ok_or_else(|| Refused::new(Code::NotFound, "there is no such group"))?;
        let changed = renumbered(&entry, luns)?;
        for volume in changed.keys() {
            let place = (id, VolumeId::from_uuid(*volume));
            if self.shard_of(id).call(move |state| state.logged_in(place)).await? > 0 {
                let detail = "an initiator is logged in to a volume whose number changes";
                return Err(Refused::new(Code::VolumeInUse, detail));
            }
        }
        if !changed.is_empty() {
            self.number(changed).await?;
            self.grow_sessions(id);
            self.events.tell("group", &entry.name, format!("{} numbers its disks", peer.site));
        }
        Ok(Answer::Done)
    }
}

/// The volumes of a group whose number is another by these, and which.
fn renumbered(entry: &GroupEntry, luns: Luns) -> Result<HashMap<Uuid, Option<u8>>, Refused> {
    let numbers: HashSet<u8> = luns.iter().map(|(_, lun)| *lun).collect();
    if numbers.len() < luns.len() {
        return Err(Refused::new(Code::Invalid, "two volumes have one number"));
    }
    let wanted: HashMap<Uuid, u8> = luns.into_iter().collect();
    if wanted.keys().any(|id| entry.volumes.iter().all(|volume| volume.id != *id)) {
        return Err(Refused::new(Code::NotFound, "a volume has not joined here yet"));
    }
    let now = entry.volumes.iter().map(|volume| (volume, wanted.get(&volume.id).copied()));
    let changed = now.filter(|(volume, lun)| volume.lun != *lun);
    Ok(changed.map(|(volume, lun)| (volume.id, lun)).collect())
}
