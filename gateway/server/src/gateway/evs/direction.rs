//! Which of its two sites a group's production site is: the core decides, and the record follows.
//!
//! ```text
//!   the core swaps roles ─▶ the record is turned ─▶ told
//!                 └─ a kill ─▶ whoever is the primary now turns it, with an epoch that the record does not know
//! ```
//!
//! Invariant: a record is turned towards a gateway only by a deed that ended there, or by that gateway as the
//! core's primary in a later epoch than that of the last turn: an old primary that has not heard of its
//! successor turns nothing back.

use block::{Epoch, GroupId};
use mirror::{GroupStatus, Role, SessionState};
use uuid::Uuid;

use crate::book::evs::{Group, Life, Record, Wanted};
use crate::gateway::Gateway;
use crate::refusal::Refused;

impl Gateway {
    /// Turns the records of all groups that the core serves here now.
    pub(super) async fn settle_directions(&self) {
        let groups: Vec<Uuid> = self.book.read().evs.groups().map(|of| of.head.id).collect();
        for group in groups {
            self.settle_direction(group).await;
        }
    }

    /// Turns the record of a group that the core serves here, when the record says another site: a kill came
    /// between the two, or roles were swapped by other words than the dialect's.
    pub(super) async fn settle_direction(&self, id: Uuid) {
        let me = self.own_id();
        let found = self.book.read().evs.group(id).cloned();
        let Ok(group) = found else { return };
        let Some(core) = group.core.filter(|_| group.owner() != me) else { return };
        // What is not known now is looked at again in a moment.
        let Ok(status) = self.status_of(GroupId::from_uuid(core)).await else { return };
        let Some(now) = taken_over(&status, &group, me) else { return };
        let turned = self.flip(&group, me, now).await;
        if turned.is_ok() {
            let text = format!("{} is the production site", group.stations[1 - group.primary]);
            self.events.tell("pair", &group.name, text);
        }
        self.note(turned);
    }

    /// Who takes a group over: whichever of the two is not its primary, as far as that is known here. A
    /// record that a kill kept from being turned names the wrong one.
    pub(super) async fn successor(&self, group: &Group) -> Uuid {
        let me = self.own_id();
        match self.core_status(group).await.map(|status| status.role) {
            Some(Role::Secondary | Role::Fenced) => me,
            Some(Role::Primary) => group.head.beside(me).unwrap_or(me),
            None => group.other(),
        }
    }

    /// That gateway's site is the production site from now on, of the group and of its pairs.
    pub(super) async fn flip(
        &self,
        group: &Group,
        to: Uuid,
        (life, wanted): (Life, Wanted),
    ) -> Result<(), Refused> {
        let (id, now_ms) = (group.head.id, self.clock.unix_ms());
        let epoch = self.core_status(group).await.map_or(Epoch::ZERO, |status| status.epoch);
        let flipped = self.book.change(Vec::new(), |pages| {
            let mut group = pages.evs.group(id)?.clone();
            let is_turned = group.owner() != to;
            group.primary = usize::from(group.head.gateways[1] == to);
            group.epoch = epoch.max(Epoch::new(group.epoch)).get();
            (group.life, group.wanted, group.fault, group.worker) = (life, wanted, None, None);
            if is_turned {
                group.head.turn();
            }
            group.head.touch(now_ms);
            let mut ids = vec![id];
            let pairs: Vec<_> = pages.evs.pairs_of(id).cloned().collect();
            for mut pair in pairs.into_iter().filter(|of| of.primary != group.primary) {
                pair.primary = group.primary;
                pair.head.turn();
                pair.head.touch(now_ms);
                ids.push(pair.head.id);
                pages.evs.put(Record::Pair(pair));
            }
            let instances: Vec<_> = pages.evs.instances_of(id).cloned().collect();
            for mut instance in instances.into_iter().filter(|_| is_turned) {
                instance.is_displaced = true;
                instance.head.turn();
                instance.head.touch(now_ms);
                ids.push(instance.head.id);
                pages.evs.put(Record::Instance(instance));
            }
            pages.evs.put(Record::Group(group));
            Ok::<_, Refused>(ids)
        });
        // The pairs are told first: who sees the group's new site finds them there.
        for id in flipped.await?.into_iter().rev() {
            self.tell_record(id).await;
        }
        Ok(())
    }
}

/// What a group is whose record names another production site than this gateway, which is its primary;
/// nothing where the record is right, or is being turned by whoever is at work here.
fn taken_over(status: &GroupStatus, group: &Group, me: Uuid) -> Option<(Life, Wanted)> {
    let is_mine = group.life.is_busy() && group.worker == Some(me);
    if status.role != Role::Primary || is_mine || status.epoch <= Epoch::new(group.epoch) {
        return None;
    }
    let old = group.owner();
    let leg = status.legs.iter().find(|leg| leg.gateway.uuid() == old);
    Some(match (group.life, leg.map(|leg| leg.state)) {
        // A swap loses nothing, and the old primary follows by itself, at the latest when it is back.
        (Life::Reversing | Life::ErrorReversing, _) | (_, Some(SessionState::Active)) => {
            (Life::Available, Wanted::Running)
        }
        (_, Some(SessionState::Suspended)) => (Life::Available, Wanted::Paused),
        (_, Some(SessionState::Halted | SessionState::Error) | None) => {
            (Life::FailedOver, Wanted::FailedOver)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::evs::{self, Dialect, Head, Pair};
    use crate::gateway::evs::gates::{Action, is_allowed};
    use crate::gateway::tests::Rig;

    const WEST: Uuid = Uuid::from_u128(77);
    /// Of a case and of its pair.
    const fn ids(case: u128) -> (Uuid, Uuid) {
        (Uuid::from_u128(1_000 + case), Uuid::from_u128(2_000 + case))
    }

    /// A group of one pair whose record says that `west` is the production site, while the core serves it
    /// here.
    async fn cut_short(rig: &Rig, case: u128, (life, worker): (Life, Uuid)) {
        let (gateway, (id, of_pair)) = (&rig.gateway, ids(case));
        let (core, volume) = gateway.find_volume("orders").unwrap();
        let head = |id| Head { id, gateways: [WEST, gateway.own_id()], ..Head::default() };
        let stations = || ["az2".to_owned(), "az1".to_owned()];
        let group = Group {
            head: head(id),
            dialect: Dialect::Evs,
            stations: stations(),
            core: Some(core.id),
            life,
            worker: Some(worker),
            ..evs::samples::group()
        };
        let pair = Pair {
            head: head(of_pair),
            disks: [Uuid::from_u128(1), volume.id],
            names: ["orders".to_owned(), "orders".to_owned()],
            stations: stations(),
            volume: volume.id,
            group: Some(id),
            ..evs::samples::pair()
        };
        gateway.put_record(Record::Pair(pair)).await.unwrap();
        gateway.put_record(Record::Group(group)).await.unwrap();
    }

    fn group(gateway: &Gateway, case: u128) -> Group {
        gateway.book.read().evs.group(ids(case).0).unwrap().clone()
    }

    /// A gateway that died after the core had promoted its copy and before the record was turned: what was
    /// begun has failed, as far as the record knows, and every word was refused from then on.
    #[tokio::test]
    async fn evs_35_a_group_is_settled_by_the_core_when_a_kill_kept_its_record_from_being_turned() {
        let dir = tempfile::tempdir().unwrap();
        let rig = Rig::open(dir.path()).await;
        rig.make_orders().await;
        let gateway = &rig.gateway;
        let (me, reprotect) = (gateway.own_id(), Action::Reprotect { discard: false });
        let reverse = Action::Reverse { to: None };
        let cases = [
            // It was this one that took over and died.
            (Life::ErrorFailingOver, me, (Life::FailedOver, Wanted::FailedOver), &reprotect),
            // It was the other one that gave it away and died, and is still dead or not.
            (Life::Reversing, WEST, (Life::Available, Wanted::Running), &reverse),
            (Life::ErrorReversing, WEST, (Life::Available, Wanted::Running), &reverse),
        ];
        for ((life, worker, settled, next), case) in cases.into_iter().zip(0..) {
            cut_short(&rig, case, (life, worker)).await;
            assert_eq!(group(gateway, case).owner(), WEST);
            gateway.settle_directions().await;
            let now = group(gateway, case);
            assert_eq!((now.owner(), now.life, now.wanted), (me, settled.0, settled.1), "{life:?}");
            assert_eq!((now.worker, now.fault.is_none()), (None, true));
            assert_eq!(gateway.book.read().evs.pair(ids(case).1).unwrap().primary, now.primary);
            assert!(is_allowed(Dialect::Evs, next, (now.life, now.wanted)), "{next:?}");
            // It is so, and is left so.
            gateway.settle_directions().await;
            assert_eq!(group(gateway, case).head.revision, now.head.revision);
        }
        rig.close().await;
    }

    #[tokio::test]
    async fn evs_32_an_old_primary_turns_nothing_back_and_whoever_is_at_work_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let rig = Rig::open(dir.path()).await;
        rig.make_orders().await;
        let gateway = &rig.gateway;
        let me = gateway.own_id();
        cut_short(&rig, 0, (Life::FailingOver, me)).await;
        gateway.settle_directions().await;
        assert_eq!(group(gateway, 0).owner(), WEST, "its own deed is about to turn it");
        // The other site took over in a later epoch, and told so before the core here heard of it.
        let told = |group: &mut Group| {
            group.epoch = u64::from(u32::MAX);
            (group.life, group.worker) = (Life::FailedOver, None);
            Ok(())
        };
        gateway.change_group(ids(0).0, told).await.unwrap();
        gateway.settle_directions().await;
        assert_eq!(group(gateway, 0).owner(), WEST);
        // And whoever is asked to fail over is the one that is not the primary by the core.
        assert_eq!(gateway.successor(&group(gateway, 0)).await, WEST);
        rig.close().await;
    }
}
