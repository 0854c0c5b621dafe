//! What a checkpoint keeps of a volume beside its map pages.
//!
//! Invariant: the state and the pages are written in one transaction of the database; the log
//! named here holds exactly what happened after it.

use roaring::{RoaringBitmap, RoaringTreemap};

use crate::codec::{Format, put_counted};
use crate::error::StoreError;

const FORMAT: Format = Format { what: "volume state", magic: *b"TSVOLST\0", version: 1 };

/// One layer of the map.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layer {
    pub(crate) id: u32,
    /// The pages that are not empty.
    pub(crate) present: RoaringBitmap,
}

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
    /// Newest first, never empty.
    pub(crate) layers: Vec<Layer>,
    /// Slots below `next_slot` that hold nothing.
    pub(crate) free: RoaringTreemap,
    /// Those of them whose room was perhaps not given back yet.
    pub(crate) unpunched: RoaringTreemap,
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
            layers: vec![Layer { id: 1, present: RoaringBitmap::new() }],
            free: RoaringTreemap::new(),
            unpunched: RoaringTreemap::new(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for field in [self.bytes, self.log, self.base, self.next_slot, self.mapped] {
            body.extend_from_slice(&field.to_le_bytes());
        }
        let count = u32::try_from(self.layers.len()).expect("layers are few");
        body.extend_from_slice(&count.to_le_bytes());
        for layer in &self.layers {
            body.extend_from_slice(&layer.id.to_le_bytes());
            let mut bytes = Vec::new();
            let mut present = layer.present.clone();
            present.optimize();
            present.serialize_into(&mut bytes).expect("memory takes every write");
            put_counted(&mut body, &bytes);
        }
        for set in [&self.free, &self.unpunched] {
            let mut bytes = Vec::new();
            let mut set = set.clone();
            set.optimize();
            set.serialize_into(&mut bytes).expect("memory takes every write");
            put_counted(&mut body, &bytes);
        }
        FORMAT.seal(&body)
    }

    pub(crate) fn decode(data: &[u8]) -> Result<Self, StoreError> {
        let mut reader = FORMAT.open(data)?;
        let [bytes, log, base, next_slot, mapped] =
            [reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?];
        let mut layers = Vec::new();
        for _ in 0..reader.u32()? {
            let id = reader.u32()?;
            let set = reader.counted()?;
            let present = RoaringBitmap::deserialize_from(set)
                .map_err(|_error| reader.damaged("the set of pages does not parse"))?;
            layers.push(Layer { id, present });
        }
        if layers.is_empty() {
            return Err(reader.damaged("it has no layer"));
        }
        let mut sets = [RoaringTreemap::new(), RoaringTreemap::new()];
        for set in &mut sets {
            let bytes = reader.counted()?;
            *set = RoaringTreemap::deserialize_from(bytes)
                .map_err(|_error| reader.damaged("the set of slots does not parse"))?;
        }
        let [free, unpunched] = sets;
        Ok(Self { bytes, log, base, next_slot, mapped, layers, free, unpunched })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: &str = "5453564f4c53540001000000740000000000000000000000000000000001000001000000000000000000000000000000090000000000000011000000000000000100000001000000120000003a30000001000000000000001000000003001e0000000100000000000000000000003a300000010000000000000010000000040008000000000000000000000029673bf1";

    fn sample() -> State {
        let mut state = State::new(1 << 40);
        state.next_slot = 9;
        state.mapped = 17;
        state.layers[0].present.insert(3);
        state.free.insert(4);
        state
    }

    #[test]
    fn reads_the_bytes_of_version_1() {
        assert_eq!(crate::hex(&sample().encode()), BYTES);
        assert_eq!(State::decode(&crate::unhex(BYTES)).unwrap(), sample());
    }

    #[test]
    fn refuses_what_is_cut_short() {
        let good = sample().encode();
        for len in 0..good.len() {
            assert!(State::decode(&good[..len]).is_err());
        }
    }
}
