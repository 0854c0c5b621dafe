//! What a mirror that follows behind keeps: one of the cuts that it was sent.
//!
//! Invariant: a cut is known from the moment at which it was sent. Nothing is in it that was asked
//! for afterwards. Everything is in it that was acknowledged before the newest change was asked for
//! that was sent ahead of it: that one had its place in the stream already.

use std::collections::VecDeque;
use std::rc::Rc;

use block::{Quality, Seq};

use crate::model::{Branch, Moment};
use crate::site::{Promotion, Served};
use crate::world::World;

/// A cut's name: the link on which it was sent, and its number there.
pub(crate) type CutName = (Moment, Seq);

/// A cut that a mirror may keep.
#[derive(Clone)]
pub(crate) struct Point {
    name: CutName,
    /// What it is a cut of.
    branch: Served,
    at: Moment,
    /// What was acknowledged up to here is in it. Of what came between, some may wait behind it in
    /// a send journal or in front of the link.
    sure: Moment,
}

/// The cuts that a mirror may keep, oldest first.
pub(crate) type Points = VecDeque<Point>;

impl Promotion {
    /// What the kept point is worth that this promotion goes back to, if it does.
    pub(crate) fn goes_back(&self) -> Option<Quality> {
        self.kept.filter(|_| matches!(self.quality, Quality::Consistent | Quality::Inconsistent))
    }

    /// What the copy is worth that becomes the primary's.
    pub(crate) fn worth(&self) -> Quality {
        self.goes_back().unwrap_or(self.quality)
    }
}

impl Point {
    /// The content of a site that keeps it.
    pub(crate) fn content(&self, site: usize) -> Branch {
        self.branch.borrow().as_of((self.at, self.sure), site)
    }
}

impl World {
    /// A primary sends a cut.
    pub(crate) fn on_cut_sent(&self, from: usize, to: usize, name: CutName, sure: Moment) {
        let state = &self.sites[from];
        // One that handed over, and does not know that yet, sends a cut of what it had then.
        let own = state.branch.borrow().clone();
        let Some(branch) = own.or_else(|| state.handed.borrow().clone()) else { return };
        let at = self.count();
        let point = Point { name, branch, at, sure };
        self.sites[to].points.borrow_mut().push_back(point);
        self.begin_segment(from, to, name);
    }

    /// A primary heard that a mirror keeps a cut: what the mirror had of its own is gone.
    pub(crate) fn on_cut_kept(&self, from: usize, to: usize, name: CutName) {
        let mirror = &self.sites[to];
        let mut points = mirror.points.borrow_mut();
        let Some(index) = points.iter().position(|point| point.name == name) else { return };
        points.drain(..index);
        let point = points[0].clone();
        drop(points);
        self.stats.borrow_mut().cuts += 1;
        self.end_segments(from, to, name);
        point.branch.borrow_mut().keep_at(point.sure, to);
        self.overwritten(from, to);
        *mirror.follows.borrow_mut() = None;
    }

    /// A copy went back to the cut that it keeps: what its content is now, after `adjust` said of
    /// which volumes nothing is known. `fits` says why it is not that of a cut.
    pub(crate) fn went_back(
        &self,
        site: usize,
        adjust: impl Fn(&mut Branch),
        fits: impl Fn(&Branch) -> Result<(), String>,
    ) -> Option<Branch> {
        let points = self.sites[site].points.borrow();
        for point in points.iter().rev() {
            let mut content = point.content(site);
            adjust(&mut content);
            match fits(&content) {
                Ok(()) => return Some(content),
                Err(text) => self.log(format_args!("not the cut {:?}: {text}", point.name)),
            }
        }
        points.back().map(|point| {
            let mut content = point.content(site);
            adjust(&mut content);
            content
        })
    }

    /// What the old primary has and a mirror that went back has not may be discarded only with a
    /// word.
    pub(crate) fn note_given_up(&self, site: usize, old: usize, content: &Branch) {
        let state = &self.sites[old];
        let Some(branch) = state.branch.borrow().clone().filter(|_| old != site) else { return };
        // What it lost with its power nobody can discard.
        let given_up = if state.rolled_back.get() {
            branch.borrow().without_unflushed(old).beyond(content)
        } else {
            branch.borrow().beyond(content)
        };
        let mut unconsented = state.unconsented.get();
        unconsented[site] = given_up;
        state.unconsented.set(unconsented);
        self.log(format_args!("{given_up} acknowledged changes came after the cut"));
    }

    /// Whether two sites have the same content.
    pub(crate) fn is_served_by(&self, site: usize, branch: &Served) -> bool {
        self.sites[site].branch.borrow().as_ref().is_some_and(|own| Rc::ptr_eq(own, branch))
    }
}
