//! Sessions: the group's legs in the words of those who made them.

use api::{Code, PolicyPatch, Session, SessionCreate, SessionList};
use block::{GatewayId, GroupId, LegId, SessionId};
use mirror::{Command, GroupStatus, LegStatus, Mode, Policy, Role, SessionState, SessionStatus};
use uuid::Uuid;

use super::asks::{Question, Take};
use super::parts::Deed;
use super::{Gateway, Known};
use crate::book::{GroupEntry, PeerEntry, VolumeEntry};
use crate::refusal::Refused;
use crate::status::words_patched;
use crate::status::{self, Moment};

/// Between two looks for a mirror whose verification is due.
const VERIFY_LOOK: std::time::Duration = std::time::Duration::from_secs(60);

/// From one transfer to the next of a session whose source is a mirror, if nobody says otherwise.
const RELAY_EVERY_S: u64 = 60;

/// Where a session runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its group.
    pub(crate) group: GroupId,
    /// Its leg.
    pub(crate) leg: LegId,
}

impl Gateway {
    /// All sessions, and what is mirrored here.
    pub(crate) async fn show_sessions(&self) -> SessionList {
        let known = self.look().await;
        let mut list = SessionList {
            as_of: self.clock.rfc3339(),
            items: Vec::new(),
            next: None,
            mirrored_here: Vec::new(),
            unknown: Vec::new(),
        };
        for (entry, known) in &known {
            match known {
                Known::Status(status, moment) => {
                    if !moment.fresh {
                        list.unknown.push(entry.name.clone());
                    }
                    list.items.extend(self.sessions_of(status, *moment));
                    if status.role != Role::Primary {
                        list.mirrored_here.push(Self::show_group(entry, &Known::clone(known)));
                    }
                }
                Known::Nothing(_) => list.unknown.push(entry.name.clone()),
            }
        }
        list
    }

    fn sessions_of(&self, status: &GroupStatus, moment: Moment) -> Vec<Session> {
        let legs = status.legs.iter();
        legs.flat_map(|leg| {
            leg.sessions.iter().map(move |session| self.show_session(status, leg, session, moment))
        })
        .collect()
    }

    fn show_session(
        &self,
        group: &GroupStatus,
        leg: &LegStatus,
        session: &SessionStatus,
        moment: Moment,
    ) -> Session {
        let volume = group.volumes.iter().find(|volume| volume.volume == session.volume);
        let total = session.resync_total_bytes;
        let copied = session.resync_copied_bytes.min(total);
        let rate = leg.resync_rate.filter(|rate| *rate > 0);
        let mut one_leg = group.clone();
        one_leg.legs.retain(|other| other.leg == leg.leg);
        let explanations =
            status::explain(&one_leg, moment).into_iter().map(|(_, explanation)| explanation);
        Session {
            id: session.session.uuid(),
            volume: volume.map_or_else(String::new, |volume| volume.name.clone()),
            volume_id: session.volume.uuid(),
            group: group.name.clone(),
            from: self.config.site.name.clone(),
            to: leg.site.clone(),
            out_of_sync_bytes: session.out_of_sync_bytes,
            resync_total_bytes: total,
            resync_copied_bytes: copied,
            resync_kind: if session.full { "full" } else { "delta" }.to_owned(),
            resync_bytes_per_second: leg.resync_rate,
            mismatched_bytes: session.mismatched_bytes,
            resync_eta_seconds: rate.map(|rate| (total - copied).div_ceil(rate)),
            leg: status::leg(leg, moment),
            explanations: explanations.collect(),
            allowed_actions: session_actions(leg),
        }
    }

    /// The session with this identity, or of the volume or the group with this name if it has only
    /// one: what is done to a session is done to all of its leg.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::Invalid`] when a name means several.
    pub(crate) async fn find_session(&self, name: &str) -> Result<(Session, Place), Refused> {
        let known = self.look().await;
        let mut found: Vec<(Session, Place)> = Vec::new();
        for (_, known) in &known {
            let Known::Status(status, moment) = known else { continue };
            for leg in &status.legs {
                let place = Place { group: status.group, leg: leg.leg };
                let of_group = is_called(name, &status.name, &leg.site)
                    || is_called(name, &status.group.uuid().to_string(), &leg.site);
                for session in &leg.sessions {
                    let shown = self.show_session(status, leg, session, *moment);
                    let meant = Uuid::parse_str(name) == Ok(shown.id)
                        || is_called(name, &shown.volume, &shown.to);
                    let first = !found.iter().any(|(_, known)| *known == place);
                    if meant && !first {
                        // The volume itself is told rather than the first of its group.
                        found.retain(|(_, known)| *known != place);
                    }
                    if meant || (of_group && first) {
                        found.push((shown, place));
                    }
                }
            }
        }
        if found.len() > 1 {
            let detail = format!("{name:?} has {} sessions: write {name}:SITE", found.len());
            return Err(Refused::new(Code::Invalid, detail));
        }
        found.pop().ok_or_else(|| {
            let detail = format!(
                "there is no session {name:?} whose source is {}; a session is ruled at its source",
                self.config.site.name
            );
            Refused::new(Code::NotFound, detail)
        })
    }

    /// Mirrors a group, named itself or by one of its volumes, to another site.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::PeerUnknown`], [`Code::Filling`], [`Code::PlacementRefused`], or the
    /// group's refusal. What the other side refuses is the session's state.
    pub(crate) async fn create_session(&self, wanted: SessionCreate) -> Result<Session, Refused> {
        self.may_create_session(&wanted).await?;
        self.take_destination(&wanted).await?;
        self.create_session_of_taken(wanted).await
    }

    /// Whether nothing here stands against a session: whatever can refuse it is asked before anything
    /// at the destination is touched. The group decides it again.
    ///
    /// # Errors
    /// As [`Self::create_session`].
    pub(crate) async fn may_create_session(&self, wanted: &SessionCreate) -> Result<(), Refused> {
        let (group, _) = self.find_source(&wanted.volume)?;
        self.require_filled(&group)?;
        self.require_whole(group.id)?;
        let peer = self.peer_called(&wanted.to)?;
        let policy = words_patched(self.config.mirror.policy.clone(), &wanted.policy)
            .map_err(|why| Refused::new(Code::Invalid, why))?;
        let id = group.group();
        let status = self.status_of(id).await?;
        let holds_content = wanted.skip_initial_copy;
        // A mirror sends whole points on, to a copy that is made there: nothing is touched.
        if status.role != Role::Secondary || holds_content {
            let gateway = GatewayId::from_uuid(peer.gateway);
            let may = move |state: &std::rc::Rc<crate::shard::ShardState>| {
                state.may_mirror(id, (gateway, &policy), holds_content)
            };
            self.shard_of(id).call(may).await??;
        }
        self.check_placement(&group, wanted).await
    }

    /// With `skip_initial_copy`, the volume at the other site becomes the session's destination, with
    /// what it holds.
    async fn take_destination(&self, wanted: &SessionCreate) -> Result<(), Refused> {
        if !wanted.skip_initial_copy {
            let named = wanted.destination.as_ref();
            return named.map_or(Ok(()), |_named| {
                let detail =
                    "destination goes with skip_initial_copy: else the volume is made there";
                Err(Refused::new(Code::Invalid, detail))
            });
        }
        let (group, volume) = self.find_source(&wanted.volume)?;
        let peer = self.peer_called(&wanted.to)?;
        if group.volumes.len() > 1 {
            let detail = format!(
                "skip_initial_copy is for groups of one volume, and {} has {}: mirror one of them \
                 first and let the others join, which copies them",
                group.name,
                group.volumes.len()
            );
            return Err(Refused::new(Code::InGroup, detail));
        }
        let status = self.status_of(group.group()).await?;
        let take = Take {
            number: 0,
            name: Some(wanted.destination.clone().unwrap_or_else(|| volume.name.clone())),
            keep: true,
            group: group.id,
            volume: volume.id,
            bytes: status.volumes.first().map_or(0, |volume| volume.bytes),
            overwrite: false,
        };
        self.ask(peer.gateway, &Question::Take(take)).await?.name().map(drop)
    }

    fn peer_called(&self, site: &str) -> Result<PeerEntry, Refused> {
        self.book.read().peer(site).cloned().ok_or_else(|| {
            let of_site = self.book.read().peers.iter().filter(|peer| peer.site == site).count();
            if of_site > 1 {
                let detail = format!("{site} has {of_site} gateways: name one of them by its id");
                let next = "twinspan site list shows the ids".to_owned();
                return Refused::new(Code::Invalid, detail).next(next);
            }
            let detail = format!("{} is not joined with a site {site:?}", self.config.site.name);
            Refused::new(Code::PeerUnknown, detail)
        })
    }

    /// The same for a destination that knows already what it is to be.
    ///
    /// # Errors
    /// As [`Self::create_session`].
    pub(crate) async fn create_session_of_taken(
        &self,
        wanted: SessionCreate,
    ) -> Result<Session, Refused> {
        let (group, volume) = self.find_source(&wanted.volume)?;
        self.require_filled(&group)?;
        self.require_whole(group.id)?;
        let peer = self.peer_called(&wanted.to)?;
        let status = self.status_of(group.group()).await?;
        let mut policy = words_patched(self.config.mirror.policy.clone(), &wanted.policy)
            .map_err(|why| Refused::new(Code::Invalid, why))?;
        if status.role == Role::Secondary {
            relay_policy(&mut policy, &wanted.policy);
        }
        let sessions: Vec<SessionId> =
            group.volumes.iter().map(|_| SessionId::from_uuid(Uuid::now_v7())).collect();
        let mut of_volumes = group.volumes.iter().zip(&sessions);
        let own = of_volumes.find(|(other, _)| other.id == volume.id).map(|(_, own)| *own);
        let command = Command::AddLeg {
            gateway: GatewayId::from_uuid(peer.gateway),
            site: peer.site.clone(),
            sessions,
            policy,
            holds_content: wanted.skip_initial_copy,
        };
        self.command(group.group(), command).await?;
        self.events.tell("session", &group.name, format!("created, to {}", peer.site));
        // By its id: the group may be mirrored to another gateway of that site as well.
        let own = own
            .map_or_else(|| format!("{}:{}", volume.name, peer.site), |own| own.uuid().to_string());
        let (session, _) = self.find_session(&own).await?;
        Ok(session)
    }

    /// A command to a session's leg.
    ///
    /// # Errors
    /// The group's refusal.
    pub(crate) async fn session_command(
        &self,
        name: &str,
        word: &str,
        command: impl FnOnce(LegId) -> Command,
    ) -> Result<Option<Session>, Refused> {
        let (session, place) = self.find_session(name).await?;
        let command = command(place.leg);
        let removes = matches!(command, Command::RemoveLeg { .. });
        let deed = match &command {
            Command::Suspend { .. } | Command::SuspendWhole { .. } => Some(Deed::Suspend),
            Command::Resume { discard, .. } => Some(Deed::Resume { discard: *discard }),
            Command::Reverse { .. } => {
                let status = self.status_of(place.group).await?;
                if status.parts.is_some() {
                    let detail = "the parts of a group over several gateways swap roles together";
                    let next = format!("twinspan migrate plan {} --to {}", status.name, session.to);
                    return Err(Refused::new(Code::Spanning, detail).next(next));
                }
                None
            }
            _ => None,
        };
        self.command(place.group, command).await?;
        if let Some(deed) = deed {
            self.rule_all_parts(place.group, &deed).await?;
        }
        let text = format!("{word}, to {}", session.to);
        self.events.tell("session", &session.group, text);
        if removes {
            return Ok(None);
        }
        // After a swap of roles it has no source here any more.
        Ok(self.find_session(&session.id.to_string()).await.ok().map(|(session, _)| session))
    }

    /// Begins to compare a mirror with its source.
    ///
    /// # Errors
    /// [`Code::NotInSync`], [`Code::PeerTooOld`], or the group's refusal.
    pub(crate) async fn verify_session(
        &self,
        name: &str,
        request: &api::VerifySession,
    ) -> Result<Option<Session>, Refused> {
        let configured = self.config.mirror.verify.bytes_per_second;
        let bytes_per_second = request.bytes_per_second.unwrap_or(configured).max(1);
        let command = |leg| Command::Verify { leg, bytes_per_second };
        self.session_command(name, "verification begun", command).await
    }

    /// Begins a verification of each mirror whose last one is older than the configuration says,
    /// looking from time to time until the gateway stops.
    pub(crate) async fn verify_regularly(self: std::sync::Arc<Self>) {
        let verify = self.config.mirror.verify;
        if verify.every.is_zero() {
            return;
        }
        let pause = VERIFY_LOOK.min(verify.every);
        let stopping = self.stopping.clone();
        while stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            for (_, known) in self.look().await {
                let Known::Status(status, moment) = known else { continue };
                if status.role == Role::Primary && moment.fresh {
                    self.verify_overdue(&status).await;
                }
            }
        }
    }

    async fn verify_overdue(&self, status: &GroupStatus) {
        let verify = self.config.mirror.verify;
        let every_ms = u64::try_from(verify.every.as_millis()).unwrap_or(u64::MAX);
        let now_ms = self.clock.steady_ms();
        for leg in status.legs.iter().filter(|leg| leg.in_sync && leg.verifying.is_none()) {
            let last = leg.verified.map(|found| found.at_ms);
            if last.is_some_and(|at| now_ms.saturating_sub(at) < every_ms) {
                continue;
            }
            let bytes_per_second = verify.bytes_per_second;
            let command = Command::Verify { leg: leg.leg, bytes_per_second };
            // One that cannot begin now (another command, an old peer) is tried at the next look.
            if let Err(refused) = self.command(status.group, command).await {
                let why = refused.0.detail;
                tracing::debug!(group = status.name, why, "verification not begun");
            }
        }
    }

    /// The group that is meant, and the volume whose session is told.
    pub(super) fn find_source(&self, name: &str) -> Result<(GroupEntry, VolumeEntry), Refused> {
        let pages = self.book.read();
        let of_volume = pages.volume(name).map(|(group, volume)| (group.clone(), volume.clone()));
        let of_group = pages
            .group(name)
            .and_then(|group| group.volumes.first().map(|volume| (group.clone(), volume.clone())));
        match (of_volume, of_group) {
            (Some((group, _)), Some((other, _))) if group.id != other.id => {
                let detail = format!(
                    "{name:?} is a group and a volume of group {}: name that group, or use the id",
                    group.name
                );
                Err(Refused::new(Code::Invalid, detail))
            }
            (Some(found), _) | (None, Some(found)) => Ok(found),
            (None, None) => {
                let site = &self.config.site.name;
                let detail = format!("there is no group or volume {name:?} at {site}");
                Err(Refused::new(Code::NotFound, detail))
            }
        }
    }

    /// Deletes the sessions of a leg: the whole group is no longer mirrored to that site.
    ///
    /// # Errors
    /// [`Code::InGroup`] when only one of several volumes is named; [`Code::NotFound`], or the
    /// group's refusal.
    pub(crate) async fn delete_session(&self, name: &str) -> Result<(), Refused> {
        let (session, _) = self.find_session(name).await?;
        let group = self.find_group(&session.group)?;
        let by_group = [group.name.as_str(), &group.id.to_string()]
            .iter()
            .any(|group| is_called(name, group, &session.to));
        let count = group.volumes.len();
        if count > 1 && !by_group {
            let (volume, of, to) = (&session.volume, &group.name, &session.to);
            let detail = format!(
                "{volume} is one of {count} volumes of group {of}, which are mirrored to {to} together"
            );
            let next = format!(
                "twinspan session delete {of}:{to} for all of them, or twinspan group remove {of} \
                 {volume}"
            );
            return Err(Refused::new(Code::InGroup, detail).next(next));
        }
        self.session_command(name, "deleted", |leg| Command::RemoveLeg { leg }).await.map(drop)
    }

    /// Changes a session's policies.
    ///
    /// # Errors
    /// [`Code::Invalid`], or the group's refusal.
    pub(crate) async fn patch_session(
        &self,
        name: &str,
        patch: &PolicyPatch,
    ) -> Result<Option<Session>, Refused> {
        let (_, place) = self.find_session(name).await?;
        let status = self.status_of(place.group).await?;
        let now = status.legs.iter().find(|leg| leg.leg == place.leg).map(|leg| leg.policy.clone());
        let now = now.ok_or_else(|| Refused::from(mirror::Refusal::Unknown))?;
        let policy = words_patched(now, patch).map_err(|why| Refused::new(Code::Invalid, why))?;
        self.session_command(name, "policy changed", |leg| Command::SetPolicy { leg, policy }).await
    }
}

/// A session whose source is a mirror sends whole points on, from time to time.
fn relay_policy(policy: &mut Policy, wanted: &PolicyPatch) {
    if wanted.mode.is_none() {
        policy.mode = Mode::Stack;
    }
    if wanted.transfer_every_s.is_none() && policy.transfer_every_s == 0 {
        policy.transfer_every_s = RELAY_EVERY_S;
    }
}

/// Whether `name` is this one, or this one towards that site.
fn is_called(name: &str, this: &str, site: &str) -> bool {
    name.strip_prefix(this)
        .is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':').is_some_and(|to| to == site))
}

fn session_actions(leg: &LegStatus) -> Vec<String> {
    let mut actions = vec!["session.patch", "session.delete"];
    match leg.state {
        SessionState::Active => actions.push("session.suspend"),
        SessionState::Halted => actions.extend(["session.suspend", "session.resume"]),
        SessionState::Suspended | SessionState::Error => actions.push("session.resume"),
    }
    if status::leg_is_well(leg) {
        actions.push("session.verify");
        actions.push("session.reverse");
    }
    actions.into_iter().map(str::to_owned).collect()
}
