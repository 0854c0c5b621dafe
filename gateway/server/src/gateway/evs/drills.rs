//! Drills: volumes made of what the destinations hold, apart from what runs.
//!
//! ```text
//!   the production site takes a snapshot of the group ─▶ it is kept at the other site too
//!   ─▶ there a volume is made of each disk, usable at once ─▶ deleted with the drill, and the snapshot
//! ```
//!
//! Invariant: replication goes on, and nothing that is written to a drill's volumes reaches a disk of the
//! pairs. Where the production site is lost, the newest snapshot that is kept here is used: a drill then
//! is a way to bring servers up.

use std::sync::Arc;
use std::time::Duration;

use api::{Code, SnapshotSource, VolumeCreate, VolumeSettings};
use block::GroupId;
use mirror::SnapshotState;
use uuid::Uuid;

use super::jobs::About;
use super::view::{Data, of_pair};
use super::{Call, EvsAnswer, EvsQuestion, Made, busy, coded, fault, not_found};
use crate::book::evs::{Drill, Fault, Group, Head, Life, Pair, Record, Wanted};
use crate::gateway::Gateway;
use crate::refusal::Refused;

/// A snapshot is at its mirrors within moments of its answer.
const SNAPSHOT_TRIES_MAX: u32 = 100;
const SNAPSHOT_PAUSE: Duration = Duration::from_millis(50);

impl Gateway {
    pub(super) async fn make_drill(
        self: &Arc<Self>,
        name: String,
        group: Uuid,
        vpc: String,
    ) -> Result<Made, Refused> {
        let group = self.book.read().evs.group(group)?.clone();
        self.check_drill(&group, &vpc).await?;
        let head = Head::new(group.head.gateways, self.clock.unix_ms());
        let id = head.id;
        let text = id.simple().to_string();
        let drill = Drill {
            head,
            name: name.clone(),
            group: group.head.id,
            vpc,
            gateway: self.own_id(),
            snapshot: format!("drill-{}", &text[text.len() - 12..]),
            volumes: Vec::new(),
            life: Life::Creating,
            fault: None,
        };
        let about = About {
            kind: "createDisasterRecoveryDrill",
            failure: "createFail",
            resource: "disaster_recovery_drill",
            subject: (id, name),
            parts: Vec::new(),
        };
        let mine_first = [self.own_id(), group.owner()];
        let job = self.begin_job(group.dialect, mine_first, about).await?;
        self.put_record(Record::Drill(drill.clone())).await?;
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let made = gateway.build_drill(&group, &drill).await;
            gateway.end_drill(id, made.as_ref().err(), Life::Available).await;
            gateway.end_job(job, &made).await;
        });
        Ok(Made { id, job })
    }

    async fn check_drill(&self, group: &Group, vpc: &str) -> Result<(), Refused> {
        busy(group.life, "the protection group")?;
        let pages = self.book.read();
        let pairs: Vec<&Pair> = pages.evs.pairs_of(group.head.id).collect();
        let status = self.core_status(group).await;
        let data = pairs.iter().map(|pair| of_pair(status.as_deref(), group, pair));
        let data: Vec<Data> = data.collect();
        let is_whole = status.as_ref().is_some_and(|status| {
            use block::Quality::{Blank, Inconsistent};
            !matches!(status.quality, Blank | Inconsistent)
        });
        if pairs.is_empty() || group.wanted == Wanted::Idle || !is_whole {
            let word = Data::worst(&data).replication.word();
            let detail = format!("the pairs are not synchronised yet ({word})");
            return Err(coded(Code::NotInSync, "SDRS.1830", detail));
        }
        if !vpc.is_empty() && vpc == group.vpc {
            let detail = "a drill's VPC is another than the protection group's";
            return Err(coded(Code::Invalid, "SDRS.1907", detail));
        }
        if !vpc.is_empty() && pages.evs.drills().any(|drill| drill.vpc == vpc) {
            let detail = format!("another drill uses VPC {vpc}");
            return Err(coded(Code::WrongState, "SDRS.1921", detail));
        }
        Ok(())
    }

    async fn build_drill(&self, group: &Group, drill: &Drill) -> Result<(), Refused> {
        let core = group.core.map(GroupId::from_uuid);
        let core = core.ok_or_else(|| not_found("group", group.head.id, "SDRS.1013"))?;
        let snapshot = self.drill_snapshot(group, (core, &drill.snapshot)).await?;
        let pages = self.book.read();
        let pairs: Vec<Pair> = pages.evs.pairs_of(group.head.id).cloned().collect();
        let (drill_id, text) = (drill.head.id, drill.head.id.simple().to_string());
        for (at, pair) in pairs.iter().enumerate() {
            let name = format!("drill-{}-{at}", &text[text.len() - 12..]);
            let noted = name.clone();
            // Noted first, so that what a crash leaves is found by the drill's end.
            let note = |record: &mut Record| {
                if let Record::Drill(drill) = record {
                    drill.snapshot.clone_from(&snapshot);
                    drill.volumes.push((pair.head.id, noted));
                }
                Ok(())
            };
            self.change_record(drill_id, note).await?;
            let create = VolumeCreate {
                name,
                bytes: None,
                from: Some(SnapshotSource {
                    group: core.uuid().to_string(),
                    snapshot: snapshot.clone(),
                    volume: Some(pair.volume.to_string()),
                }),
                group: None,
                part_of: None,
                settings: VolumeSettings::default(),
            };
            let made = self.create_volume(create).await;
            made.map_err(|refused| coded(Code::SnapshotUnusable, "SDRS.1905", refused.0.detail))?;
        }
        let now_ms = self.clock.unix_ms();
        let drilled = |group: &mut Group| {
            group.drilled_ms = Some(now_ms);
            Ok(())
        };
        self.change_group(group.head.id, drilled).await
    }

    /// A snapshot of the group that is kept here: taken now, or the newest one if the production site is
    /// not heard.
    async fn drill_snapshot(
        &self,
        group: &Group,
        (core, name): (GroupId, &str),
    ) -> Result<String, Refused> {
        let call = Call::Snap { group: group.head.id, name: name.to_owned() };
        let asked = self.ask_evs(group.owner(), EvsQuestion::Call(call)).await;
        if let Err(refused) = asked {
            let is_silent = refused.is(Code::PeerUnreachable);
            let status = self.status_of(core).await?;
            let newest = status.snapshots.iter().rev().find(|of| of.state.is_readable());
            return match newest {
                Some(kept) if is_silent => Ok(kept.name.clone()),
                _ => Err(coded(Code::SnapshotUnusable, "SDRS.1904", refused.0.detail)),
            };
        }
        for _ in 0..SNAPSHOT_TRIES_MAX {
            let status = self.status_of(core).await?;
            let found = status.snapshots.iter().find(|of| of.name == name);
            if found.is_some_and(|of| of.state == SnapshotState::Available) {
                return Ok(name.to_owned());
            }
            tokio::time::sleep(SNAPSHOT_PAUSE).await;
        }
        let detail = "the snapshot was taken and is not kept at this site";
        Err(coded(Code::SnapshotUnusable, "SDRS.1904", detail))
    }

    async fn end_drill(&self, id: Uuid, refused: Option<&Refused>, well: Life) {
        let end = |record: &mut Record| {
            if let Record::Drill(drill) = record {
                drill.life = if refused.is_some() { drill.life.failed() } else { well };
                drill.fault = refused.map(|of| fault(of, crate::book::evs::Dialect::Sdrs));
            }
            Ok(())
        };
        self.note(self.change_record(id, end).await);
    }

    pub(super) async fn delete_drill(self: &Arc<Self>, id: Uuid) -> Result<Made, Refused> {
        let pages = self.book.read();
        let drill = pages.evs.drills().find(|drill| drill.head.id == id).cloned();
        let drill = drill.ok_or_else(|| not_found("drill", id, "SDRS.1901"))?;
        if drill.life.is_busy() {
            let detail = "the drill is being made or deleted";
            return Err(coded(Code::Busy, "SDRS.1913", detail));
        }
        let group = pages.evs.group(drill.group)?.clone();
        let about = About {
            kind: "deleteDisasterRecoveryDrill",
            failure: "deleteFail",
            resource: "disaster_recovery_drill",
            subject: (id, drill.name.clone()),
            parts: Vec::new(),
        };
        let mine_first = [self.own_id(), group.owner()];
        let job = self.begin_job(group.dialect, mine_first, about).await?;
        let deleting = |record: &mut Record| {
            if let Record::Drill(drill) = record {
                drill.life = Life::Deleting;
            }
            Ok(())
        };
        self.change_record(id, deleting).await?;
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            let ended = gateway.clear_drill(&group, &drill).await;
            let ended = match ended {
                Ok(()) => gateway.drop_record(id).await,
                Err(refused) => {
                    gateway.end_drill(id, Some(&refused), Life::Deleting).await;
                    Err(refused)
                }
            };
            gateway.end_job(job, &ended).await;
        });
        Ok(Made { id, job })
    }

    async fn clear_drill(&self, group: &Group, drill: &Drill) -> Result<(), Refused> {
        for (_, volume) in &drill.volumes {
            if self.book.read().volume(volume).is_some() {
                self.delete_volume(volume).await?;
            }
        }
        if !drill.snapshot.starts_with("drill-") {
            return Ok(());
        }
        // A production site that is not heard keeps the snapshot; an operator sees it by its name.
        let call = Call::Unsnap { group: group.head.id, name: drill.snapshot.clone() };
        let asked = match group.owner() == self.own_id() {
            true => self.unsnap(group.head.id, drill.snapshot.clone()).await.map(EvsAnswer::Made),
            false => self.ask_evs(group.owner(), EvsQuestion::Call(call)).await,
        };
        if let Err(refused) = asked {
            let text =
                format!("snapshot {} of a drill stays: {}", drill.snapshot, refused.0.detail);
            self.events.tell("pair", &group.name, text);
        }
        Ok(())
    }

    pub(super) async fn snap(&self, group: Uuid, name: String) -> Result<Made, Refused> {
        let core = self.core_name(group)?;
        self.take_snapshot(&core, Some(name)).await?;
        Ok(Made { id: group, job: None })
    }

    pub(super) async fn unsnap(&self, group: Uuid, name: String) -> Result<Made, Refused> {
        let core = self.core_name(group)?;
        match self.delete_snapshot(&core, &name).await {
            Err(refused) if !refused.is(Code::NotFound) => Err(refused),
            _ => Ok(Made { id: group, job: None }),
        }
    }

    fn core_name(&self, group: Uuid) -> Result<String, Refused> {
        let core = self.book.read().evs.group(group)?.core;
        let core = core.ok_or_else(|| not_found("group", group, "SDRS.1013"))?;
        Ok(core.to_string())
    }

    pub(super) async fn end_drills_cut_short(&self, why: &str) {
        let pages = self.book.read();
        let mine = pages.evs.drills().filter(|of| of.gateway == self.own_id());
        for drill in mine.filter(|of| of.life.is_busy()) {
            let cut = |record: &mut Record| {
                if let Record::Drill(drill) = record {
                    drill.life = drill.life.failed();
                    let code = "SDRS.1922".to_owned();
                    drill.fault = Some(Fault { code, why: why.to_owned() });
                }
                Ok(())
            };
            self.note(self.change_record(drill.head.id, cut).await);
        }
    }
}
