//! What the gateway and its clients say to each other over REST, as plain types.
//!
//! Invariant: no behaviour but reading and writing these types; an operator-visible error has a
//! [`Code`], and each code has a page in `gateway/docs/errors/`.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod backup;
mod code;
mod diff;
mod event;
mod evs;
mod failover;
mod group;
mod moment;
mod moving;
mod operation;
mod parts;
mod plugin;
mod point;
mod problem;
mod rec;
mod run;
mod sdrs;
mod sdrs_instance;
mod sdrs_tag;
mod session;
mod site;
mod snapshot;
mod status;
mod token;
pub mod units;
mod volume;

pub use backup::{
    Backup, BackupBase, BackupCollect, BackupConsistency, BackupCreate, BackupFate, BackupFateList,
    BackupForget, BackupForgotten, BackupList, BackupLock, BackupOrigin, BackupPolicy,
    BackupPolicyList, BackupPolicyRun, BackupPolicySet, BackupRestorePlan,
    BackupRestorePlanRequest, BackupRestoreRequest, BackupRetention, BackupStatus, BackupTarget,
    BackupTargetCheck, BackupTargetList, BackupVolume, SilentTarget,
};
pub use code::Code;
pub use diff::{
    DiffExtent, DiffExtents, DiffSide, DiffUnknown, DiffVerdict, GroupDiff, MirrorDiff, VolumeDiff,
};
pub use event::Event;
pub use evs::{
    EvsError, EvsErrorBody, EvsGroup, EvsGroupAction, EvsGroupChange, EvsGroupCreate, EvsGroupList,
    EvsGroupShown, EvsGroupUpdate, EvsNewGroup, EvsNewPair, EvsPair, EvsPairCreate, EvsPairList,
    EvsPairShown,
};
pub use failover::{
    Check, CheckState, FailoverPlan, PlanRequest, ReprotectPlan, ReprotectRequest, RunRequest,
};
pub use group::{
    Certificate, Explanation, Group, GroupCreate, GroupJoin, GroupList, Health, KeptPoint, Leg,
    LinkState, Phase, Policy, Quality, Role, Serving, SessionState, Spell, TheirView, Upstream,
    Verifying, WitnessView,
};
pub use moment::{
    Moment, MomentOpen, MomentRange, MomentRollbackAsk, PointJournal, PointJournalState,
    PointJournalStatus,
};
pub use moving::{
    MigrationPlan, MigrationPlanRequest, MigrationRunRequest, RestorePlan, RestoreRequest,
};
pub use operation::{Operation, OperationList, OperationProgress, OperationState, Step};
pub use parts::{Companion, CompanionRequest, Parts};
pub use plugin::{
    Plugin, PluginAbout, PluginAction, PluginGrants, PluginHealth, PluginLine, PluginList,
    PluginLog, PluginProbe, PluginRest, PluginState, PluginWord, PluginWords,
};
pub use point::{
    Point, PointFate, PointKeeper, PointList, PointLock, PointPolicy, PointPolicyPatch,
    PointPolicyState, PointRetention, PointRetentionPlan, PointTake,
};
pub use problem::Problem;
pub use rec::{
    RecAccepted, RecChoice, RecCopySession, RecCopySessionList, RecCreate, RecError,
    RecFailedResource, RecForce, RecJob, RecOperation, RecPatch, RecRemoteBox, RecResume,
    RecStorage, RecSuspendMany, RecTransferMode, RecVolume, RecVolumeCreate, RecVolumeDelete,
    RecVolumeList,
};
pub use run::{
    DryRun, DryRunStep, Plan, PlanList, PlanMade, PlanMake, PlanParameter, PlanStep, PlanText, Run,
    RunAnswer, RunBegin, RunLeft, RunList, RunQuestion, RunResume, RunStep, RunUntold, RunWord,
};
pub use sdrs::{
    SdrsCluster, SdrsDomain, SdrsDomainList, SdrsDrill, SdrsDrillCreate, SdrsDrillList,
    SdrsDrillShown, SdrsDrillVolume, SdrsExtend, SdrsFailed, SdrsFailedList, SdrsFailover,
    SdrsGroup, SdrsGroupAction, SdrsGroupCreate, SdrsGroupList, SdrsGroupRename, SdrsGroupShown,
    SdrsJob, SdrsJobBegun, SdrsName, SdrsNewDrill, SdrsNewGroup, SdrsNewPair, SdrsNothing,
    SdrsPair, SdrsPairAction, SdrsPairAttachment, SdrsPairCreate, SdrsPairDelete, SdrsPairEnd,
    SdrsPairList, SdrsPairMetadata, SdrsPairRename, SdrsPairShown, SdrsQuota, SdrsQuotaResources,
    SdrsQuotas, SdrsReverse,
};
pub use sdrs_instance::{
    SdrsAttach, SdrsAttachment, SdrsFlavors, SdrsInstance, SdrsInstanceCreate, SdrsInstanceDelete,
    SdrsInstanceList, SdrsInstanceRename, SdrsInstanceShown, SdrsNewAttachment, SdrsNewInstance,
    SdrsNic, SdrsNicCreate, SdrsNicDelete, SdrsResize, SdrsSecurityGroup, SdrsTag,
};
pub use sdrs_tag::{
    SdrsNumber, SdrsTagAdd, SdrsTagBatch, SdrsTagFound, SdrsTagList, SdrsTagMatch, SdrsTagNamed,
    SdrsTagQuery, SdrsTagResource, SdrsTagValues, SdrsTagsOfAll,
};
pub use session::{
    DeleteSession, PolicyPatch, ResumeSession, Session, SessionCreate, SessionList, SessionPolicy,
    SuspendSession, VerifySession,
};
pub use site::{JoinRequest, JoinToken, Peer, SiteInfo, SiteList, TokenRequest};
pub use snapshot::{
    ChangedRange, RollbackAsk, RollbackPlan, RollbackRequest, Snapshot, SnapshotChanges,
    SnapshotCreate, SnapshotHolder, SnapshotList, SnapshotOrigin, SnapshotPart, SnapshotState,
    SnapshotVolume,
};
pub use status::{Status, Verdict};
pub use token::{TokenCreate, TokenInfo, TokenList, TokenRole, TokenSecret};
pub use volume::{
    Copy, Filling, FillingState, Scrub, SnapshotSource, Volume, VolumeCreate, VolumeDigest,
    VolumeGrow, VolumeList, VolumeLun, VolumeSettings,
};
