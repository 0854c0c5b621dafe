//! Jobs: what a call of the dialect began, followed by a number.
//!
//! Invariant: a job is an operation with lists of what became of what; it ends when the operation
//! does, exactly once. A number is never used again, over restarts too.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use api::{Code, RecAccepted, RecError, RecFailedResource, RecJob, RecOperation};
use axum::Json;
use axum::extract::{Path, Query, State};
use serde_json::Value;
use uuid::Uuid;

use super::fields::Fields;
use super::{Failure, Shared, job_href, number, shape, status};
use crate::clock::Clock;
use crate::gateway::Gateway;
use crate::operations::Running;
use crate::refusal::Refused;

/// Jobs that are remembered; operations are forgotten no later.
const JOBS_MAX: usize = 512;
/// Numbers that a second of uptime has: more jobs than that were never begun in one.
const NUMBERS_A_SECOND: u64 = 1_000;

/// What an operation does not say.
#[derive(Clone, Debug)]
struct Job {
    number: u64,
    operation: Uuid,
    description: String,
    resources: Vec<String>,
    succeeded: Vec<String>,
    failed: Vec<RecFailedResource>,
    progress: Vec<String>,
}

/// The jobs of this start.
#[derive(Debug)]
pub(crate) struct Jobs {
    next: AtomicU64,
    all: Mutex<VecDeque<Job>>,
}

impl Jobs {
    /// None yet. Numbers begin with the second of this start.
    #[must_use]
    pub(crate) fn new(clock: Clock) -> Self {
        let first = clock.unix_s().saturating_mul(NUMBERS_A_SECOND);
        Self { next: AtomicU64::new(first), all: Mutex::default() }
    }

    fn change(&self, number: u64, change: impl FnOnce(&mut Job)) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(job) = all.iter_mut().find(|job| job.number == number) {
            change(job);
        }
    }

    fn list(&self) -> Vec<Job> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().cloned().collect()
    }
}

/// A job under way.
pub(super) struct Work {
    gateway: Arc<Gateway>,
    number: u64,
    /// Its operation.
    pub(super) running: Running,
}

impl Work {
    /// Begins one.
    #[must_use]
    pub(super) fn begin(gateway: &Arc<Gateway>, kind: &str, subject: &str, call: &str) -> Self {
        let running = gateway.operations.begin(kind, subject);
        let jobs = &gateway.jobs;
        let number = jobs.next.fetch_add(1, Ordering::Relaxed);
        let operation = running.snapshot().map(|operation| operation.id).unwrap_or_default();
        let mut all = jobs.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= JOBS_MAX {
            all.pop_front();
        }
        all.push_back(Job {
            number,
            operation,
            description: call.to_owned(),
            resources: Vec::new(),
            succeeded: Vec::new(),
            failed: Vec::new(),
            progress: Vec::new(),
        });
        drop(all);
        Self { gateway: Arc::clone(gateway), number, running }
    }

    /// What the caller is told.
    #[must_use]
    pub(super) fn accepted(&self, warnings: Vec<String>) -> RecAccepted {
        RecAccepted { job_id: self.number, job_href: job_href(self.number), warning_list: warnings }
    }

    /// It made or changed this.
    pub(super) fn resource(&self, href: String) {
        self.gateway.jobs.change(self.number, |job| job.resources.push(href));
    }

    /// This, one of several, went well.
    pub(super) fn succeeded(&self, href: String) {
        self.gateway.jobs.change(self.number, |job| job.succeeded.push(href));
    }

    /// What was begun is seen to go on here.
    pub(super) fn progress(&self, href: String) {
        self.gateway.jobs.change(self.number, |job| job.progress.push(href));
    }

    /// This did not go well.
    pub(super) fn failed(&self, href: String, refused: &Refused) {
        let error = shape::error(&refused.0);
        let failed = RecFailedResource { resource_href: href, error };
        self.gateway.jobs.change(self.number, |job| job.failed.push(failed));
    }

    /// Ends it, over one thing.
    pub(super) fn end(self, href: &str, result: Result<(), Refused>) {
        if let Err(refused) = &result {
            self.failed(href.to_owned(), refused);
        }
        self.running.end(result.map_err(|refused| *refused.0));
    }

    /// Ends it, over several things; what went wrong with them was told.
    pub(super) fn end_of_many(self) {
        self.running.end(Ok(()));
    }
}

fn shown(gateway: &Gateway, job: &Job) -> Option<RecJob> {
    let operation = gateway.operations.get(job.operation)?;
    let mut failed = job.failed.clone();
    if let (Some(problem), true) = (&operation.error, failed.is_empty()) {
        let error: RecError = shape::error(problem);
        failed.push(RecFailedResource { resource_href: String::new(), error });
    }
    let steps = operation.steps.iter().map(|step| RecOperation {
        operation: if step.detail.is_empty() {
            step.name.clone()
        } else {
            format!("{}: {}", step.name, step.detail)
        },
        result: status::step(step.state).to_owned(),
    });
    Some(RecJob {
        job_id: job.number,
        job_href: job_href(job.number),
        description: job.description.clone(),
        status: status::job(operation.state, !failed.is_empty(), !job.succeeded.is_empty())
            .to_owned(),
        created_time: operation.started_at.clone(),
        modified_time: operation.ended_at.clone().unwrap_or_else(|| operation.started_at.clone()),
        resource_href_list: job.resources.clone(),
        succeeded_resource_href_list: job.succeeded.clone(),
        failed_resource_info_list: failed,
        progress_href_list: job.progress.clone(),
        operation_list: steps.collect(),
    })
}

/// All jobs that are remembered
#[utoipa::path(get, path = "/api/v1/job", tag = "rec", operation_id = "rec_list_jobs",
    params(("fields" = Option<String>, Query)),
    responses((status = 200, body = Vec<RecJob>), (status = "default", body = RecError)))]
pub(super) async fn list(
    State(gateway): Shared,
    Query(fields): Query<Fields>,
) -> Result<Json<Value>, Failure> {
    let jobs: Vec<RecJob> =
        gateway.jobs.list().iter().filter_map(|job| shown(&gateway, job)).collect();
    fields.list("job_list", &jobs)
}

/// A job
#[utoipa::path(get, path = "/api/v1/job/{job_id}", tag = "rec", operation_id = "rec_show_job",
    params(("job_id" = u64, Path), ("fields" = Option<String>, Query)),
    responses((status = 200, body = RecJob), (status = "default", body = RecError)))]
pub(super) async fn show(
    State(gateway): Shared,
    Path(job): Path<String>,
    Query(fields): Query<Fields>,
) -> Result<Json<Value>, Failure> {
    let wanted = number(&job)?;
    let jobs = gateway.jobs.list();
    let found = jobs.iter().find(|job| job.number == wanted).and_then(|job| shown(&gateway, job));
    let found = found.ok_or_else(|| {
        Failure::new(Code::NotFound, format!("there is no job {wanted}, or it was forgotten"))
    })?;
    fields.one(&found)
}
