//! Reservations against a reference model: a map of keys and a set of holders.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const KINDS: [Kind; 6] = [
    Kind::WriteExclusive,
    Kind::ExclusiveAccess,
    Kind::WriteExclusiveRegistrants,
    Kind::ExclusiveAccessRegistrants,
    Kind::WriteExclusiveAll,
    Kind::ExclusiveAccessAll,
];

/// How many there are: the last two are at another target port of the first two initiators.
const HOSTS: u8 = 6;

fn host(number: u8) -> Registrant {
    let port = InitiatorPort { name: format!("iqn.host-{}", number % 4), isid: [0; 6] };
    Registrant { port, target_port: u16::from(number / 4) << 8 | 1 }
}

/// The same rules, told as sets: who is registered with what, and who holds.
#[derive(Clone, Debug, Default)]
struct Model {
    keys: BTreeMap<Registrant, u64>,
    held: Option<(Kind, BTreeSet<Registrant>)>,
    told: BTreeSet<(Registrant, u16)>,
}

impl Model {
    fn settle(&mut self) {
        let keys = &self.keys;
        if let Some((kind, holders)) = &mut self.held {
            if kind.is_shared() {
                *holders = keys.keys().cloned().collect();
            }
            holders.retain(|holder| keys.contains_key(holder));
        }
        self.held.take_if(|(_, holders)| holders.is_empty());
    }

    fn tell(&mut self, but: &Registrant, code: u16) {
        let others = self.keys.keys().filter(|who| *who != but).cloned();
        self.told.extend(others.map(|who| (who, code)));
    }

    fn holds(&self, who: &Registrant) -> bool {
        self.held.as_ref().is_some_and(|(_, holders)| holders.contains(who))
    }

    fn apply(&mut self, who: &Registrant, order: &Order) -> bool {
        self.told.clear();
        let mine = self.keys.get(who).copied();
        let knows = |key: u64| mine == Some(key);
        match *order {
            Order::Register { key, new, .. } => {
                if key.is_some_and(|key| key != mine.unwrap_or(0)) {
                    return false;
                }
                if new != 0 {
                    self.keys.insert(who.clone(), new);
                } else if mine.is_some() {
                    let held = self.held.as_ref().map(|(kind, _)| *kind);
                    self.keys.remove(who);
                    self.settle();
                    if let Some(kind) = held
                        && self.held.is_none()
                        && kind.has_registrants()
                    {
                        self.tell(who, RELEASED);
                    }
                }
                true
            }
            Order::Reserve { key, kind } => {
                let may = match &self.held {
                    None => true,
                    Some((held, holders)) => *held == kind && holders.contains(who),
                };
                if knows(key) && may {
                    self.held = Some((kind, BTreeSet::from([who.clone()])));
                }
                knows(key) && may
            }
            Order::Release { key, kind } => {
                let held = self.held.as_ref().map(|(held, _)| *held);
                if !knows(key) || self.holds(who) && held != Some(kind) {
                    return false;
                }
                if self.holds(who) {
                    self.held = None;
                    if kind.has_registrants() {
                        self.tell(who, RELEASED);
                    }
                }
                true
            }
            Order::Clear { key } => {
                if knows(key) {
                    self.tell(who, PREEMPTED);
                    *self = Self { told: std::mem::take(&mut self.told), ..Self::default() };
                }
                knows(key)
            }
            Order::Preempt { key, victim, kind, .. } => {
                knows(key) && self.preempt(who, victim, kind)
            }
            Order::Move { key, new, ref to, leave, .. } => {
                knows(key) && self.hand_over(who, (new, to), leave)
            }
        }
    }

    fn hand_over(&mut self, who: &Registrant, (new, to): (u64, &Registrant), leave: bool) -> bool {
        let held = self.held.as_ref().map(|(kind, _)| *kind);
        let Some(kind) = held.filter(|kind| !kind.is_shared() && self.holds(who)) else {
            return false;
        };
        if new == 0 || to.port == who.port {
            return false;
        }
        self.keys.insert(to.clone(), new);
        self.held = Some((kind, BTreeSet::from([to.clone()])));
        if leave {
            self.keys.remove(who);
        }
        true
    }

    fn preempt(&mut self, who: &Registrant, victim: u64, kind: Option<Kind>) -> bool {
        let (takes, old) = match &self.held {
            None => (false, None),
            Some((held, _)) if held.is_shared() => (victim == 0, Some(*held)),
            Some((held, holders)) => {
                (victim != 0 && holders.iter().any(|h| self.keys[h] == victim), Some(*held))
            }
        };
        if victim == 0 && !takes || takes && kind.is_none() {
            return false;
        }
        let doomed: BTreeSet<Registrant> = self
            .keys
            .iter()
            .filter(|(who, key)| {
                **key == victim || takes && victim == 0 && !who.port.name.is_empty()
            })
            .map(|(who, _)| who.clone())
            .filter(|doomed| !(takes && doomed == who))
            .collect();
        if doomed.is_empty() && !takes {
            return false;
        }
        for doomed in doomed {
            self.keys.remove(&doomed);
            if doomed != *who {
                self.told.insert((doomed, REGISTRATION_PREEMPTED));
            }
        }
        if let Some(kind) = kind.filter(|_| takes) {
            self.held = Some((kind, BTreeSet::from([who.clone()])));
            if old != Some(kind) {
                self.tell(who, RELEASED);
            }
        }
        true
    }
}

fn orders() -> impl Strategy<Value = Order> {
    let key = 0u64..4;
    let kind = (0usize..6).prop_map(|at| KINDS[at]);
    prop_oneof![
        (prop::option::of(key.clone()), key.clone(), any::<bool>())
            .prop_map(|(key, new, persistent)| Order::Register { key, new, persistent }),
        (key.clone(), kind.clone()).prop_map(|(key, kind)| Order::Reserve { key, kind }),
        (key.clone(), kind.clone()).prop_map(|(key, kind)| Order::Release { key, kind }),
        (key.clone(), key.clone(), prop::option::of(kind), any::<bool>())
            .prop_map(|(key, victim, kind, abort)| Order::Preempt { key, victim, kind, abort }),
        key.clone().prop_map(|key| Order::Clear { key }),
        (key.clone(), key, 0..HOSTS, any::<bool>(), any::<bool>()).prop_map(
            |(key, new, to, leave, persistent)| {
                Order::Move { key, new, to: host(to), leave, persistent }
            }
        ),
    ]
}

proptest! {
    #[test]
    fn behaves_as_the_model_and_survives_being_kept(
        script in prop::collection::vec((0..HOSTS, orders()), 1..60),
    ) {
        let (mut state, mut model) = (Reservations::default(), Model::default());
        for (number, order) in script {
            let who = host(number);
            let before = state.clone();
            let result = state.apply(&who, order.clone());
            let done = model.apply(&who, &order);
            model.settle();
            prop_assert_eq!(result.is_ok(), done, "{:?} of {}", order, number);
            match result {
                Ok(notices) => {
                    let told: BTreeSet<_> =
                        notices.into_iter().filter_map(|n| Some((n.who, n.code?))).collect();
                    prop_assert_eq!(&told, &model.told);
                }
                Err(_) => prop_assert_eq!(&state, &before),
            }
            prop_assert_eq!(state.kind(), model.held.as_ref().map(|(kind, _)| *kind));
            for number in 0..HOSTS {
                let who = host(number);
                let standing = state.standing(&who);
                let expected = match (model.holds(&who), model.keys.contains_key(&who)) {
                    (true, _) => Standing::Holder,
                    (false, true) => Standing::Registered,
                    (false, false) => Standing::Stranger,
                };
                prop_assert_eq!(standing, expected);
            }
            prop_assert_eq!(Reservations::decode(&state.encode()), Ok(state.clone()));
        }
    }
}

#[test]
fn a_reservation_is_moved_to_a_port_that_was_never_here() {
    let (a, b) = (host(1), host(2));
    let mut state = Reservations::default();
    let register = |new| Order::Register { key: None, new, persistent: false };
    let hand = |key, to: &Registrant, leave| Order::Move {
        key,
        new: 9,
        to: to.clone(),
        leave,
        persistent: true,
    };
    state.apply(&a, register(1)).unwrap();
    let nothing_held = Err(Refusal::NotReserved);
    assert_eq!(state.apply(&a, hand(1, &b, true)), nothing_held, "SPC-4, 5.13.8");
    assert_eq!(state.apply(&b, hand(1, &a, true)), Err(Refusal::Conflict), "not registered");
    state.apply(&a, Order::Reserve { key: 1, kind: Kind::WriteExclusive }).unwrap();
    let elsewhere = Registrant { target_port: 0x0101, ..a.clone() };
    for own in [&a, &elsewhere] {
        assert_eq!(state.apply(&a, hand(1, own, true)), Err(Refusal::Field(24)));
    }
    assert_eq!(state.apply(&a, hand(2, &b, true)), Err(Refusal::Conflict), "another key");
    state.apply(&a, hand(1, &b, true)).unwrap();
    assert_eq!(state.standing(&b), Standing::Holder);
    assert_eq!(state.standing(&a), Standing::Stranger);
    assert!(state.persistent());
}

/// RFC 7143, §4.4.2: an initiator's session goes from portal to portal, and is one nexus with the group.
#[test]
fn a_nexus_is_the_same_by_whichever_portal_of_a_group_it_comes() {
    let at = |target_port| Registrant { target_port, ..host(1) };
    let mut state = Reservations::default();
    let register = |key, new| Order::Register { key: Some(key), new, persistent: false };
    let kind = Kind::WriteExclusive;
    // As a gateway of an earlier release says it, and then as this one does.
    state.apply(&at(0x0102), register(0, 7)).unwrap();
    state.apply(&at(0x0102), Order::Reserve { key: 7, kind }).unwrap();
    assert_eq!(state.standing(&at(0x0101)), Standing::Holder);
    assert_eq!(state.standing(&at(0x0201)), Standing::Stranger, "another group");
    let anew = state.apply(&at(0x0101), register(0, 8));
    assert_eq!(anew, Err(Refusal::Conflict), "it is registered");
    assert!(state.has_port(0x0102), "what is refused changes nothing");
    state.apply(&at(0x0101), register(7, 8)).unwrap();
    assert!(state.has_port(0x0101) && !state.has_port(0x0102));
    // Whoever is preempted by one name is told by the other, and has not lost what has another number.
    let elsewhere = state.clone();
    state.apply(&at(0x0102), register(8, 8)).unwrap();
    assert!(elsewhere.lost(&state).is_empty());
    state.apply(&host(2), register(0, 9)).unwrap();
    let preempt = Order::Preempt { key: 9, victim: 8, kind: Some(kind), abort: false };
    let told = state.apply(&host(2), preempt).unwrap();
    assert!(told.len() == 1 && told[0].who.is_same(&at(0x0101)), "{told:?}");
    assert_eq!(elsewhere.lost(&state).len(), 1);
}

#[test]
fn the_table_of_conflicts() {
    use Access::{None as Free, Read, Write};
    use Standing::{Holder, Registered, Stranger};
    // For each type: whether a registrant reads, writes; whether a stranger reads, writes.
    for (kind, expected) in [
        (Kind::WriteExclusive, [true, false, true, false]),
        (Kind::ExclusiveAccess, [false, false, false, false]),
        (Kind::WriteExclusiveRegistrants, [true, true, true, false]),
        (Kind::ExclusiveAccessRegistrants, [true, true, false, false]),
        (Kind::WriteExclusiveAll, [true, true, true, false]),
        (Kind::ExclusiveAccessAll, [true, true, false, false]),
    ] {
        let asked = [(Registered, Read), (Registered, Write), (Stranger, Read), (Stranger, Write)];
        assert_eq!(asked.map(|(standing, access)| passes(kind, standing, access)), expected);
        assert!(passes(kind, Holder, Write) && passes(kind, Stranger, Free));
    }
}

#[test]
fn preempting_aborts_those_that_lose_their_registration_and_no_others() {
    let (a, b, c) = (host(1), host(2), host(3));
    let mut state = Reservations::default();
    for (who, new) in [(&a, 1), (&b, 2), (&c, 3)] {
        state.apply(who, Order::Register { key: Some(0), new, persistent: false }).unwrap();
    }
    let kind = Kind::WriteExclusiveRegistrants;
    state.apply(&b, Order::Reserve { key: 2, kind }).unwrap();
    let kind = Some(kind);
    let notices = state.apply(&a, Order::Preempt { key: 1, victim: 2, kind, abort: true }).unwrap();
    let code = Some(REGISTRATION_PREEMPTED);
    assert_eq!(notices, [Notice { who: b, code, abort: true }]);
    assert_eq!(state.standing(&a), Standing::Holder);
    assert_eq!(state.standing(&c), Standing::Registered);
}

#[test]
fn who_does_not_hold_a_reservation_alone_cannot_move_it() {
    let (a, b, c) = (host(1), host(2), host(3));
    for (kind, mover) in [(Kind::WriteExclusive, &b), (Kind::WriteExclusiveAll, &a)] {
        let mut state = Reservations::default();
        for (who, new) in [(&a, 1), (&b, 2)] {
            state.apply(who, Order::Register { key: None, new, persistent: false }).unwrap();
        }
        state.apply(&a, Order::Reserve { key: 1, kind }).unwrap();
        let key = if *mover == a { 1 } else { 2 };
        let hand = Order::Move { key, new: 9, to: c.clone(), leave: false, persistent: false };
        assert_eq!(state.apply(mover, hand), Err(Refusal::Conflict), "{kind:?}");
    }
}
