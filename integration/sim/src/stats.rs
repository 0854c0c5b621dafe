//! What happened in histories, counted.
//!
//! Invariant: a count is of things that were done, not of things that were drawn.

use std::collections::BTreeMap;

/// Everything that can go wrong, or be unusual, in a history. A run of some hundred seeds has each.
pub const FAULTS: [&str; 90] = [
    "the pool on a simulated disk",
    "three gateways",
    "a copy is said to hold the content",
    "dependent writes across volumes",
    "the link is cut",
    "one direction is cut",
    "the link flaps",
    "the link is slow",
    "a leg at one hundredth of its speed",
    "a process is killed",
    "a site loses power",
    "all sites lose power at once",
    "power is lost in the middle of a write",
    "the primary's site is lost",
    "a disk is slow",
    "a disk is full",
    "a sync fails",
    "a disk vanishes in the middle of its work",
    "a block rots",
    "a block that rotted is repaired",
    "a block that rotted is overwritten",
    "a block that rotted is in no other copy",
    "a disk without room refuses the start",
    "a sync fails as a gateway starts",
    "a clock jumps forward",
    "a clock jumps back",
    "a gateway is paused",
    "a gateway is paused for a minute",
    "a gateway cannot reach the witness",
    "a question to the witness is lost",
    "an answer of the witness is lost",
    "a question to the witness arrives late",
    "the witness is down",
    "the witness is slow",
    "a mirror promotes itself",
    "a promotion that the witness permits",
    "a gateway is stopped in good order",
    "a machine is rebooted in good order",
    "bytes on a link are garbled",
    "a peer says what makes no sense",
    "the pool of a destination is full",
    "a send journal spills",
    "the disk of a send journal is full",
    "clocks are a day apart",
    "a gateway whose volume was deleted refuses to open the group",
    "a volume is deleted behind the back of its gateway",
    "the link flaps every second for an hour",
    "a snapshot is taken",
    "a snapshot is locked",
    "a clock is set to end a lock",
    "a snapshot of all parts is taken",
    "hosts of parts go on without a snapshot",
    "a gateway keeps a snapshot of its part",
    "a snapshot is removed",
    "a mirror keeps a snapshot",
    "a volume joins the group",
    "a volume leaves the group",
    "a mirror follows a change of members",
    "a copy is detached",
    "a detached copy is written to",
    "the disks of a mirror stand still",
    "an operator commands anything",
    "an operator switches the mode",
    "a group over two gateways a site",
    "the link of one part is cut",
    "companions cannot reach each other",
    "a gateway with a part is killed",
    "a gateway with a part is paused",
    "a site with several gateways is lost",
    "a promotion stops between two parts",
    "both parts are served at the other site",
    "a site was lost, and nothing with it",
    "both parts swap roles",
    "a mirror goes over to the next primary by delta",
    "a swap of roles is given up",
    "a swap of roles is recalled",
    "parts stop at one cut",
    "a companion is excluded",
    "an excluded gateway refuses to serve",
    "a copy is sent on by its mirror",
    "the link behind a mirror is cut",
    "a mirror that sends its copy on is killed",
    "a mirror that sends its copy on loses power",
    "a mirror that sends its copy on is written to",
    "a mirror that sends its copy on is promoted",
    "the far end of a relay is killed",
    "the far end of a relay is promoted",
    "roles are swapped before a relay",
    "a session before a relay is deleted and made again",
    "a session behind a mirror is deleted and made again",
];

/// What happened, counted.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Changes that were acknowledged.
    pub changes: u64,
    /// Of these, without a mirror.
    pub alone: u64,
    /// Reads that were compared.
    pub reads: u64,
    /// Flushes that were acknowledged.
    pub flushes: u64,
    /// Requests that failed, by error.
    pub errors: BTreeMap<String, u64>,
    /// Promotions by an operator that had to lose nothing, and did.
    pub promotions: u64,
    /// Planned swaps of roles.
    pub handovers: u64,
    /// Promotions after which writes that the old primary acknowledged alone may be gone.
    pub holes: u64,
    /// Promotions of a copy that was no point in time.
    pub forced: u64,
    /// Promotions that went back to a kept point.
    pub ways_back: u64,
    /// Of these, or taken up after a crash, to a cut.
    pub cut_promotions: u64,
    /// Cuts that mirrors kept.
    pub cuts: u64,
    /// Times that a mirror came to hold everything.
    pub joins: u64,
    /// Of these, after a copy of the difference, whose size was checked.
    pub deltas: u64,
    /// Bytes that these copies moved.
    pub delta_bytes: u64,
    /// Bytes that they might have moved at most.
    pub delta_bytes_max: u64,
    /// Comparisons of all blocks of two copies.
    pub comparisons: u64,
    /// Split brains that were told.
    pub split_brains: u64,
    /// Copies that an operator allowed to be discarded.
    pub discards: u64,
    /// Virtual milliseconds.
    pub millis: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
}

impl Stats {
    /// Adds those of another history.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.changes, other.changes),
            (&mut self.alone, other.alone),
            (&mut self.reads, other.reads),
            (&mut self.flushes, other.flushes),
            (&mut self.promotions, other.promotions),
            (&mut self.handovers, other.handovers),
            (&mut self.holes, other.holes),
            (&mut self.forced, other.forced),
            (&mut self.ways_back, other.ways_back),
            (&mut self.cut_promotions, other.cut_promotions),
            (&mut self.cuts, other.cuts),
            (&mut self.joins, other.joins),
            (&mut self.deltas, other.deltas),
            (&mut self.delta_bytes, other.delta_bytes),
            (&mut self.delta_bytes_max, other.delta_bytes_max),
            (&mut self.comparisons, other.comparisons),
            (&mut self.split_brains, other.split_brains),
            (&mut self.discards, other.discards),
            (&mut self.millis, other.millis),
        ];
        pairs.into_iter().for_each(|(sum, more)| *sum += more);
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
        for (fault, count) in &other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
    }

    /// What of all that can happen did not.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let counts = [
            ("a promotion", self.promotions),
            ("a planned swap", self.handovers),
            ("a promotion with a hole", self.holes),
            ("a forced promotion", self.forced),
            ("a cut that is kept", self.cuts),
            ("a promotion that goes back to a kept point", self.ways_back),
            ("a promotion at a cut", self.cut_promotions),
            ("a delta", self.deltas),
            ("a split brain", self.split_brains),
        ];
        let never = counts.into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name);
        let faults = FAULTS.into_iter().filter(|fault| !self.faults.contains_key(fault));
        never.chain(faults).collect()
    }
}
