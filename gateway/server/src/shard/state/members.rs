//! Volumes that join and leave an open group.
//!
//! Invariant: a volume that is leaving takes no new host; one that has hosts does not leave.

use std::rc::Rc;
use std::time::Duration;

use block::{GroupId, LegId, SessionId, Store, VolumeId};
use bytes::Bytes;
use mirror::Refusal;
use store::PoolVolume;
use uuid::Uuid;

use super::{OpenVolume, ShardState, ask};
use crate::refusal::Refused;

/// Whoever had the volume open until now lets it go within moments.
const OPEN_TRIES_MAX: u32 = 40;
const OPEN_PAUSE: Duration = Duration::from_millis(25);
/// What is told as busy lasts two seconds or more.
const BUSY_TRIES_MAX: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// Asks again while the group is busy with a moment's matter: another operator's command, or a
/// mirror that is being struck off.
async fn patiently(ask: impl AsyncFn() -> Result<(), Refusal>) -> Result<(), Refusal> {
    let mut tries = 0;
    loop {
        match ask().await {
            Err(Refusal::Busy) if tries < BUSY_TRIES_MAX => {
                tries += 1;
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            result => return result,
        }
    }
}

impl ShardState {
    /// A volume of the pool, which is in no open group, joins a group. `records` are made durable
    /// together with it.
    ///
    /// # Errors
    /// The group's refusal, or that the volume cannot be opened; nothing was changed.
    pub(crate) async fn enlist(
        &self,
        group: GroupId,
        (volume, name): (VolumeId, String),
        records: Vec<(String, Option<Bytes>)>,
    ) -> Result<(), Refused> {
        let open = self.open_group(group)?;
        let mut tries = 0;
        let store = loop {
            match self.open_store(volume) {
                Ok(store) => break store,
                Err(_busy) if tries < OPEN_TRIES_MAX => {
                    tries += 1;
                    tokio::time::sleep(OPEN_PAUSE).await;
                }
                Err(why) => {
                    let detail = format!("volume {name}: {why}");
                    return Err(Refused::new(api::Code::NotOpened, detail));
                }
            }
        };
        let sessions: Vec<SessionId> =
            LegId::all().map(|_| SessionId::from_uuid(Uuid::now_v7())).collect();
        let result = patiently(async || {
            let of_group: Rc<dyn Store> = Rc::<PoolVolume>::clone(&store);
            let joining = (volume, name.clone(), of_group);
            open.group.enlist(joining, sessions.clone(), records.clone()).await
        });
        match result.await {
            Ok(()) => {
                open.volumes.borrow_mut().push(OpenVolume::new(volume, store));
                self.post(&open);
                Ok(())
            }
            Err(refusal) => {
                if let Err(error) = ask(|ticket| store.close(ticket)).await {
                    tracing::warn!(%volume, %error, "not closed cleanly");
                }
                Err(Refused::from(refusal))
            }
        }
    }

    /// A volume leaves a group, to one of its own. `records` are made durable together with it.
    ///
    /// # Errors
    /// The group's refusal, or [`api::Code::VolumeInUse`]; nothing was changed.
    pub(crate) async fn dismiss(
        &self,
        group: GroupId,
        volume: VolumeId,
        to: (GroupId, String),
        records: Vec<(String, Option<Bytes>)>,
    ) -> Result<(), Refused> {
        let open = self.open_group(group)?;
        let missing = || Refused::new(api::Code::NotFound, "the group has no such volume");
        let leaving = open.volume(volume).ok_or_else(missing)?;
        let hosts = leaving.attached() + leaving.readers.get();
        if hosts > 0 {
            let detail = format!("{hosts} hosts are attached to it");
            return Err(Refused::new(api::Code::VolumeInUse, detail));
        }
        // From here on no host is seated there.
        open.volumes.borrow_mut().retain(|other| other.id != volume);
        let result =
            patiently(async || open.group.dismiss(volume, to.clone(), records.clone()).await);
        let result = result.await;
        match &result {
            // Who is logged in finds it again in its new group.
            Ok(()) => leaving.closing.take().cancel(),
            Err(_) => open.volumes.borrow_mut().push(leaving),
        }
        self.post(&open);
        Ok(result?)
    }
}
