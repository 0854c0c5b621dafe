//! What a checkpoint keeps of a volume beside its map pages.
//!
//! Invariant: the state and the pages are written in one transaction of the database; the log
//! named here holds exactly what happened after it.

use block::SnapshotId;
use roaring::{RoaringBitmap, RoaringTreemap};

use crate::codec::{Format, Reader, put_counted};
use crate::error::StoreError;

use super::beneath::Beneath;
use super::layers::{Layer, Layers, Name};

const FORMAT: Format = Format { what: "volume state", magic: *b"TSVOLST\0", version: 1 };

/// Layers with names, parents of their own, or holes in their numbers. A state without them is
/// written as every release can read it.
const SNAPSHOTS: u64 = 1;
/// An origin lies below the lowest layer. A release that does not know that would show zeroes there.
const ORIGIN: u64 = 2;

/// The state of a volume at a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub(crate) bytes: u64,
    /// The log to replay.
    pub(crate) log: u64,
    /// The number of that log's header.
    pub(crate) base: u64,
    /// The first slot that was never used.
    pub(crate) next_slot: u64,
    /// Blocks that are mapped, in all layers.
    pub(crate) mapped: u64,
    pub(crate) layers: Layers,
    /// Slots below `next_slot` that hold nothing.
    pub(crate) free: RoaringTreemap,
    /// Those of them whose room was perhaps not given back yet.
    pub(crate) unpunched: RoaringTreemap,
    /// What the volume is filled from.
    pub(crate) beneath: Option<Beneath>,
}

// === impl State ===

impl State {
    /// A volume that was never written.
    pub(crate) fn new(bytes: u64) -> Self {
        Self {
            bytes,
            log: 1,
            base: 0,
            next_slot: 0,
            mapped: 0,
            layers: Layers::new(),
            free: RoaringTreemap::new(),
            unpunched: RoaringTreemap::new(),
            beneath: None,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for field in [self.bytes, self.log, self.base, self.next_slot, self.mapped] {
            body.extend_from_slice(&field.to_le_bytes());
        }
        let layers = self.layers.all();
        let plain = matches!(layers, [only] if only.id == self.layers.newest);
        let count = u32::try_from(layers.len()).expect("layers are few");
        body.extend_from_slice(&count.to_le_bytes());
        for layer in layers {
            body.extend_from_slice(&layer.id.to_le_bytes());
            if !plain {
                encode_place(layer, &mut body);
            }
            let mut bytes = Vec::new();
            let mut present = layer.present.clone();
            present.optimize();
            present.serialize_into(&mut bytes).expect("memory takes every write");
            put_counted(&mut body, &bytes);
        }
        if !plain {
            body.extend_from_slice(&self.layers.head.to_le_bytes());
            body.extend_from_slice(&self.layers.newest.to_le_bytes());
        }
        for set in [&self.free, &self.unpunched] {
            let mut bytes = Vec::new();
            let mut set = set.clone();
            set.optimize();
            set.serialize_into(&mut bytes).expect("memory takes every write");
            put_counted(&mut body, &bytes);
        }
        let mut features = if plain { 0 } else { SNAPSHOTS };
        if let Some(beneath) = &self.beneath {
            features |= ORIGIN;
            body.extend_from_slice(&beneath.bytes.to_le_bytes());
            let mut bytes = Vec::new();
            let mut unfilled = beneath.unfilled.clone();
            unfilled.optimize();
            unfilled.serialize_into(&mut bytes).expect("memory takes every write");
            put_counted(&mut body, &bytes);
        }
        FORMAT.seal_with(features, &body)
    }

    pub(crate) fn decode(data: &[u8]) -> Result<Self, StoreError> {
        let (features, mut reader) = FORMAT.open_with(SNAPSHOTS | ORIGIN, data)?;
        let [bytes, log, base, next_slot, mapped] =
            [reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?];
        let layers = decode_layers(features, &mut reader)?;
        let mut sets = [RoaringTreemap::new(), RoaringTreemap::new()];
        for set in &mut sets {
            let bytes = reader.counted()?;
            *set = RoaringTreemap::deserialize_from(bytes)
                .map_err(|_error| reader.damaged("the set of slots does not parse"))?;
        }
        let [free, unpunched] = sets;
        let mut beneath = None;
        if features & ORIGIN != 0 {
            let bytes = reader.u64()?;
            let unfilled = RoaringBitmap::deserialize_from(reader.counted()?)
                .map_err(|_error| reader.damaged("the set of unfilled pages does not parse"))?;
            beneath = Some(Beneath::of(bytes, unfilled));
        }
        Ok(Self { bytes, log, base, next_slot, mapped, layers, free, unpunched, beneath })
    }
}

/// Where a layer lies and what it is called.
fn encode_place(layer: &Layer, out: &mut Vec<u8>) {
    // No layer has number 0.
    out.extend_from_slice(&layer.parent.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&u32::from(layer.name.is_some()).to_le_bytes());
    if let Some(name) = layer.name {
        out.extend_from_slice(&name.id.uuid().as_u128().to_le_bytes());
        out.extend_from_slice(&name.bytes.to_le_bytes());
        out.extend_from_slice(&name.age.to_le_bytes());
    }
}

fn decode_layers(features: u64, reader: &mut Reader<'_>) -> Result<Layers, StoreError> {
    let mut layers: Vec<Layer> = Vec::new();
    for _ in 0..reader.u32()? {
        let mut layer = Layer::new(reader.u32()?, None);
        if features & SNAPSHOTS != 0 {
            layer.parent = Some(reader.u32()?).filter(|id| *id != 0);
            if reader.u32()? != 0 {
                let id = SnapshotId::of(u128::from_le_bytes(reader.array()?));
                layer.name = Some(Name { id, bytes: reader.u64()?, age: reader.u32()? });
            }
        } else if let Some(above) = layers.last_mut() {
            // Newest first.
            above.parent = Some(layer.id);
        }
        layer.present = RoaringBitmap::deserialize_from(reader.counted()?)
            .map_err(|_error| reader.damaged("the set of pages does not parse"))?;
        layers.push(layer);
    }
    let first = layers.first().map_or(0, |l| l.id);
    let (head, newest) = if features & SNAPSHOTS == 0 {
        (first, layers.iter().map(|l| l.id).max().unwrap_or(0))
    } else {
        (reader.u32()?, reader.u32()?)
    };
    Layers::of(layers, head, newest).ok_or_else(|| reader.damaged("its layers are no tree"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::record::Record;

    const BYTES: &str = "5453564f4c53540001000000740000000000000000000000000000000001000001000000000000000000000000000000090000000000000011000000000000000100000001000000120000003a30000001000000000000001000000003001e0000000100000000000000000000003a300000010000000000000010000000040008000000000000000000000029673bf1";

    fn sample() -> State {
        let mut state = State::new(1 << 40);
        state.next_slot = 9;
        state.mapped = 17;
        state.layers.get_mut(1).unwrap().present.insert(3);
        state.free.insert(4);
        state
    }

    #[test]
    fn reads_the_bytes_of_version_1() {
        assert_eq!(crate::hex(&sample().encode()), BYTES);
        assert_eq!(State::decode(&crate::unhex(BYTES)).unwrap(), sample());
    }

    const BYTES_SNAPSHOTS: &str = "5453564f4c53540001000000260100000100000000000000000000000001000001000000000000000000000000000000090000000000000011000000000000000500000001000000000000000100000001000000000000000000000000000000000000400000000002000000120000003a3000000100000000000000100000000300020000000100000000000000080000003a3000000000000003000000020000000100000003000000000000000000000000000000000000400000000004000000080000003a30000000000000040000000300000000000000080000003a30000000000000050000000100000000000000120000003a300000010000000000000010000000070005000000050000001e0000000100000000000000000000003a3000000100000000000000100000000400080000000000000000000000f67e5843";

    fn branched() -> State {
        let mut state = sample();
        let [first, second, third] = [1, 2, 3].map(SnapshotId::of);
        for (layer, id) in [(2, first), (3, second), (4, third)] {
            state.layers.apply(&Record::Snapshot { layer, id }, 1 << 30);
        }
        state.layers.apply(&Record::RollBack { layer: 5, id: first }, 1 << 40);
        state.layers.apply(&Record::Unname { id: second }, 1 << 40);
        state.layers.get_mut(5).unwrap().present.insert(7);
        state
    }

    #[test]
    fn reads_the_bytes_of_snapshots() {
        assert_eq!(crate::hex(&branched().encode()), BYTES_SNAPSHOTS);
        assert_eq!(State::decode(&crate::unhex(BYTES_SNAPSHOTS)).unwrap(), branched());
    }

    #[test]
    fn a_release_without_snapshots_refuses_them() {
        let bytes = branched().encode();
        assert!(matches!(FORMAT.open(&bytes), Err(StoreError::Features { features: 1, .. })));
    }

    const BYTES_ORIGIN: &str = "5453564f4c535400010000008f0000000200000000000000000000000001000001000000000000000000000000000000090000000000000011000000000000000100000001000000120000003a30000001000000000000001000000003001e0000000100000000000000000000003a300000010000000000000010000000040008000000000000000000000000000005000000000f0000003b3000000100000200010002000200f0ccd24d";

    fn filling() -> State {
        let mut state = sample();
        let mut unfilled = RoaringBitmap::new();
        unfilled.insert_range(2..5);
        state.beneath = Some(Beneath::of(80 << 20, unfilled));
        state
    }

    #[test]
    fn reads_the_bytes_of_one_that_is_filled_and_older_releases_refuse_it() {
        assert_eq!(crate::hex(&filling().encode()), BYTES_ORIGIN);
        assert_eq!(State::decode(&crate::unhex(BYTES_ORIGIN)).unwrap(), filling());
        let opened = FORMAT.open_with(SNAPSHOTS, &filling().encode()).map(drop);
        assert!(matches!(opened, Err(StoreError::Features { features: 2, .. })));
    }

    /// Layers of a release that could seal one and not yet name it: the newest first.
    #[test]
    fn reads_layers_without_names() {
        let mut old = sample();
        old.layers.apply(&Record::Seal { layer: 2 }, 0);
        let plain = sample().encode();
        let mut body = plain[24..plain.len() - 4].to_vec();
        // Two layers: the new one, which is empty, before the one that is there.
        body[40..44].copy_from_slice(&2u32.to_le_bytes());
        let mut empty = 2u32.to_le_bytes().to_vec();
        let mut set = Vec::new();
        RoaringBitmap::new().serialize_into(&mut set).unwrap();
        put_counted(&mut empty, &set);
        body.splice(44..44, empty);
        assert_eq!(State::decode(&FORMAT.seal(&body)).unwrap(), old);
    }

    #[test]
    fn refuses_what_is_cut_short() {
        let good = filling().encode();
        for len in 0..good.len() {
            assert!(State::decode(&good[..len]).is_err());
        }
        let good = branched().encode();
        for len in 0..good.len() {
            assert!(State::decode(&good[..len]).is_err());
        }
        let good = sample().encode();
        for len in 0..good.len() {
            assert!(State::decode(&good[..len]).is_err());
        }
    }
}
