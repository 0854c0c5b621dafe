//! What every call to a gateway works on: its parts, and what it knows of its groups.
//!
//! Invariant: nothing here waits for a thread that does not answer or for another site; what is
//! not known within the deadline is told as unknown, with what was last known and its age.

pub(crate) mod asks;
pub(crate) mod backups;
pub(crate) mod changes;
pub(crate) mod clones;
pub(crate) mod contents;
pub(crate) mod diffs;
pub(crate) mod evs;
pub(crate) mod failovers;
pub(crate) mod folders;
pub(crate) mod following;
pub(crate) mod groups;
pub(crate) mod halves;
pub(crate) mod incoming;
mod left;
pub(crate) mod locks;
mod luns;
pub(crate) mod members;
pub(crate) mod migrations;
mod moments;
pub(crate) mod parts;
pub(crate) mod placement;
pub(crate) mod plugins;
pub(crate) mod points;
pub(crate) mod portals;
mod quota;
pub(crate) mod restores;
pub(crate) mod rollbacks;
pub(crate) mod runs;
pub(crate) mod scrubs;
pub(crate) mod sessions;
pub(crate) mod sites;
pub(crate) mod snapshots;
pub(crate) mod surveys;
pub(crate) mod suspensions;
pub(crate) mod upkeep;
pub(crate) mod volumes;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use block::{GroupId, Identity};
use mirror::GroupStatus;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backups::Targets;
use crate::board::{Board, Seen};
use crate::book::{Book, GroupEntry};
use crate::clock::Clock;
use crate::config::Config;
use crate::events::Events;
use crate::fillings::Fillings;
use crate::http::rec::Jobs;
use crate::moments::Moments;
use crate::numbers::NumberBook;
use crate::operations::Operations;
use crate::plans::Plans;
use crate::refusal::Refused;
use crate::runs::Runs;
use crate::shard::Shard;
use crate::status::Moment;
use crate::ways::Ways;

/// A running gateway, as its control thread sees it.
pub(crate) struct Gateway {
    /// What it was told.
    pub(crate) config: Config,
    /// Its clocks.
    pub(crate) clock: Clock,
    /// Who it is.
    pub(crate) identity: Identity,
    /// Its threads.
    pub(crate) shards: Vec<Shard>,
    /// What its groups last said.
    pub(crate) board: Arc<Board>,
    /// What it must remember.
    pub(crate) book: Arc<Book>,
    /// What happened.
    pub(crate) events: Arc<Events>,
    /// What takes long.
    pub(crate) operations: Arc<Operations>,
    /// How the REC dialect names things.
    pub(crate) numbers: NumberBook,
    /// What the REC dialect began.
    pub(crate) jobs: Jobs,
    /// Plans that can be run.
    pub(crate) plans: Plans,
    /// What it did by schedule.
    pub(crate) keeping: points::Keeping,
    /// Plans, their runs, and who does their steps.
    pub(crate) runs: Arc<Runs>,
    /// What its mirrors write down.
    pub(crate) moments: Moments,
    /// Where backups go.
    pub(crate) targets: Targets,
    /// Where its volumes lie.
    pub(crate) pool: Arc<store::Pool>,
    /// Its volumes that are filled.
    pub(crate) fillings: Arc<Fillings>,
    /// What it brings to links, and whom it trusts.
    pub(crate) links: link::LinkContext,
    /// Its plugins; none where the system does not let them be.
    pub(crate) plugins: Option<plugin::Plugins>,
    /// Where hosts attach: addresses as NBD URIs without an export.
    pub(crate) nbd_uris: Vec<String>,
    /// Where initiators log in: iSCSI URIs without a volume.
    pub(crate) iscsi_uris: Vec<String>,
    /// Where initiators reach volumes, at other gateways too.
    pub(crate) ways: Arc<Ways>,
    /// Its background work on the control thread.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when it stops.
    pub(crate) stopping: CancellationToken,
    /// What production sites of the EVS dialect said a moment ago.
    pub(crate) heard: evs::Heard,
    /// Why groups could not be opened.
    pub(crate) not_opened: Mutex<HashMap<GroupId, String>>,
    ready: AtomicBool,
    changing: tokio::sync::Mutex<()>,
    foldering: tokio::sync::Mutex<()>,
    /// Rung when a volume is another disk.
    numbered: tokio::sync::Notify,
    /// Rung when plugins have to be asked what is due.
    bell: tokio::sync::Notify,
}

/// What is known of a group.
#[derive(Clone, Debug)]
pub(crate) enum Known {
    /// It said this, then.
    Status(Arc<GroupStatus>, Moment),
    /// It never said anything; why.
    Nothing(String),
}

/// The parts of a gateway that are made elsewhere.
pub(crate) struct GatewayParts {
    /// See [`Gateway`].
    pub(crate) config: Config,
    /// See [`Gateway`].
    pub(crate) clock: Clock,
    /// See [`Gateway`].
    pub(crate) identity: Identity,
    /// See [`Gateway`].
    pub(crate) shards: Vec<Shard>,
    /// See [`Gateway`].
    pub(crate) board: Arc<Board>,
    /// See [`Gateway`].
    pub(crate) book: Arc<Book>,
    /// See [`Gateway`].
    pub(crate) events: Arc<Events>,
    /// See [`Gateway`].
    pub(crate) pool: Arc<store::Pool>,
    /// See [`Gateway`].
    pub(crate) fillings: Arc<Fillings>,
    /// See [`Gateway`].
    pub(crate) links: link::LinkContext,
    /// See [`Gateway`].
    pub(crate) plugins: Option<plugin::Plugins>,
    /// See [`Gateway`].
    pub(crate) nbd_uris: Vec<String>,
    /// See [`Gateway`].
    pub(crate) iscsi_uris: Vec<String>,
    /// See [`Gateway`].
    pub(crate) ways: Arc<Ways>,
}

impl Gateway {
    /// Puts the parts together. It is not ready before [`Gateway::set_ready`].
    #[must_use]
    pub(crate) fn new(parts: GatewayParts) -> Arc<Self> {
        Arc::new(Self {
            operations: Operations::new(parts.clock),
            numbers: NumberBook::new(parts.shards[0].clone()),
            jobs: Jobs::new(parts.clock),
            targets: Targets::new(
                &parts.config.backup_targets,
                &parts.config.site.name,
                parts.clock,
            ),
            runs: Arc::new(Runs::new(&parts.config.data_dir, parts.config.recovery.plans.clone())),
            config: parts.config,
            clock: parts.clock,
            identity: parts.identity,
            shards: parts.shards,
            board: parts.board,
            book: parts.book,
            events: parts.events,
            plans: Plans::default(),
            keeping: points::Keeping::default(),
            moments: Moments::default(),
            pool: parts.pool,
            fillings: parts.fillings,
            links: parts.links,
            plugins: parts.plugins,
            nbd_uris: parts.nbd_uris,
            iscsi_uris: parts.iscsi_uris,
            ways: parts.ways,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            heard: evs::Heard::default(),
            not_opened: Mutex::default(),
            ready: AtomicBool::new(false),
            changing: tokio::sync::Mutex::new(()),
            foldering: tokio::sync::Mutex::new(()),
            numbered: tokio::sync::Notify::new(),
            bell: tokio::sync::Notify::new(),
        })
    }

    /// Whether every group was tried to be opened and it is not stopping.
    #[must_use]
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.stopping.is_cancelled()
    }

    /// Says that every group was tried to be opened.
    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Takes up what the last stop cut short, and begins what goes on for as long as it runs.
    pub(crate) fn go_on(self: &Arc<Self>) {
        self.take_rollbacks_up();
        self.begin_keeping();
        self.tasks.spawn(Arc::clone(self).keep_moments());
        self.begin_backups();
        self.begin_telling_portals();
        self.begin_telling_luns();
        self.begin_evs();
        self.begin_runs();
        self.tasks.spawn(Arc::clone(self).keep_plugins_up());
    }

    /// The shard of a group: always the same one while this process runs. Ids of version 7 end in
    /// random bits, so groups spread evenly.
    #[must_use]
    pub(crate) fn shard_of(&self, group: GroupId) -> &Shard {
        let shards = self.shards.len();
        let index = usize::try_from(group.uuid().as_u128() % shards as u128).unwrap_or_default();
        self.shards.get(index).expect("an index below the number of shards, which is never 0")
    }

    /// Lets changes of what exists (volumes, groups, trust) follow one another.
    pub(crate) async fn change_alone(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.changing.lock().await
    }

    /// What is known of every group, asked now.
    pub(crate) async fn look(&self) -> Vec<(GroupEntry, Known)> {
        let asks = self.shards.iter().map(|shard| shard.call(|state| state.statuses()));
        let answers = futures_util::future::join_all(asks).await;
        let now_ms = self.clock.steady_ms();
        let mut fresh: HashMap<GroupId, Arc<GroupStatus>> = HashMap::new();
        for seen in answers.into_iter().flatten().flatten() {
            fresh.insert(seen.status.group, seen.status);
        }
        let pages = self.book.read();
        let known = |entry: &GroupEntry| match fresh.remove(&entry.group()) {
            Some(status) => Known::Status(status, Moment { now_ms, age_ms: 0, fresh: true }),
            None => self.last_known(entry.group(), now_ms),
        };
        let mut known = known;
        pages.groups.iter().map(|entry| (entry.clone(), known(entry))).collect()
    }

    /// What is known of one group, asked now.
    pub(crate) async fn look_at(&self, group: GroupId) -> Known {
        let answer = self.shard_of(group).call(move |state| state.status(group)).await;
        let now_ms = self.clock.steady_ms();
        match answer {
            Ok(Some(seen)) => Known::Status(seen.status, Moment { now_ms, age_ms: 0, fresh: true }),
            Ok(None) | Err(_) => self.last_known(group, now_ms),
        }
    }

    /// The status of one group, which must be known now.
    ///
    /// # Errors
    /// [`api::Code::ShardSilent`], or why it could not be opened.
    pub(crate) async fn status_of(&self, group: GroupId) -> Result<Arc<GroupStatus>, Refused> {
        match self.look_at(group).await {
            Known::Status(status, moment) if moment.fresh => Ok(status),
            Known::Status(..) => Err(Refused::from(crate::shard::Silent)),
            Known::Nothing(why) => Err(Refused::new(api::Code::NotOpened, why)),
        }
    }

    fn last_known(&self, group: GroupId, now_ms: u64) -> Known {
        match self.board.get(group) {
            Some(Seen { status, at_ms, .. }) => {
                let age_ms = now_ms.saturating_sub(at_ms);
                Known::Status(status, Moment { now_ms, age_ms, fresh: false })
            }
            None => {
                let reasons = self.not_opened.lock().unwrap_or_else(PoisonError::into_inner);
                let why = reasons.get(&group).cloned();
                Known::Nothing(why.unwrap_or_else(|| "the group is not open yet".to_owned()))
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
