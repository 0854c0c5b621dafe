//! How records are changed, kept at both gateways, and ended when a restart cut their work short.
//!
//! Invariant: a change is on stable storage before the other gateway hears of it, and is told until it
//! has.

use std::sync::Arc;
use std::time::Duration;

use api::Code;
use uuid::Uuid;

use super::{EvsQuestion, INTERNAL, not_found};
use crate::book::evs::{Fault, Group, Head, Life, Pair, Record};
use crate::gateway::Gateway;
use crate::refusal::Refused;

/// How soon the other gateway is told again of what it did not hear.
const RETRY: Duration = Duration::from_secs(2);
/// How long a call waits until the other gateway has heard of what it changed.
const TELL_MAX: Duration = Duration::from_secs(2);

impl Gateway {
    /// Changes a record durably, and lets the other gateway know.
    pub(crate) async fn change_record<T>(
        &self,
        id: Uuid,
        change: impl FnOnce(&mut Record) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let now_ms = self.clock.unix_ms();
        let changed = self.book.change(Vec::new(), |pages| {
            let known = pages.evs.record(id).filter(|record| !record.head().is_gone);
            let mut record = known.cloned().ok_or_else(|| not_found("thing", id, "SDRS.0201"))?;
            record.head_mut().touch(now_ms);
            let result = change(&mut record)?;
            pages.evs.put(record);
            Ok::<T, Refused>(result)
        });
        let result = changed.await?;
        self.tell_record(id).await;
        Ok(result)
    }

    pub(crate) async fn change_group<T>(
        &self,
        id: Uuid,
        change: impl FnOnce(&mut Group) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let of_group = |record: &mut Record| match record {
            Record::Group(group) => change(group),
            Record::Pair(_) | Record::Drill(_) | Record::Job(_) | Record::Instance(_) => {
                Err(not_found("group", id, "SDRS.1013"))
            }
        };
        self.change_record(id, of_group).await
    }

    pub(crate) async fn change_pair<T>(
        &self,
        id: Uuid,
        change: impl FnOnce(&mut Pair) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let of_pair = |record: &mut Record| match record {
            Record::Pair(pair) => change(pair),
            Record::Group(_) | Record::Drill(_) | Record::Job(_) | Record::Instance(_) => {
                Err(not_found("replication pair", id, "SDRS.0213"))
            }
        };
        self.change_record(id, of_pair).await
    }

    /// Makes a record; both gateways know it then, if the other one answers.
    pub(crate) async fn put_record(&self, record: Record) -> Result<(), Refused> {
        let id = record.head().id;
        let put = self.book.change(Vec::new(), |pages| {
            let mut record = record;
            record.head_mut().revision += 1;
            pages.evs.put(record);
            Ok::<(), Refused>(())
        });
        put.await?;
        self.tell_record(id).await;
        Ok(())
    }

    /// Deletes a record; it is forgotten when the other gateway knows.
    pub(crate) async fn drop_record(&self, id: Uuid) -> Result<(), Refused> {
        let gone = |record: &mut Record| {
            record.head_mut().is_gone = true;
            Ok(())
        };
        self.change_record(id, gone).await
    }

    /// Tells the other gateway of a record, for a moment.
    pub(super) async fn tell_record(&self, id: Uuid) {
        let Some(record) = self.book.read().evs.record(id).cloned() else { return };
        // One that does not hear it now is told again by the loop.
        let _heard = tokio::time::timeout(TELL_MAX, self.tell(record)).await;
    }

    async fn tell(&self, record: Record) -> bool {
        let Head { id, revision, told, .. } = *record.head();
        if told >= revision && revision > 0 {
            return true;
        }
        if let Some(other) = record.head().beside(self.own_id())
            && self.ask_evs(other, EvsQuestion::Keep { record: Box::new(record) }).await.is_err()
        {
            return false;
        }
        let noted = self.book.change(Vec::new(), |pages| {
            pages.evs.told(id, revision);
            Ok::<(), Refused>(())
        });
        noted.await.is_ok()
    }

    async fn tell_all_records(&self) {
        let pages = self.book.read();
        let untold = pages.evs.records.iter().filter(|of| of.head().told < of.head().revision);
        let mut silent = std::collections::HashSet::new();
        for record in untold {
            let both = record.head().gateways;
            if !silent.contains(&both) && !self.tell(record.clone()).await {
                silent.insert(both);
            }
        }
    }

    /// Keeps the records at both gateways, and ends what a restart has cut short.
    pub(crate) fn begin_evs(self: &Arc<Self>) {
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            gateway.end_what_was_cut_short().await;
            let tell = async {
                loop {
                    gateway.settle_directions().await;
                    gateway.tell_all_records().await;
                    tokio::time::sleep(RETRY).await;
                }
            };
            let both = async { tokio::join!(tell, gateway.tend_servers()) };
            gateway.stopping.run_until_cancelled(Box::pin(both)).await;
        });
    }

    /// Nobody is at work on what this gateway worked on before it started.
    async fn end_what_was_cut_short(&self) {
        let me = self.own_id();
        let why = "a restart of the gateway cut it short; say it again";
        let pages = self.book.read();
        for group in pages.evs.groups().filter(|of| of.life.is_busy() && of.worker == Some(me)) {
            let cut = |group: &mut Group| {
                group.life = group.life.failed();
                group.fault = Some(Fault { code: INTERNAL.to_owned(), why: why.to_owned() });
                Ok(())
            };
            self.note(self.change_group(group.head.id, cut).await);
        }
        for pair in pages.evs.pairs() {
            if pair.life.is_busy() && pair.head.gateways[pair.primary] == me {
                let cut = |pair: &mut Pair| {
                    pair.life = pair.life.failed();
                    pair.fault = Some(Fault { code: INTERNAL.to_owned(), why: why.to_owned() });
                    Ok(())
                };
                self.note(self.change_pair(pair.head.id, cut).await);
            }
        }
        for instance in pages.evs.instances().filter(|of| of.life.is_busy()) {
            let is_mine = pages.evs.group(instance.group).is_ok_and(|of| of.owner() == me);
            if is_mine {
                let cut = Refused::new(Code::Interrupted, why);
                self.end_instance(instance.head.id, &Err(cut), Life::Available).await;
            }
        }
        self.end_jobs_cut_short(why).await;
        self.end_drills_cut_short(why).await;
    }

    /// What could not be recorded is told in the log: the next start finds it as it was.
    pub(super) fn note<T>(&self, result: Result<T, Refused>) {
        if let Err(refused) = result {
            let site = &self.config.site.name;
            tracing::warn!(
                site,
                why = refused.0.detail,
                "a record of the EVS dialect stays as it was"
            );
        }
    }

    pub(super) async fn keep_record(&self, asker: Uuid, mut record: Record) -> Result<(), Refused> {
        let me = self.own_id();
        let gateways = record.head().gateways;
        if !gateways.contains(&me) || !gateways.contains(&asker) {
            let detail = "a record is kept by the gateways that it names";
            return Err(Refused::new(Code::Forbidden, detail));
        }
        let (id, revision) = (record.head().id, record.head().revision);
        record.head_mut().told = revision;
        self.book
            .change(Vec::new(), |pages| {
                if let Record::Pair(pair) = &record
                    && pair.is_made
                    && pair.head.gateways[1] == me
                {
                    pages.evs.call_disk(pair.disks[1], &pair.names[1]);
                }
                if !pages.evs.put(record) {
                    pages.evs.told(id, revision);
                }
                Ok::<(), Refused>(())
            })
            .await
    }
}
