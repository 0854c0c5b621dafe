//! Two mirrors of one primary: what becomes of one costs the other nothing, however many histories
//! begin meanwhile. What is copied is counted in bytes.

use block::BlockRange;

use super::*;

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
        match message {
            Message::Change { seq, .. } => self.hear_from(leg, Message::Acks(vec![seq])),
            Message::Flush { seq } => self.hear_from(leg, Message::Durable { seq }),
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
        (bench, Mirrors { histories: mirrors.histories, ..Mirrors::default() })
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
