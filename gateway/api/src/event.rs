//! Something that happened, as the event stream tells it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One event. Numbers grow by one for as long as the gateway runs; a gap after a reconnection
/// means that events were dropped from the bounded ring.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct Event {
    /// Its number, also the `id` of the server-sent event.
    pub id: u64,
    /// When, RFC 3339.
    pub at: String,
    /// What kind: `group`, `session`, `volume`, `snapshot`, `site`, `operation`, `gateway`.
    pub kind: String,
    /// The name of the thing concerned.
    pub subject: String,
    /// What happened, in words.
    pub text: String,
}
