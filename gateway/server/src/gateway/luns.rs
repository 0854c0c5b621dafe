//! Which disk of which iSCSI target a volume is: said at the primary, and told to its mirrors, so that a
//! host finds at each site what it finds at the other.
//!
//! Invariant: a volume is at one target, and two volumes of a target have different numbers, for
//! everybody and for each initiator that has numbers of its own. Neither changes while an initiator
//! whose number it is is known to be logged in to the volume. A mirror goes by its primary.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api::{Code, Volume, VolumeLun};
use block::{GroupId, Identity, VolumeId};
use mirror::{LinkState, Role};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Gateway;
use super::asks::{Answer, Question};
use crate::access::is_initiator;
use crate::book::{GroupEntry, VolumeEntry};
use crate::refusal::Refused;
use crate::targets::{TARGET_NAME_BYTES_MAX, group_tail};

/// How soon a mirror is told that was not reached.
const RETRY: Duration = Duration::from_secs(2);

/// RFC 7143 §4.2.7.1.
const INITIATOR_NAME_BYTES_MAX: usize = 223;
/// Initiators that have a number of their own of one volume.
const INITIATORS_MAX: usize = 256;

/// Refusals that pass, beside those of any question: the mirror does not follow yet, lacks a volume that
/// is joining, or has an initiator who is to log out first.
const PASSES: [Code; 3] = [Code::Forbidden, Code::NotFound, Code::VolumeInUse];

/// The volumes of a group that have a number.
pub(crate) type Luns = Vec<(Uuid, u8)>;

/// The same, where single initiators may see others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Numbers {
    /// What everybody sees who is not among those below.
    luns: Luns,
    /// What single initiators see, by their names in lower case.
    own: Vec<(Uuid, BTreeMap<String, u8>)>,
}

/// Whose number of a disk changes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Whose {
    Everybodys,
    /// That of these, by their names in lower case.
    Only(BTreeSet<String>),
}

/// A gateway, and the group that it mirrors.
type Mirror = (Uuid, Uuid);

/// What each mirror has heard.
type Told = HashMap<Mirror, Numbers>;

impl Gateway {
    /// Makes a volume a disk of its group's target, or again the only disk of a target of its own; or
    /// says under which number a single initiator sees it there.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::Exists`] when another volume of the group has the number, for
    /// everybody or for an initiator; [`Code::VolumeInUse`] while initiators whose number it is are
    /// logged in to it; [`Code::NotPrimary`] at a mirror; [`Code::Invalid`] for a group with parts at
    /// several gateways, for one whose name does not fit, for what is no name of an initiator, and for
    /// the number of an initiator where there is none for everybody.
    pub(crate) async fn set_lun(&self, name: &str, wanted: VolumeLun) -> Result<Volume, Refused> {
        let _alone = self.change_alone().await;
        let (group, volume) = self.find_volume(name)?;
        let after = with_number(&volume, &wanted)?;
        let Some(whose) = whose(&volume, &after) else { return self.volume(name).await };
        let status = self.status_of(group.group()).await?;
        if status.role != Role::Primary {
            let detail = format!("group {} is not primary here", group.name);
            let next =
                "say it at the site whose gateway is primary: its mirrors hear it from there";
            return Err(Refused::new(Code::NotPrimary, detail).next(next));
        }
        if after.lun.is_some() {
            self.require_free_number(&group, &after).await?;
        }
        let place = (group.group(), VolumeId::from_uuid(volume.id));
        let hosts = self.hosts_at(place, whose).await?;
        if hosts > 0 {
            let detail = format!("{hosts} initiators are logged in to {}", volume.name);
            let next = "log them out: they would find another disk, or none, in its place";
            return Err(Refused::new(Code::VolumeInUse, detail).next(next));
        }
        self.number(vec![after.clone()]).await?;
        self.grow_sessions(place.0);
        self.numbered.notify_one();
        let text = match (after.lun, wanted.initiator) {
            (None, _) => "it has a target of its own".to_owned(),
            (Some(_), Some(initiator)) => {
                let lun = after.lun_for(&initiator).unwrap_or_default();
                format!("it is LUN {lun} of the target of group {} for {initiator}", group.name)
            }
            (Some(lun), None) => format!("it is LUN {lun} of the target of group {}", group.name),
        };
        self.events.tell("volume", &volume.name, text);
        self.volume(name).await
    }

    /// How many initiators whose number it is are logged in to a volume.
    async fn hosts_at(&self, place: (GroupId, VolumeId), whose: Whose) -> Result<usize, Refused> {
        let shard = self.shard_of(place.0).clone();
        let hosts = shard.call(move |state| match &whose {
            Whose::Everybodys => state.logged_in(place),
            Whose::Only(names) => state.logged_in_as(place, names),
        });
        Ok(hosts.await?)
    }

    async fn require_free_number(
        &self,
        group: &GroupEntry,
        after: &VolumeEntry,
    ) -> Result<(), Refused> {
        let others = group.volumes.iter().filter(|other| other.id != after.id);
        if let Some(clash) = clash(others.chain([after])) {
            let detail = clash.text(&group.name);
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
    async fn number(&self, numbered: Vec<VolumeEntry>) -> Result<(), Refused> {
        self.book
            .change(Vec::new(), |pages| {
                for entry in pages.volumes_mut() {
                    if let Some(after) = numbered.iter().find(|after| after.id == entry.id) {
                        entry.lun = after.lun;
                        entry.initiator_luns.clone_from(&after.initiator_luns);
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
        let numbered = entry.volumes.iter().filter(|volume| volume.lun.is_some());
        let disks: Vec<VolumeEntry> = numbered.cloned().collect();
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
            let question = luns.question(group);
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
    fn untold_luns(&self, told: &mut Told) -> Vec<(Mirror, Numbers)> {
        let (mut all, mut due) = (HashSet::new(), Vec::new());
        for group in &self.book.read().groups {
            let seen = self.board.get(group.group());
            let Some(seen) = seen.filter(|seen| seen.status.role == Role::Primary) else {
                continue;
            };
            let luns = Numbers::of(group);
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
        group: Uuid,
        luns: Numbers,
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
        for (after, whose) in &changed {
            let place = (id, VolumeId::from_uuid(after.id));
            if self.hosts_at(place, whose.clone()).await? > 0 {
                let detail = "an initiator is logged in to a volume whose number changes";
                return Err(Refused::new(Code::VolumeInUse, detail));
            }
        }
        if !changed.is_empty() {
            self.number(changed.into_iter().map(|(after, _)| after).collect()).await?;
            self.grow_sessions(id);
            self.events.tell("group", &entry.name, format!("{} numbers its disks", peer.site));
        }
        Ok(Answer::Done)
    }
}

// === impl Numbers ===

impl Numbers {
    fn of(group: &GroupEntry) -> Self {
        let numbered = || group.volumes.iter().filter(|volume| volume.lun.is_some());
        let own = numbered().filter(|volume| !volume.initiator_luns.is_empty());
        Self {
            luns: numbered().filter_map(|volume| Some((volume.id, volume.lun?))).collect(),
            own: own.map(|volume| (volume.id, volume.initiator_luns.clone())).collect(),
        }
    }

    /// As a mirror is told: a release before this one understands it where nobody has a number of its
    /// own.
    fn question(&self, group: Uuid) -> Question {
        if self.own.is_empty() {
            Question::Luns { group, luns: self.luns.clone() }
        } else {
            Question::InitiatorLuns { group, luns: self.clone() }
        }
    }
}

impl From<Luns> for Numbers {
    fn from(luns: Luns) -> Self {
        Self { luns, own: Vec::new() }
    }
}

/// Two volumes of a target under one number.
#[derive(Debug, PartialEq, Eq)]
struct Clash {
    volume: String,
    lun: u8,
    /// For whom, where it is not everybody.
    initiator: Option<String>,
}

impl Clash {
    fn text(&self, group: &str) -> String {
        let Self { volume, lun, initiator } = self;
        let whom = initiator.as_ref().map_or_else(String::new, |name| format!(" for {name}"));
        format!("volume {volume} is LUN {lun} of group {group}{whom}")
    }
}

/// The first number that somebody would see two volumes under, and the first of those two.
fn clash<'a>(volumes: impl Iterator<Item = &'a VolumeEntry> + Clone) -> Option<Clash> {
    let two = |lun_for: &dyn Fn(&VolumeEntry) -> Option<u8>| {
        let mut seen: HashMap<u8, &str> = HashMap::new();
        for volume in volumes.clone() {
            let Some(lun) = lun_for(volume) else { continue };
            if let Some(first) = seen.insert(lun, &volume.name) {
                return Some((first.to_owned(), lun));
            }
        }
        None
    };
    if let Some((volume, lun)) = two(&|volume| volume.lun) {
        return Some(Clash { volume, lun, initiator: None });
    }
    let named: BTreeSet<&String> =
        volumes.clone().flat_map(|volume| volume.initiator_luns.keys()).collect();
    named.into_iter().find_map(|initiator| {
        let (volume, lun) = two(&|volume| volume.lun_for(initiator))?;
        Some(Clash { volume, lun, initiator: Some(initiator.clone()) })
    })
}

/// A volume with the number that is wanted.
fn with_number(volume: &VolumeEntry, wanted: &VolumeLun) -> Result<VolumeEntry, Refused> {
    let mut after = volume.clone();
    let Some(initiator) = &wanted.initiator else {
        after.lun = wanted.lun;
        if wanted.lun.is_none() {
            after.initiator_luns.clear();
        }
        return Ok(after);
    };
    if !is_initiator(initiator) || initiator.len() > INITIATOR_NAME_BYTES_MAX {
        let detail = format!("{initiator:?} is no name of an initiator");
        let next = "it begins with iqn., eui. or naa.; the initiator says it when it logs in";
        return Err(Refused::new(Code::Invalid, detail).next(next));
    }
    if volume.lun.is_none() {
        let detail = format!("volume {} is the only disk of a target of its own", volume.name);
        let next = format!(
            "give it a number for everybody first: twinspan volume lun {} NUMBER",
            volume.name
        );
        return Err(Refused::new(Code::Invalid, detail).next(next));
    }
    let name = initiator.to_ascii_lowercase();
    match wanted.lun {
        Some(lun) => after.initiator_luns.insert(name, lun),
        None => after.initiator_luns.remove(&name),
    };
    if after.initiator_luns.len() > INITIATORS_MAX {
        let detail = format!("{INITIATORS_MAX} initiators have numbers of their own already");
        let next = "take one back with --none, or let some see the number that all others see";
        return Err(Refused::new(Code::Invalid, detail).next(next));
    }
    Ok(after)
}

/// Whose number of a disk changes; `None`: nobody's.
fn whose(before: &VolumeEntry, after: &VolumeEntry) -> Option<Whose> {
    if before.lun != after.lun {
        return Some(Whose::Everybodys);
    }
    let names = before.initiator_luns.keys().chain(after.initiator_luns.keys());
    let changed = names.filter(|name| before.lun_for(name) != after.lun_for(name));
    let names: BTreeSet<String> = changed.cloned().collect();
    let same = names.is_empty() && before.initiator_luns == after.initiator_luns;
    (!same).then_some(Whose::Only(names))
}

/// The volumes of a group whose number is another by these, with it.
fn renumbered(entry: &GroupEntry, luns: Numbers) -> Result<Vec<(VolumeEntry, Whose)>, Refused> {
    let wanted: HashMap<Uuid, u8> = luns.luns.into_iter().collect();
    let own: HashMap<Uuid, BTreeMap<String, u8>> = luns.own.into_iter().collect();
    if wanted.keys().chain(own.keys()).any(|id| entry.volumes.iter().all(|v| v.id != *id)) {
        return Err(Refused::new(Code::NotFound, "a volume has not joined here yet"));
    }
    let with = |volume: &VolumeEntry| VolumeEntry {
        lun: wanted.get(&volume.id).copied(),
        initiator_luns: own.get(&volume.id).cloned().unwrap_or_default(),
        ..volume.clone()
    };
    let after: Vec<VolumeEntry> = entry.volumes.iter().map(with).collect();
    if let Some(clash) = clash(after.iter()) {
        return Err(Refused::new(Code::Invalid, clash.text(&entry.name)));
    }
    let both = entry.volumes.iter().zip(after);
    Ok(both.filter_map(|(before, after)| whose(before, &after).map(|of| (after, of))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DB: &str = "iqn.2026-01.com.example:db";
    const WEB: &str = "iqn.2026-01.com.example:web";

    fn volume(number: u128, lun: Option<u8>, own: &[(&str, u8)]) -> VolumeEntry {
        VolumeEntry {
            id: Uuid::from_u128(number),
            name: format!("v{number}"),
            settings: api::VolumeSettings::default(),
            lun,
            initiator_luns: own.iter().map(|(name, lun)| ((*name).to_owned(), *lun)).collect(),
        }
    }

    fn group(volumes: Vec<VolumeEntry>) -> GroupEntry {
        GroupEntry { id: Uuid::from_u128(99), name: "orders".to_owned(), volumes }
    }

    #[test]
    fn nobody_sees_two_disks_under_one_number() {
        let of = |volumes: &[VolumeEntry]| clash(volumes.iter()).map(|clash| clash.text("orders"));
        let (one, two) = (volume(1, Some(0), &[]), volume(2, Some(5), &[]));
        assert_eq!(of(&[one.clone(), two.clone(), volume(3, None, &[])]), None);
        let same = of(&[one.clone(), volume(2, Some(0), &[])]);
        assert_eq!(same.unwrap(), "volume v1 is LUN 0 of group orders");
        // One that has a number of its own sees all others under everybody's.
        let own = of(&[one.clone(), volume(2, Some(5), &[(DB, 0)])]);
        assert_eq!(own.unwrap(), format!("volume v1 is LUN 0 of group orders for {DB}"));
        // Who sees both in each other's place sees each once.
        assert_eq!(of(&[volume(1, Some(0), &[(DB, 5)]), volume(2, Some(5), &[(DB, 0)])]), None);
        assert_eq!(of(&[one, volume(2, Some(5), &[(DB, 1), (WEB, 1)])]), None);
    }

    #[test]
    fn a_number_of_one_initiator_is_nobody_elses() {
        let before = volume(1, Some(3), &[]);
        let lun = |lun, initiator: Option<&str>| VolumeLun {
            lun,
            initiator: initiator.map(str::to_owned),
        };
        let after =
            with_number(&before, &lun(Some(4), Some("iqn.2026-01.COM.example:db"))).unwrap();
        assert_eq!((after.lun_for(DB), after.lun_for(WEB)), (Some(4), Some(3)));
        assert_eq!(whose(&before, &after), Some(Whose::Only(BTreeSet::from([DB.to_owned()]))));
        assert_eq!(whose(&after, &after), None);
        // The same number is written down, and changes nothing for anybody.
        let same = with_number(&before, &lun(Some(3), Some(DB))).unwrap();
        assert_eq!(whose(&before, &same), Some(Whose::Only(BTreeSet::new())));
        let back = with_number(&after, &lun(None, Some(DB))).unwrap();
        assert_eq!(back, before);
        let none = with_number(&after, &lun(None, None)).unwrap();
        assert_eq!((none.lun_for(DB), none.initiator_luns.len()), (None, 0));
        assert_eq!(whose(&after, &none), Some(Whose::Everybodys));
        for (volume, name) in [(&before, "db"), (&volume(1, None, &[]), DB)] {
            let refused = with_number(volume, &lun(Some(1), Some(name))).unwrap_err();
            assert_eq!(Code::parse(&refused.0.code), Some(Code::Invalid));
        }
        let many = (0..INITIATORS_MAX).map(|n| (format!("iqn.2026-01.x:{n}"), 1)).collect();
        let full = VolumeEntry { initiator_luns: many, ..before };
        assert!(with_number(&full, &lun(Some(1), Some(DB))).is_err());
    }

    #[test]
    fn a_mirror_takes_the_numbers_as_they_are_told_or_none() {
        let told = Numbers::of(&group(vec![
            volume(1, Some(0), &[(DB, 7)]),
            volume(2, Some(5), &[]),
            volume(3, None, &[]),
        ]));
        let question = serde_json::to_string(&told.question(Uuid::from_u128(99))).unwrap();
        assert_eq!(
            serde_json::from_str::<Question>(&question).unwrap(),
            told.question(Uuid::from_u128(99))
        );
        let here = group(vec![
            volume(1, Some(0), &[]),
            volume(2, None, &[]),
            volume(3, Some(9), &[(WEB, 1)]),
        ]);
        let changed = renumbered(&here, told.clone()).unwrap();
        let whose: Vec<&Whose> = changed.iter().map(|(_, whose)| whose).collect();
        let db = Whose::Only(BTreeSet::from([DB.to_owned()]));
        assert_eq!(whose, [&db, &Whose::Everybodys, &Whose::Everybodys]);
        let after = group(changed.into_iter().map(|(after, _)| after).collect());
        assert_eq!(Numbers::of(&after), told);
        assert!(renumbered(&after, told).unwrap().is_empty());
        // What all have is told as a release before this one understands it.
        let plain = Numbers::of(&group(vec![volume(1, Some(0), &[])]));
        assert!(matches!(plain.question(Uuid::nil()), Question::Luns { .. }));
        let twice = Numbers::from(vec![(Uuid::from_u128(1), 4), (Uuid::from_u128(2), 4)]);
        assert!(renumbered(&here, twice).is_err());
        assert!(renumbered(&here, Numbers::from(vec![(Uuid::from_u128(8), 4)])).is_err());
    }
}
