//! Pairs: made, renamed, expanded, deleted.
//!
//! Invariant: a pair is checked at both ends before it is available; what stands against it is kept with
//! it, with the dialect's number. A pair by itself touches neither disk: they are joined when its group is
//! made.

use std::sync::Arc;

use api::Code;
use uuid::Uuid;

use super::disks::DiskSeen;
use super::gates::Action;
use super::jobs::About;
use super::{Call, EvsQuestion, Made, NewPair, busy, coded, fault};
use crate::book::PeerEntry;
use crate::book::evs::{Dialect, Group, Head, Life, Pair, Record};
use crate::gateway::Gateway;
use crate::gateway::placement::Wanted as Proposed;
use crate::refusal::Refused;

const GIB: u64 = 1 << 30;

/// Which of the two a number is about: the same fault has one for the production disk, one for the other.
fn side<'a>(is_source: bool, source: &'a str, destination: &'a str) -> &'a str {
    if is_source { source } else { destination }
}

impl Gateway {
    /// Makes a pair. What stands against it shows in its status.
    pub(super) async fn make_pair(self: &Arc<Self>, wanted: NewPair) -> Result<Made, Refused> {
        self.require_room_for_pairs(1)?;
        match wanted.group {
            Some(group) => self.make_pair_in(group, wanted).await,
            None => self.make_pair_of_two(wanted).await,
        }
    }

    // --- two disks that exist ---

    async fn make_pair_of_two(self: &Arc<Self>, wanted: NewPair) -> Result<Made, Refused> {
        let [one, other] = wanted.disks.as_slice() else {
            let detail = "volume_ids names two disks, of different zones";
            return Err(Refused::new(Code::Invalid, detail));
        };
        let here = [self.volume_of_disk(*one).is_some(), self.volume_of_disk(*other).is_some()];
        let (source, target) = match here {
            [true, true] => return Err(self.same_zone(&wanted.station)),
            [false, true] => (*other, *one),
            [true, false] | [false, false] => (*one, *other),
        };
        let (peer, seen) = self.find_disk_elsewhere(target).await?;
        let station = self.station_of(&peer).await;
        if station == self.own_station() {
            return Err(self.same_zone(&station));
        }
        let head = Head::new([self.own_id(), peer.gateway], self.clock.unix_ms());
        let pair = Pair {
            head,
            dialect: wanted.dialect,
            name: wanted.name,
            description: wanted.description,
            disks: [source, target],
            names: [String::new(), String::new()],
            stations: [self.own_station(), station],
            volume: source,
            bytes: 0,
            primary: 0,
            group: None,
            life: Life::Creating,
            fault: None,
            is_made: false,
            overwrites: wanted.overwrites,
            leaves: false,
        };
        let id = pair.head.id;
        self.put_record(Record::Pair(pair.clone())).await?;
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let checked = gateway.check_pair(&pair, &peer, seen).await;
            let end = |pair: &mut Pair| {
                match checked {
                    Ok((source, target)) => {
                        (pair.volume, pair.bytes) = (source.volume, source.bytes);
                        pair.names = [source.name, target.name];
                        pair.life = Life::Available;
                    }
                    Err(refused) => {
                        pair.life = Life::Error;
                        pair.fault = Some(fault(&refused, pair.dialect));
                    }
                }
                Ok(())
            };
            gateway.note(gateway.change_pair(id, end).await);
        });
        Ok(Made { id, job: None })
    }

    fn same_zone(&self, station: &str) -> Refused {
        let detail = format!("both disks are in zone {station}: a pair is of two zones");
        Refused::new(Code::PlacementRefused, detail)
            .next("name a disk of a gateway in another zone; twinspan site list shows the zones")
    }

    /// The gateway that has a disk; the only other one, where no one has it.
    async fn find_disk_elsewhere(
        &self,
        disk: Uuid,
    ) -> Result<(PeerEntry, Result<Option<DiskSeen>, Refused>), Refused> {
        let peers = self.book.read().peers.clone();
        let mut answers = Vec::new();
        for peer in peers {
            let seen = self.see_disk_at(peer.gateway, disk).await;
            if matches!(seen, Ok(Some(_))) {
                return Ok((peer, seen));
            }
            answers.push((peer, seen));
        }
        // Where one was silent, it may be there.
        let silent = answers.iter().position(|(_, seen)| seen.is_err()).unwrap_or(0);
        if answers.is_empty() {
            let detail = "no other gateway is joined with this one";
            return Err(coded(Code::PeerUnknown, "37100043", detail));
        }
        Ok(answers.swap_remove(silent))
    }

    async fn check_pair(
        &self,
        pair: &Pair,
        peer: &PeerEntry,
        target: Result<Option<DiskSeen>, Refused>,
    ) -> Result<(DiskSeen, DiskSeen), Refused> {
        let silent = |refused: Refused| coded(Code::PeerUnreachable, "37100043", refused.0.detail);
        let missing = |is_source: bool, disk: Uuid| {
            let code = side(is_source, "37100048", "37100050");
            coded(Code::NotFound, code, format!("disk {disk} does not exist"))
        };
        let source = self.see_disk(pair.disks[0]).await?;
        let source = source.ok_or_else(|| missing(true, pair.disks[0]))?;
        let target = target.map_err(silent)?.ok_or_else(|| missing(false, pair.disks[1]))?;
        self.check_reserved(pair)?;
        check_disk(&source, true)?;
        check_disk(&target, false)?;
        if target.hosts > 0 {
            let detail = format!(
                "{} hosts are attached to disk {}: stop the server that uses it",
                target.hosts, target.name
            );
            return Err(coded(Code::VolumeInUse, "37100058", detail));
        }
        if source.bytes != target.bytes {
            let (one, other) = (source.bytes, target.bytes);
            let detail = format!("the production disk has {one} bytes, the other {other}");
            return Err(coded(Code::BadSize, "37100041", detail));
        }
        let was_mirror = target.was_mirror_of == Some(self.own_id());
        if target.mapped_bytes > 0 && !pair.overwrites && !was_mirror {
            let held = api::units::bytes_text(target.mapped_bytes);
            let detail = format!("disk {} holds {held} that would be lost", target.name);
            let next = "make the pair again with overwrite_destination true, or empty the disk";
            return Err(Refused::new(Code::NeedsConsent, detail).next(next));
        }
        // Both are in one cloud, so whoever knows it here knows both.
        for (disk, seen) in pair.disks.iter().zip([&source, &target]) {
            self.require_copyable(*disk, &seen.name).await?;
        }
        let proposed = Proposed {
            volumes: vec![source.as_volume()],
            destinations: vec![Some(target.as_volume())],
            mode: "sync".to_owned(),
        };
        for warning in self.check_place(peer, proposed).await? {
            self.events.tell("pair", &pair.name, warning);
        }
        Ok((source, target))
    }

    /// A disk is in one pair only.
    pub(super) fn check_reserved(&self, pair: &Pair) -> Result<(), Refused> {
        let pages = self.book.read();
        let others = pages.evs.pairs().filter(|of| of.head.id != pair.head.id);
        let others: Vec<&Pair> = others.filter(|of| of.life != Life::Error).collect();
        for (at, disk) in pair.disks.iter().enumerate() {
            if let Some(other) = others.iter().find(|of| of.disks.contains(disk)) {
                let code = side(at == 0, "37100053", "37100054");
                let detail = format!("disk {disk} is in pair {} already", other.head.id);
                return Err(coded(Code::VolumeInUse, code, detail));
            }
        }
        Ok(())
    }

    // --- both ---

    pub(super) async fn set_pair(
        &self,
        id: Uuid,
        name: Option<String>,
        description: Option<String>,
    ) -> Result<Made, Refused> {
        let set = |pair: &mut Pair| {
            pair.name = name.unwrap_or_else(|| pair.name.clone());
            pair.description = description.unwrap_or_else(|| pair.description.clone());
            Ok(())
        };
        self.change_pair(id, set).await?;
        Ok(Made { id, job: None })
    }

    pub(super) async fn delete_pair(
        self: &Arc<Self>,
        id: Uuid,
        with_target: bool,
    ) -> Result<Made, Refused> {
        let pair = self.book.read().evs.pair(id)?.clone();
        busy(pair.life, "the pair")?;
        match (pair.group, pair.dialect) {
            (Some(group), Dialect::Evs) => {
                let detail =
                    format!("the pair is in group {group}: remove it from the group first");
                return Err(Refused::new(Code::WrongState, detail));
            }
            (Some(group), Dialect::Sdrs) => {
                let group = self.book.read().evs.group(group)?.clone();
                busy(group.life, "the protection group")?;
                self.require_detached(&pair)?;
            }
            (None, _) => {}
        }
        let about = About {
            kind: "deleteReplicationPairNoCG",
            failure: "deleteFail",
            resource: "replication_pair",
            subject: (id, pair.name.clone()),
            parts: Vec::new(),
        };
        let job = self.begin_job(pair.dialect, pair.head.gateways, about).await?;
        let deleting = |pair: &mut Pair| {
            busy(pair.life, "the pair")?;
            pair.life = Life::Deleting;
            Ok(())
        };
        self.change_pair(id, deleting).await?;
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let result = gateway.end_pair(&pair, with_target).await;
            if let Err(refused) = &result {
                let failed = |pair: &mut Pair| {
                    pair.life = Life::ErrorDeleting;
                    pair.fault = Some(fault(refused, pair.dialect));
                    Ok(())
                };
                gateway.note(gateway.change_pair(id, failed).await);
            }
            gateway.end_job(job, &result).await;
        });
        Ok(Made { id, job })
    }

    pub(super) async fn end_pair(&self, pair: &Pair, with_target: bool) -> Result<(), Refused> {
        let mut was_joined = pair.leaves;
        if let Some(group) = pair.group {
            let group = self.book.read().evs.group(group)?.clone();
            was_joined |= self.part_pair(&group, pair).await?;
        }
        if was_joined {
            self.free_there(std::slice::from_ref(pair)).await?;
            if with_target {
                let there = pair.head.gateways[1 - pair.primary];
                self.ask_evs(there, EvsQuestion::Remove { volume: pair.volume }).await?;
            }
        }
        self.drop_record(pair.head.id).await
    }

    pub(super) async fn extend_pair(self: &Arc<Self>, id: Uuid, gib: u64) -> Result<Made, Refused> {
        let pair = self.book.read().evs.pair(id)?.clone();
        let group = pair
            .group
            .ok_or_else(|| coded(Code::WrongState, "SDRS.1816", "the pair is in no group"))?;
        let about = About {
            kind: "expandReplicationPairNew",
            failure: "expandFail",
            resource: "replication_pair",
            subject: (id, pair.name.clone()),
            parts: Vec::new(),
        };
        let job = self.begin_job(pair.dialect, pair.head.gateways, about).await?;
        let action = Action::Extend { gib: [(id, gib)].into_iter().collect() };
        let grown = self.evs_call(Call::Act { id: group, action });
        // It calls itself no further: a pair is ruled where its group is.
        let grown = Box::pin(grown).await.map(drop);
        self.end_job(job, &grown).await;
        grown.map(|()| Made { id, job })
    }

    /// Grows disks, each at both sites.
    pub(super) async fn extend(
        &self,
        group: &Group,
        gib: &std::collections::BTreeMap<Uuid, u64>,
    ) -> Result<(), Refused> {
        let pages = self.book.read();
        let mut wanted = Vec::new();
        for (id, gib) in gib {
            let pair = pages.evs.pair(*id)?;
            if pair.group != Some(group.head.id) {
                let detail = format!("pair {id} is not in group {}", group.head.id);
                return Err(Refused::new(Code::Invalid, detail));
            }
            let bytes = gib.saturating_mul(GIB);
            if bytes <= pair.bytes {
                let detail = format!(
                    "pair {id} has {}: a disk is only expanded, to more whole GiB",
                    api::units::bytes_text(pair.bytes)
                );
                return Err(coded(Code::BadSize, "SDRS.1820", detail));
            }
            wanted.push((pair.clone(), bytes));
        }
        // All were looked at, so that what can be said before anything grew is said.
        for (pair, bytes) in wanted {
            self.grow_volume(&pair.volume.to_string(), bytes).await?;
            let grown = |pair: &mut Pair| {
                pair.bytes = bytes;
                Ok(())
            };
            self.change_pair(pair.head.id, grown).await?;
        }
        Ok(())
    }
}

/// What is asked of either disk.
fn check_disk(seen: &DiskSeen, is_source: bool) -> Result<(), Refused> {
    seen.require_unlocked()?;
    let name = &seen.name;
    let refuse = |source, target, code: Code, why: &str| {
        Err(coded(code, side(is_source, source, target), format!("disk {name} {why}")))
    };
    if !seen.is_well {
        let why = "cannot be served: its pool is not well";
        return refuse("37100177", "37100178", Code::PoolFailed, why);
    }
    if seen.is_filling {
        let why = "is still being filled from a snapshot or a backup";
        return refuse("37100044", "37100045", Code::Filling, why);
    }
    if !seen.is_free || seen.is_member {
        let why = "is in a group or a session already";
        return refuse("37100053", "37100054", Code::VolumeInUse, why);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::evs::disks::Locked;
    use crate::gateway::evs::own_code;

    fn disk() -> DiskSeen {
        DiskSeen {
            name: "orders".to_owned(),
            volume: Uuid::from_u128(1),
            bytes: 1 << 30,
            mapped_bytes: 0,
            is_filling: false,
            hosts: 0,
            is_well: true,
            is_free: true,
            is_member: false,
            was_mirror_of: None,
            locked: None,
        }
    }

    #[test]
    fn evs_05_each_fault_of_a_disk_has_its_number_by_its_side() {
        let refused = |seen: DiskSeen, is_source| {
            let refused = check_disk(&seen, is_source).unwrap_err();
            own_code(&refused.0.detail).map(str::to_owned).unwrap()
        };
        for is_source in [true, false] {
            assert_eq!(check_disk(&disk(), is_source), Ok(()));
        }
        let filling = DiskSeen { is_filling: true, ..disk() };
        assert_eq!(refused(filling.clone(), true), "37100044");
        assert_eq!(refused(filling, false), "37100045");
        let ill = DiskSeen { is_well: false, ..disk() };
        assert_eq!(refused(ill.clone(), true), "37100177");
        assert_eq!(refused(ill, false), "37100178");
        let used = DiskSeen { is_free: false, ..disk() };
        assert_eq!(refused(used.clone(), true), "37100053");
        assert_eq!(refused(used, false), "37100054");
    }

    #[test]
    fn evs_53_a_disk_that_a_run_has_is_refused_at_either_side() {
        let next = Some("twinspan run show 7".to_owned());
        let locked = Some(Locked { why: "run 7 has orders".to_owned(), next: next.clone() });
        let seen = DiskSeen { locked, ..disk() };
        for is_source in [true, false] {
            let refused = check_disk(&seen, is_source).unwrap_err();
            assert_eq!(own_code(&refused.0.detail), Some("SDRS.1831"));
            assert_eq!(refused.0.next, next);
        }
        // A gateway of an earlier release says nothing of locks.
        let mut told = serde_json::to_value(disk()).unwrap();
        told.as_object_mut().unwrap().remove("locked");
        assert_eq!(serde_json::from_value::<DiskSeen>(told).unwrap(), disk());
    }
}
