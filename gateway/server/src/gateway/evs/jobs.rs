//! Jobs of the disaster recovery service: what a call began, followed by its identity at either gateway.
//!
//! Invariant: a job ends once; one that a restart cut short has failed. A failure stays listed until
//! somebody takes it off the list.

use std::collections::HashSet;

use api::Code;
use uuid::Uuid;

use super::{Made, fault, not_found};
use crate::book::evs::{Dialect, Fault, Head, Job, Progress, Record};
use crate::gateway::Gateway;
use crate::refusal::Refused;

/// What a job is about.
#[derive(Clone, Debug)]
pub(super) struct About {
    /// The dialect's word for what it does.
    pub(super) kind: &'static str,
    /// The dialect's word for how its failure is listed.
    pub(super) failure: &'static str,
    /// The dialect's word for what it is about.
    pub(super) resource: &'static str,
    /// Which one, and its name.
    pub(super) subject: (Uuid, String),
    /// The pairs that it concerns one by one.
    pub(super) parts: Vec<Uuid>,
}

impl Gateway {
    /// Begins a job; none for the volume service, which has none.
    pub(super) async fn begin_job(
        &self,
        dialect: Dialect,
        gateways: [Uuid; 2],
        about: About,
    ) -> Result<Option<Uuid>, Refused> {
        if dialect == Dialect::Evs {
            return Ok(None);
        }
        let head = Head::new(gateways, self.clock.unix_ms());
        let id = head.id;
        let job = Job {
            head,
            kind: about.kind.to_owned(),
            progress: Progress::Running,
            ended_ms: None,
            fault: None,
            resource: about.resource.to_owned(),
            subject: about.subject.0,
            name: about.subject.1,
            failure: about.failure.to_owned(),
            parts: about.parts,
            is_purged: false,
        };
        self.put_record(Record::Job(job)).await?;
        Ok(Some(id))
    }

    /// Ends a job.
    pub(super) async fn end_job(&self, job: Option<Uuid>, result: &Result<(), Refused>) {
        let Some(id) = job else { return };
        let fault = result.as_ref().err().map(|refused| fault(refused, Dialect::Sdrs));
        self.end_job_so(id, fault).await;
    }

    async fn end_job_so(&self, id: Uuid, fault: Option<Fault>) {
        let now_ms = self.clock.unix_ms();
        let end = |record: &mut Record| {
            if let Record::Job(job) = record
                && job.progress == Progress::Running
            {
                job.progress = if fault.is_some() { Progress::Fail } else { Progress::Success };
                job.ended_ms = Some(now_ms);
                job.fault = fault;
            }
            Ok(())
        };
        self.note(self.change_record(id, end).await);
    }

    /// Jobs that this gateway began before it was restarted come to no end by themselves. Those of the
    /// other gateway it only keeps.
    pub(super) async fn end_jobs_cut_short(&self, why: &str) {
        let me = self.own_id();
        let pages = self.book.read();
        let running = |job: &&Job| job.progress == Progress::Running && job.head.gateways[0] == me;
        for job in pages.evs.jobs().filter(running) {
            let fault = Fault { code: "SDRS.0405".to_owned(), why: why.to_owned() };
            self.end_job_so(job.head.id, Some(fault)).await;
        }
    }

    /// Takes failures off the list: these, or all.
    pub(super) async fn purge_jobs(&self, ids: Vec<Uuid>) -> Result<Made, Refused> {
        let pages = self.book.read();
        let failed = pages.evs.jobs().filter(|job| job.progress == Progress::Fail);
        let failed: HashSet<Uuid> = failed.map(|job| job.head.id).collect();
        if let Some(unknown) = ids.iter().find(|id| !failed.contains(id)) {
            return Err(not_found("failed job", *unknown, "SDRS.0201"));
        }
        let all: Vec<Uuid> = if ids.is_empty() { failed.into_iter().collect() } else { ids };
        for id in all {
            let purge = |record: &mut Record| match record {
                Record::Job(job) => {
                    job.is_purged = true;
                    Ok(())
                }
                Record::Pair(_) | Record::Group(_) | Record::Drill(_) | Record::Instance(_) => {
                    Err(Refused::new(Code::NotFound, "it is no job"))
                }
            };
            self.change_record(id, purge).await?;
        }
        Ok(Made::default())
    }
}
