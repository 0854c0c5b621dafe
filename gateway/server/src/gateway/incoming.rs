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
use super::volumes::NewVolume;
use crate::book::GroupEntry;
use crate::names::is_name;
use crate::refusal::Refused;

/// Handshakes that may be under way at once.
const HANDSHAKES_MAX: usize = 64;
/// After an accept that failed, so as not to spin.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Why a group is not taken.
#[derive(Debug)]
pub(crate) enum NotNow {
    /// It may be, in a moment.
    Later(String),
    /// It does not fit what is here.
    Never(String),
}

impl NewVolume {
    /// The copy of a primary's volume.
    #[must_use]
    pub(crate) fn offered(offer: &block::VolumeOffer) -> Self {
        Self {
            volume: offer.volume,
            name: offer.name.clone(),
            bytes: offer.bytes,
            settings: api::VolumeSettings::default(),
            origin: None,
        }
    }
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

    /// Makes sure that the group is here with the volumes that its primary names, making what is
    /// missing.
    async fn admit(&self, open: &Open, link: &Detached) -> Result<(), NotNow> {
        if !self.is_ready() {
            return Err(NotNow::Later("the gateway is starting or stopping".to_owned()));
        }
        if self.is_known(open).await? {
            return Ok(());
        }
        let _alone = self.change_alone().await;
        // It may have been made while this one waited.
        if self.is_known(open).await? {
            return Ok(());
        }
        let from = link.peer().gateway;
        let known = self.book.read().group_by_id(open.group).cloned();
        match known {
            Some(entry) => self.follow_members(&entry, open, from).await,
            None => self.make_mirror(open, link).await,
        }
    }

    /// Whether the group is here, open, with these volumes in this order.
    async fn is_known(&self, open: &Open) -> Result<bool, NotNow> {
        let pages = self.book.read();
        let Some(entry) = pages.group_by_id(open.group) else { return Ok(false) };
        if !entry.volume_ids().into_iter().eq(open.volumes.iter().map(|offer| offer.volume)) {
            return Ok(false);
        }
        let status = self.status_of(open.group).await;
        status.map(|_| true).map_err(|refused| NotNow::Later(refused.0.detail))
    }

    async fn make_mirror(&self, open: &Open, link: &Detached) -> Result<(), NotNow> {
        let needs = self.needs_of(open, None, link.peer().gateway).await?;
        let pages = self.book.read();
        let taken = pages.group(&open.name);
        if !is_name(&open.name)
            || taken.is_some_and(|taken| !needs.adopted.iter().any(|group| group.id == taken.id))
        {
            let why = format!("a group {:?} exists here with another identity", open.name);
            return Err(NotNow::Never(why));
        }
        let new = needs.new.iter().map(NewVolume::offered).collect();
        let never = |refused: Refused| NotNow::Never(refused.0.detail);
        self.make_volumes(new).await.map_err(never)?;
        for adopted in &needs.adopted {
            self.shut_group(adopted.group()).await.map_err(never)?;
        }
        let entry = GroupEntry {
            id: open.group.uuid(),
            name: open.name.clone(),
            volumes: open.volumes.iter().map(|offer| needs.entry(offer)).collect(),
        };
        let volumes = open.volumes.iter().map(|offer| offer.volume).collect();
        let found =
            if needs.adopted.is_empty() { mirror::found_secondary } else { mirror::found_adopted };
        let mut records = vec![found(open.group, &open.name, volumes)];
        let adopted = needs.adopted.iter();
        records.extend(adopted.map(|group| (mirror::Group::record_key(group.group()), None)));
        let changed = self.book.change(records, |pages| {
            pages.groups.retain(|g| !needs.adopted.iter().any(|adopted| adopted.id == g.id));
            pages.groups.push(entry.clone());
            Ok::<(), Refused>(())
        });
        if let Err(refused) = changed.await {
            for adopted in &needs.adopted {
                self.open_group_soon(adopted).await.map_err(never)?;
            }
            return Err(never(refused));
        }
        self.open_group_soon(&entry).await.map_err(never)?;
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
        self.clear_unknown_fillings().await;
    }

    /// The group of a volume, for hosts.
    #[must_use]
    pub(crate) fn group_of_volume(&self, name: &str) -> Option<(GroupId, VolumeId)> {
        let pages = self.book.read();
        pages.volume(name).map(|(group, volume)| (group.group(), VolumeId::from_uuid(volume.id)))
    }
}
