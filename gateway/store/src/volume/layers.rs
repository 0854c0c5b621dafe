//! The layers of a map as a tree: what is read through a layer is its own blocks, and where it has
//! none, those of the layers below it.
//!
//! ```text
//!   head ─▶ 5 "c" ─▶ 3 ─▶ 1 "a"      a snapshot is a layer with a name; only the head changes
//!           4 "b" ────┘              rolled back: the volume went on from 3, and "b" stays
//! ```
//!
//! Invariant: a layer lies on an older one, so numbers fall on the way down.
//! Every layer but the head is as it was when it was sealed, as far as a name or a
//! reader can see it. A layer without a name is there only until it was folded into a neighbour
//! or, while two others lie on it, for as long as they do.

use block::SnapshotId;
use roaring::RoaringBitmap;

use super::record::Record;

/// The name of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) id: SnapshotId,
    /// The volume's size at that moment.
    pub(crate) bytes: u64,
    /// Names in the order in which they were given.
    pub(crate) age: u32,
}

/// One layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layer {
    pub(crate) id: u32,
    /// The layer that it lies on.
    pub(crate) parent: Option<u32>,
    pub(crate) name: Option<Name>,
    /// The pages that are not empty.
    pub(crate) present: RoaringBitmap,
}

/// All layers of a volume.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layers {
    /// By id, never empty.
    all: Vec<Layer>,
    pub(crate) head: u32,
    /// The highest id that was ever given.
    pub(crate) newest: u32,
}

/// What is to be done about a layer that nobody can name any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Nothing lies on it: all of it goes.
    Drop(u32),
    /// One layer lies on it: what is left of one of them moves into the other.
    Fold {
        /// The layer that is emptied: the smaller one.
        from: u32,
        /// The layer that takes it up.
        into: u32,
        /// `from` lies on `into`.
        down: bool,
    },
}

// === impl Layer ===

impl Layer {
    pub(crate) fn new(id: u32, parent: Option<u32>) -> Self {
        Self { id, parent, name: None, present: RoaringBitmap::new() }
    }
}

// === impl Layers ===

impl Layers {
    /// One empty layer.
    pub(crate) fn new() -> Self {
        Self { all: vec![Layer::new(1, None)], head: 1, newest: 1 }
    }

    /// Layers as they were stored; `None` when they contradict themselves.
    pub(crate) fn of(mut all: Vec<Layer>, head: u32, newest: u32) -> Option<Self> {
        all.sort_unstable_by_key(|l| l.id);
        let unique = all.windows(2).all(|pair| pair[0].id < pair[1].id);
        let layers = Self { all, head, newest };
        let grounded = layers.all.iter().all(|l| layers.is_grounded(l));
        let fits = unique && grounded && layers.all.last().is_some_and(|l| l.id <= newest);
        (fits && layers.get(head).is_some_and(|l| l.name.is_none())).then_some(layers)
    }

    /// Whether what a layer lies on is there and older. So is what that lies on: the way down ends.
    fn is_grounded(&self, layer: &Layer) -> bool {
        layer.parent.is_none_or(|parent| parent < layer.id && self.get(parent).is_some())
    }

    pub(crate) fn all(&self) -> &[Layer] {
        &self.all
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Layer> {
        self.all.binary_search_by_key(&id, |l| l.id).ok().map(|index| &self.all[index])
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut Layer> {
        self.all.binary_search_by_key(&id, |l| l.id).ok().map(|index| &mut self.all[index])
    }

    /// The layers that are read through this one, from the top; their numbers fall.
    pub(crate) fn down(&self, id: u32) -> impl Iterator<Item = &Layer> {
        std::iter::successors(self.get(id), |layer| self.get(layer.parent?))
    }

    /// The same as numbers.
    pub(crate) fn chain(&self, id: u32) -> Vec<u32> {
        self.down(id).map(|layer| layer.id).collect()
    }

    /// The layer that every other one lies on.
    pub(crate) fn lowest(&self) -> u32 {
        self.all.iter().find(|l| l.parent.is_none()).map_or(self.head, |l| l.id)
    }

    /// The layers that lie directly on this one.
    pub(crate) fn lying_on(&self, id: u32) -> impl Iterator<Item = &Layer> {
        self.all.iter().filter(move |l| l.parent == Some(id))
    }

    /// The layer of a snapshot.
    pub(crate) fn named(&self, id: SnapshotId) -> Option<&Layer> {
        self.all.iter().find(|l| l.name.is_some_and(|n| n.id == id))
    }

    /// Every snapshot, oldest first.
    pub(crate) fn names(&self) -> Vec<(Name, u32)> {
        let mut names: Vec<_> = self.all.iter().filter_map(|l| l.name.map(|n| (n, l.id))).collect();
        names.sort_unstable_by_key(|(name, _)| name.age);
        names
    }

    /// How many snapshots there are.
    pub(crate) fn names_len(&self) -> usize {
        self.all.iter().filter(|layer| layer.name.is_some()).count()
    }

    /// The id that the next layer has; `None` when all were given, which no volume lives to see.
    pub(crate) fn next_id(&self) -> Option<u32> {
        self.newest.checked_add(1)
    }

    /// Whether a record of the tree can be applied.
    pub(crate) fn takes(&self, record: &Record) -> bool {
        match record {
            Record::Seal { layer } | Record::Snapshot { layer, .. } => *layer > self.newest,
            Record::RollBack { layer, id } => *layer > self.newest && self.named(*id).is_some(),
            Record::DropLayer { layer } => {
                let only = self.all.len() == 1;
                self.get(*layer).is_some_and(|l| l.present.is_empty() && !only)
            }
            _ => true,
        }
    }

    /// Applies a record of the tree; a volume has `bytes` bytes at that moment.
    pub(crate) fn apply(&mut self, record: &Record, bytes: u64) {
        match record {
            Record::Seal { layer } => self.push(*layer, Some(self.head)),
            Record::Snapshot { layer, id } => {
                let name = Some(Name { id: *id, bytes, age: *layer });
                let head = self.head;
                if let Some(layer) = self.get_mut(head) {
                    layer.name = name;
                }
                self.push(*layer, Some(head));
            }
            Record::Unname { id } => {
                for layer in self.all.iter_mut().filter(|l| l.name.is_some_and(|n| n.id == *id)) {
                    layer.name = None;
                }
            }
            // The old head stays behind, without a name.
            Record::RollBack { layer, id } => {
                let parent = self.named(*id).map(|l| l.id);
                self.push(*layer, parent);
            }
            Record::DropLayer { layer } => self.remove(*layer),
            _ => {}
        }
    }

    fn push(&mut self, id: u32, parent: Option<u32>) {
        debug_assert!(id > self.newest);
        self.all.push(Layer::new(id, parent));
        self.head = id;
        self.newest = id;
    }

    /// Takes an empty layer out. What lay on it lies on its parent now, and if it was the head or
    /// had a name, the parent is and has that.
    fn remove(&mut self, id: u32) {
        let Some(layer) = self.get(id) else { return };
        let (parent, name) = (layer.parent, layer.name);
        self.all.retain(|l| l.id != id);
        for layer in self.all.iter_mut().filter(|l| l.parent == Some(id)) {
            layer.parent = parent;
        }
        let Some(parent) = parent else { return };
        if self.head == id {
            self.head = parent;
        }
        if let (Some(name), Some(layer)) = (name, self.get_mut(parent)) {
            layer.name = Some(name);
        }
    }

    /// What is to be done next; `kept` says of which layers nothing.
    pub(crate) fn duty(&self, kept: impl Fn(u32) -> bool) -> Option<Duty> {
        let free = |l: &&Layer| l.id != self.head && l.name.is_none() && !kept(l.id);
        self.all.iter().filter(free).find_map(|lower| {
            let mut above = self.lying_on(lower.id);
            let Some(upper) = above.next() else { return Some(Duty::Drop(lower.id)) };
            if above.next().is_some() {
                return None;
            }
            let down = upper.present.len() <= lower.present.len();
            let (from, into) = if down { (upper, lower) } else { (lower, upper) };
            Some(Duty::Fold { from: from.id, into: into.id, down })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(layers: &mut Layers, number: u128) {
        let layer = layers.next_id().unwrap();
        layers.apply(&Record::Snapshot { layer, id: SnapshotId::of(number) }, 4096);
    }

    fn unname(layers: &mut Layers, number: u128) {
        layers.apply(&Record::Unname { id: SnapshotId::of(number) }, 4096);
    }

    #[test]
    fn keeps_what_names_see_while_layers_go() {
        let mut layers = Layers::new();
        assert_eq!(layers.duty(|_| false), None);
        for number in 1..=3 {
            snapshot(&mut layers, number);
        }
        assert_eq!(layers.chain(layers.head), [4, 3, 2, 1]);
        layers.get_mut(1).unwrap().present.insert_range(0..9);
        layers.get_mut(2).unwrap().present.insert(5);
        unname(&mut layers, 1);
        assert_eq!(layers.duty(|l| l == 1), None);
        assert_eq!(layers.duty(|_| false), Some(Duty::Fold { from: 2, into: 1, down: true }));
        layers.remove(2);
        // The larger one took the place of the smaller.
        assert_eq!(layers.chain(layers.head), [4, 3, 1]);
        assert_eq!(layers.named(SnapshotId::of(2)).unwrap().id, 1);
        layers.apply(&Record::RollBack { layer: 5, id: SnapshotId::of(2) }, 4096);
        assert_eq!(layers.chain(5), [5, 1]);
        assert_eq!(layers.duty(|_| false), Some(Duty::Drop(4)));
        layers.remove(4);
        assert_eq!(layers.duty(|_| false), None);
        // Two lie on it: it stays although nobody names it.
        unname(&mut layers, 2);
        assert_eq!(layers.duty(|_| false), None);
        unname(&mut layers, 3);
        assert_eq!(layers.duty(|_| false), Some(Duty::Drop(3)));
        layers.remove(3);
        assert_eq!(layers.duty(|_| false), Some(Duty::Fold { from: 5, into: 1, down: true }));
        layers.remove(5);
        assert_eq!((layers.head, layers.all().len()), (1, 1));
        assert_eq!(layers.next_id(), Some(6));
    }

    #[test]
    fn folds_the_lower_layer_up_when_it_is_the_smaller() {
        let mut layers = Layers::new();
        snapshot(&mut layers, 1);
        layers.get_mut(2).unwrap().present.insert(5);
        unname(&mut layers, 1);
        assert_eq!(layers.duty(|_| false), Some(Duty::Fold { from: 1, into: 2, down: false }));
        layers.remove(1);
        assert_eq!(layers.chain(2), [2]);
    }

    #[test]
    fn refuses_a_tree_that_is_none() {
        let layer = Layer::new;
        assert!(Layers::of(vec![layer(1, None), layer(2, Some(1))], 2, 2).is_some());
        assert!(Layers::of(vec![], 1, 1).is_none());
        assert!(Layers::of(vec![layer(1, Some(2)), layer(2, Some(1))], 2, 2).is_none());
        assert!(Layers::of(vec![layer(1, Some(3))], 1, 1).is_none());
        assert!(Layers::of(vec![layer(1, None), layer(1, None)], 1, 1).is_none());
        assert!(Layers::of(vec![layer(1, None)], 2, 2).is_none());
        assert!(Layers::of(vec![layer(3, None)], 3, 2).is_none());
        assert!(Layers::of(vec![layer(1, Some(2)), layer(2, None)], 1, 2).is_none());
    }
}
