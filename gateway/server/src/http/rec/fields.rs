//! Field projection: `?fields=a,b` leaves the named fields, and what identifies the thing.
//!
//! Invariant: a field that the thing cannot have is refused by name; one that it could have and has
//! not now is absent.

use api::Code;
use axum::Json;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Failure;

/// The query of a call that shows things.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fields {
    fields: Option<String>,
}

/// What can be projected.
pub(super) trait Projected: Serialize {
    /// Every field that it can have; the first two always stay.
    const FIELDS: &'static [&'static str];
}

impl Projected for api::RecCopySession {
    const FIELDS: &'static [&'static str] = &[
        "copysession_id",
        "copysession_href",
        "type",
        "status",
        "phase",
        "source_volume_number",
        "source_volume_href",
        "source_volume_name",
        "destination_volume_number",
        "destination_volume_href",
        "destination_volume_name",
        "error_code",
        "error_ocurrence_time",
        "error_message",
        "copy_range",
        "concurrent_suspend_result",
        "remain_time_to_finish_suspend",
        "elapsed_time",
        "total_data_size",
        "uncopied_data_size",
        "progress",
        "tracking_data_size",
        "requestor",
        "remote_copysession_id",
        "transfer_mode",
        "split_mode",
        "recovery_mode",
        "remote_boxid",
        "is_local_source_volume",
        "is_destination_usable",
    ];
}

impl Projected for api::RecVolume {
    const FIELDS: &'static [&'static str] = &[
        "volume_id",
        "volume_href",
        "number",
        "name",
        "status",
        "detail_status",
        "type",
        "capacity",
        "used_capacity",
        "usage",
        "uid",
        "exports",
    ];
}

impl Projected for api::RecJob {
    const FIELDS: &'static [&'static str] = &[
        "job_id",
        "job_href",
        "description",
        "status",
        "created_time",
        "modified_time",
        "resource_href_list",
        "succeeded_resource_href_list",
        "failed_resource_info_list",
        "progress_href_list",
        "operation_list",
    ];
}

impl Fields {
    fn wanted<T: Projected>(&self) -> Result<Option<Vec<&str>>, Failure> {
        let Some(text) = &self.fields else { return Ok(None) };
        let wanted: Vec<&str> = text.split(',').map(str::trim).collect();
        match wanted.iter().find(|field| !T::FIELDS.contains(field)) {
            None => Ok(Some(wanted)),
            Some(field) => {
                let detail = format!("there is no field {field:?}; there are {:?}", T::FIELDS);
                Err(Failure::new(Code::Invalid, detail))
            }
        }
    }

    /// One thing.
    ///
    /// # Errors
    /// [`Code::Invalid`] for a field that does not exist.
    pub(super) fn one<T: Projected>(&self, thing: &T) -> Result<Json<Value>, Failure> {
        Ok(Json(project(thing, self.wanted::<T>()?.as_deref())?))
    }

    /// A list of things, under this name.
    ///
    /// # Errors
    /// [`Code::Invalid`] for a field that does not exist.
    pub(super) fn list<T: Projected>(
        &self,
        name: &str,
        things: &[T],
    ) -> Result<Json<Value>, Failure> {
        let wanted = self.wanted::<T>()?;
        let things: Result<Vec<Value>, Failure> =
            things.iter().map(|thing| project(thing, wanted.as_deref())).collect();
        let things = things?;
        let mut list = Map::new();
        list.insert("total_count".to_owned(), Value::from(things.len()));
        list.insert("list_count".to_owned(), Value::from(things.len()));
        list.insert(name.to_owned(), Value::from(things));
        Ok(Json(Value::Object(list)))
    }
}

fn project<T: Projected>(thing: &T, wanted: Option<&[&str]>) -> Result<Value, Failure> {
    let shown = serde_json::to_value(thing)
        .map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
    let (Some(wanted), Value::Object(mut shown)) = (wanted, shown.clone()) else {
        return Ok(shown);
    };
    let always = &T::FIELDS[..2];
    shown.retain(|field, _| always.contains(&&**field) || wanted.contains(&&**field));
    Ok(Value::Object(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> api::RecJob {
        api::RecJob {
            job_id: 7,
            job_href: "/api/v1/job/7".to_owned(),
            description: "d".to_owned(),
            status: "Success".to_owned(),
            created_time: "c".to_owned(),
            modified_time: "m".to_owned(),
            resource_href_list: vec!["/api/v1/volume/1".to_owned()],
            succeeded_resource_href_list: vec!["x".to_owned()],
            failed_resource_info_list: Vec::new(),
            progress_href_list: Vec::new(),
            operation_list: Vec::new(),
        }
    }

    #[test]
    fn rec_29_named_fields_and_identity_stay() {
        let fields = Fields { fields: Some("status".to_owned()) };
        let shown = fields.one(&job()).unwrap().0;
        let expected = serde_json::json!(
            {"job_id": 7, "job_href": "/api/v1/job/7", "status": "Success"}
        );
        assert_eq!(shown, expected);
        assert!(Fields { fields: Some("state".to_owned()) }.one(&job()).is_err());
        let all = Fields::default().list("job_list", &[job()]).unwrap().0;
        assert_eq!(all["total_count"], 1);
        let known = all["job_list"][0].as_object().unwrap();
        assert!(known.keys().all(|field| api::RecJob::FIELDS.contains(&&**field)));
    }
}
