//! Deliberate breaks of single rules, to prove that the checks can fail.
//!
//! Invariant: [`Sabotage::None`] changes nothing. Each other one breaks the rule it names, as a bug
//! would, and from outside: at the stores, the ledger, the medium, the links, the commands and the
//! identity of the kernel that a group is given. No product code knows of it.

mod link;
mod medium;
mod store;

use std::rc::Rc;

use block::{Extent, GatewayId, Ledger, Link, Op, Open, Request, Store, Ticket, Witness};
use bytes::Bytes;
use mirror::{Command, Group, Policy, Role, Serving};
use witness::memory::{Lie, MemoryWitness};

pub(crate) use self::medium::{Hiding, HidingDirectory};
use self::store::Omits;
use crate::process::Process;
use crate::world::World;

/// Which rule is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// None.
    #[default]
    None,
    /// Rule 1: a change counts as acknowledged by the mirror as soon as it was sent.
    AcknowledgesUnsent,
    /// Rule 1: the record of a stale mirror counts as durable before it is.
    RecordsLate,
    /// Rule 2: a host's change gives its range back when it was sent, and a later one overtakes it.
    HostWithoutLock,
    /// Rule 2: a copy gives its range back when it was sent, and later changes overtake it.
    CopierWithoutLock,
    /// Rule 3: nothing is known of what was in flight when the process died.
    ForgetsActivity,
    /// Rule 4: what a mirror acknowledged counts as durable there with the next flush, whatever
    /// becomes of that flush.
    DurableWhenAcknowledged,
    /// Rule 4: a mirror's flush counts as done when it was asked for.
    DurableAtOnce,
    /// Rule 4: a flush is not carried to the mirror at all.
    FlushNotCarried,
    /// Rule 4: a mirror that lost power believes that it only restarted.
    UncleanIsPromotable,
    /// Rule 5: one session of a group stops and the others go on.
    CutsApart,
    /// Rule 5: a part does not wait until its companions stopped.
    CompanionsUnasked,
    /// Rule 5: a cut is sent ahead of changes that it covers.
    CutsEarly,
    /// Rule 6: a primary that was replaced says that its epoch is the highest.
    RaisesEpoch,
    /// Rule 6: a gateway that is opened at a lower epoch follows all the same.
    EpochNotChecked,
    /// Rule 6: two promotions of the same turn take the same epoch: it has no tag.
    SharesEpoch,
    /// Rule 9: a mirror says that it knows all in which it differs, whoever wrote there.
    KnowsDifferences,
    /// Rule 1: changes go on, to the copy here alone, while a mirror is missing that they wait for.
    GoesOnHalted,
    /// Rule 7: a host writes to the copy of a mirror while its session runs.
    AttachesDestination,
    /// Rule 8: a copy does not go back to the point that it kept.
    StaysAhead,
    /// Rule 8: a mirror sends on what its copy holds at the moment, and not a point of it.
    SendsOnWhatChanges,
    /// Rule 9: what was changed since a point that is sent on, or gone back to, is nowhere.
    ForgetsSince,
    /// Rule 9: what mirrors lack is forgotten with the process.
    ForgetsDirtyMaps,
    /// Rule 10: what only the mirror has is overwritten without a word.
    DiscardsUnasked,
    /// Rule 11: a failed sync is done again.
    RetriesSync,
    /// Rule 11: a failed sync counts as done.
    IgnoresFailedSync,
    /// Rule 12: no mirror is ever too slow.
    WaitsForEver,
    /// Rule 9: a volume that joined counts as copied before it was.
    CountsNewcomers,
    /// Rule 14: a snapshot holds what came after its place, too.
    SnapshotsLate,
    /// Rule 14: parts hold their hosts and take their snapshot one after the other.
    PartsHeldOneByOne,
    /// Rule 15: locks end by the clock on the wall.
    LocksByTheWall,
    /// Rule 13: a primary goes on without a mirror that the witness was not asked about.
    GoesOnUnasked,
    /// Rule 13: a mirror does not look whether the witness names it.
    PromotesUnnamed,
    /// Rule 13: a read does not look at its lease.
    ReadsForEver,
    /// Rule 13: a mirror does not wait for the end of the primary's lease.
    IgnoresLeases,
    /// Rule 13: a claim without an answer counts as denied.
    ForgetsClaims,
    /// Rule 1: what does not match its checksum is read as if it did.
    BelievesRot,
}

impl Sabotage {
    /// What becomes of syncs that fail.
    pub(crate) fn medium(self) -> Option<Hiding> {
        match self {
            Self::RetriesSync => Some(Hiding::Again),
            Self::IgnoresFailedSync => Some(Hiding::Away),
            _ => None,
        }
    }

    pub(crate) fn store(self, inner: Rc<dyn Store>) -> Rc<dyn Store> {
        let omits = match self {
            Self::ForgetsActivity => Omits::Activity,
            Self::StaysAhead => Omits::WayBack,
            Self::SnapshotsLate => Omits::Place,
            Self::BelievesRot => Omits::Checksums,
            Self::SendsOnWhatChanges => Omits::Point,
            Self::ForgetsSince => Omits::Since,
            _ => return inner,
        };
        Rc::new(store::Forgetful::new(inner, omits))
    }

    pub(crate) fn ledger(self, inner: Rc<dyn Ledger>) -> Rc<dyn Ledger> {
        if self == Self::ForgetsDirtyMaps { Rc::new(store::Mapless(inner)) } else { inner }
    }

    /// The link of a primary.
    pub(crate) fn dialed(self, inner: Box<dyn Link>, world: &World) -> Box<dyn Link> {
        match self {
            Self::AcknowledgesUnsent
            | Self::HostWithoutLock
            | Self::CopierWithoutLock
            | Self::DurableWhenAcknowledged
            | Self::DurableAtOnce
            | Self::FlushNotCarried
            | Self::CutsApart
            | Self::CountsNewcomers
            | Self::CutsEarly
            | Self::KnowsDifferences
            | Self::RaisesEpoch => {
                Box::new(link::Liar::new(inner, self, world.count(), world.setup.founding))
            }
            _ => inner,
        }
    }

    /// What a gateway hears when a primary opens the group there.
    pub(crate) fn opened(self, mut open: Open, group: &Group) -> Open {
        let status = group.status();
        if self == Self::EpochNotChecked && open.epoch < status.epoch {
            let serves = status.role == Role::Primary;
            open.epoch = if serves { status.epoch.next(1) } else { status.epoch };
        }
        open
    }

    /// The name of the next history, of which a gateway's tag is a part.
    pub(crate) fn name(self, count: u64) -> u128 {
        let shift = if self == Self::SharesEpoch { u32::BITS } else { 0 };
        u128::from(count) << shift
    }

    /// Who takes what a host asks of a group that refuses changes; `None`: the group, as always.
    pub(crate) fn bypass(self, process: &Process, volume: usize) -> Option<Rc<dyn Store>> {
        let halted = process.group().is_some_and(|g| g.status().serving == Serving::Halted);
        (self == Self::GoesOnHalted && halted).then(|| process.store(volume))
    }

    /// What a group is asked.
    pub(crate) fn command(self, command: Command) -> Command {
        match command {
            Command::Resume { leg, .. } if self == Self::DiscardsUnasked => {
                Command::Resume { leg, discard: true }
            }
            Command::AddLeg { gateway, site, sessions, policy, holds_content }
                if self == Self::WaitsForEver =>
            {
                let policy = Policy { ack_deadline_ms: 3_600_000, ..policy };
                Command::AddLeg { gateway, site, sessions, policy, holds_content }
            }
            other => other,
        }
    }

    /// What a gateway is given to ask the witness.
    pub(crate) fn witness(
        self,
        me: GatewayId,
        inner: Rc<dyn Witness>,
        truth: &Rc<MemoryWitness>,
    ) -> Rc<dyn Witness> {
        let lie = match self {
            Self::GoesOnUnasked => Lie::LeavesUnasked,
            Self::PromotesUnnamed => Lie::PromotesUnnamed,
            Self::ReadsForEver => Lie::ReadsForEver,
            Self::IgnoresLeases => Lie::IgnoresLeases,
            Self::ForgetsClaims => Lie::ForgetsClaims,
            _ => Lie::None,
        };
        lie.told_to(me, inner, truth)
    }

    /// A history begins.
    pub(crate) fn begin(self, world: &Rc<World>) {
        if self == Self::AttachesDestination {
            world.spawn(intrude(Rc::clone(world)));
        }
    }
}

/// A host that got past the mirror to the copy of a secondary.
async fn intrude(world: Rc<World>) {
    while !world.stopped.get() && !world.has_failed() {
        tokio::time::sleep(world.rng.millis(100, 600)).await;
        for site in 0..world.sites.len() {
            let Some(process) = world.process(site).filter(|process| !process.is_paused()) else {
                continue;
            };
            let secondary = process.group().is_some_and(|g| g.status().role == Role::Secondary);
            if secondary {
                let extent = Extent::new(world.rng.below(8) * 4096, 4096).expect("not empty");
                let data = Bytes::from(world.count().to_le_bytes().repeat(512));
                let op = Op::Write(extent, data);
                let ticket = Ticket::ignored();
                process.store(0).submit(&mut vec![Request { op, fua: false, ticket }]);
            }
        }
    }
}
