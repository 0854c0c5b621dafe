//! Commands that are not SIMPLE (SAM-5 §8.6), of several initiators.

use super::*;

/// One command.
struct One {
    host: usize,
    attribute: Attribute,
    epoch: u32,
    rank: Rank,
    has_ended: bool,
}

impl One {
    fn has_begun(&self) -> bool {
        !matches!(self.rank, Rank::Waits(_))
    }
}

struct Many {
    rig: Rig,
    hosts: [Nexus; 3],
    all: Vec<One>,
}

impl Many {
    fn new() -> Self {
        let rig = Rig::new();
        let hosts = [rig.host(1), rig.host(2), rig.host(3)];
        Self { rig, hosts, all: Vec::new() }
    }

    fn enter(&mut self, host: usize, attribute: Attribute) {
        let (nexus, epoch) = (&self.hosts[host], self.hosts[host].epoch());
        let rank = self.rig.unit.enter(nexus, attribute);
        self.all.push(One { host, attribute, epoch, rank, has_ended: false });
        if self.all.last().is_some_and(One::has_begun) {
            self.check(self.all.len() - 1);
        }
    }

    /// What has just begun did not overtake what it must not.
    fn check(&self, at: usize) {
        let is_ordered = |one: &One| one.attribute == Attribute::Ordered;
        let is_ahead = |one: &One| one.attribute == Attribute::Head && one.has_begun();
        let older = || self.all[..at].iter().filter(|one| !one.has_ended);
        let others = self.all.iter().enumerate().filter(|(other, _)| *other != at);
        let a_head_is_there = others.map(|(_, one)| one).any(|one| !one.has_ended && is_ahead(one));
        match self.all[at].attribute {
            Attribute::Simple => assert!(!older().any(is_ordered) && !a_head_is_there),
            Attribute::Ordered => assert!(older().count() == 0 && !a_head_is_there),
            Attribute::Head => {}
        }
    }

    /// Begins whatever has its turn.
    fn pass(&mut self) {
        for at in 0..self.all.len() {
            let Rank::Waits(number) = self.all[at].rank else { continue };
            if self.all[at].has_ended {
                continue;
            }
            if let Some(rank) = self.rig.unit.pass(number) {
                self.all[at].rank = rank;
                self.check(at);
            }
        }
    }

    fn end(&mut self, at: usize) {
        let one = &mut self.all[at];
        self.rig.unit.leave(&self.hosts[one.host], one.epoch, one.rank);
        one.has_ended = true;
    }

    /// Those that have not ended, and meet this.
    fn open(&self, meets: impl Fn(&One) -> bool) -> Vec<usize> {
        let all = self.all.iter().enumerate();
        all.filter(|(_, one)| !one.has_ended && meets(one)).map(|(at, _)| at).collect()
    }
}

fn attributes() -> impl Strategy<Value = Attribute> {
    (0u8..4).prop_map(|code| Attribute::of(code).expect("none of them is ACA"))
}

proptest! {
    #[test]
    fn nobody_overtakes_an_ordered_command_and_everybody_has_a_turn(
        steps in prop::collection::vec((0usize..3, attributes(), 0u8..16), 1..80),
    ) {
        let mut many = Many::new();
        for (host, attribute, what) in steps {
            match what {
                0..8 => many.enter(host, attribute),
                // One that has begun ends; it may have been any.
                8..13 => {
                    let begun = many.open(|one| one.host == host && one.has_begun());
                    if let Some(at) = begun.get(usize::from(what - 8) % begun.len().max(1)) {
                        many.end(*at);
                    }
                }
                // One that waits is aborted.
                13 | 14 => {
                    if let Some(at) = many.open(|one| one.host == host && !one.has_begun()).pop() {
                        many.end(at);
                    }
                }
                // All are, and their sessions find out later.
                _ => {
                    many.rig.unit.reset(&many.hosts[host], Reset::LogicalUnit);
                    many.open(|_| true).into_iter().for_each(|at| many.end(at));
                }
            }
            many.pass();
        }
        for _ in 0..=many.all.len() {
            many.open(One::has_begun).into_iter().for_each(|at| many.end(at));
            many.pass();
        }
        prop_assert!(many.open(|_| true).is_empty(), "some never had a turn");
        let last = many.rig.unit.enter(&many.hosts[0], Attribute::Simple);
        prop_assert_eq!(last, Rank::Plain, "nobody is left in line");
    }
}

#[test]
fn an_initiator_that_is_gone_holds_up_nobody() {
    let rig = Rig::new();
    let (gone, host) = (rig.host(1), rig.host(2));
    assert_eq!(rig.unit.enter(&gone, Attribute::Simple), Rank::Plain);
    assert!(matches!(rig.unit.enter(&gone, Attribute::Ordered), Rank::Waits(_)));
    let Rank::Waits(number) = rig.unit.enter(&host, Attribute::Ordered) else {
        panic!("it overtakes another")
    };
    assert_eq!(rig.unit.pass(number), None);
    drop(gone);
    assert_eq!(rig.unit.pass(number), Some(Rank::Ahead));
}

#[test]
fn the_attributes_that_are_offered_are_those_that_are_heeded() {
    let rig = Rig::new();
    let page = rig.ask(&rig.host(1), &[0x12, 1, 0x86, 0, 255, 0], &[]).data_in;
    for (code, bit) in [(1, 0x01), (2, 0x02), (3, 0x04)] {
        assert!(page[5] & bit != 0 && Attribute::of(code).is_some(), "{code}");
    }
    let heeded = [1, 2, 3].map(Attribute::of);
    assert_eq!(heeded, [Attribute::Simple, Attribute::Ordered, Attribute::Head].map(Some));
    // NORMACA is not set.
    let inquiry = rig.ask(&rig.host(2), &[0x12, 0, 0, 0, 255, 0], &[]).data_in;
    assert!(inquiry[3] & 0x20 == 0 && Attribute::of(4).is_none());
}
