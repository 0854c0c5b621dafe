//! Links that come in: a gateway joins, or opens a group here.
//!
//! Invariant: a volume that this gateway serves, or has under another identity or size, is never
//! touched by another gateway's offer: it is refused by name. The limits bound what strangers cost.

use std::sync::Arc;

use block::{GroupId, Open, VolumeId};
use link::{Detached, Incoming};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::Gateway;
use super::volumes::{NewGroup, NewVolume, check_size};
use crate::names::is_name;

/// Handshakes that may be under way at once.
const HANDSHAKES_MAX: usize = 64;
/// After an accept that failed, so as not to spin.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
/// Volumes of one group.
const VOLUMES_MAX: usize = 256;

/// Why a group is not taken.
enum NotNow {
    /// It may be, in a moment.
    Later(String),
    /// It does not fit what is here.
    Never(String),
}

impl Gateway {
    /// Takes links in until the gateway stops.
    pub(crate) async fn accept_links(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            let accepted = tokio::select! {
                () = self.stopping.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => {
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                        tracing::warn!(%from, "link turned away: too many handshakes");
                        continue;
                    };
                    let gateway = Arc::clone(&self);
                    self.tasks.spawn(async move {
                        gateway.take_in(stream, from).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept of a link failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn take_in(self: &Arc<Self>, stream: TcpStream, from: std::net::SocketAddr) {
        match link::accept(stream, &self.links).await {
            Ok(Incoming::Join(Ok(peer))) => {
                tracing::info!(site = peer.site, %from, "site joined");
            }
            Ok(Incoming::Join(Err(refused))) => tracing::warn!(%from, %refused, "join refused"),
            Ok(Incoming::Question { peer, question, link }) => {
                self.take_question(peer, question, link).await;
            }
            Ok(Incoming::Group { open, link, .. }) => self.take_group(open, link).await,
            Err(error) => tracing::debug!(%from, %error, "link did not come up"),
        }
    }

    async fn take_group(&self, open: Open, link: Detached) {
        let group = open.group;
        match self.admit(&open, &link).await {
            Ok(()) => {
                let posted =
                    self.shard_of(group).post(move |state| state.accept(group, open, link));
                if posted.is_err() {
                    tracing::warn!(%group, "the group's thread has ended");
                }
            }
            Err(NotNow::Later(why)) => {
                // Hung up without a word: the primary dials again, and finds it changed.
                tracing::info!(group = open.name, why, "a group was sent away for now");
            }
            Err(NotNow::Never(why)) => {
                let site = link.peer().site.clone();
                tracing::warn!(site, group = open.name, why, "refused a group");
                self.events.tell("group", &open.name, format!("refused from {site}: {why}"));
                if self.shard_of(group).post(move |state| state.refuse(link, why)).is_err() {
                    tracing::warn!(%group, "the group's thread has ended");
                }
            }
        }
    }

    /// Makes sure that the group is here, making it when it is new.
    async fn admit(&self, open: &Open, link: &Detached) -> Result<(), NotNow> {
        if !self.is_ready() {
            return Err(NotNow::Later("the gateway is starting or stopping".to_owned()));
        }
        if let Some(admitted) = self.admit_known(open).await {
            return admitted;
        }
        let _alone = self.change_alone().await;
        // It may have been made while this one waited.
        if let Some(admitted) = self.admit_known(open).await {
            return admitted;
        }
        self.check_new(open).map_err(NotNow::Never)?;
        self.make_mirror(open, link).await.map_err(NotNow::Never)
    }

    /// What is to be done with an offer of a group that is here; `None` when it is not.
    async fn admit_known(&self, open: &Open) -> Option<Result<(), NotNow>> {
        let pages = self.book.read();
        let entry = pages.group_by_id(open.group)?;
        let ours: Vec<VolumeId> =
            entry.volumes.iter().map(|volume| VolumeId::from_uuid(volume.id)).collect();
        let theirs: Vec<VolumeId> = open.volumes.iter().map(|offer| offer.volume).collect();
        if ours != theirs {
            let why = format!("group {} has other volumes here", entry.name);
            return Some(Err(NotNow::Never(why)));
        }
        let status = self.status_of(open.group).await;
        Some(status.map(drop).map_err(|refused| NotNow::Later(refused.0.detail)))
    }

    fn check_new(&self, open: &Open) -> Result<(), String> {
        let pages = self.book.read();
        if open.volumes.is_empty() || open.volumes.len() > VOLUMES_MAX {
            return Err(format!("a group has 1 to {VOLUMES_MAX} volumes"));
        }
        if !is_name(&open.name) || open.volumes.iter().any(|offer| !is_name(&offer.name)) {
            return Err("a name is not valid here".to_owned());
        }
        if pages.group(&open.name).is_some() {
            return Err(format!("a group {:?} exists here with another identity", open.name));
        }
        for offer in &open.volumes {
            if pages.volume_by_id(offer.volume).is_some() {
                return Err(format!("volume {:?} is in another group here", offer.name));
            }
            if pages.volume(&offer.name).is_some() {
                return Err(format!("a volume {:?} exists here with another identity", offer.name));
            }
            check_size(offer.bytes).map_err(|refused| refused.0.detail)?;
        }
        Ok(())
    }

    async fn make_mirror(&self, open: &Open, link: &Detached) -> Result<(), String> {
        let new = NewGroup {
            group: open.group,
            name: open.name.clone(),
            volumes: open
                .volumes
                .iter()
                .map(|offer| NewVolume {
                    volume: offer.volume,
                    name: offer.name.clone(),
                    bytes: offer.bytes,
                    settings: api::VolumeSettings::default(),
                })
                .collect(),
            is_mirror: true,
        };
        self.create_group(new).await.map_err(|refused| refused.0.detail)?;
        let text = format!("this site holds a mirror of it, from {}", link.peer().site);
        self.events.tell("group", &open.name, text);
        Ok(())
    }

    /// Opens every group that the book knows.
    pub(crate) async fn open_groups(&self) {
        let pages = self.book.read();
        for entry in &pages.groups {
            if let Err(refused) = self.open_group(entry.clone()).await {
                let why = refused.0.detail;
                tracing::error!(group = entry.name, why, "group could not be opened");
                self.events.tell("group", &entry.name, format!("could not be opened: {why}"));
            }
        }
    }

    /// The group of a volume, for hosts.
    #[must_use]
    pub(crate) fn group_of_volume(&self, name: &str) -> Option<(GroupId, VolumeId)> {
        let pages = self.book.read();
        pages.volume(name).map(|(group, volume)| (group.group(), VolumeId::from_uuid(volume.id)))
    }
}
