//! Two mirrors of one primary: what becomes of one costs the other nothing, however many histories
//! begin meanwhile. What is copied is counted in bytes.

use block::BlockRange;

use super::*;

const EAST: GatewayId = GatewayId::of(8);
const NORTH: GatewayId = GatewayId::of(77);
/// What is mapped here, in blocks: what a full copy moves.
const MAPPED: u64 = 1024;

/// What the mirrors answer, and what they were sent.
#[derive(Default)]
struct Mirrors {
    /// The history that each one recorded last.
    histories: [Option<Generation>; 2],
    copied_bytes: [u64; 2],
    /// Full copies or comparisons that were begun.
    listed: [u32; 2],
    /// What a mirror records or acts on, in order.
    heard: [Vec<Message>; 2],
}

fn second() -> LegId {
    LegId::new(1).unwrap()
}

impl Bench {
    fn hear_from(&mut self, leg: LegId, message: Message) {
        self.apply(Event::Heard { leg, message });
    }

    /// Everything comes to its end: both mirrors do and answer what they are sent.
    fn run(&mut self, mirrors: &mut Mirrors) -> &mut Self {
        loop {
            self.record();
            let effects = self.take();
            if effects.is_empty() {
                return self;
            }
            for effect in effects {
                self.follow_up(effect, mirrors);
            }
        }
    }

    fn follow_up(&mut self, effect: Effect, mirrors: &mut Mirrors) {
        match effect {
            Effect::Apply { write } => {
                self.apply(Event::Applied { write, result: Ok(()) });
            }
            Effect::FlushLocal { round, .. } => {
                self.apply(Event::Flushed { round, result: Ok(()) });
            }
            Effect::Send { leg, seq, .. } => self.hear_from(leg, Message::Acks(vec![seq])),
            Effect::Copy { leg, seq, compare: true, .. } => {
                self.hear_from(leg, Message::Compared { seq, differs: Vec::new() });
            }
            Effect::Copy { leg, seq, extent, .. } => {
                mirrors.copied_bytes[leg.index()] += extent.len();
                self.hear_from(leg, Message::Acks(vec![seq]));
            }
            Effect::List { leg } => {
                mirrors.listed[leg.index()] += 1;
                let mapped = vec![vec![BlockRange::new(0, MAPPED)]];
                self.apply(Event::Listed { leg, mapped });
            }
            Effect::Post { leg, message } => self.answer_as(leg, message, mirrors),
            _ => {}
        }
    }

    fn answer_as(&mut self, leg: LegId, message: Message, mirrors: &mut Mirrors) {
        let is_order = matches!(
            message,
            Message::Promote { .. } | Message::Snapshot(_) | Message::Handover { .. }
        );
        if is_order {
            mirrors.heard[leg.index()].push(message.clone());
        }
        match message {
            Message::Change { seq, .. } => self.hear_from(leg, Message::Acks(vec![seq])),
            Message::Flush { seq } => self.hear_from(leg, Message::Durable { seq }),
            Message::List { volume } => {
                let blocks = vec![BlockRange::new(0, MAPPED)];
                self.hear_from(leg, Message::Mapped { volume, blocks, last: true });
            }
            Message::Promote { generation, .. } => {
                mirrors.histories[leg.index()] = Some(generation);
                self.hear_from(leg, Message::Voted(Vote::InSync));
            }
            _ => {}
        }
    }

    fn open(&mut self, leg: LegId, mirrors: &mut Mirrors) -> &mut Self {
        let generation = mirrors.histories[leg.index()];
        let opened = Opened {
            quality: if generation.is_some() { Quality::Outdated } else { Quality::Blank },
            generation,
            ancestors: Vec::new(),
            differences_known: true,
        };
        self.apply(Event::LinkVersion { leg, version: block::PROTOCOL_VERSION });
        let opening = Box::new(Opening { opened, differs: Vec::new() });
        self.apply(Event::Connected { leg, opening }).run(mirrors)
    }

    fn cut(&mut self, leg: LegId, mirrors: &mut Mirrors) -> &mut Self {
        let cause = Cause::LinkLost("cut".to_owned());
        self.apply(Event::Disconnected { leg, cause }).run(mirrors)
    }

    /// The second mirror is lost and comes back, so many times, and lacks one block each time.
    fn flap(&mut self, times: u64, mirrors: &mut Mirrors) {
        for n in 0..times {
            self.cut(second(), mirrors).change(n, at(2 * n, 1)).run(mirrors);
            self.open(second(), mirrors);
        }
    }

    /// A primary with two mirrors that have everything.
    fn two_mirrors() -> (Self, Mirrors) {
        let (mut bench, mut mirrors) = (Self::primary(), Mirrors::default());
        bench.add_leg(Policy::default()).open(leg(), &mut mirrors);
        bench.apply(Event::Command(Command::AddLeg {
            gateway: NORTH,
            site: "north".to_owned(),
            sessions: vec![SessionId::of(10)],
            policy: Policy::default(),
            holds_content: false,
        }));
        bench.record().open(second(), &mut mirrors);
        bench.are_equivalent();
        mirrors.copied_bytes = [0; 2];
        mirrors.listed = [0; 2];
        (bench, mirrors)
    }

    /// A mirror that was opened so and heard this.
    fn mirror_of(open: Box<Open>, gateway: GatewayId, heard: &[Message]) -> Self {
        let quality = (Quality::Blank, false);
        let (_, record) = crate::machine::found(GROUP, "orders", vec![VOLUME], None, quality);
        let record = GroupRecord::decode(&record.unwrap()).unwrap();
        let none = |_, _| DirtyMap::default();
        let machine = Machine::restore(record, BOOT, &[restored(true, &[])], none);
        // What it begins has other names than what the primary began.
        let mut bench = Self { machine, out: Vec::new(), generations: 10_000 };
        bench.supply();
        bench.machine.start(&mut bench.out);
        bench.record().accepts(open, gateway);
        for message in heard {
            bench.apply(Event::Told { message: message.clone() }).record();
        }
        bench
    }

    /// Opens the group at a mirror; returns its answer.
    fn accepts(&mut self, open: Box<Open>, gateway: GatewayId) -> Opening {
        let site = "there".to_owned();
        self.apply(Event::Opened { open, site, gateway }).record();
        let accepted = self.take().into_iter().find_map(|effect| match effect {
            Effect::Accept { differs, opened } => Some(Opening { opened, differs }),
            _ => None,
        });
        accepted.expect("it is accepted")
    }

    /// The leg to a gateway, and what is said to open the group there.
    fn open_at(&self, gateway: GatewayId) -> (LegId, Box<Open>) {
        let legs = self.machine.status().legs;
        let leg = legs.iter().find(|leg| leg.gateway == gateway).expect("it is a mirror").leg;
        (leg, self.machine.open_message(leg).expect("it has a history"))
    }

    fn are_equivalent(&self) {
        let legs = self.machine.status().legs;
        assert!(legs.iter().all(|leg| leg.phase == Phase::Equivalent), "{legs:?}");
    }
}

/// Each loss of a mirror begins a history. The other one counted from the one in which it had joined,
/// which was forgotten after 32 more: then its next loss emptied it and copied everything.
#[test]
fn rule_09_losses_of_one_mirror_cost_the_other_nothing() {
    let (mut bench, mut mirrors) = Bench::two_mirrors();
    bench.flap(100, &mut mirrors);
    assert_eq!(mirrors.copied_bytes, [0, 100 * 4096]);
    assert_eq!(bench.leg_record().base, mirrors.histories[0], "it counts from the last one");
    bench.cut(leg(), &mut mirrors).change(200, at(900, 1)).run(&mut mirrors);
    bench.open(leg(), &mut mirrors).are_equivalent();
    // What it was sent and never asked to make durable, and what it missed.
    assert_eq!((mirrors.copied_bytes[0], mirrors.listed), (101 * 4096, [0, 0]));
}

/// It was refused as one with a history that is nobody's.
#[test]
fn rule_09_a_mirror_that_is_away_for_many_histories_comes_back_by_delta() {
    let (mut bench, mut mirrors) = Bench::two_mirrors();
    bench.cut(leg(), &mut mirrors).flap(100, &mut mirrors);
    bench.open(leg(), &mut mirrors).are_equivalent();
    assert_eq!((mirrors.copied_bytes, mirrors.listed), ([100 * 4096, 100 * 4096], [0, 0]));
}

/// The mirror recorded a history, and was lost before that was heard: it names one that came after the
/// one that it counts from.
#[test]
fn rule_09_a_mirror_whose_answer_was_lost_comes_back_by_delta() {
    let (mut bench, mut mirrors) = Bench::two_mirrors();
    bench.cut(second(), &mut mirrors).change(1, at(1, 1)).record();
    let told = bench.take().into_iter().find_map(|effect| match effect {
        Effect::Post { message: Message::Promote { generation, .. }, .. } => Some(generation),
        _ => None,
    });
    assert_ne!(told, mirrors.histories[0]);
    mirrors.histories[0] = told;
    bench.applied(1).cut(leg(), &mut mirrors);
    assert_ne!(bench.leg_record().base, told);
    bench.open(second(), &mut mirrors).flap(60, &mut mirrors);
    bench.open(leg(), &mut mirrors).are_equivalent();
    assert_eq!(mirrors.listed, [0, 0]);
    assert_eq!(mirrors.copied_bytes[0], 61 * 4096);
}

/// The primary swaps roles with its first mirror, and both mirrors are what they were told. Returns
/// the new primary and the other mirror.
fn swap_with_two_mirrors(lacks: bool) -> (Bench, Bench) {
    let (mut east, mut mirrors) = Bench::two_mirrors();
    east.machine.introduce(EAST);
    if lacks {
        east.cut(second(), &mut mirrors).change(1, at(7, 3)).run(&mut mirrors);
    }
    let opens = [leg(), second()].map(|leg| east.machine.open_message(leg).unwrap());
    let [to_west, to_north] = opens;
    east.apply(Event::Command(Command::Reverse { leg: leg() })).run(&mut mirrors);
    let is_handover = |message: &Message| matches!(message, Message::Handover { .. });
    assert!(mirrors.heard[0].last().is_some_and(is_handover), "{:?}", mirrors.heard[0]);
    let west = Bench::mirror_of(to_west, EAST, &mirrors.heard[0]);
    assert_eq!(west.machine.status().role, Role::Primary);
    let north = Bench::mirror_of(to_north, EAST, &mirrors.heard[1]);
    (west, north)
}

/// What the new primary sends the other mirror, in bytes; `None` if it empties it first.
fn follow(west: &mut Bench, north: &mut Bench) -> Option<u64> {
    let (leg, open) = west.open_at(NORTH);
    let opening = north.accepts(open, WEST);
    let mut mirrors = Mirrors::default();
    west.apply(Event::LinkVersion { leg, version: block::PROTOCOL_VERSION });
    west.apply(Event::Connected { leg, opening: Box::new(opening) }).run(&mut mirrors);
    let legs = west.machine.status().legs;
    let is_whole = |status: &crate::LegStatus| status.phase == Phase::Equivalent;
    assert!(legs.iter().any(|status| status.leg == leg && is_whole(status)), "{legs:?}");
    (mirrors.listed[leg.index()] == 0).then_some(mirrors.copied_bytes[leg.index()])
}

/// After a planned migration the other mirrors were nobody's: added again, they were emptied and copied
/// whole.
#[test]
fn rule_09_a_planned_swap_costs_the_other_mirror_nothing() {
    let (mut west, mut north) = swap_with_two_mirrors(false);
    let dialled = west.out.iter().filter(|effect| matches!(effect, Effect::Dial { .. })).count();
    assert_eq!(dialled, 2, "it goes on by itself, as the old primary does");
    assert_eq!(follow(&mut west, &mut north), Some(0));

    // What is written before the mirror is there again is what it lacks.
    let (mut west, mut north) = swap_with_two_mirrors(false);
    west.change(1, at(30, 2)).run(&mut Mirrors::default());
    assert_eq!(follow(&mut west, &mut north), Some(2 * 4096));
}

#[test]
fn rule_09_what_the_other_mirror_lacked_at_a_planned_swap_is_told() {
    let (mut west, mut north) = swap_with_two_mirrors(true);
    assert_eq!(follow(&mut west, &mut north), Some(3 * 4096));
}

#[test]
fn rule_09_what_was_told_at_a_planned_swap_outlives_a_restart() {
    let (west, mut north) = swap_with_two_mirrors(true);
    let mut records = Vec::new();
    west.machine.push_dirty_records(&mut records);
    let key = crate::record::dirty_key(GROUP, NORTH, VOLUME);
    let lacks = records.into_iter().find(|(of, _)| *of == key).and_then(|(_, map)| map);
    let lacks = DirtyMap::decode(&lacks.expect("it lacks some")).unwrap();
    let (_, record) = west.machine.group_record();
    let record = GroupRecord::decode(&record.unwrap()).unwrap();
    let mut again = Bench::restored(record, restored(true, &[]), |gateway, _| {
        if gateway == NORTH { lacks.clone() } else { DirtyMap::default() }
    });
    let (_, open) = west.open_at(NORTH);
    assert!(open.heir_of.is_some());
    again.machine.restore_heir(NORTH, open.heir_of);
    assert_eq!(follow(&mut again, &mut north), Some(3 * 4096));
}

/// The old primary may have gone on, by a word, and sent the mirror what the new one knows nothing of.
#[test]
fn rule_09_an_heir_knows_no_mirror_that_somebody_else_opened_since() {
    let (mut west, mut north) = swap_with_two_mirrors(false);
    let (_, open) = west.open_at(NORTH);
    let epoch = Epoch::new(open.heir_of.unwrap().epoch.get() + 1);
    assert!(epoch < open.epoch);
    let between = Open { epoch, heir_of: None, ..*open.clone() };
    north.accepts(Box::new(between), GatewayId::of(99));
    assert_eq!(follow(&mut west, &mut north), None, "it is copied whole");

    // One that took over from another primary than the one that was here last is none of its heirs; nor
    // is anybody where a mirror was, which relays in the epoch of the primary that it follows.
    let none: [fn(Predecessor) -> Predecessor; 2] = [
        |heir_of| Predecessor { epoch: Epoch::new(heir_of.epoch.get() + 1), ..heir_of },
        |heir_of| Predecessor { gateway: GatewayId::of(99), ..heir_of },
    ];
    for other in none {
        let (west, mut north) = swap_with_two_mirrors(false);
        let (_, open) = west.open_at(NORTH);
        let heir_of = open.heir_of.map(other);
        assert!(!north.accepts(Box::new(Open { heir_of, ..*open }), WEST).opened.differences_known);
    }
}

/// Once the mirror was here, it is this primary whose heir the next one is.
#[test]
fn rule_09_a_mirror_that_was_inherited_is_handed_on_like_any_other() {
    let (mut west, mut north) = swap_with_two_mirrors(false);
    let (leg, open) = west.open_at(NORTH);
    let opening = Box::new(north.accepts(open, WEST));
    west.take();
    west.apply(Event::Connected { leg, opening });
    assert_eq!(west.open_at(NORTH).1.heir_of, None);
    let mark = (crate::record::heir_key(GROUP, NORTH), None);
    let forgets = |effect: &Effect| match effect {
        Effect::Record { records, .. } => records.contains(&mark),
        _ => false,
    };
    assert!(west.out.iter().any(forgets), "nor after a restart: {:?}", west.out);
}

/// What was on its way to it when the old primary was lost, nobody knows who is left: it was emptied and
/// copied whole, although it had all but that.
#[test]
fn rule_09_after_a_failover_the_other_mirror_is_compared_and_sent_what_differs() {
    let (east, mirrors) = Bench::two_mirrors();
    let open = |leg| east.machine.open_message(leg).unwrap();
    let mut west = Bench::mirror_of(open(leg()), EAST, &mirrors.heard[0]);
    let mut north = Bench::mirror_of(open(second()), EAST, &mirrors.heard[1]);
    let mut heard = Mirrors::default();
    west.apply(Event::UpstreamLost { orderly: false });
    west.apply(Event::Command(Command::Promote { consent: Consent::InSync })).run(&mut heard);
    assert_eq!(west.machine.status().role, Role::Primary);
    west.apply(Event::Command(Command::AddLeg {
        gateway: NORTH,
        site: "north".to_owned(),
        sessions: vec![SessionId::of(10)],
        policy: Policy::default(),
        holds_content: false,
    }));
    west.run(&mut heard);
    let (leg, open) = west.open_at(NORTH);
    let opening = Box::new(north.accepts(open, WEST));
    assert!(!opening.opened.differences_known);
    west.apply(Event::LinkVersion { leg, version: block::PROTOCOL_VERSION });
    west.apply(Event::Connected { leg, opening });
    let status = |west: &Bench| {
        let legs = west.machine.status().legs;
        legs.into_iter().find(|status| status.leg == leg).expect("it was added")
    };
    assert!(status(&west).comparing);
    let empties = |effect: &Effect| {
        matches!(effect, Effect::Post { message: Message::Change { resync: true, .. }, .. })
    };
    assert!(!west.out.iter().any(empties), "{:?}", west.out);
    west.run(&mut heard);
    assert_eq!((heard.listed[leg.index()], heard.copied_bytes[leg.index()]), (1, 0));
    assert_eq!((status(&west).phase, status(&west).comparing), (Phase::Equivalent, false));
}
