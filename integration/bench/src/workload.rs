//! What is asked of the contestants.
//!
//! Invariant: a suite is the same list for all of them.

use serde::Serialize;

/// What a load does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pattern {
    /// Reads at random places.
    RandRead,
    /// Writes at random places.
    RandWrite,
    /// Reads from the start to the end, again and again.
    Read,
    /// Writes from the start to the end, again and again.
    Write,
    /// Writes at random places, each on stable storage when it is answered.
    RandWriteFua,
    /// Writes at random places, each followed by a flush.
    RandWriteFlush,
}

impl Pattern {
    pub(crate) fn writes(self) -> bool {
        !matches!(self, Self::RandRead | Self::Read)
    }

    pub(crate) fn is_random(self) -> bool {
        !matches!(self, Self::Read | Self::Write)
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) pattern: Pattern,
    pub(crate) bytes: u32,
    pub(crate) depth: usize,
    pub(crate) goals: Goals,
}

/// The ratios to a peer on the same medium that are to be reached, of those that a report has.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Goals {
    pub(crate) ops: Option<f64>,
    pub(crate) cpu: Option<f64>,
    pub(crate) p50: Option<f64>,
}

const fn row(name: &'static str, pattern: Pattern, bytes: u32, depth: usize) -> Workload {
    let goals = Goals { ops: None, cpu: None, p50: None };
    Workload { name, pattern, bytes, depth, goals }
}

impl Workload {
    const fn aiming_at(self, goals: Goals) -> Self {
        Self { goals, ..self }
    }
}

/// One small request at a time: half the latency, and a third of the processor time.
const ALONE: Goals = Goals { ops: None, cpu: Some(3.0), p50: Some(2.0) };
/// Many small ones: three times as many, each with a third of the processor time.
const MANY: Goals = Goals { ops: Some(3.0), cpu: Some(3.0), p50: None };
/// Large ones: what the wire and memory leave to be won.
const LARGE: Goals = Goals { ops: Some(1.3), cpu: None, p50: None };

const KIB4: u32 = 4 << 10;
const MIB: u32 = 1 << 20;

/// Everything that one command measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suite {
    Nbd,
    Iscsi,
    Mirror,
    Store,
}

impl Suite {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nbd => "nbd",
            Self::Iscsi => "iscsi",
            Self::Mirror => "mirror",
            Self::Store => "store",
        }
    }

    pub(crate) fn workloads(self) -> &'static [Workload] {
        match self {
            Self::Nbd => {
                &const {
                    [
                        row("4k random read, depth 1", Pattern::RandRead, KIB4, 1),
                        row("4k random write, depth 1", Pattern::RandWrite, KIB4, 1),
                        row("4k random read, depth 32", Pattern::RandRead, KIB4, 32),
                        row("4k random write, depth 32", Pattern::RandWrite, KIB4, 32),
                        row("1M sequential read, depth 4", Pattern::Read, MIB, 4),
                        row("1M sequential write, depth 4", Pattern::Write, MIB, 4),
                    ]
                }
            }
            Self::Iscsi => {
                &const {
                    [
                        row("4k random read, depth 1", Pattern::RandRead, KIB4, 1).aiming_at(ALONE),
                        row("4k random write, depth 1", Pattern::RandWrite, KIB4, 1)
                            .aiming_at(ALONE),
                        row("4k random read, depth 32", Pattern::RandRead, KIB4, 32)
                            .aiming_at(MANY),
                        row("4k random write, depth 32", Pattern::RandWrite, KIB4, 32)
                            .aiming_at(MANY),
                        row("1M sequential read, depth 4", Pattern::Read, MIB, 4).aiming_at(LARGE),
                        row("1M sequential write, depth 4", Pattern::Write, MIB, 4)
                            .aiming_at(LARGE),
                    ]
                }
            }
            Self::Mirror => {
                &const {
                    [
                        row("4k random write, depth 1", Pattern::RandWrite, KIB4, 1),
                        row("4k random write, depth 32", Pattern::RandWrite, KIB4, 32),
                        row("1M sequential write, depth 4", Pattern::Write, MIB, 4),
                        row("4k write and flush, depth 1", Pattern::RandWriteFlush, KIB4, 1),
                    ]
                }
            }
            Self::Store => {
                &const {
                    [
                        row("4k write with FUA, depth 1", Pattern::RandWriteFua, KIB4, 1),
                        row("4k write with FUA, depth 32", Pattern::RandWriteFua, KIB4, 32),
                        row("4k write and flush, depth 1", Pattern::RandWriteFlush, KIB4, 1),
                        row("4k write and flush, depth 32", Pattern::RandWriteFlush, KIB4, 32),
                    ]
                }
            }
        }
    }

    /// Over which transports. A mirror is measured over TCP, as its peer listens there only; iSCSI is of
    /// TCP.
    pub(crate) fn transports(self) -> &'static [&'static str] {
        match self {
            Self::Nbd => &["unix", "tcp"],
            Self::Iscsi | Self::Mirror => &["tcp"],
            Self::Store => &["unix"],
        }
    }
}
