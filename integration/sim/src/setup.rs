//! What a seed decides before anything happens.

use std::time::Duration;

use block::Mode;
use mirror::{
    Bandwidth, Failover, HeartbeatTimes, JournalLimits, OnSlow, Policy, Priority, Recovery, Split,
    Window,
};

use crate::net::Path;
use crate::rng::Rng;
use crate::slow::Pace;

/// Which modes the legs of a history have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Modes {
    /// In every second history `sync`, in the others any of these.
    #[default]
    Any,
    /// Every one is `sync`.
    Sync,
    /// Every one is `consistency`.
    Consistency,
    /// Every one is `stack`.
    Stack,
    /// Each has any, slow ones are degraded, and operators switch between them.
    Mixed,
    /// Every one is `sync`, and the group lies at two gateways of each site.
    Parts,
    /// The first one is any, and its mirror is mirrored on.
    Relay,
}

impl Modes {
    /// Those of one history.
    pub(crate) fn of(self, seed: u64) -> Self {
        if self == Self::Any && seed % PARTS_EVERY == 10 {
            return Self::Parts;
        }
        if self == Self::Any && seed % RELAY_EVERY == 4 {
            return Self::Relay;
        }
        match (self, seed % 2, seed / 2 % 3) {
            (Self::Any, 0, _) => Self::Sync,
            (Self::Any, _, 0) => Self::Consistency,
            (Self::Any, _, 1) => Self::Stack,
            (Self::Any, ..) => Self::Mixed,
            (some, ..) => some,
        }
    }
}

/// So many histories have one of a group over several gateways.
const PARTS_EVERY: u64 = 12;
/// So many histories have one of a mirror that is mirrored on.
const RELAY_EVERY: u64 = 12;
/// In so many histories there is one in which no mirror is copied before it is compared.
const HOLDS_CONTENT_EVERY: u64 = 7;
/// Such histories are long.
const HOUR_EVERY: u64 = 180;

/// The third voice, and how patient gateways are with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Voice {
    pub(crate) lease_ms: u64,
    pub(crate) hold_ms: u64,
    pub(crate) failover_after_ms: u64,
}

/// What a seed decides before anything happens.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Gateways.
    pub(crate) sites: usize,
    /// Whether copies and records live in the product's pool, or on platters.
    pub(crate) pool: bool,
    /// Sizes of the volumes, in bytes.
    pub(crate) volumes: Vec<u64>,
    /// So many of them belong to the group from its beginning on; the others join and leave.
    pub(crate) founding: usize,
    pub(crate) hosts: usize,
    pub(crate) path: Path,
    pub(crate) pace: [Pace; 3],
    pub(crate) policy: Policy,
    /// The modes of the legs, by the site that they lead to.
    pub(crate) modes: [Mode; 3],
    /// Whether operators switch modes.
    pub(crate) switches: bool,
    /// What a send journal may hold.
    pub(crate) journal: JournalLimits,
    pub(crate) heartbeat: HeartbeatTimes,
    /// How long faults go on.
    pub(crate) length: Duration,
    /// From one fault to the next, in milliseconds, at most.
    pub(crate) fault_gap_ms: u64,
    /// Whether disks lose power, fail and fill up, or processes only die.
    pub(crate) disks_fail: bool,
    /// Whether an operator resumes what stopped and restarts what is latched meanwhile.
    pub(crate) attentive: bool,
    /// Whether operators act while faults go on.
    pub(crate) operators: bool,
    /// Whether the link is cut every second for an hour, and nothing else happens.
    pub(crate) hour: bool,
    /// Whether the clocks of the sites are a day apart.
    pub(crate) days_apart: bool,
    /// Whether operators say of every copy, rightly or not, that it holds the content already.
    pub(crate) holds_content: bool,
    /// The witness, if there is one.
    pub(crate) voice: Option<Voice>,
}

impl Setup {
    pub(crate) fn draw((seed, rng): (u64, &Rng), modes: Modes) -> Self {
        const KIB: u64 = 1024;
        let sizes = [256 * KIB, KIB * KIB, 8 * KIB * KIB, 9 * KIB * KIB];
        let mut volumes: Vec<u64> = (0..rng.between(1, 3)).map(|_| rng.pick(&sizes)).collect();
        let founding = volumes.len();
        if rng.chance(35) {
            volumes.extend((0..rng.between(1, 2)).map(|_| rng.pick(&[256 * KIB, KIB * KIB])));
        }
        let path = Path { latency: rng.millis(0, 6), speed: rng.pick(&[500, 5_000, 50_000]) };
        let policy = Policy {
            split: if rng.chance(80) { Split::Automatic } else { Split::Manual },
            recovery: if rng.chance(85) { Recovery::Automatic } else { Recovery::Manual },
            on_slow: if rng.chance(70) { OnSlow::Error } else { OnSlow::Block },
            ack_deadline_ms: rng.pick(&[1_500, 3_000, 8_000]),
            ..Policy::default()
        };
        let policy = if modes == Modes::Sync { policy } else { follow(rng, modes, policy) };
        let policy = copying(rng, policy);
        let voice = rng.chance(35).then(|| voice(rng));
        let by_itself = voice.is_some() && rng.chance(65);
        let failover = if by_itself { Failover::Automatic } else { Failover::Manual };
        let policy = Policy { failover, ..policy };
        Self {
            hour: seed % HOUR_EVERY == HOUR_EVERY - 1,
            days_apart: rng.chance(20),
            holds_content: seed % HOLDS_CONTENT_EVERY == 2,
            voice,
            sites: if rng.chance(25) { 3 } else { 2 },
            pool: true,
            hosts: rng.index(3) + 2 + volumes.len() - founding,
            volumes,
            founding,
            path,
            pace: [pace(rng), pace(rng), pace(rng)],
            policy,
            modes: [(); 3].map(|()| mode(rng, modes)),
            switches: modes == Modes::Mixed && rng.chance(70),
            journal: if modes == Modes::Sync { JournalLimits::default() } else { journal(rng) },
            heartbeat: heartbeat(rng),
            length: rng.millis(2_500, if voice.is_some() { 18_000 } else { 10_000 }),
            fault_gap_ms: rng.pick(&[250, 800, 2_000]),
            disks_fail: rng.chance(55),
            attentive: rng.chance(75),
            operators: rng.chance(60),
        }
    }
}

/// The policies of legs that follow behind, or may come to.
fn follow(rng: &Rng, modes: Modes, policy: Policy) -> Policy {
    let degrades = modes == Modes::Mixed && rng.chance(40);
    Policy {
        on_slow: if degrades { OnSlow::Degrade } else { policy.on_slow },
        cut_interval_ms: rng.pick(&[100, 400, 1_000]),
        transfer_every_s: rng.pick(&[0, 1, 1, 3]),
        ..policy
    }
}

/// What copies may take. The least lets everything be copied while operators wait for it.
fn copying(rng: &Rng, policy: Policy) -> Policy {
    let usual = rng.pick(&[None, None, None, Some(1 << 20), Some(4 << 20)]);
    // It is always open, but that is known only when somebody looks at a clock.
    let slow = Window::parse("00:00-24:00 Europe/Berlin", 2 << 20).expect("it is one");
    let windows = if rng.chance(15) { vec![slow] } else { Vec::new() };
    Policy {
        bandwidth: Bandwidth { usual, windows: windows.into() },
        priority: rng.pick(&[Priority::Low, Priority::Normal, Priority::High]),
        ..policy
    }
}

fn mode(rng: &Rng, modes: Modes) -> Mode {
    match modes {
        Modes::Any | Modes::Sync | Modes::Parts | Modes::Relay => Mode::Sync,
        Modes::Consistency => Mode::Consistency,
        Modes::Stack => Mode::Stack,
        Modes::Mixed => rng.pick(&[Mode::Sync, Mode::Sync, Mode::Consistency, Mode::Stack]),
    }
}

fn voice(rng: &Rng) -> Voice {
    Voice {
        lease_ms: rng.pick(&[2_000, 4_000, 6_000]),
        hold_ms: rng.pick(&[1_500, 5_000]),
        failover_after_ms: rng.pick(&[500, 1_000, 3_000]),
    }
}

fn journal(rng: &Rng) -> JournalLimits {
    let memory_bytes = rng.pick(&[32 << 10, 64 << 10, 256 << 10, 64 << 20]);
    // More than a link takes in one go, or nothing would ever be left for the disk.
    JournalLimits { memory_bytes, spill_bytes: rng.pick(&[0, 1 << 20, 64 << 20, 64 << 20]) }
}

pub(crate) fn pace(rng: &Rng) -> Pace {
    match rng.below(4) {
        0 => Pace::INLINE,
        1 => Pace { io: (0, 2), flush: (1, 6), record: (0, 3) },
        2 => Pace { io: (0, 12), flush: (2, 40), record: (1, 20) },
        _ => Pace { io: (0, 0), flush: (1, 10), record: (1, 5) },
    }
}

pub(crate) fn heartbeat(rng: &Rng) -> HeartbeatTimes {
    if rng.chance(50) {
        return HeartbeatTimes::default();
    }
    HeartbeatTimes {
        tick: Duration::from_millis(50),
        interval: Duration::from_millis(100),
        silence: Duration::from_millis(800),
        open: Duration::from_secs(2),
        redial: (Duration::from_millis(20), Duration::from_millis(300)),
    }
}
