//! PERSISTENT RESERVE OUT that came to a port of a site that does not serve: carried to the one that does,
//! as a question between gateways.
//!
//! ```text
//!   host ─▶ port in standby ─Reserve─▶ gateway that serves: decides, keeps, lets its mirrors keep
//!        ◀─────── outcome ◀─────────── answers when it is recorded at both
//! ```
//!
//! Invariant: whoever serves decides, as if the host had come to one of its own ports; it knows the host
//! by the port that it did come to, whose number no other site has. Without an answer the host hears
//! what a port in standby says of everything else, and takes its other way.

use std::time::Duration;

use block::{GatewayId, GroupId, VolumeId};
use bytes::Bytes;
use iscsi::scsi::reserve::Registrant;
use iscsi::scsi::{Field, InitiatorPort, Outcome, ReserveOut, Sense, Status};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::book::{hex, unhex};
use crate::gateway::asks::{Answer, Question, exchange};

/// A host waits so long for the other site; its commands may take longer than that.
const ANSWER_MAX: Duration = Duration::from_secs(8);
/// The longest list that there is: REGISTER AND MOVE, with the longest name of an initiator port.
const LIST_BYTES_MAX: usize = 24 + 4 + 256;

/// The order, and whom it is from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Carried {
    /// The group.
    pub(crate) group: Uuid,
    /// The volume.
    pub(crate) volume: Uuid,
    initiator: String,
    /// As hexadecimal digits, as the list.
    isid: String,
    port: u16,
    action: u8,
    scope: u8,
    kind: u8,
    list: String,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Ended {
    status: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sense: Option<Why>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Why {
    key: u8,
    code: u16,
    /// The byte that is wrong, and whether it is one of the CDB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    field: Option<(u16, bool)>,
}

// === impl Carried ===

impl Carried {
    /// `None` for what no host sends.
    fn of((group, volume): (GroupId, VolumeId), order: &ReserveOut) -> Option<Self> {
        let ReserveOut { who, action, scope, kind, list } = order;
        (list.len() <= LIST_BYTES_MAX).then(|| Self {
            group: group.uuid(),
            volume: volume.uuid(),
            initiator: who.port.name.clone(),
            isid: hex(&who.port.isid),
            port: who.target_port,
            action: *action,
            scope: *scope,
            kind: *kind,
            list: hex(list),
        })
    }

    /// The order; `None` when it makes no sense.
    pub(crate) fn order(&self) -> Option<ReserveOut> {
        let isid = <[u8; 6]>::try_from(unhex(&self.isid)?).ok()?;
        let list = unhex(&self.list).filter(|list| list.len() <= LIST_BYTES_MAX)?;
        let name = self.initiator.clone();
        let is_name = (1..=223).contains(&name.len());
        let port = InitiatorPort { name, isid };
        is_name.then(|| ReserveOut {
            who: Registrant { port, target_port: self.port },
            action: self.action,
            scope: self.scope,
            kind: self.kind,
            list: Bytes::from(list),
        })
    }
}

// === impl Ended ===

impl Ended {
    pub(crate) fn of(outcome: &Outcome) -> Self {
        let why = |sense: Sense| Why {
            key: sense.key,
            code: sense.code,
            field: sense.field.map(|field| (field.byte, field.in_cdb)),
        };
        Self { status: outcome.status as u8, sense: outcome.sense.map(why) }
    }

    /// `None` for what does not end a command of this kind.
    fn outcome(&self) -> Option<Outcome> {
        let known = [Status::Good, Status::Busy, Status::ReservationConflict];
        if let Some(status) = known.into_iter().find(|known| *known as u8 == self.status) {
            return Some(Outcome::of(status));
        }
        let why = self.sense.filter(|_| self.status == Status::CheckCondition as u8)?;
        let field = why.field.map(|(byte, in_cdb)| Field { in_cdb, byte, bit: None });
        let sense = Sense { key: why.key & 0x0f, code: why.code, information: None, field };
        Some(Outcome::refused(sense))
    }
}

/// Asks the gateway that has the volume, over a link of its own.
///
/// # Cancellation
/// The other side may have done it.
pub(crate) async fn carry(
    links: link::LinkContext,
    primary: GatewayId,
    place: (GroupId, VolumeId),
    order: ReserveOut,
) -> Option<Outcome> {
    let peers = links.trusted().all();
    let peer = peers.into_iter().find(|peer| peer.gateway == primary)?;
    let question = Question::Reserve(Carried::of(place, &order)?);
    let asked = (Bytes::from(serde_json::to_vec(&question).ok()?), question.version_min());
    let told = exchange(&peer.addresses, primary, &links, asked);
    let why = match tokio::time::timeout(ANSWER_MAX, told).await {
        Ok(Ok(told)) => match serde_json::from_slice(&told) {
            Ok(Answer::Reserved(ended)) => return ended.outcome(),
            Ok(Answer::Refused { detail, .. }) => detail,
            Ok(_) => "it answered another question".to_owned(),
            Err(error) => error.to_string(),
        },
        Ok(Err(why)) => why.text(),
        Err(_late) => "it does not answer".to_owned(),
    };
    tracing::info!(gateway = %primary, why, "a reservation was not carried");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(list: Vec<u8>) -> ReserveOut {
        let port = InitiatorPort { name: "iqn.i:a".to_owned(), isid: [1, 2, 3, 4, 5, 0xff] };
        let who = Registrant { port, target_port: 0x0201 };
        ReserveOut { who, action: 4, scope: 0, kind: 5, list: list.into() }
    }

    #[test]
    fn an_order_is_the_same_at_the_other_side() {
        let place = (GroupId::of(1), VolumeId::of(2));
        let sent = Carried::of(place, &order(vec![7; 24])).unwrap();
        let text = serde_json::to_string(&sent).unwrap();
        let heard: Carried = serde_json::from_str(&text).unwrap();
        assert_eq!(heard.order(), Some(order(vec![7; 24])), "{text}");
        assert_eq!(Carried::of(place, &order(vec![7; 1 << 12])), None);
        for broken in [
            Carried { isid: "0102".to_owned(), ..sent.clone() },
            Carried { initiator: String::new(), ..sent.clone() },
            Carried { list: "zz".to_owned(), ..sent },
        ] {
            assert_eq!(broken.order(), None, "{broken:?}");
        }
    }

    #[test]
    fn an_outcome_is_the_same_at_the_other_side_and_none_is_made_up() {
        let field = Some(Field { in_cdb: false, byte: 20, bit: None });
        let sense = Sense { key: 5, code: 0x2600, information: None, field };
        for outcome in [
            Outcome::good(),
            Outcome::of(Status::ReservationConflict),
            Outcome::of(Status::Busy),
            Outcome::refused(sense),
        ] {
            let text = serde_json::to_string(&Ended::of(&outcome)).unwrap();
            let heard: Ended = serde_json::from_str(&text).unwrap();
            assert_eq!(heard.outcome(), Some(outcome), "{text}");
        }
        for status in [0x02, 0x28, 0x77] {
            assert_eq!(Ended { status, sense: None }.outcome(), None);
        }
    }
}
