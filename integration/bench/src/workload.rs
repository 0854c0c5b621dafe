//! What is asked of the contestants.
//!
//! Invariant: a suite is the same list for all of them.

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
}

const fn row(name: &'static str, pattern: Pattern, bytes: u32, depth: usize) -> Workload {
    Workload { name, pattern, bytes, depth }
}

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
            Self::Nbd | Self::Iscsi => {
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
