//! Jobs, and the list of those that failed.

use api::{Code, SdrsFailed, SdrsJob};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{Asked, Failure, Match, Named, Shared, counted};
use crate::book::evs::{Job, Progress};
use crate::clock::text;
use crate::gateway::evs::{Call, coded};

const fn word(progress: Progress) -> &'static str {
    match progress {
        Progress::Running => "RUNNING",
        Progress::Success => "SUCCESS",
        Progress::Fail => "FAIL",
    }
}

fn shown(job: &Job) -> SdrsJob {
    let part = |pair: &uuid::Uuid| {
        json!({
            "job_id": format!("{}/{pair}", job.head.id),
            "job_type": job
                .kind
                .replace("ProtectionGroupNoCG", "ReplicationPairNoCG")
                .replace("ProtectedInstanceNoCG", "ReplicationPairNoCG"),
            "status": word(job.progress),
            "begin_time": text(job.head.made_ms),
            "end_time": job.ended_ms.map(text),
            "error_code": job.fault.as_ref().map(|fault| &fault.code),
            "fail_reason": job.fault.as_ref().map(|fault| &fault.why),
            "entities": { "replication_pair_id": pair.to_string() },
        })
    };
    let parts: Vec<Value> = job.parts.iter().map(part).collect();
    SdrsJob {
        job_id: job.head.id.to_string(),
        job_type: job.kind.clone(),
        status: word(job.progress).to_owned(),
        begin_time: text(job.head.made_ms),
        end_time: job.ended_ms.map(text),
        error_code: job.fault.as_ref().map(|fault| fault.code.clone()),
        fail_reason: job.fault.as_ref().map(|fault| fault.why.clone()),
        entities: json!({ format!("{}_id", job.resource): job.subject, "sub_jobs": parts }),
    }
}

fn failed_one(job: &Job) -> SdrsFailed {
    SdrsFailed {
        job_status: word(job.progress).to_owned(),
        resource_id: job.subject.to_string(),
        resource_name: job.name.clone(),
        resource_type: job.resource.clone(),
        failure_status: job.failure.clone(),
        job_id: job.head.id.to_string(),
        job_type: job.kind.clone(),
        begin_time: text(job.head.made_ms),
        error_code: job.fault.as_ref().map(|fault| fault.code.clone()),
        fail_reason: job.fault.as_ref().map(|fault| fault.why.clone()),
    }
}

/// A job
#[utoipa::path(get, path = "/v1/{project}/jobs/{id}", tag = "evs", operation_id = "sdrs_show_job",
    params(("project" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = SdrsJob), (status = "default", body = api::EvsError)))]
pub(super) async fn show(
    State(gateway): Shared,
    Path(named): Path<Named>,
) -> Result<Json<SdrsJob>, Failure> {
    let id = named.id()?;
    let pages = gateway.book.read();
    let job = pages.evs.jobs().find(|job| job.head.id == id).ok_or_else(|| {
        coded(Code::NotFound, "SDRS.0201", format!("there is no job {id}, or it was forgotten"))
    })?;
    Ok(Json(shown(job)))
}

/// Jobs that failed
#[utoipa::path(get, path = "/v1/{project}/task-center/failure-jobs", tag = "evs",
    operation_id = "sdrs_list_failed_jobs",
    params(("project" = String, Path), ("limit" = Option<u32>, Query),
           ("offset" = Option<u32>, Query), ("failure_status" = Option<String>, Query),
           ("resource_name" = Option<String>, Query), ("resource_type" = Option<String>, Query)),
    responses((status = 200, body = api::SdrsFailedList),
              (status = "default", body = api::EvsError)))]
pub(super) async fn failed(
    State(gateway): Shared,
    Query(mut asked): Query<Asked>,
) -> Result<Json<Value>, Failure> {
    let pages = gateway.book.read();
    let is_listed = |job: &&Job| job.progress == Progress::Fail && !job.is_purged;
    let failed = pages.evs.jobs().filter(is_listed).map(failed_one);
    let items: Vec<Value> = failed.map(|of| serde_json::to_value(of).unwrap_or_default()).collect();
    let filters = [
        ("failure_status", "failure_status", Match::Equal),
        ("resource_name", "resource_name", Match::Part),
        ("resource_type", "resource_type", Match::Equal),
    ];
    asked.entry("sort_key".to_owned()).or_insert_with(|| "begin_time".to_owned());
    Ok(Json(counted("failure_jobs", items, &asked, &filters)?))
}

/// Take every failed job off the list
#[utoipa::path(delete, path = "/v1/{project}/task-center/failure-jobs", tag = "evs",
    operation_id = "sdrs_purge_failed_jobs", params(("project" = String, Path)),
    responses((status = 204), (status = "default", body = api::EvsError)))]
pub(super) async fn purge_all(State(gateway): Shared) -> Result<StatusCode, Failure> {
    gateway.evs_call(Call::PurgeJobs { ids: Vec::new() }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Take a failed job off the list
#[utoipa::path(delete, path = "/v1/{project}/task-center/failure-jobs/{id}", tag = "evs",
    operation_id = "sdrs_purge_failed_job",
    params(("project" = String, Path), ("id" = String, Path)),
    responses((status = 204), (status = "default", body = api::EvsError)))]
pub(super) async fn purge(
    State(gateway): Shared,
    Path(named): Path<Named>,
) -> Result<StatusCode, Failure> {
    gateway.evs_call(Call::PurgeJobs { ids: vec![named.id()?] }).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::evs::{Fault, Head};
    use uuid::Uuid;

    #[test]
    fn evs_46_a_job_has_a_part_for_each_pair_and_says_why_it_failed() {
        let job = Job {
            head: Head { id: Uuid::from_u128(1), ..Head::default() },
            kind: "startProtectionGroupNoCG".to_owned(),
            progress: Progress::Fail,
            ended_ms: Some(7),
            fault: Some(Fault { code: "SDRS.1027".to_owned(), why: "why".to_owned() }),
            resource: "server_group".to_owned(),
            subject: Uuid::from_u128(2),
            name: "shop".to_owned(),
            failure: "startFail".to_owned(),
            parts: vec![Uuid::from_u128(3), Uuid::from_u128(4)],
            is_purged: false,
        };
        let seen = shown(&job);
        assert_eq!((&*seen.status, seen.error_code.as_deref()), ("FAIL", Some("SDRS.1027")));
        assert_eq!(seen.entities["server_group_id"], Uuid::from_u128(2).to_string());
        let parts = seen.entities["sub_jobs"].as_array().unwrap();
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[0]["job_type"], "startReplicationPairNoCG");
        assert_eq!(failed_one(&job).failure_status, "startFail");
    }
}
