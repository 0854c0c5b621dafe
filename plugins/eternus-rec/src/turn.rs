//! What a flow pushed, from look to look.
//!
//! Invariant: a push is a job of a system, and is not pushed again while that runs. A job that failed is
//! told with the system's words; one that ended well without an effect is pushed again, a few times.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::arrays::{Arrays, Side};
use super::error;
use super::twinspan::plugin::types::{Error, ErrorCode};

/// The same thing is pushed this often; then the system does not do what it says.
const PUSHES_MAX: u32 = 5;

/// What a look found.
#[derive(Debug)]
pub enum Seen {
    /// It is so: in words, and what later steps can refer to.
    Done(String, Vec<(String, String)>),
    /// It is not so yet: what is waited for.
    Not(String),
}

#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Turn {
    #[serde(default)]
    what: String,
    #[serde(default)]
    times: u32,
    #[serde(default)]
    job: Option<(Side, u64)>,
    /// Why a flow goes back to where it began.
    #[serde(default)]
    pub failed: Option<String>,
    /// Only look.
    #[serde(skip)]
    pub is_dry: bool,
}

impl Turn {
    pub fn read(token: &str) -> Result<Self, Error> {
        serde_json::from_str(token)
            .map_err(|why| error(ErrorCode::InvalidArgument, format!("the token: {why}")))
    }

    /// Pushes; what is waited for then.
    pub fn push(
        &mut self,
        arrays: &impl Arrays,
        (side, what): (Side, &str),
        (call, body): ((&str, &str), &Value),
    ) -> Result<Seen, Error> {
        let waits = Ok(Seen::Not(format!("{what} ({side:?})")));
        if self.is_dry {
            return waits;
        }
        if self.what != what {
            (self.what, self.times, self.job) = (what.to_owned(), 0, None);
        }
        if let Some((at, job)) = self.job {
            match arrays.get(at, &format!("/job/{job}")) {
                Ok(told) => match told["status"].as_str() {
                    Some("Success") => self.job = None,
                    Some("Error" | "Partial_Error" | "Canceled") => {
                        self.job = None;
                        return Err(failure(what, &told));
                    }
                    _ => return waits,
                },
                // It was forgotten, by a restart for instance.
                Err(why) if why.code == ErrorCode::NotFound => self.job = None,
                Err(why) => return Err(why),
            }
            // What it did is seen by the next look.
            return waits;
        }
        if self.times == PUSHES_MAX {
            let why = format!("{what}: asked for {PUSHES_MAX} times, and still it is not so");
            return Err(error(ErrorCode::WrongState, why));
        }
        self.times += 1;
        match arrays.begin(side, call, body) {
            Ok(job) => self.job = Some((side, job)),
            // Something is under way with the same thing, perhaps this.
            Err(why) if why.code == ErrorCode::Conflict && self.times < PUSHES_MAX => {}
            Err(why) => return Err(why),
        }
        waits
    }
}

fn failure(what: &str, job: &Value) -> Error {
    let failed = &job["failed_resource_info_list"][0];
    let words = failed["message"].as_str().unwrap_or("no reason");
    Error {
        vendor_code: failed["error_code"].as_str().map(str::to_owned),
        ..error(ErrorCode::WrongState, format!("{what}: {words}"))
    }
}
