//! Groups, what they are told to do, and the status screen.
//!
//! Invariant: a group that a restore or a way back may have left half done becomes nobody's source: its
//! mirrors keep the only whole copy of it.

use api::{Code, Group, Health, LinkState, Peer, SiteInfo, Status};
use block::GroupId;
use mirror::Command;
use uuid::Uuid;

use super::backups::restores::not_over;
use super::{Gateway, Known};
use crate::book::{GroupEntry, PeerEntry};
use crate::refusal::Refused;
use crate::status;

impl Gateway {
    /// The group with this name or identity.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub(crate) fn find_group(&self, name: &str) -> Result<GroupEntry, Refused> {
        self.book.read().group(name).cloned().ok_or_else(|| {
            let detail = format!("there is no group {name:?} at {}", self.config.site.name);
            Refused::new(Code::NotFound, detail)
        })
    }

    /// A command to a group, and its new state on the board.
    ///
    /// # Errors
    /// The group's refusal; as [`Self::require_whole`] for what makes it somebody's source.
    pub(crate) async fn command(&self, group: GroupId, command: Command) -> Result<(), Refused> {
        if matches!(command, Command::AddLeg { .. } | Command::Resume { .. }) {
            self.require_whole(group.uuid())?;
        }
        self.order(group, command).await
    }

    /// The same for who knows that the group is whole while it is noted that it may not be: the restore
    /// and the way back themselves, when they end.
    ///
    /// # Errors
    /// The group's refusal.
    pub(super) async fn order(&self, group: GroupId, command: Command) -> Result<(), Refused> {
        let shard = self.shard_of(group).clone();
        shard.run(move |state| async move { state.command(group, command).await }).await?
    }

    /// A group whose volumes may be half of something is no source: of no mirror, snapshot or point.
    ///
    /// # Errors
    /// [`Code::RollingBack`] on the way to a second, [`Code::VolumeRestoring`] while a restore over one
    /// of its volumes is not over.
    pub(crate) fn require_whole(&self, group: Uuid) -> Result<(), Refused> {
        let pages = self.book.read();
        let known = pages.group_by_id(GroupId::from_uuid(group));
        let name = known.map_or_else(|| group.to_string(), |known| known.name.clone());
        if pages.is_on_its_way(group) {
            let detail = format!("group {name} is on its way back to a second");
            return Err(Refused::new(Code::RollingBack, detail));
        }
        pages.backups.fill_in(group).map_or(Ok(()), |fill| Err(not_over(&name, fill)))
    }

    /// A group as an operator is told.
    #[must_use]
    pub(crate) fn show_group(entry: &GroupEntry, known: &Known) -> Group {
        match known {
            Known::Status(group_status, moment) => status::group(group_status, *moment),
            Known::Nothing(why) => {
                let volumes = entry.volumes.iter().map(|volume| volume.name.clone()).collect();
                status::unknown_group(entry.id, &entry.name, volumes, why)
            }
        }
    }

    /// All groups, worst first.
    pub(crate) async fn show_groups(&self) -> Vec<Group> {
        let known = self.look().await;
        let mut groups: Vec<Group> =
            known.iter().map(|(entry, known)| Self::show_group(entry, known)).collect();
        groups.sort_by(|a, b| b.health.cmp(&a.health).then_with(|| a.name.cmp(&b.name)));
        groups
    }

    /// This site.
    #[must_use]
    pub(crate) fn site_info(&self) -> SiteInfo {
        SiteInfo {
            name: self.config.site.name.clone(),
            region: self.config.site.region.clone(),
            zone: self.config.site.zone.clone(),
            gateway: self.identity.gateway.uuid(),
            boot: self.identity.boot.uuid(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// The other sites, as these groups hear them.
    #[must_use]
    pub(crate) fn show_peers(&self, groups: &[Group]) -> Vec<Peer> {
        self.book.read().peers.iter().map(|peer| show_peer(peer, groups)).collect()
    }

    /// The status screen.
    pub(crate) async fn show_status(&self) -> Status {
        let groups = self.show_groups().await;
        let count =
            |health: &[Health]| groups.iter().filter(|g| health.contains(&g.health)).count();
        Status {
            as_of: self.clock.rfc3339(),
            verdict: status::verdict(&groups),
            site: self.site_info(),
            peers: self.show_peers(&groups),
            protected: count(&[Health::Ready]),
            at_risk: count(&[Health::AtRisk, Health::SplitBrain, Health::Degraded]),
            unknown: count(&[Health::Unknown]),
            unprotected: count(&[Health::Unprotected]),
            groups,
        }
    }
}

fn show_peer(peer: &PeerEntry, groups: &[Group]) -> Peer {
    let mut shown = Peer {
        site: peer.site.clone(),
        gateway: peer.gateway,
        address: peer.addresses.join(", "),
        link: None,
        last_heard_ms_ago: None,
        rtt_us: None,
    };
    // A group whose thread does not answer says nothing about its link either.
    for group in groups.iter().filter(|group| group.health != Health::Unknown) {
        for leg in group.legs.iter().filter(|leg| leg.gateway == peer.gateway) {
            note(&mut shown, leg.link, leg.last_heard_ms_ago, leg.rtt_us);
        }
        if let Some(upstream) = group.upstream.as_ref().filter(|u| u.gateway == peer.gateway) {
            note(&mut shown, upstream.link, upstream.last_heard_ms_ago, None);
        }
    }
    shown
}

fn note(peer: &mut Peer, link: LinkState, heard: Option<u64>, rtt_us: Option<u64>) {
    peer.link = Some(peer.link.map_or(link, |best| best.max(link)));
    peer.last_heard_ms_ago = match (peer.last_heard_ms_ago, heard) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    peer.rtt_us = match (peer.rtt_us, rtt_us) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
}
