//! The stable codes of everything that an operator can be told.
//!
//! Invariant: a code never changes its meaning and is never used again for another; each has a
//! page `gateway/docs/errors/GWnnnn.md`, and a test checks that page and code exist together.

macro_rules! codes {
    ($($variant:ident $code:literal $http:literal $exit:literal $title:literal, $next:literal;)*) => {
        /// A stable code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// `GWnnnn`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// What it means, in a few words.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$variant => $http,)* }
            }

            /// The exit code of a command that ends with it.
            #[must_use]
            pub const fn exit_code(self) -> u8 {
                match self { $(Self::$variant => $exit,)* }
            }

            /// What to do about it.
            #[must_use]
            pub const fn next(self) -> Option<&'static str> {
                match self { $(Self::$variant => Some($next),)* }
            }

            /// The code with this text.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.as_str() == text)
            }
        }
    };
}

codes! {
    Internal "GW0001" 500 1
        "internal error",
        "read the gateway's log around this time and report it with the version";
    ConfigInvalid "GW0101" 500 64
        "configuration is not valid",
        "twinspan config check FILE";
    ConfigUnknownKey "GW0102" 500 64
        "configuration has an unknown key",
        "twinspan config check FILE";
    Unauthenticated "GW0201" 401 7
        "no valid token",
        "set TWINSPAN_TOKEN_FILE to DATA/admin.token of the gateway that you ask";
    Forbidden "GW0202" 403 7
        "token may not do this",
        "use a token with a higher role";
    Invalid "GW0203" 400 2
        "request is not valid",
        "correct the value that the message names";
    NotFound "GW0204" 404 1
        "no such thing here",
        "list what there is: twinspan volume list, session list, site list";
    Exists "GW0205" 409 7
        "name is taken",
        "choose another name, or use the one that exists";
    ShardSilent "GW0206" 503 8
        "the thread that owns it does not answer",
        "wait and ask again; if it lasts, read the log and restart the gateway";
    Starting "GW0207" 503 6
        "gateway is starting or stopping",
        "wait and ask again";
    Timeout "GW0208" 504 8
        "did not happen in time",
        "look at twinspan status, then wait longer with --timeout";
    PoolFailed "GW0301" 500 1
        "the pool failed",
        "look at the disk below the data directory and at the gateway's log";
    VolumeInUse "GW0302" 409 7
        "volume is in use",
        "twinspan session delete, and detach its hosts, first";
    BadSize "GW0303" 400 2
        "size cannot be had",
        "use a multiple of 4096 bytes, up to 1 PiB, that is larger than the present size";
    PoolFull "GW0304" 507 1
        "the pool is full",
        "free space below the data directory or grow it";
    QuotaReached "GW0305" 403 7
        "the gateway's quota is reached",
        "ask who runs the gateway to raise it in the section [quota], or delete volumes";
    BlocksBad "GW0306" 409 4
        "blocks of the copy here cannot be read, and no other copy has them",
        "take the disk for failing; restore the volume: twinspan backup list, or make its mirror the \
         source: twinspan failover plan GROUP";
    PeerUnknown "GW0401" 404 7
        "site is not known here",
        "twinspan site token create there, then twinspan site join TOKEN here";
    PeerUnreachable "GW0402" 502 6
        "site cannot be reached",
        "look at the network and at the other gateway";
    PeerRefused "GW0403" 409 7
        "the other site refused",
        "read the reason, it names what does not fit there";
    JoinTokenBad "GW0404" 400 7
        "join token cannot be used",
        "make a new one at the other site: twinspan site token create";
    NotPrimary "GW0405" 409 7
        "this gateway is not the primary",
        "ask the site that is: twinspan status names it";
    NotSecondary "GW0406" 409 7
        "this gateway is already the primary",
        "nothing is to be done; use reverse to move it away";
    NotInSync "GW0407" 409 7
        "the mirror is not in sync",
        "wait until the session is equivalent: twinspan status --watch";
    NeedsConsent "GW0408" 409 7
        "this would discard data or use a copy that may lack writes",
        "look at the plan, then repeat it with --accept";
    Busy "GW0409" 409 7
        "another change of roles is under way",
        "wait until it is done";
    Fenced "GW0410" 409 7
        "fenced by a higher epoch",
        "twinspan reprotect GROUP at the site that serves it now";
    PlanToken "GW0411" 409 7
        "plan cannot be run any more",
        "make a new plan: twinspan failover plan GROUP";
    TooMany "GW0412" 409 7
        "the group has all the mirrors it can have",
        "delete a session first";
    AlreadyMirrored "GW0413" 409 7
        "already mirrored to that site",
        "look at twinspan session list";
    Interrupted "GW0414" 409 1
        "the mirror went away before it answered",
        "look at twinspan status: the state says what became of it";
    NothingToReprotect "GW0415" 409 7
        "nothing to reprotect",
        "twinspan session create VOLUME --to SITE";
    NotSuspended "GW0416" 409 7
        "the primary may still count on this copy",
        "twinspan session suspend SESSION at the primary's site, or fail over";
    PeerTooOld "GW0417" 409 7
        "the other gateway is too old for this",
        "upgrade the gateway that the message names, then ask again";
    WrongState "GW0420" 409 7
        "the session's state does not allow this",
        "do first what the message names";
    GroupFull "GW0421" 409 7
        "the group has all the volumes it can have",
        "use another group: twinspan group create NAME --volume VOLUME";
    InGroup "GW0422" 409 7
        "volume is one of several of its group",
        "take it out first: twinspan group remove GROUP VOLUME; or name the group";
    LastVolume "GW0423" 409 7
        "it is the only volume of the group",
        "delete the volume, and its group goes with it: twinspan volume delete VOLUME";
    Spanning "GW0424" 409 7
        "a group over several gateways does not do this",
        "read the reason: it says what such a group does instead";
    NoSuchCut "GW0425" 409 7
        "the copy here has no point of that cut",
        "make a new plan: twinspan failover plan GROUP";
    PartsSlow "GW0426" 409 4
        "the parts of the group did not stop together in time",
        "ask again; if it comes back, look which gateway is slow: twinspan status";
    RolledBack "GW0450" 409 1
        "the planned swap was rolled back",
        "read the reason; hosts go on where they were. Make a new plan: twinspan migrate plan GROUP --to SITE";
    NotStack "GW0430" 409 7
        "the session has no transfers",
        "twinspan session set SESSION --mode stack";
    Stopped "GW0431" 409 7
        "the session is stopped",
        "twinspan session resume SESSION";
    RelayMode "GW0432" 409 7
        "a mirror's own sessions run in mode stack",
        "leave the mode out, and say how often with --transfer-every";
    Loop "GW0433" 409 7
        "the copy here comes from that site",
        "name another site: twinspan site list";
    NotNamed "GW0440" 409 7
        "the witness does not name this copy",
        "it lacks writes that the primary acknowledged; look at the plan, then repeat it with --accept";
    LeaseRuns "GW0441" 409 7
        "the primary may still be serving reads",
        "wait for a lease, then try again";
    SnapshotLimit "GW0460" 409 7
        "the group has all the snapshots it can have",
        "delete one: twinspan snapshot list GROUP, then twinspan snapshot delete GROUP SNAPSHOT; \
         or raise snapshots.max_manual";
    ReservedName "GW0461" 400 2
        "name is reserved for the gateway",
        "choose a name that does not begin with auto.";
    HostsAttached "GW0462" 409 7
        "hosts are attached",
        "detach them, or agree that they are dropped: --drop-hosts";
    SnapshotUnusable "GW0463" 409 7
        "the snapshot cannot be used",
        "look at its state: twinspan snapshot show GROUP SNAPSHOT";
    SnapshotPartial "GW0464" 409 7
        "the snapshot does not hold every volume of the group",
        "take the volume that the message names out of the group first: twinspan group remove GROUP VOLUME";
    RollbackUndone "GW0465" 409 1
        "the rollback was not begun",
        "read the reason; nothing was changed. Make a new plan: twinspan snapshot rollback plan GROUP SNAPSHOT";
    RollbackUnfinished "GW0466" 409 4
        "the rollback is not finished",
        "read the reason; repair the disk, then restart the gateway: it goes on by itself";
    RollingBack "GW0467" 409 7
        "the group goes back to a snapshot",
        "wait until it is there; hosts can attach again then";
    StoreSnapshotLimit "GW0468" 409 7
        "the pool keeps no more snapshots of a volume",
        "delete some: twinspan snapshot list GROUP and twinspan point list GROUP name them, then \
         twinspan snapshot delete GROUP SNAPSHOT";
    NoPointPolicy "GW0470" 404 7
        "the group has no policy for recovery points",
        "set one: twinspan point policy set GROUP";
    PointPolicyInvalid "GW0471" 400 2
        "the policy for recovery points cannot be used",
        "correct what the message names: twinspan point policy set GROUP";
    SnapshotLocked "GW0472" 409 7
        "a snapshot is locked",
        "wait until its lock ends: twinspan point list GROUP; nobody can make a lock shorter";
    PointUsed "GW0473" 409 7
        "the point was used already",
        "take an ordinary one: twinspan point take GROUP";
    PointRunning "GW0474" 409 7
        "a recovery point of the group is being taken",
        "wait until it is there: twinspan point policy show GROUP";
    MomentUnknown "GW0475" 404 7
        "nothing is known of that second",
        "choose one that can be opened: twinspan point journal show GROUP";
    NoPointJournal "GW0476" 404 7
        "the group has no write journal here",
        "ask a mirror of the group, or begin one: twinspan point journal set GROUP --window TIME";
    Filling "GW0490" 409 7
        "the volume is still being filled",
        "wait: twinspan volume show VOLUME says how much is left";
    OriginUnreadable "GW0491" 409 4
        "what the volume is filled from cannot be read",
        "bring back what the message names; it is tried again by itself; \
         or delete the volume: twinspan volume delete VOLUME";
    FillsAnother "GW0492" 409 7
        "another volume is being filled from it",
        "wait until that volume is filled, or delete it: twinspan volume delete VOLUME";
    BelowSnapshot "GW0493" 400 2
        "smaller than the snapshot it is made from",
        "leave the size out, or give one that is at least the snapshot's";
    ScrubCancelled "GW0494" 409 1
        "a scrub was cancelled",
        "begin it again when it suits: twinspan volume scrub VOLUME";
    BackupTargetUnknown "GW0500" 404 7
        "backup target is not known here",
        "twinspan backup target list; a target stands in the section [[backup.targets]]";
    BackupTargetInvalid "GW0501" 400 64
        "backup target cannot be used as it is described",
        "correct what the message names in [[backup.targets]] or in its credentials";
    BackupTargetDown "GW0502" 502 6
        "backup target cannot be reached",
        "look at the network and the object store, then: twinspan backup resume BACKUP";
    BackupTargetRefused "GW0503" 502 7
        "backup target refuses the credentials",
        "give credentials that may read, write, list and delete there, then: twinspan backup resume BACKUP";
    BackupTargetUnfit "GW0504" 409 7
        "backup target lacks what backups need",
        "use a bucket without versions in a store with conditional puts";
    BackupKey "GW0505" 409 7
        "the key does not fit the repository",
        "give the key that the repository was made with, or use another prefix";
    BackupDamaged "GW0506" 409 4
        "a backup cannot be read back whole",
        "twinspan backup verify --target TARGET says which backups are hurt; take a new one with --full";
    BackupNewer "GW0507" 409 7
        "backup was written by a later release",
        "upgrade this gateway";
    NoRepository "GW0508" 404 1
        "the target holds no backups",
        "take one: twinspan backup create GROUP --target TARGET; or correct bucket and prefix";
    BackupLocked "GW0509" 409 7
        "backup is locked",
        "wait for its date; nobody can shorten it";
    BackupLimit "GW0510" 409 7
        "the volume has all the backups it can have there",
        "delete one: twinspan backup delete BACKUP; or raise backups_max of the target";
    BackupCancelled "GW0511" 409 1
        "cancelled",
        "begin it again";
    BackupInterrupted "GW0512" 409 1
        "the run was interrupted",
        "read the reason, then: twinspan backup resume BACKUP";
    RestoreProtected "GW0513" 409 7
        "the copy here is protected",
        "restore to a new volume: --to NAME; or to the original where it is served";
    VolumeRestoring "GW0514" 409 7
        "volume is being restored",
        "wait: twinspan operation list; or: twinspan backup resume BACKUP";
    BackupPolicyBad "GW0516" 400 2
        "policy of backups is not valid",
        "correct what the message names: twinspan backup policy set --help";
    NoBackupPolicy "GW0517" 404 1
        "there is no such policy of backups",
        "twinspan backup policy set GROUP --target TARGET --schedule CRON";
    BackupOver "GW0518" 409 1
        "the run cannot be gone on with",
        "take a new backup: twinspan backup create GROUP --target TARGET";
    BackupPoint "GW0515" 409 7
        "snapshot belongs to backups",
        "it goes when the next backup is taken, or the newest one of the target is deleted; of a \
         target that is gone for ever: twinspan backup forget GROUP --target TARGET";
    PluginUnknown "GW0721" 404 1
        "no such plugin here",
        "twinspan plugin list; twinspan plugin install FILE";
    PluginRefused "GW0722" 400 7
        "the component is not taken as a plugin",
        "correct what the message names, then: twinspan plugin install FILE";
    PluginFailed "GW0723" 502 4
        "the plugin failed",
        "read the reason, then: twinspan plugin logs PLUGIN";
    PluginConfig "GW0724" 400 2
        "the plugin's configuration cannot be used",
        "twinspan plugin show PLUGIN has its schema";
    PluginsDown "GW0725" 503 6
        "plugins cannot be run here",
        "read the gateway's log of its start; it says what the system refused";
    PlacementRefused "GW0726" 409 7
        "a plugin has something against this session",
        "correct what the message names, or take the plugin away: twinspan plugin remove PLUGIN";
    PlanBad "GW0701" 400 2
        "plan is not valid",
        "correct what the message names; twinspan plan check FILE tells all of it";
    RunLease "GW0702" 409 7
        "another run has the group",
        "let that run end, or give it up: twinspan run abort RUN";
    RunState "GW0703" 409 7
        "the run does not take that now",
        "twinspan run show RUN tells what it takes";
    RunElsewhere "GW0704" 409 7
        "the run runs at another site",
        "ask that site; if it is lost: twinspan run resume RUN --here";
    RunUnasked "GW0705" 409 7
        "who else may go on with the run cannot be asked",
        "bring the other gateway back; if it is stopped for good, say so: --stopped";
    RunJournal "GW0706" 500 1
        "the journal of the run failed",
        "make room on its disk, or repair it; the run goes on by itself, or: twinspan run resume RUN";
    LinkLost "GW0601" 409 4
        "connection to the mirror was lost",
        "it is dialled again by itself; look at the network and at the other gateway";
    MirrorUnreachable "GW0602" 409 4
        "the mirror cannot be reached",
        "look at the network and at the other gateway";
    MirrorFailed "GW0603" 409 4
        "the mirror's copy failed",
        "repair the disk at the mirror, restart its gateway, then twinspan session resume";
    MirrorSlow "GW0604" 409 4
        "the mirror was too slow",
        "find out why, then twinspan session resume";
    SplitBrain "GW0605" 409 5
        "both sides have writes that the other lacks",
        "twinspan group diff GROUP shows what each wrote; then twinspan reprotect GROUP --discard at the side that is right";
    MirrorRefused "GW0606" 409 4
        "the mirror refused",
        "read the reason; it names what does not fit there";
    Suspended "GW0607" 409 4
        "suspended by an operator",
        "twinspan session resume SESSION";
    AwaitingReprotect "GW0608" 409 4
        "the old primary does not follow yet",
        "twinspan reprotect GROUP";
    WaitingForMirror "GW0609" 409 4
        "waiting to hear from the mirror before serving",
        "start the other gateway; if it served hosts meanwhile, this one will be told; if it is lost for good: twinspan session suspend SESSION";
    Latched "GW0610" 409 4
        "the copy here failed a sync",
        "repair the disk, then restart the gateway";
    Halted "GW0611" 409 4
        "writes are refused while a mirror is missing",
        "bring the mirror back, or go on alone: twinspan session suspend SESSION";
    Copying "GW0612" 409 3
        "blocks are being copied",
        "wait: twinspan status --watch";
    StateUnknown "GW0613" 409 4
        "state is not known",
        "wait; if it lasts, read the gateway's log";
    PrimarySilent "GW0614" 409 4
        "the primary is not heard",
        "twinspan failover plan GROUP";
    Unmirrored "GW0615" 409 3
        "not mirrored",
        "twinspan session create VOLUME --to SITE";
    NotOpened "GW0616" 500 4
        "the group could not be opened",
        "read the gateway's log; repair the disk, then restart the gateway; \
         a copy that is lost is given up by: twinspan group delete GROUP --lost";
    CopyStale "GW0617" 409 4
        "the copy here is not up to date",
        "wait until it is copied; look at the primary's status";
    JournalFull "GW0630" 409 4
        "the send journal was full",
        "wait: it is brought up to date by itself; if it comes again, give the link or mirror.journal_disk more";
    Behind "GW0631" 409 3
        "the mirror follows behind",
        "wait, or find out why the mirror or the link is slow: twinspan session show SESSION";
    HandingOver "GW0618" 409 3
        "roles are being swapped",
        "wait: it takes a moment";
    Detached "GW0640" 409 4
        "the copy is open to hosts on its own",
        "twinspan session resume SESSION --discard at the primary's site, or fail over to keep it";
    HandoverUnanswered "GW0621" 409 4
        "the mirror was asked to take over and did not answer",
        "bring the mirror back, it knows; if it is lost: twinspan failover plan GROUP, here";
    WaitingForWitness "GW0641" 409 4
        "waiting for the witness before serving",
        "bring the witness back; if it is gone for good, set witness.abandon at every site";
    WitnessUnreachable "GW0642" 409 3
        "the witness cannot be reached",
        "look at etcd and at the network to it";
    WitnessForgot "GW0643" 409 4
        "the witness lost what it knew",
        "find out whether another site serves the group, then set witness.abandon at every site once";
    NoWitness "GW0644" 409 4
        "writes are refused: the witness cannot be asked",
        "bring the witness or the mirror back";
    WitnessSilent "GW0645" 409 3
        "the witness was asked and did not answer: what was asked may still take effect",
        "decide nothing before twinspan status says which gateway is the primary";
    WaitingForCompanion "GW0650" 409 4
        "waiting for a companion before serving",
        "start the gateway that is named; if it is lost for good: twinspan group exclude GROUP --gateway ID";
    NoCompanion "GW0651" 409 4
        "writes are refused: a companion has not stopped at the same cut",
        "start the gateway that is named; if it is stopped for good: twinspan group exclude GROUP --gateway ID";
    Excluded "GW0652" 409 4
        "excluded from its group by an operator",
        "twinspan group include GROUP --gateway ID at the companion that is named";
    CompanionOut "GW0653" 409 4
        "a companion is excluded",
        "start it when it is whole again, then: twinspan group include GROUP --gateway ID";
    PartsApart "GW0654" 409 3
        "the parts of the group do not count on their mirrors yet",
        "wait, or look at the gateway that is named: the slowest part decides for all";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_code_has_its_page_and_every_page_its_code() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors");
        let pages: BTreeSet<String> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("GW"))
            .collect();
        let codes: BTreeSet<String> =
            Code::ALL.iter().map(|code| format!("{}.md", code.as_str())).collect();
        assert_eq!(pages, codes);
        assert_eq!(codes.len(), Code::ALL.len(), "a code is used twice");
        for code in Code::ALL {
            let page = std::fs::read_to_string(folder.join(format!("{}.md", code.as_str())));
            let heading = format!("# {} {}", code.as_str(), code.title());
            assert_eq!(page.unwrap().lines().next(), Some(heading.as_str()));
        }
    }
}
