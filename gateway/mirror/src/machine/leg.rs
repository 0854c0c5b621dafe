//! A leg: what the primary knows of one mirror.

use std::collections::VecDeque;

use block::{
    BlockRange, Extent, GatewayId, Generation, LegId, MirrorState, Predecessor, Seq, SessionId,
    VolumeId,
};

use super::cuts::{Cuts, Spells};
use super::pace::Bucket;
use super::relay::Relay;
use super::verify::Verification;
use crate::dirty::DirtyMap;
use crate::locks::Holder;
use crate::policy::Policy;
use crate::record::UpstreamRecord as Peer;
use crate::status::{Cause, SessionState};

/// A set of legs, as one byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LegSet(u8);

impl LegSet {
    pub(crate) const fn has(self, leg: LegId) -> bool {
        self.0 & (1 << leg.index()) != 0
    }

    pub(crate) const fn insert(&mut self, leg: LegId) {
        self.0 |= 1 << leg.index();
    }

    pub(crate) const fn remove(&mut self, leg: LegId) {
        self.0 &= !(1 << leg.index());
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn len(self) -> u32 {
        self.0.count_ones()
    }

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) const fn within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    pub(crate) const fn is_disjoint(self, other: Self) -> bool {
        self.0 & other.0 == 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = LegId> {
        (0..LegId::COUNT).filter_map(LegId::new).filter(move |leg| self.has(*leg))
    }
}

/// How far a leg has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No link is wanted.
    Off,
    /// A link is wanted.
    Dialing,
    /// Connected; what must be copied is being listed.
    Listing,
    /// Blocks are being copied; every change goes there too.
    Copying,
    /// Nothing is left to copy; changes up to here must be acknowledged first.
    Draining { upto: Seq },
    /// The mirror is making everything durable.
    Flushing { seq: Seq },
    /// The mirror is recording that it has everything.
    Voting,
    /// The in-sync set is being recorded with it.
    Joining,
    /// It holds every acknowledged write.
    InSync,
    /// It follows behind: changes go there through the send journal, and cuts with them.
    Following,
    /// Lost; the in-sync set is being recorded without it. Nothing is acknowledged meanwhile.
    Leaving,
}

impl Stage {
    /// Whether changes are sent to it.
    pub(crate) const fn is_live(self) -> bool {
        match self {
            Self::Off | Self::Dialing | Self::Leaving => false,
            Self::Listing
            | Self::Copying
            | Self::Draining { .. }
            | Self::Flushing { .. }
            | Self::Voting
            | Self::Joining
            | Self::InSync
            | Self::Following => true,
        }
    }
}

/// A change or copy that the mirror has not acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    pub(crate) seq: Seq,
    /// Who waits for it; nobody for a change of a leg that follows behind.
    pub(crate) holder: Option<Holder>,
    pub(crate) volume: usize,
    /// The blocks that the mirror holds as they are here once it acknowledged.
    pub(crate) whole: BlockRange,
    pub(crate) bytes: u64,
    pub(crate) at_ms: u64,
    pub(crate) acked: bool,
}

/// A flush that the mirror has not answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LegFlush {
    pub(crate) seq: Seq,
    /// Changes up to here are durable there when it is answered.
    pub(crate) covers: Seq,
    /// The host round that waits for it.
    pub(crate) round: Option<u64>,
    pub(crate) at_ms: u64,
}

/// One block range that is on its way to the mirror.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    /// Its number on the link, once it was sent.
    pub(crate) seq: Seq,
    pub(crate) volume: usize,
    pub(crate) extent: Extent,
    /// Whether it was sent.
    pub(crate) sent: bool,
    /// Whether the range lock is held, or waited for.
    pub(crate) locked: bool,
    /// Whether checksums go first: the blocks may be the same already.
    pub(crate) compare: bool,
    /// Whether it only makes sure of blocks that should be the same.
    pub(crate) verify: bool,
}

/// How much the running or last copy moved.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) total_bytes: Vec<u64>,
    pub(crate) copied_bytes: Vec<u64>,
    /// By volume: whether all of it had to be copied.
    pub(crate) full: Vec<bool>,
    pub(crate) started_ms: Option<u64>,
    /// (when, bytes copied by then), one a second, for the rate.
    pub(crate) marks: VecDeque<(u64, u64)>,
}

impl Progress {
    /// A copy of so many bytes, by volume, begins.
    pub(crate) fn begin(total_bytes: Vec<u64>, full: bool, now_ms: u64) -> Self {
        let volumes = total_bytes.len();
        Self {
            total_bytes,
            copied_bytes: vec![0; volumes],
            full: vec![full; volumes],
            started_ms: Some(now_ms),
            marks: VecDeque::from([(now_ms, 0)]),
        }
    }

    /// Bytes a second, over the last seconds.
    pub(crate) fn rate(&self) -> Option<u64> {
        let ((from_ms, from), (to_ms, to)) = (self.marks.front()?, self.marks.back()?);
        let passed = to_ms.checked_sub(*from_ms).filter(|ms| *ms > 0)?;
        Some(to.saturating_sub(*from).saturating_mul(1_000) / passed)
    }

    /// Notes how far it is, once a second.
    pub(crate) fn mark(&mut self, now_ms: u64) {
        let copied = self.copied_bytes.iter().sum();
        if self.marks.back().is_none_or(|(at, _)| now_ms >= at + 1_000) {
            self.marks.push_back((now_ms, copied));
            if self.marks.len() > 6 {
                self.marks.pop_front();
            }
        }
    }
}

/// What the primary knows of one mirror.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) id: LegId,
    pub(crate) gateway: GatewayId,
    pub(crate) site: String,
    pub(crate) sessions: Vec<SessionId>,
    pub(crate) policy: Policy,
    pub(crate) stage: Stage,
    /// What the last record that was asked for says: it is in the in-sync set.
    pub(crate) in_set: bool,
    /// Whether mirroring is wanted.
    pub(crate) wanted: bool,
    pub(crate) awaiting_reprotect: bool,
    /// An operator stopped it.
    pub(crate) suspended: bool,
    /// This gateway took over from that one and went back to a kept point for it: so many bytes of
    /// what the other has were given up here. Cleared when the mirror is one point in time of ours.
    pub(crate) lossy: Option<u64>,
    /// An operator said that the mirror holds the content already. Cleared when it is one point in
    /// time of ours: by then everything was compared.
    pub(crate) holds_content: bool,
    /// What it holds is compared before anything is sent, on this link.
    pub(crate) compares: bool,
    /// An operator allowed what only the mirror has to be overwritten.
    pub(crate) discard: bool,
    /// Policy `split = manual` refuses changes until it is back.
    pub(crate) halted: bool,
    pub(crate) state: SessionState,
    pub(crate) cause: Option<Cause>,
    /// The oldest history that the mirror's content can belong to for `dirty` to be the whole
    /// difference. `None`: only a full copy helps.
    pub(crate) base: Option<Generation>,
    /// The history that it was last asked to record as its own.
    pub(crate) asked: Option<Generation>,
    /// Nobody opened it since that primary, who told what it lacks (see `heritage`).
    pub(crate) heir_of: Option<Predecessor>,
    /// The histories that it was told on this link and did not record yet, oldest first.
    pub(crate) told: VecDeque<Generation>,
    /// By volume.
    pub(crate) dirty: Vec<DirtyMap>,
    /// Of these, by volume, the ones that only may differ, as what a crash left behind does.
    pub(crate) suspects: Vec<DirtyMap>,
    /// By volume, the whole of one that joined the group after the mirror last had everything: the
    /// copy there has nothing in common with it until the mirror is in sync again.
    pub(crate) fresh: Vec<Option<BlockRange>>,
    /// The volume whose copy at the mirror failed, if one did.
    pub(crate) failed: Option<VolumeId>,
    /// Sent, and not known to be durable there, oldest first (rule 4).
    pub(crate) undurable: VecDeque<(Seq, usize, BlockRange)>,
    pub(crate) inflight: VecDeque<InFlight>,
    pub(crate) inflight_bytes: u64,
    pub(crate) flushes: VecDeque<LegFlush>,
    pub(crate) copies: [Option<Copy>; super::copy::COPIES_MAX],
    /// Volumes whose copy at the mirror must be emptied before the rest is copied.
    pub(crate) wipe: Vec<usize>,
    /// Where the copier looks next.
    pub(crate) cursor: (usize, u64),
    pub(crate) progress: Progress,
    pub(crate) theirs: Option<MirrorState>,
    pub(crate) last_flush_ms: u64,
    /// Changes go through the send journal, and nothing waits for this leg.
    pub(crate) journaled: bool,
    /// It stays connected while the in-sync set is being recorded without it.
    pub(crate) stepping_down: bool,
    /// It was too slow: until it keeps up it goes on as in mode `consistency`.
    pub(crate) degraded: bool,
    /// It is brought to the present until then, so that its session can be suspended whole.
    pub(crate) draining: Option<u64>,
    /// Whether it had everything when its session was suspended; `None` when this was not seen.
    pub(crate) left_whole: Option<bool>,
    pub(crate) cuts: Cuts,
    pub(crate) spells: Spells,
    /// It is called again at this time, and not before.
    pub(crate) retry: Option<u64>,
    /// The protocol version of the link.
    pub(crate) version: u16,
    /// The verification under way.
    pub(crate) verify: Option<Verification>,
    /// Blocks that verifications found to differ since this gateway started, by volume.
    pub(crate) mismatched: Vec<u64>,
    /// What is being listed before a mirror that holds the content is compared.
    pub(crate) listing: Option<super::holding::Listing>,
    /// What its copier may send.
    pub(crate) bucket: Bucket,
    /// It was made while this gateway was a mirror, and is a relay whenever it is one again.
    pub(crate) relay: Option<Box<Relay>>,
}

impl Leg {
    /// A leg that is not wanted yet and has nothing in common with its mirror.
    pub(crate) fn new(id: LegId, peer: Peer, policy: Policy, volumes: usize) -> Self {
        let bucket = Bucket::of(&policy.bandwidth);
        Self {
            id,
            gateway: peer.gateway,
            site: peer.site,
            sessions: peer.sessions,
            policy,
            stage: Stage::Off,
            in_set: false,
            wanted: false,
            awaiting_reprotect: false,
            suspended: false,
            lossy: None,
            holds_content: false,
            compares: false,
            discard: false,
            halted: false,
            state: SessionState::Suspended,
            cause: None,
            base: None,
            asked: None,
            heir_of: None,
            told: VecDeque::new(),
            dirty: vec![DirtyMap::default(); volumes],
            suspects: vec![DirtyMap::default(); volumes],
            fresh: vec![None; volumes],
            failed: None,
            undurable: VecDeque::new(),
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            flushes: VecDeque::new(),
            copies: [None; super::copy::COPIES_MAX],
            wipe: Vec::new(),
            cursor: (0, 0),
            progress: Progress {
                total_bytes: vec![0; volumes],
                copied_bytes: vec![0; volumes],
                full: vec![false; volumes],
                ..Progress::default()
            },
            theirs: None,
            last_flush_ms: 0,
            journaled: false,
            stepping_down: false,
            degraded: false,
            draining: None,
            left_whole: None,
            cuts: Cuts::default(),
            spells: Spells::default(),
            retry: None,
            version: 0,
            verify: None,
            mismatched: vec![0; volumes],
            listing: None,
            bucket,
            relay: None,
        }
    }

    /// Whether it is to follow behind, by its mode or because it was too slow.
    pub(crate) fn is_to_follow(&self) -> bool {
        (self.policy.mode != block::Mode::Sync || self.degraded) && self.draining.is_none()
    }

    /// What its send journal is worth, with what each change costs in memory beside its payload.
    pub(crate) fn backlog_bytes(&self) -> u64 {
        /// Heads of a change in the machine and in the journal.
        const CHANGE_BYTES: u64 = 256;
        self.inflight_bytes + self.inflight.len() as u64 * CHANGE_BYTES
    }

    /// What it costs to remember what the mirror acknowledged and did not make durable.
    pub(crate) fn unconfirmed_bytes(&self) -> u64 {
        const ENTRY_BYTES: u64 = size_of::<(Seq, usize, BlockRange)>() as u64;
        let entries = self.undurable.len().saturating_sub(self.inflight.len());
        entries as u64 * ENTRY_BYTES
    }

    /// Nothing waits for what is under way to it any more.
    pub(crate) fn unhold(&mut self) {
        for inflight in &mut self.inflight {
            inflight.holder = inflight.holder.filter(|holder| matches!(holder, Holder::Copy(..)));
        }
    }

    /// The copies may differ there, whatever the mirror acknowledges of what was sent before.
    pub(crate) fn spoil(&mut self, volume: usize, range: BlockRange) {
        self.dirty[volume].insert(range);
        for inflight in self.inflight.iter_mut().filter(|inflight| inflight.volume == volume) {
            let whole = inflight.whole;
            if whole.first() < range.end() && range.first() < whole.end() {
                inflight.whole = BlockRange::new(whole.first(), whole.first());
            }
        }
    }

    /// Whether a change of these blocks is on its way there.
    pub(crate) fn is_under_way(&self, volume: usize, range: BlockRange) -> bool {
        let Some(first) = self.inflight.front() else { return false };
        let from = self.undurable.partition_point(|(seq, ..)| *seq < first.seq);
        self.undurable.range(from..).any(|(_, at, blocks)| {
            *at == volume && blocks.first() < range.end() && range.first() < blocks.end()
        })
    }

    pub(crate) fn out_of_sync_bytes(&self) -> u64 {
        self.dirty.iter().map(DirtyMap::bytes).sum()
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.wipe.is_empty() && self.dirty.iter().all(DirtyMap::is_empty)
    }

    pub(crate) fn has_copies(&self) -> bool {
        self.copies.iter().any(Option::is_some)
    }

    /// Changes up to here are acknowledged.
    pub(crate) fn acked_upto(&self, newest: Seq) -> Seq {
        let first = self.inflight.iter().find(|inflight| !inflight.acked);
        first.map_or(newest, |inflight| Seq::new(inflight.seq.get().saturating_sub(1)))
    }

    /// Notes that the mirror acknowledged; returns what.
    pub(crate) fn acknowledge(&mut self, seq: Seq) -> Option<InFlight> {
        let at = self.inflight.binary_search_by_key(&seq, |inflight| inflight.seq).ok()?;
        let inflight = &mut self.inflight[at];
        if inflight.acked {
            return None;
        }
        inflight.acked = true;
        let done = *inflight;
        self.inflight_bytes -= done.bytes;
        while self.inflight.front().is_some_and(|inflight| inflight.acked) {
            self.inflight.pop_front();
        }
        Some(done)
    }

    /// The link is gone: nothing is under way any more, and what the mirror may have lost with it
    /// is dirty (rule 4).
    pub(crate) fn end_flight(&mut self) {
        for (_, volume, range) in self.undurable.drain(..) {
            self.dirty[volume].insert(range);
        }
        // A copy that was begun there is worth nothing before it is whole.
        for (dirty, whole) in self.dirty.iter_mut().zip(&self.fresh) {
            whole.iter().for_each(|whole| dirty.insert(*whole));
        }
        self.inflight.clear();
        self.inflight_bytes = 0;
        self.flushes.clear();
        self.told.clear();
        self.journaled = false;
        self.stepping_down = false;
        self.degraded = false;
        self.draining = None;
        self.compares = false;
        self.cuts.end_flight();
        self.listing = None;
        // What was not compared is not known: a verification is begun anew, not taken up.
        self.verify = None;
    }

    /// What the mirror says it may have on its own. Much of it may be the same on both sides.
    pub(crate) fn take_differences(&mut self, differs: Vec<block::DirtyReport>) {
        for block::DirtyReport { volume, blocks } in differs {
            let volume = usize::from(volume);
            if volume < self.dirty.len() {
                for range in blocks {
                    self.suspects[volume].insert(range);
                    self.dirty[volume].insert(range);
                }
            }
        }
    }

    /// Everything that the mirror may lack besides what is dirty, by volume (rule 4).
    pub(crate) fn at_risk(&self) -> impl Iterator<Item = (usize, BlockRange)> {
        self.undurable.iter().map(|(_, volume, range)| (*volume, *range))
    }
}
