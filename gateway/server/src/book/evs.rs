//! What the EVS and SDRS dialects remember beyond the core: pairs, groups and protected servers by their own
//! names and identities, drills, jobs, and how disks were called before they became destinations.
//!
//! Invariant: the gateways of a pair keep the same records. Of two versions of one the higher revision
//! holds; a change of roles outweighs every change that the other side made without knowing of it. What
//! is deleted stays as a mark until the other side has heard of it.

mod instance;
mod life;
#[cfg(test)]
pub(crate) mod samples;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) use instance::{Attached, Instance, Nic};
pub(crate) use life::Life;

/// A change of roles outweighs as many other changes as are ever made between two of them.
const TURN: u64 = 1 << 32;

/// How a record is known and told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Head {
    /// Its identity.
    pub(crate) id: Uuid,
    /// Which version this is.
    pub(crate) revision: u64,
    /// The version that the other gateway has, as far as this one knows.
    #[serde(default)]
    pub(crate) told: u64,
    /// Whether it is deleted.
    #[serde(default)]
    pub(crate) is_gone: bool,
    /// The gateways that keep it: the source's as it was made, and the destination's.
    pub(crate) gateways: [Uuid; 2],
    /// When it was made, in milliseconds since 1970.
    pub(crate) made_ms: u64,
    /// When it was changed last.
    pub(crate) changed_ms: u64,
}

impl Head {
    /// A new one.
    #[must_use]
    pub(crate) fn new(gateways: [Uuid; 2], now_ms: u64) -> Self {
        Self {
            id: Uuid::now_v7(),
            revision: 0,
            gateways,
            made_ms: now_ms,
            changed_ms: now_ms,
            ..Self::default()
        }
    }

    /// The gateway that has it beside this one.
    #[must_use]
    pub(crate) fn beside(&self, me: Uuid) -> Option<Uuid> {
        self.gateways.into_iter().find(|of| *of != me)
    }

    /// It is changed.
    pub(crate) fn touch(&mut self, now_ms: u64) {
        self.revision += 1;
        self.changed_ms = now_ms;
    }

    /// Roles have changed.
    pub(crate) fn turn(&mut self) {
        self.revision = (self.revision / TURN + 1) * TURN;
    }
}

/// Which interface made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Dialect {
    /// The volume service's replication calls.
    #[default]
    Evs,
    /// The disaster recovery service.
    Sdrs,
}

/// What the data of a group is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wanted {
    /// Nothing was ever copied.
    #[default]
    Idle,
    /// It is mirrored.
    Running,
    /// It is paused.
    Paused,
    /// It was failed over and waits for a reprotect.
    FailedOver,
}

/// Why something came to nothing: the dialect's own code, and words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Fault {
    /// The dialect's code.
    pub(crate) code: String,
    /// What, why, and what next.
    pub(crate) why: String,
}

/// Two disks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Pair {
    /// How it is known.
    pub(crate) head: Head,
    /// Who made it.
    pub(crate) dialect: Dialect,
    /// Its name.
    pub(crate) name: String,
    /// For people.
    pub(crate) description: String,
    /// The disks by the identities under which they were named: the source's, the destination's.
    pub(crate) disks: [Uuid; 2],
    /// Their names at their gateways.
    pub(crate) names: [String; 2],
    /// The zones.
    pub(crate) stations: [String; 2],
    /// The identity of the volume that both hold once they are mirrored.
    pub(crate) volume: Uuid,
    /// Size.
    pub(crate) bytes: u64,
    /// Which of the two is the production disk.
    pub(crate) primary: usize,
    /// The group that it is in.
    pub(crate) group: Option<Uuid>,
    /// Its life.
    pub(crate) life: Life,
    /// Why it is in error.
    #[serde(default)]
    pub(crate) fault: Option<Fault>,
    /// Whether the destination is made by the first copy: there was none before.
    #[serde(default)]
    pub(crate) is_made: bool,
    /// Consent that what the destination holds is lost.
    #[serde(default)]
    pub(crate) overwrites: bool,
    /// It left its group, and the destination waits to be a volume of its own.
    #[serde(default)]
    pub(crate) leaves: bool,
}

/// Pairs that are handled together.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Group {
    /// How it is known.
    pub(crate) head: Head,
    /// Who made it.
    pub(crate) dialect: Dialect,
    /// Its name.
    pub(crate) name: String,
    /// For people.
    pub(crate) description: String,
    /// The zones.
    pub(crate) stations: [String; 2],
    /// Which of the two is the production site.
    pub(crate) primary: usize,
    /// The group of the core that carries it, once it has volumes.
    pub(crate) core: Option<Uuid>,
    /// Its life.
    pub(crate) life: Life,
    /// What its data is to do.
    pub(crate) wanted: Wanted,
    /// Why it is in error.
    #[serde(default)]
    pub(crate) fault: Option<Fault>,
    /// The gateway that works on it.
    #[serde(default)]
    pub(crate) worker: Option<Uuid>,
    /// What was said of its networks.
    #[serde(default)]
    pub(crate) vpc: String,
    /// The pair of zones by which it was made.
    #[serde(default)]
    pub(crate) domain: String,
    /// When its last drill was made.
    #[serde(default)]
    pub(crate) drilled_ms: Option<u64>,
    /// The core's epoch in which the production site became that; 0 where it never changed.
    #[serde(default)]
    pub(crate) epoch: u64,
}

impl Group {
    /// The gateway of the production site.
    #[must_use]
    pub(crate) fn owner(&self) -> Uuid {
        self.head.gateways[self.primary]
    }

    /// The other one.
    #[must_use]
    pub(crate) fn other(&self) -> Uuid {
        self.head.gateways[1 - self.primary]
    }
}

/// Volumes that were made of the disks at the destination, apart from what runs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Drill {
    /// How it is known.
    pub(crate) head: Head,
    /// Its name.
    pub(crate) name: String,
    /// The group.
    pub(crate) group: Uuid,
    /// What was said of its network.
    pub(crate) vpc: String,
    /// The gateway that has it.
    pub(crate) gateway: Uuid,
    /// The snapshot that its volumes are made of.
    pub(crate) snapshot: String,
    /// For each pair the volume that was made.
    pub(crate) volumes: Vec<(Uuid, String)>,
    /// Its life.
    pub(crate) life: Life,
    /// Why it is in error.
    #[serde(default)]
    pub(crate) fault: Option<Fault>,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum Progress {
    /// It runs.
    Running,
    /// It ended well.
    Success,
    /// It did not.
    Fail,
}

/// What a call of the disaster recovery service began.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Job {
    /// How it is known.
    pub(crate) head: Head,
    /// The dialect's word for what it does.
    pub(crate) kind: String,
    /// How far it is.
    pub(crate) progress: Progress,
    /// When it ended.
    pub(crate) ended_ms: Option<u64>,
    /// Why it failed.
    pub(crate) fault: Option<Fault>,
    /// The dialect's word for what it is about.
    pub(crate) resource: String,
    /// Which one.
    pub(crate) subject: Uuid,
    /// Its name.
    pub(crate) name: String,
    /// The dialect's word for how a failure is listed.
    pub(crate) failure: String,
    /// Parts of it: what each does, which pair it is about.
    pub(crate) parts: Vec<Uuid>,
    /// Whether somebody took it off the list of failures.
    #[serde(default)]
    pub(crate) is_purged: bool,
}

/// A record as one gateway tells it to another.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub(crate) enum Record {
    /// A pair.
    Pair(Pair),
    /// A group.
    Group(Group),
    /// A drill.
    Drill(Drill),
    /// A job.
    Job(Job),
    /// A protected server.
    Instance(Instance),
}

impl Record {
    /// How it is known.
    #[must_use]
    pub(crate) fn head(&self) -> &Head {
        match self {
            Self::Pair(of) => &of.head,
            Self::Group(of) => &of.head,
            Self::Drill(of) => &of.head,
            Self::Job(of) => &of.head,
            Self::Instance(of) => &of.head,
        }
    }

    /// The same, to be changed.
    pub(crate) fn head_mut(&mut self) -> &mut Head {
        match self {
            Self::Pair(of) => &mut of.head,
            Self::Group(of) => &mut of.head,
            Self::Drill(of) => &mut of.head,
            Self::Job(of) => &mut of.head,
            Self::Instance(of) => &mut of.head,
        }
    }
}

/// How a disk here was called before it took its source's identity.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Called {
    /// The identity by which it is named.
    pub(crate) disk: Uuid,
    /// Its name here.
    pub(crate) name: String,
}

/// Jobs that are remembered.
const JOBS_MAX: usize = 256;

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct EvsPages {
    /// All records, in the order in which they came.
    #[serde(default)]
    pub(crate) records: Vec<Record>,
    /// Disks that changed their identity.
    #[serde(default)]
    pub(crate) called: Vec<Called>,
}

impl EvsPages {
    /// The record with this identity, deleted or not.
    #[must_use]
    pub(crate) fn record(&self, id: Uuid) -> Option<&Record> {
        self.records.iter().find(|record| record.head().id == id)
    }

    fn present(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| !record.head().is_gone)
    }

    /// All pairs.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = &Pair> {
        self.present().filter_map(|of| if let Record::Pair(of) = of { Some(of) } else { None })
    }

    /// All groups.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.present().filter_map(|of| if let Record::Group(of) = of { Some(of) } else { None })
    }

    /// All drills.
    pub(crate) fn drills(&self) -> impl Iterator<Item = &Drill> {
        self.present().filter_map(|of| if let Record::Drill(of) = of { Some(of) } else { None })
    }

    /// All jobs.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.present().filter_map(|of| if let Record::Job(of) = of { Some(of) } else { None })
    }

    /// All protected servers.
    pub(crate) fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.present().filter_map(|of| if let Record::Instance(of) = of { Some(of) } else { None })
    }

    /// The name here of the disk that is called so, if it has changed its identity.
    #[must_use]
    pub(crate) fn name_of_disk(&self, disk: Uuid) -> Option<&str> {
        self.called.iter().find(|called| called.disk == disk).map(|called| called.name.as_str())
    }

    /// By which identity the volume of this name is named, if that is not its own.
    #[must_use]
    pub(crate) fn disk_called(&self, name: &str) -> Option<Uuid> {
        self.called.iter().find(|called| called.name == name).map(|called| called.disk)
    }

    /// The volume of this name here is named by that identity from now on.
    pub(crate) fn call_disk(&mut self, disk: Uuid, name: &str) {
        self.called.retain(|called| called.name != name && called.disk != disk);
        self.called.push(Called { disk, name: name.to_owned() });
    }

    /// Takes a record in, if it is newer than the one that is known; whether it was.
    pub(crate) fn put(&mut self, record: Record) -> bool {
        let head = record.head();
        match self.records.iter_mut().find(|known| known.head().id == head.id) {
            Some(known) if known.head().revision >= head.revision => return false,
            Some(known) => *known = record,
            None => self.records.push(record),
        }
        self.forget();
        true
    }

    /// The other gateway has this version.
    pub(crate) fn told(&mut self, id: Uuid, revision: u64) {
        if let Some(known) = self.records.iter_mut().find(|known| known.head().id == id) {
            let head = known.head_mut();
            head.told = head.told.max(revision);
        }
        self.forget();
    }

    /// What is deleted everywhere, and the oldest jobs beyond those that are kept.
    fn forget(&mut self) {
        let is_over = |head: &Head| head.is_gone && head.told >= head.revision;
        self.records.retain(|record| !is_over(record.head()));
        let is_job = |record: &Record| matches!(record, Record::Job(_));
        let mut more = self.records.iter().filter(|of| is_job(of)).count().saturating_sub(JOBS_MAX);
        self.records.retain(|record| {
            let goes = more > 0 && is_job(record);
            more -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drill(revision: u64) -> Drill {
        let head = Head { id: Uuid::from_u128(7), revision, ..Head::default() };
        Drill {
            head,
            name: "d".to_owned(),
            group: Uuid::nil(),
            vpc: String::new(),
            gateway: Uuid::nil(),
            snapshot: String::new(),
            volumes: Vec::new(),
            life: Life::Creating,
            fault: None,
        }
    }

    #[test]
    fn evs_32_a_change_of_roles_outweighs_what_the_other_side_changed_meanwhile() {
        let mut pages = EvsPages::default();
        assert!(pages.put(Record::Drill(drill(1))));
        let mut turned = drill(1);
        turned.head.turn();
        let mut touched = drill(1);
        (0..1000).for_each(|ms| touched.head.touch(ms));
        assert!(pages.put(Record::Drill(touched)));
        assert!(pages.put(Record::Drill(turned.clone())));
        assert!(!pages.put(Record::Drill(drill(2000))), "it did not know of the turn");
        turned.head.turn();
        assert!(pages.put(Record::Drill(turned)));
    }

    #[test]
    fn evs_16_what_is_deleted_is_forgotten_when_both_know() {
        let mut pages = EvsPages::default();
        let mut gone = drill(1);
        pages.put(Record::Drill(gone.clone()));
        gone.head.is_gone = true;
        gone.head.touch(5);
        pages.put(Record::Drill(gone.clone()));
        assert_eq!((pages.drills().count(), pages.records.len()), (0, 1));
        assert!(!pages.put(Record::Drill(drill(1))), "an old copy does not bring it back");
        pages.told(gone.head.id, gone.head.revision);
        assert_eq!(pages.records, []);
    }

    #[test]
    fn evs_08_what_comes_to_nothing_is_an_error_of_its_own() {
        for (busy, failed) in [
            (Life::Creating, Life::Error),
            (Life::Deleting, Life::ErrorDeleting),
            (Life::Reversing, Life::ErrorReversing),
            (Life::FailingOver, Life::ErrorFailingOver),
            (Life::Reprotecting, Life::ErrorReprotecting),
            (Life::Resizing, Life::ErrorResizing),
            (Life::Detaching, Life::ErrorDetaching),
        ] {
            assert!(busy.is_busy());
            assert_eq!(busy.failed(), failed);
            assert!(!failed.is_busy());
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let pages = EvsPages {
            records: vec![Record::Drill(drill(3))],
            called: vec![Called { disk: Uuid::from_u128(1), name: "b".to_owned() }],
        };
        let text = serde_json::to_string(&pages).unwrap();
        assert_eq!(serde_json::from_str::<EvsPages>(&text).unwrap(), pages);
    }
}
