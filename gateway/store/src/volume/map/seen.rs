//! What is seen through the layers of a map.
//!
//! A few layers are asked one after another. Where there are many, [`Newest`] says which of those that
//! lie under the head has a block, so that a read asks the head and the layers that it finds something
//! in, whatever the number of snapshots. A snapshot shares what was not changed since with the head;
//! of what was, one that is read has a [`Newest`] of its own.

use std::sync::Arc;

use block::IoError;
use smallvec::SmallVec;

use super::newest::{Newest, Row, blocks_where, no_rows, raise};
use super::{Map, PageKey, Source, page_of, place_of};
use crate::volume::layers::Layer;
use crate::volume::page::{CHUNKS, Entry, Page};

/// Layers that are asked one after another: so few are asked in less time than it takes to learn
/// what they have.
const ASKED_MAX: usize = 8;
/// Snapshots of which something is known for themselves; together they take as much as the head.
const VIEWS_MAX: usize = 16;
/// The head's place among what is known.
pub(super) const HEAD: usize = 0;

// === impl Map ===

impl Map {
    /// Where the blocks in `wanted` of a chunk come from; what no source names reads as zeroes.
    pub(crate) fn sources(
        &mut self,
        chunk: u64,
        wanted: u16,
    ) -> Result<SmallVec<[(Source, Entry); 1]>, IoError> {
        let (mut out, top) = (SmallVec::new(), self.top);
        self.look(Some(top), chunk, wanted, |layer, mask, entry| {
            let mask = mask & entry.valid;
            if mask != 0 {
                out.push((Source { layer, mask, slot: entry.slot }, *entry));
            }
        })?;
        Ok(out)
    }

    /// Which of the blocks in `wanted` no layer has or hides, so that the origin must be asked.
    pub(crate) fn reaching(&mut self, chunk: u64, wanted: u16) -> Result<u16, IoError> {
        let (rest, top) = (wanted & self.beneath_mask(chunk), self.top);
        self.look(Some(top), chunk, rest, |_, _, _| {})
    }

    /// Which blocks of a chunk hold data, over all layers that are read.
    pub(crate) fn visible(&mut self, chunk: u64) -> Result<u16, IoError> {
        self.visible_through(Some(self.top), chunk)
    }

    /// Which blocks of a chunk may hold data below the layers that are written to.
    pub(crate) fn below(&mut self, chunk: u64) -> Result<u16, IoError> {
        let seen = self.visible_through(self.under_tops(), chunk)?;
        Ok(seen | self.beneath_mask(chunk))
    }

    /// Which blocks of a chunk hold data, through a layer and those that it lies on.
    pub(crate) fn visible_through(&mut self, top: Option<u32>, chunk: u64) -> Result<u16, IoError> {
        let mut seen = 0;
        self.look(top, chunk, u16::MAX, |_, mask, entry| seen |= mask & entry.valid)?;
        Ok(seen)
    }

    /// Which blocks some of these layers hold or hide, for each chunk of a page.
    pub(crate) fn touched(&self, layers: &[u32], page: u32) -> Result<[u16; CHUNKS], IoError> {
        let mut out = [0; CHUNKS];
        for layer in layers {
            let Some(page) = self.glance(PageKey::new(*layer, page))? else { continue };
            for (place, entry) in page.used() {
                out[usize::from(place)] |= entry.touched();
            }
        }
        Ok(out)
    }

    /// The first page from `page` on of which some layer that is read, or the origin, may have
    /// anything.
    pub(crate) fn next_page(&self, page: u32) -> Option<u32> {
        let beneath = self.beneath.as_ref().and_then(|beneath| beneath.next_page(page));
        let layers = self.layers.down(self.top);
        layers.filter_map(|l| l.present.range(page..).next()).chain(beneath).min()
    }

    /// The first page from `page` on that is not empty in one of these layers.
    pub(crate) fn next_page_of(&self, layers: &[u32], page: u32) -> Option<u32> {
        let layers = layers.iter().filter_map(|id| self.layers.get(*id));
        layers.filter_map(|l| l.present.range(page..).next()).min()
    }

    /// Whether a layer below those that are written to, or the origin, may have anything in a page.
    pub(crate) fn page_below(&self, page: u32) -> bool {
        let origin = self.beneath.as_ref().is_some_and(|b| b.unfilled.contains(page));
        let mut below = self.under_tops().into_iter().flat_map(|id| self.layers.down(id));
        origin || below.any(|l| l.present.contains(page))
    }

    /// The layer that lies below those that are written to.
    fn under_tops(&self) -> Option<u32> {
        self.parent(self.through.unwrap_or(self.layers.head))
    }

    fn parent(&self, layer: u32) -> Option<u32> {
        self.layers.get(layer).and_then(|layer| layer.parent)
    }

    /// Looks for the blocks in `wanted` of a chunk, through the layer `top` and those that it lies on:
    /// shows each layer that has or hides some of them, with those. Returns the blocks that no layer
    /// has or hides.
    fn look(
        &mut self,
        top: Option<u32>,
        chunk: u64,
        wanted: u16,
        mut show: impl FnMut(u32, u16, &Entry),
    ) -> Result<u16, IoError> {
        let (mut rest, mut nowhere, mut next) = (wanted, 0, top);
        let mut may_know = self.layers.all().len() > ASKED_MAX;
        while rest != 0
            && let Some(layer) = next
        {
            if may_know && layer != self.layers.head {
                may_know = false;
                (rest, nowhere) = self.look_known(layer, chunk, rest, &mut show)?;
                continue;
            }
            self.asked += 1;
            let entry = self.entry(layer, chunk)?;
            let mask = rest & entry.touched();
            if mask != 0 {
                show(layer, mask, &entry);
                rest &= !mask;
            }
            next = self.parent(layer);
        }
        Ok(rest | nowhere)
    }

    /// Looks for blocks through a layer where something is known of it. Returns those that must be
    /// looked for in the layer and below it, one after another, and those that no layer has or hides.
    fn look_known(
        &mut self,
        top: u32,
        chunk: u64,
        wanted: u16,
        mut show: impl FnMut(u32, u16, &Entry),
    ) -> Result<(u16, u16), IoError> {
        let (mut rest, mut nowhere) = (wanted, 0);
        if let Some(row) = self.row(HEAD, top, chunk)? {
            // What was changed since this layer was sealed.
            let over = rest & blocks_where(&row, |newest| newest > top);
            nowhere = self.look_up(&row, chunk, rest & !over, &mut show)?;
            rest = over;
        }
        if rest != 0
            && top == self.top
            && let Some(view) = self.view(top)
            && let Some(row) = self.row(view, top, chunk)?
        {
            nowhere |= self.look_up(&row, chunk, rest, show)?;
            rest = 0;
        }
        Ok((rest, nowhere))
    }

    /// The place of what is known of a snapshot that is read; `None` while others are read more.
    fn view(&mut self, root: u32) -> Option<usize> {
        let known = self.newest.iter().position(|known| known.root == Some(root));
        if let Some(place) = known {
            self.newest[place].is_recent = true;
            return known;
        }
        if self.newest.len() > VIEWS_MAX {
            let idle = |known: &Newest| known.root.is_some() && !known.is_recent;
            let Some(place) = self.newest.iter().position(idle) else {
                self.newest.iter_mut().for_each(|known| known.is_recent = false);
                return None;
            };
            self.newest.remove(place);
        }
        self.newest.push(Newest::new(Some(root), self.pages_max / 4 / VIEWS_MAX));
        Some(self.newest.len() - 1)
    }

    /// Shows the layers that a row names for these blocks. Returns the blocks of which it names none.
    fn look_up(
        &mut self,
        row: &Row,
        chunk: u64,
        blocks: u16,
        mut show: impl FnMut(u32, u16, &Entry),
    ) -> Result<u16, IoError> {
        let mut rest = blocks & blocks_where(row, |newest| newest != 0);
        let nowhere = blocks & !rest;
        while rest != 0 {
            let layer = row[usize::try_from(rest.trailing_zeros()).unwrap_or(0)];
            let mask = rest & blocks_where(row, |newest| newest == layer);
            self.asked += 1;
            let entry = self.entry(layer, chunk)?;
            debug_assert!(mask & !entry.touched() == 0, "layer {layer}, chunk {chunk}");
            show(layer, mask, &entry);
            rest &= !mask;
        }
        Ok(nowhere)
    }

    /// The newest layers of a chunk's blocks among those that a root is read through, but for the head
    /// itself, if `top` is one of them.
    fn row(&mut self, known: usize, top: u32, chunk: u64) -> Result<Option<Row>, IoError> {
        let under = self.newest[known].root.or_else(|| self.parent(self.layers.head));
        let Some(under) = under.filter(|_| self.is_under(known, top)) else { return Ok(None) };
        let page = page_of(chunk);
        if !self.newest[known].knows(page, under) {
            self.learn(known, page, under)?;
        }
        Ok(self.newest[known].row(page, place_of(chunk), under))
    }

    /// Whether a root is read through a layer.
    fn is_under(&mut self, known: usize, layer: u32) -> bool {
        let root = self.newest[known].root.unwrap_or(self.layers.head);
        if layer == root || self.parent(root) == Some(layer) {
            return true;
        }
        if let Some(is) = self.newest[known].is_under(layer) {
            return is;
        }
        // Numbers fall on the way down.
        let way = self.layers.down(root).map(|l| l.id);
        let is = way.take_while(|id| *id >= layer).last() == Some(layer);
        self.newest[known].set_under(layer, is);
        is
    }

    /// Takes into account what the layers from `under` down have of a page, as far as it is not yet.
    /// No page leaves memory for it.
    fn learn(&mut self, known: usize, page: u32, under: u32) -> Result<(), IoError> {
        let (upto, mut rows) = self.newest[known].take(page);
        let mut asked = 0;
        for layer in self.layers.down(under).take_while(|layer| layer.id > upto) {
            asked += 1;
            let Some(found) = self.page_in(layer, page)? else { continue };
            let rows = rows.get_or_insert_with(no_rows);
            for (place, entry) in found.used() {
                raise(&mut rows[usize::from(place)], layer.id, entry.touched());
            }
        }
        self.asked += asked;
        self.newest[known].put(page, under, rows);
        Ok(())
    }

    fn page_in(&self, layer: &Layer, page: u32) -> Result<Option<Arc<Page>>, IoError> {
        if !layer.present.contains(page) {
            return Ok(None);
        }
        self.glance(PageKey::new(layer.id, page))
    }

    /// A layer has or hides other blocks of a chunk than before: so it is known from now on, or the
    /// page is forgotten.
    pub(super) fn touch(&mut self, layer: u32, chunk: u64, (before, after): (u16, u16)) {
        if before == after {
            return;
        }
        for known in 0..self.newest.len() {
            let is_above = self.newest[known].root.is_some_and(|root| layer > root);
            if !is_above && self.newest[known].knows(page_of(chunk), layer) {
                self.touch_known(known, layer, chunk, (after & !before, before & !after));
            }
        }
    }

    fn touch_known(&mut self, known: usize, layer: u32, chunk: u64, (gained, lost): (u16, u16)) {
        let (page, place) = (page_of(chunk), place_of(chunk));
        // A layer beside those of the root is none of a row's.
        if gained != 0
            && self.is_under(known, layer)
            && let Some(row) = self.newest[known].row_mut(page, place)
        {
            raise(row, layer, gained);
        }
        let Some(row) = self.newest[known].row(page, place, layer) else { return };
        let bared = lost & blocks_where(&row, |newest| newest == layer);
        if bared == 0 {
            return;
        }
        let parent = self.parent(layer);
        let below = parent.map_or(0, |parent| self.touched_in_memory(parent, chunk));
        if parent.is_some() && bared & !below != 0 {
            // It may lie deeper.
            return self.newest[known].forget(page);
        }
        if let Some(row) = self.newest[known].row_mut(page, place) {
            for (block, newest) in row.iter_mut().enumerate() {
                if bared & (1 << block) != 0 {
                    *newest = parent.unwrap_or(0);
                }
            }
        }
    }

    /// Which blocks of a chunk a layer has or hides, as far as its page is in memory.
    fn touched_in_memory(&self, layer: u32, chunk: u64) -> u16 {
        let cached = self.pages.get(&PageKey::new(layer, page_of(chunk)));
        cached.map_or(0, |cached| cached.page.get(place_of(chunk)).touched())
    }

    #[cfg(test)]
    pub(crate) fn asked(&self) -> u64 {
        self.asked
    }
}

#[cfg(test)]
mod tests {
    use block::SnapshotId;
    use redb::Database;
    use redb::backends::InMemoryBackend;

    use super::*;
    use crate::volume::fold;
    use crate::volume::layers::{Duty, Layers};
    use crate::volume::page::NO_SLOT;
    use crate::volume::record::Record;

    fn map() -> Map {
        let backend = InMemoryBackend::new();
        let database = Database::builder().create_with_backend(backend).unwrap();
        Map::new(Arc::new(database), Layers::new(), 0, 1024)
    }

    fn entry(slot: u64, valid: u16, zero: u16) -> Entry {
        let slot = if valid == 0 { NO_SLOT } else { slot };
        Entry { slot, valid, zero, ..Entry::EMPTY }
    }

    fn change(map: &mut Map, record: &Record) {
        assert!(map.layers().takes(record));
        map.relayer(|layers| layers.apply(record, 1 << 40));
    }

    fn snapshot(map: &mut Map) -> u32 {
        let layer = map.layers().next_id().unwrap();
        change(map, &Record::Snapshot { layer, id: SnapshotId::of(layer.into()) });
        layer
    }

    /// How many layers were asked, and what was found in which.
    fn cost(map: &mut Map, top: u32, chunk: u64) -> (u64, Vec<(u32, u16)>) {
        let (asked, before) = (map.asked(), map.read_through(top));
        let found = map.sources(chunk, u16::MAX).unwrap();
        map.read_through(before);
        let mut masks: Vec<(u32, u16)> = Vec::new();
        for (source, _) in &found {
            match masks.iter_mut().find(|(layer, _)| *layer == source.layer) {
                Some((_, mask)) => *mask |= source.mask,
                None => masks.push((source.layer, source.mask)),
            }
        }
        masks.sort_unstable();
        masks.reverse();
        (map.asked() - asked, masks)
    }

    /// Each layer was asked for what none has, and for what the lowest has.
    #[test]
    fn a_hole_and_an_old_block_cost_no_more_under_a_thousand_snapshots_than_under_few() {
        let mut map = map();
        map.set(1, 7, entry(70, 0b0011, 0)).unwrap();
        let mut head = 1;
        for number in 1..=1000 {
            head = snapshot(&mut map);
            map.set(head, 100 + number % 100, entry(1000 + number, 1, 0)).unwrap();
        }
        // The first of a page learns what all have of it; in one of which none has anything, too.
        let nowhere = 5 * 256;
        for chunk in [9, nowhere] {
            assert_eq!(cost(&mut map, head, chunk), (1001, vec![]));
            assert_eq!(cost(&mut map, head, chunk), (1, vec![]));
        }
        assert_eq!(cost(&mut map, head, 7), (2, vec![(1, 0b0011)]));
        assert_eq!(cost(&mut map, head, 101), (2, vec![(902, 1)]));
        // A new snapshot costs one page one more, once.
        head = snapshot(&mut map);
        assert_eq!(cost(&mut map, head, 7).0, 3);
        assert_eq!(cost(&mut map, head, 9), (1, vec![]));
        map.set(head, 7, entry(0, 0, 0b0001)).unwrap();
        assert_eq!(cost(&mut map, head, 7), (2, vec![(1, 0b0010)]));
        // A snapshot in the middle shares what it has in common with the head.
        assert_eq!(cost(&mut map, 500, 9), (0, vec![]));
        assert_eq!(cost(&mut map, 500, 7), (1, vec![(1, 0b0011)]));
        // Of what was changed since, it learns for itself, once for each page.
        assert_eq!(cost(&mut map, 500, 101), (501, vec![(402, 1)]));
        assert_eq!(cost(&mut map, 500, 101), (1, vec![(402, 1)]));
        assert_eq!(cost(&mut map, 500, 155), (1, vec![(456, 1)]));
        // What is below does not matter to a fold of what hides nothing, nor to a trim.
        let asked = map.asked();
        assert_eq!(fold::plan(&mut map, (502, 501), 7).unwrap().entry, Entry::EMPTY);
        assert_eq!(map.asked(), asked);
        assert_eq!(map.below(7).unwrap(), 0b0011);
        assert_eq!(map.asked(), asked + 1);
    }

    /// A start after a crash looked for each chunk of each recorded extent in each layer, and letting
    /// go of a recorded extent looked for its page in each.
    #[test]
    fn what_a_crash_left_is_looked_for_where_there_is_something() {
        let mut map = map();
        let known = Entry { summed: 1, ..entry(70, 1, 0) };
        map.set(1, 7, known).unwrap();
        map.begin_checkpoint();
        map.end_checkpoint();
        for _ in 0..1000 {
            snapshot(&mut map);
        }
        let head = map.layers().head;
        map.set(head, 40, known).unwrap();
        map.set(head, 70, known).unwrap();
        assert_eq!(map.unsaved_pages().iter().collect::<Vec<_>>(), [0]);
        map.set(5, 300, known).unwrap();
        map.begin_checkpoint();
        map.set(6, 600, known).unwrap();
        assert_eq!(map.unsaved_pages().iter().collect::<Vec<_>>(), [0, 1, 2]);
        let asked = map.asked();
        map.distrust_all(0..64).unwrap();
        map.distrust_all(1024..1088).unwrap();
        assert_eq!(map.asked() - asked, 2);
        let summed = [(1, 7), (head, 40), (head, 70), (5, 300)]
            .map(|(layer, chunk)| map.entry(layer, chunk).unwrap().summed);
        assert_eq!(summed, [0, 0, 1, 1]);
    }

    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % sides
        }

        fn mask(&mut self) -> u16 {
            u16::try_from(self.roll(1 << 16) & self.roll(1 << 16)).unwrap()
        }

        fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
            all[usize::try_from(self.roll(all.len() as u64)).unwrap()]
        }
    }

    const USED: [u64; 4] = [0, 1, 255, 256];

    fn walk(map: &mut Map, top: u32, chunk: u64) -> Vec<(u32, u16)> {
        let (mut rest, mut found) = (u16::MAX, Vec::new());
        for layer in map.layers().chain(top) {
            let entry = map.entry(layer, chunk).unwrap();
            found.push((layer, rest & entry.valid));
            rest &= !entry.touched();
        }
        found.retain(|(_, mask)| *mask != 0);
        found
    }

    fn check(map: &mut Map, top: u32) {
        for chunk in USED {
            let (found, expected) = (cost(map, top, chunk).1, walk(map, top, chunk));
            assert_eq!(found, expected, "chunk {chunk}, layer {top}");
        }
    }

    fn write(map: &mut Map, dice: &mut Dice) {
        let (chunk, mask) = (dice.one_of(&USED), dice.mask() | 1);
        let top = map.top(chunk).unwrap();
        let before = map.entry(top, chunk).unwrap();
        let slot = if before.slot == NO_SLOT { dice.roll(1 << 40) } else { before.slot };
        map.set(top, chunk, entry(slot, before.valid | mask, before.zero & !mask)).unwrap();
    }

    fn trim(map: &mut Map, dice: &mut Dice) {
        let (chunk, mask) = (dice.one_of(&USED), dice.mask());
        let mut hide = map.below(chunk).unwrap() & mask;
        for layer in map.tops() {
            let mut entry = map.entry(layer, chunk).unwrap();
            entry.drop_blocks(mask, hide);
            map.set(layer, chunk, entry).unwrap();
            hide = 0;
        }
    }

    /// Works off what layers without a name leave, while hosts write.
    fn work_off(map: &mut Map, dice: &mut Dice) {
        while let Some(duty) = map.layers().duty(|_| false) {
            let gone = match duty {
                Duty::Drop(layer) => {
                    (0..2).for_each(|page| map.clear_page(PageKey::new(layer, page)).unwrap());
                    layer
                }
                Duty::Fold { from, into, down } => {
                    if down && from == map.layers().head {
                        map.write_through(into);
                    }
                    for chunk in USED {
                        let planned = fold::plan(map, (from, into), chunk).unwrap();
                        map.set(into, chunk, planned.entry).unwrap();
                        map.set(from, chunk, Entry::EMPTY).unwrap();
                        let head = map.layers().head;
                        check(map, head);
                        if from == head {
                            write(map, dice);
                            trim(map, dice);
                        }
                    }
                    from
                }
            };
            if map.layers().get(gone).is_some_and(|layer| !layer.present.is_empty()) {
                // What hosts wrote meanwhile is folded in another round.
                continue;
            }
            change(map, &Record::DropLayer { layer: gone });
        }
    }

    #[test]
    fn finds_what_a_walk_finds_whatever_became_of_the_layers() {
        for seed in 1..=12 {
            let (mut map, mut dice) = (map(), Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed)));
            for _ in 0..12 {
                write(&mut map, &mut dice);
                snapshot(&mut map);
            }
            for _ in 0..250 {
                let layers = map.layers();
                let named: Vec<_> = layers.names().iter().map(|(name, _)| name.id).collect();
                match dice.roll(12) {
                    0..=5 => write(&mut map, &mut dice),
                    6..=7 => trim(&mut map, &mut dice),
                    8..=9 => {
                        snapshot(&mut map);
                    }
                    10 if named.len() > 10 => {
                        change(&mut map, &Record::Unname { id: dice.one_of(&named) });
                        work_off(&mut map, &mut dice);
                    }
                    _ => {
                        let (layer, id) = (map.layers().next_id().unwrap(), dice.one_of(&named));
                        change(&mut map, &Record::RollBack { layer, id });
                        work_off(&mut map, &mut dice);
                    }
                }
                let all: Vec<u32> = map.layers().all().iter().map(|layer| layer.id).collect();
                let head = map.layers().head;
                check(&mut map, dice.one_of(&all));
                check(&mut map, head);
            }
        }
    }
}
