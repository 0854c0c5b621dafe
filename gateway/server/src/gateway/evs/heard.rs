//! What the production site says that the data of its pairs does, for whoever is asked at the copy's site.
//!
//! Invariant: both sites show the same while they hear each other. What was heard holds for a moment only, and
//! a site that was silent is left alone for a moment, so that a long list waits for it once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use api::Code;
use mirror::{GroupStatus, Role};
use tokio::time::Instant;
use uuid::Uuid;

use super::view::{Data, Replication, of_pair};
use super::{EvsAnswer, EvsQuestion};
use crate::book::evs::{Group, Pair, Wanted};
use crate::gateway::Gateway;
use crate::refusal::Refused;

/// What was heard holds for so long.
const HOLDS: Duration = Duration::from_secs(1);
/// So long the other site is waited for: somebody waits for a list.
const HEAR_MAX: Duration = Duration::from_secs(1);
/// So long one that was silent is not asked again.
const SILENT: Duration = Duration::from_secs(2);

/// The data of pairs.
type Told = Vec<(Uuid, Data)>;

/// What was heard a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    /// By group; nothing where the other site did not say it.
    told: HashMap<Uuid, (Instant, Option<Told>)>,
    /// Gateways that were not reached.
    silent: HashMap<Uuid, Instant>,
}

impl Heard {
    /// What is known of a group of that gateway, if it need not be asked.
    fn of(&self, group: Uuid, gateway: Uuid) -> Option<Option<Told>> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.told.retain(|_, (at, _)| at.elapsed() < HOLDS);
        all.silent.retain(|_, at| at.elapsed() < SILENT);
        match all.told.get(&group) {
            Some((_, told)) => Some(told.clone()),
            None => all.silent.contains_key(&gateway).then_some(None),
        }
    }

    fn note(&self, group: Uuid, told: Option<Told>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.told.insert(group, (Instant::now(), told));
    }

    fn note_silent(&self, gateway: Uuid) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.silent.insert(gateway, Instant::now());
    }
}

impl Gateway {
    /// What the data of pairs of a group does, in their order: as the core has it here, or at the copy as
    /// the production site says, while it is heard.
    pub(crate) async fn data_of_pairs(
        &self,
        status: Option<&GroupStatus>,
        group: &Group,
        pairs: &[Pair],
    ) -> Vec<Data> {
        let own: Vec<Data> = pairs.iter().map(|pair| of_pair(status, group, pair)).collect();
        let is_source = status.is_some_and(|status| status.role == Role::Primary);
        // A copy that has all of a production site that it hears is told nothing new.
        let is_same = own.iter().all(|data| data.replication == Replication::Active);
        if is_source || is_same || group.wanted == Wanted::Idle {
            return own;
        }
        let Some(told) = self.hear(group).await else { return own };
        let of = |(pair, own): (&Pair, Data)| {
            let told = told.iter().find(|(id, _)| *id == pair.head.id);
            told.map_or(own, |(_, data)| *data)
        };
        pairs.iter().zip(own).map(of).collect()
    }

    /// The same of one pair.
    pub(crate) async fn data_of_pair(&self, group: &Group, pair: &Pair) -> Data {
        let status = self.core_status(group).await;
        let data = self.data_of_pairs(status.as_deref(), group, std::slice::from_ref(pair)).await;
        data.first().copied().unwrap_or(Data::IDLE)
    }

    async fn hear(&self, group: &Group) -> Option<Told> {
        let (id, me) = (group.head.id, self.own_id());
        let other = group.head.beside(me)?;
        if let Some(known) = self.heard.of(id, other) {
            return known;
        }
        let asking = self.ask_evs(other, EvsQuestion::Data { group: id });
        let told = match tokio::time::timeout(HEAR_MAX, asking).await {
            Ok(Ok(EvsAnswer::Data { pairs })) => Some(pairs),
            Ok(Err(refused)) if !refused.is(Code::PeerUnreachable) => None,
            Ok(Ok(_)) => None,
            Ok(Err(_)) | Err(_) => {
                self.heard.note_silent(other);
                return None;
            }
        };
        self.heard.note(id, told.clone());
        told
    }

    /// Tells the other gateway of a group what its data does.
    ///
    /// # Errors
    /// [`Code::Forbidden`] for a group that is not of the two; [`Code::WrongState`] where this is not its
    /// production site either.
    pub(super) async fn tell_data(&self, asker: Uuid, group: Uuid) -> Result<Told, Refused> {
        let pages = self.book.read();
        let group = pages.evs.group(group)?;
        if !group.head.gateways.contains(&asker) {
            let detail = "a group is known to the gateways of its pairs only";
            return Err(Refused::new(Code::Forbidden, detail));
        }
        let status = self.core_status(group).await.filter(|of| of.role == Role::Primary);
        let status = status.ok_or_else(|| {
            let detail = format!("{} does not serve the group", self.config.site.name);
            Refused::new(Code::WrongState, detail)
        })?;
        let pairs = pages.evs.pairs_of(group.head.id);
        Ok(pairs.map(|pair| (pair.head.id, of_pair(Some(&*status), group, pair))).collect())
    }
}

#[cfg(test)]
mod tests {
    use block::Quality;
    use mirror::{LinkState, Serving};

    use super::*;
    use crate::book::evs::{self, Dialect, Head, Record};
    use crate::gateway::evs::view::FAULT_NONE;
    use crate::gateway::tests::Rig;
    use crate::migration::tests::{primary, upstream};

    const WEST: Uuid = Uuid::from_u128(77);

    fn group(own: Uuid, core: Uuid) -> Group {
        Group {
            head: Head { gateways: [WEST, own], ..Head::default() },
            dialect: Dialect::Evs,
            core: Some(core),
            wanted: Wanted::Paused,
            ..evs::samples::group()
        }
    }

    fn pair(id: u128, group: Uuid) -> Pair {
        let head = Head { id: Uuid::from_u128(id), ..Head::default() };
        Pair { head, group: Some(group), ..evs::samples::pair() }
    }

    fn data(replication: Replication) -> Data {
        Data { replication, progress: Some(90), fault_level: FAULT_NONE }
    }

    #[tokio::test]
    async fn evs_09_a_copy_shows_what_its_production_site_says_and_nothing_better_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let rig = Rig::open(dir.path()).await;
        let group = group(rig.gateway.own_id(), Uuid::from_u128(5));
        let pairs = [pair(1, group.head.id), pair(2, group.head.id)];
        let look = || rig.gateway.data_of_pairs(None, &group, &pairs);
        // Nobody is asked who does not answer, and then this site says what it knows: nothing.
        assert_eq!(look().await, [Data::IDLE, Data::IDLE]);
        let told = vec![(Uuid::from_u128(1), data(Replication::ActiveStopped))];
        rig.gateway.heard.note(group.head.id, Some(told));
        assert_eq!(look().await, [data(Replication::ActiveStopped), Data::IDLE]);
        rig.gateway.heard.note_silent(WEST);
        assert_eq!(rig.gateway.heard.of(Uuid::from_u128(9), WEST), Some(None), "it was silent");
        rig.close().await;
    }

    #[test]
    fn evs_09_a_copy_by_itself_does_not_say_that_a_paused_pair_is_the_same() {
        let status = GroupStatus {
            role: Role::Secondary,
            serving: Serving::NotPrimary,
            quality: Quality::InSync,
            upstream: Some(upstream(LinkState::Connected)),
            ..primary(Vec::new())
        };
        let mut group = group(Uuid::from_u128(2), Uuid::from_u128(5));
        let pair = pair(1, group.head.id);
        assert_eq!(of_pair(Some(&status), &group, &pair).replication, Replication::Inactive);
        group.wanted = Wanted::Running;
        assert_eq!(of_pair(Some(&status), &group, &pair).replication, Replication::Active);
    }

    #[tokio::test]
    async fn evs_09_a_production_site_tells_its_data_to_the_other_gateway_only() {
        let dir = tempfile::tempdir().unwrap();
        let rig = Rig::open(dir.path()).await;
        rig.make_orders().await;
        let core = rig.gateway.find_group("orders").unwrap().id;
        let mut group = group(rig.gateway.own_id(), core);
        group.head.id = Uuid::from_u128(3);
        rig.gateway.put_record(Record::Pair(pair(4, group.head.id))).await.unwrap();
        rig.gateway.put_record(Record::Group(group)).await.unwrap();
        let id = Uuid::from_u128(3);
        let told = rig.gateway.tell_data(WEST, id).await.unwrap();
        assert_eq!(told, [(Uuid::from_u128(4), Data::IDLE)]);
        let refused = rig.gateway.tell_data(Uuid::from_u128(6), id).await.unwrap_err();
        assert_eq!(refused.0.code, Code::Forbidden.as_str());
        // As it is told: what is not told is not read as something else.
        let text = serde_json::to_string(&EvsAnswer::Data { pairs: told.clone() }).unwrap();
        assert_eq!(
            serde_json::from_str::<EvsAnswer>(&text).unwrap(),
            EvsAnswer::Data { pairs: told }
        );
        rig.close().await;
    }
}
