//! Which 4 MiB extents may have changes in flight, on disk before the changes are.
//!
//! Invariant: the newest valid image names every extent that was changed since its checksums were
//! last made durable. It is written whole, to the one of two places that holds the older image.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::sync::Arc;

use block::ActivityExtent;

use crate::codec::Format;
use crate::error::StoreError;
use crate::medium::File;

const FORMAT: Format = Format { what: "activity record", magic: *b"TSACTIV\0", version: 1 };
/// The log may hold records of snapshots. A release that does not know them would take them for
/// the log's torn end, so it must not come as far as that.
const SNAPSHOTS: u64 = 1;
/// A start began to make durable what a crash left. A release that does not know that would believe
/// what is there.
const SETTLING: u64 = 2;

/// The most extents that fit an image: 256 GiB of them.
pub(crate) const EXTENTS_MAX: usize = 65_536;
/// Room of one image, a power of two above header, generation, mark and extents.
const IMAGE_BYTES: u64 = 1 << 20;

const _: () = assert!(EXTENTS_MAX as u64 * 8 + 64 < IMAGE_BYTES);

/// A start that is not known to have come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settling {
    /// It is at its end when the checkpoint's log begins behind this record.
    From(u64),
    /// It was not, when the next one began; until the owner has recorded what follows from that.
    Failed,
}

/// What an image says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) generation: u64,
    pub(crate) clean: bool,
    /// The volume has, or had, snapshots.
    pub(crate) snapshots: bool,
    pub(crate) settling: Option<Settling>,
    pub(crate) active: Vec<ActivityExtent>,
}

/// The file with both images. Shared with the thread that writes it: the set is put together
/// under the lock, so a later image never lacks what an earlier one had to have.
#[derive(Debug)]
pub(crate) struct ActivityFile {
    file: Arc<dyn File>,
    generation: u64,
    snapshots: bool,
    settling: Option<Settling>,
    /// What the owner of the volume recorded.
    given: Vec<ActivityExtent>,
    /// What the store had to record by itself.
    own: BTreeSet<ActivityExtent>,
}

// === impl Image ===

impl Image {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(16 + self.active.len() * 8);
        body.extend_from_slice(&self.generation.to_le_bytes());
        body.extend_from_slice(&u32::from(self.clean).to_le_bytes());
        let count = u32::try_from(self.active.len()).expect("at most EXTENTS_MAX");
        body.extend_from_slice(&count.to_le_bytes());
        for extent in &self.active {
            body.extend_from_slice(&extent.index().to_le_bytes());
        }
        let mut features = if self.snapshots { SNAPSHOTS } else { 0 };
        if let Some(settling) = self.settling {
            features |= SETTLING;
            body.extend_from_slice(&settling.encode().to_le_bytes());
        }
        FORMAT.seal_with(features, &body)
    }

    pub(crate) fn decode(data: &[u8]) -> Result<Self, StoreError> {
        let (features, mut reader) = FORMAT.open_with(SNAPSHOTS | SETTLING, data)?;
        let snapshots = features & SNAPSHOTS != 0;
        let generation = reader.u64()?;
        let clean = reader.u32()? != 0;
        let mut active = Vec::new();
        for _ in 0..reader.u32()? {
            active.push(ActivityExtent::new(reader.u64()?));
        }
        let settling = if features & SETTLING == 0 { None } else { Some(reader.u64()?) };
        let settling = settling.map(Settling::decode);
        Ok(Self { generation, clean, snapshots, settling, active })
    }
}

// === impl Settling ===

impl Settling {
    fn encode(self) -> u64 {
        match self {
            Self::From(base) => base,
            Self::Failed => u64::MAX,
        }
    }

    fn decode(value: u64) -> Self {
        if value == u64::MAX { Self::Failed } else { Self::From(value) }
    }
}

// === impl ActivityFile ===

impl ActivityFile {
    /// Writes the first image of a new volume.
    pub(crate) fn create(file: Arc<dyn File>) -> Result<Self, StoreError> {
        let (given, own) = (Vec::new(), BTreeSet::new());
        let (snapshots, settling) = (false, None);
        let mut activity = Self { file, generation: 0, snapshots, settling, given, own };
        activity.write(true)?;
        Ok(activity)
    }

    /// Reads the newer image that is whole.
    pub(crate) fn open(file: Arc<dyn File>) -> Result<(Self, Image), StoreError> {
        file.forget_clean().map_err(StoreError::io("read activity record"))?;
        let mut best: Option<Image> = None;
        let mut error = None;
        for place in 0..2 {
            let size = usize::try_from(IMAGE_BYTES).expect("an image fits memory");
            let mut data = vec![0; size];
            let read = file
                .read_at(&mut data, place * IMAGE_BYTES)
                .map_err(StoreError::io("read activity record"))?;
            match Image::decode(&data[..read]) {
                Ok(image) => {
                    if best.as_ref().is_none_or(|b| b.generation < image.generation) {
                        best = Some(image);
                    }
                }
                // One of a newer format counts; a torn one is what the other place is for.
                Err(e @ (StoreError::Version { .. } | StoreError::Features { .. })) => {
                    return Err(e);
                }
                Err(e) => error = Some(e),
            }
        }
        let none = StoreError::Damaged { what: FORMAT.what, why: "it has no image" };
        let image = best.ok_or(error.unwrap_or(none))?;
        // What a crash left active stays recorded until a checkpoint has settled it.
        let own = image.active.iter().copied().collect();
        let Image { generation, snapshots, settling, .. } = image;
        Ok((Self { file, generation, snapshots, settling, given: Vec::new(), own }, image))
    }

    /// Records the owner's set.
    pub(crate) fn give(&mut self, given: Vec<ActivityExtent>) -> Result<(), StoreError> {
        self.given = given;
        self.settling = None;
        self.write(false)
    }

    /// Records extents by the store itself.
    pub(crate) fn add(
        &mut self,
        extents: impl IntoIterator<Item = ActivityExtent>,
    ) -> Result<(), StoreError> {
        self.own.extend(extents);
        self.write(false)
    }

    /// Shuts out releases that do not know snapshots, once, before the first record of one.
    pub(crate) fn allow_snapshots(&mut self) -> Result<(), StoreError> {
        if self.snapshots {
            return Ok(());
        }
        self.snapshots = true;
        self.write(false).inspect_err(|_| self.snapshots = false)
    }

    /// Forgets extents of its own that `keep` does not want; the next image lacks them.
    pub(crate) fn retain_own(&mut self, keep: impl FnMut(&ActivityExtent) -> bool) {
        self.own.retain(keep);
    }

    pub(crate) fn own(&self) -> &BTreeSet<ActivityExtent> {
        &self.own
    }

    pub(crate) fn given(&self) -> &[ActivityExtent] {
        &self.given
    }

    /// Says, before anything that a crash left is synced, that this is under way. An image without
    /// it follows with the next activity, or with a clean close.
    pub(crate) fn begin_settling(&mut self, settling: Settling) -> Result<(), StoreError> {
        self.settling = Some(settling);
        self.write(false)
    }

    /// It came to its end: the next image need not say it.
    pub(crate) fn end_settling(&mut self) {
        if self.settling != Some(Settling::Failed) {
            self.settling = None;
        }
    }

    /// Records what there is to record once more.
    pub(crate) fn record(&mut self) -> Result<(), StoreError> {
        self.write(false)
    }

    /// Marks the volume as cleanly closed.
    pub(crate) fn mark_clean(&mut self) -> Result<(), StoreError> {
        self.given.clear();
        self.own.clear();
        self.settling = None;
        self.write(true)
    }

    fn write(&mut self, clean: bool) -> Result<(), StoreError> {
        let mut active = self.own.clone();
        active.extend(self.given.iter().copied());
        if active.len() > EXTENTS_MAX {
            let full = std::io::ErrorKind::QuotaExceeded.into();
            return Err(StoreError::Io { doing: "record more activity than fits", source: full });
        }
        let generation = self.generation + 1;
        let active = active.into_iter().collect();
        let (snapshots, settling) = (self.snapshots, self.settling);
        let image = Image { generation, clean, snapshots, settling, active };
        let data = image.encode();
        let place = generation % 2 * IMAGE_BYTES;
        self.file
            .write_at(&mut [IoSlice::new(&data)], place)
            .and_then(|()| self.file.sync())
            .map_err(StoreError::io("write activity record"))?;
        self.generation = generation;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: &str = "5453414354495600010000002000000000000000000000000300000000000000000000000200000002000000000000004d00000000000000f8210c94";

    #[test]
    fn reads_the_bytes_of_version_1() {
        let active = vec![ActivityExtent::new(2), ActivityExtent::new(77)];
        let image = Image { generation: 3, active, ..Image::default() };
        assert_eq!(crate::hex(&image.encode()), BYTES);
        assert_eq!(Image::decode(&crate::unhex(BYTES)).unwrap(), image);
    }

    const BYTES_SNAPSHOTS: &str = "54534143544956000100000018000000010000000000000004000000000000000000000001000000020000000000000097896187";

    #[test]
    fn reads_the_bytes_of_a_volume_with_snapshots() {
        let active = vec![ActivityExtent::new(2)];
        let image = Image { generation: 4, snapshots: true, active, ..Image::default() };
        assert_eq!(crate::hex(&image.encode()), BYTES_SNAPSHOTS);
        assert_eq!(Image::decode(&crate::unhex(BYTES_SNAPSHOTS)).unwrap(), image);
        // A release that does not know them opens it so.
        let opened = FORMAT.open(&image.encode()).map(drop);
        assert!(matches!(opened, Err(StoreError::Features { features: 1, .. })));
    }

    const BYTES_SETTLING: &str = "5453414354495600010000002000000002000000000000000500000000000000000000000100000002000000000000004d00000000000000228772fe";

    #[test]
    fn reads_the_bytes_of_a_start_that_did_not_come_to_its_end() {
        let active = vec![ActivityExtent::new(2)];
        let settling = Some(Settling::From(77));
        let image = Image { generation: 5, settling, active, ..Image::default() };
        assert_eq!(crate::hex(&image.encode()), BYTES_SETTLING);
        assert_eq!(Image::decode(&crate::unhex(BYTES_SETTLING)).unwrap(), image);
        let failed = Image { settling: Some(Settling::Failed), ..image };
        assert_eq!(Image::decode(&failed.encode()).unwrap(), failed);
        let opened = FORMAT.open_with(SNAPSHOTS, &failed.encode()).map(drop);
        assert!(matches!(opened, Err(StoreError::Features { features: 2, .. })));
    }
}
