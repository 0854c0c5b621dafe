//! Which disk of which iSCSI target a volume is.
//!
//! Invariant: a volume is at one target, and two volumes of a target have different numbers. Neither
//! changes while an initiator is logged in to the volume.

use api::{Code, Volume};
use block::VolumeId;

use super::Gateway;
use crate::book::{GroupEntry, VolumeEntry};
use crate::refusal::Refused;
use crate::targets::{TARGET_NAME_BYTES_MAX, group_tail};

impl Gateway {
    /// Makes a volume a disk of its group's target, or again the only disk of a target of its own.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::Exists`] when another volume of the group has the number;
    /// [`Code::VolumeInUse`] while initiators are logged in to it; [`Code::Invalid`] for a group with
    /// parts at several gateways, and for one whose name does not fit.
    pub(crate) async fn set_lun(&self, name: &str, lun: Option<u8>) -> Result<Volume, Refused> {
        let _alone = self.change_alone().await;
        let (group, volume) = self.find_volume(name)?;
        if volume.lun == lun {
            return self.volume(name).await;
        }
        if let Some(lun) = lun {
            self.require_free_number(&group, &volume, lun).await?;
        }
        let place = (group.group(), VolumeId::from_uuid(volume.id));
        let shard = self.shard_of(place.0).clone();
        let hosts = shard.run(move |state| async move { state.logged_in(place) }).await?;
        if hosts > 0 {
            let detail = format!("{hosts} initiators are logged in to {}", volume.name);
            let next = "log them out: they would find another disk, or none, in its place";
            return Err(Refused::new(Code::VolumeInUse, detail).next(next));
        }
        self.book
            .change(Vec::new(), |pages| {
                for entry in pages.groups.iter_mut().flat_map(|group| group.volumes.iter_mut()) {
                    if entry.id == volume.id {
                        entry.lun = lun;
                    }
                }
                Ok::<(), Refused>(())
            })
            .await?;
        let text = match lun {
            Some(lun) => format!("it is LUN {lun} of the target of group {}", group.name),
            None => "it has a target of its own".to_owned(),
        };
        self.events.tell("volume", &volume.name, text);
        self.volume(name).await
    }

    async fn require_free_number(
        &self,
        group: &GroupEntry,
        volume: &VolumeEntry,
        lun: u8,
    ) -> Result<(), Refused> {
        let mut others = group.volumes.iter().filter(|other| other.id != volume.id);
        if let Some(other) = others.find(|other| other.lun == Some(lun)) {
            let detail = format!("volume {} is LUN {lun} of group {}", other.name, group.name);
            return Err(Refused::new(Code::Exists, detail).next("choose another number"));
        }
        let name = self.config.iscsi.prefix.len() + 1 + group_tail(&group.name).len();
        if name > TARGET_NAME_BYTES_MAX {
            let detail = format!("the name of its target would be {name} bytes long");
            let next = format!("it may be {TARGET_NAME_BYTES_MAX}: shorten iscsi.prefix");
            return Err(Refused::new(Code::Invalid, detail).next(next));
        }
        if self.status_of(group.group()).await?.parts.is_some() {
            let detail = format!("group {} has parts at several gateways", group.name);
            let next = "leave its volumes at targets of their own: each gateway would show other \
                        disks under one name";
            return Err(Refused::new(Code::Invalid, detail).next(next));
        }
        Ok(())
    }
}
