//! What gateways say to each other about runs.
//!
//! Invariant: everything but a look is for a run and a term; a gateway that knows a higher term of that
//! run refuses, and says which.

use recovery::run::Record;
use recovery::{ActionError, Context, Created, Description, Outcome, Report, Standing};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// A question about a run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "about", rename_all = "snake_case")]
pub(crate) enum RunQuestion {
    /// May a run have these groups, as far as you know?
    Lease {
        /// The run.
        run: Uuid,
        /// The groups, by identity and name.
        groups: Vec<(String, String)>,
    },
    /// Keep these records.
    Keep {
        /// The run.
        run: Uuid,
        /// The asker's term.
        term: u64,
        /// They; the first may be one that you have.
        records: Vec<Record>,
    },
    /// I take the run over: stop, and tell what I lack.
    Yield {
        /// The run.
        run: Uuid,
        /// The term that the asker goes on with.
        term: u64,
        /// The number of the first record that the asker lacks.
        from: u64,
        /// Who wants it; an older gateway does not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        actor: Option<String>,
    },
    /// What do you know of the run beyond what I have?
    Look {
        /// The run.
        run: Uuid,
        /// The number of the first record that the asker lacks.
        from: u64,
    },
    /// Do something for a step of mine, at your site.
    Act(Box<Act>),
    /// A step of yours made or removed something here.
    Note {
        /// The run.
        run: Uuid,
        /// The step.
        step: String,
        /// What it made.
        created: Vec<Created>,
        /// What it removed.
        removed: Vec<Created>,
    },
}

/// A call to an action at another site.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Act {
    /// The run; nil when nothing is to be changed.
    pub(crate) run: Uuid,
    /// The asker's term.
    pub(crate) term: u64,
    /// `provider/action`.
    pub(crate) action: String,
    /// Its parameters.
    pub(crate) params: Value,
    /// For whom; absent for a description.
    pub(crate) context: Option<Context>,
    /// What is called.
    pub(crate) call: ActCall,
    /// Records that the run has, of which one says that this is called: whoever has fewer of them does
    /// nothing yet. An older gateway does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) records: Option<u64>,
    /// By this the call is known while it goes on: it is asked about by sending it again. An asker that
    /// gives none knows of no [`RunAnswer::Going`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) errand: Option<Uuid>,
}

/// What is called at another site.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ActCall {
    /// What would it do?
    Describe,
    /// How do things stand?
    Check,
    /// Do it.
    Run,
    /// Go on.
    Resume {
        /// What the provider knows it by.
        token: Value,
        /// What a person answered.
        answer: Option<String>,
    },
    /// Take it back.
    Undo(Report),
}

/// What another site's action said.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ActAnswer {
    /// To a description.
    Description(Description),
    /// To a check.
    Standing(Standing),
    /// To anything else.
    Outcome(Outcome),
    /// It failed.
    Failed(ActionError),
}

/// An answer about a run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub(crate) enum RunAnswer {
    /// This many records are on stable storage here.
    Kept {
        /// So many.
        have: u64,
    },
    /// The run has a higher term.
    Superseded {
        /// It.
        term: u64,
    },
    /// The run stands still here, and the journal here says who goes on with it; these are the records that
    /// were lacked, or the first of them.
    Yielded {
        /// They.
        records: Vec<Record>,
        /// Whether there are more.
        more: bool,
    },
    /// What the action said.
    Acted(Box<ActAnswer>),
    /// The action goes on: ask again.
    Going,
}

/// Records of one question: what is around them is little.
const RECORDS_BYTES_MAX: usize = 700 << 10;

/// As many of these records as one question or answer takes, at least one.
#[must_use]
pub(crate) fn fitting(records: &[Record]) -> &[Record] {
    let mut bytes = 0;
    let fits = |record: &&Record| {
        bytes += serde_json::to_vec(record).map_or(0, |text| text.len() + 1);
        bytes <= RECORDS_BYTES_MAX
    };
    let count = records.iter().take_while(fits).count().max(1).min(records.len());
    &records[..count]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_of_an_older_gateway_names_no_errand_and_is_read_as_before() {
        let text = r#"{"about":"act","run":"00000000-0000-0000-0000-000000000007","term":1,
            "action":"core/promote","params":{},"context":null,"call":"run"}"#;
        let RunQuestion::Act(act) = serde_json::from_str(text).unwrap() else { panic!("{text}") };
        assert_eq!((act.errand, act.records), (None, None));
        assert!(!serde_json::to_string(&act).unwrap().contains("errand"));
        let named = Act { errand: Some(Uuid::from_u128(3)), ..*act };
        let written = serde_json::to_string(&RunQuestion::Act(Box::new(named.clone()))).unwrap();
        let read = serde_json::from_str::<RunQuestion>(&written).unwrap();
        assert_eq!(read, RunQuestion::Act(Box::new(named)));
        let going = serde_json::to_string(&RunAnswer::Going).unwrap();
        assert_eq!(going, r#"{"of":"going"}"#);
    }
}
