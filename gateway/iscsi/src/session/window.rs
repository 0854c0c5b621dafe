//! The window of command numbers (RFC 7143 §4.2.2.1).
//!
//! Invariant: commands are taken in the order of their numbers, each once; the end of the window
//! never moves back, and never by more than there is room for.

/// What becomes of a command by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is next.
    Due,
    /// Outside of the window: it is ignored without a word.
    Outside,
    /// One before it never came, and on the only connection of a session never will.
    Gap,
}

/// The window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    expected: u32,
    last: u32,
}

impl Window {
    /// The first command has this number; `room` may be sent.
    pub(crate) const fn new(first: u32, room: u32) -> Self {
        Self { expected: first, last: first.wrapping_add(room).wrapping_sub(1) }
    }

    /// The next number.
    pub(crate) const fn expected(&self) -> u32 {
        self.expected
    }

    /// The last that may be sent.
    pub(crate) const fn last(&self) -> u32 {
        self.last
    }

    /// Whether this number lies in the window.
    pub(crate) const fn holds(&self, number: u32) -> bool {
        number.wrapping_sub(self.expected) <= self.last.wrapping_sub(self.expected)
            && self.last.wrapping_add(1) != self.expected
    }

    /// Takes a command by its number; an immediate one does not count.
    pub(crate) const fn take(&mut self, number: u32, immediate: bool) -> Place {
        if immediate {
            return Place::Due;
        }
        if !self.holds(number) {
            return Place::Outside;
        }
        if number != self.expected {
            return Place::Gap;
        }
        self.expected = self.expected.wrapping_add(1);
        Place::Due
    }

    /// There is room for so many more commands.
    pub(crate) const fn grant(&mut self, room: u32) {
        let last = self.expected.wrapping_add(room).wrapping_sub(1);
        // The distance as a signed number tells forward from back (RFC 1982).
        if last.wrapping_sub(self.last).cast_signed() > 0 {
            self.last = last;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_window_takes_nothing() {
        let mut window = Window::new(u32::MAX, 2);
        assert_eq!(window.take(1, false), Place::Outside);
        assert_eq!(window.take(0, false), Place::Gap);
        assert_eq!(window.take(u32::MAX, false), Place::Due);
        assert_eq!(window.take(u32::MAX, false), Place::Outside);
        assert_eq!(window.take(0, false), Place::Due);
        assert_eq!(window.take(1, false), Place::Outside);
        assert_eq!(window.take(77, true), Place::Due);
        window.grant(1);
        assert_eq!(window.take(1, false), Place::Due);
    }

    proptest! {
        #[test]
        fn the_end_never_moves_back(first: u32, steps in proptest::collection::vec((0u32..200, any::<bool>()), 1..100)) {
            let mut window = Window::new(first, 128);
            for (step, grant) in steps {
                let (expected, last) = (window.expected(), window.last());
                if grant {
                    window.grant(step);
                } else {
                    let place = window.take(expected.wrapping_add(step), false);
                    prop_assert_eq!(place == Place::Due, step == 0 && last.wrapping_add(1) != expected);
                }
                prop_assert!(window.last().wrapping_sub(last) < 400);
                prop_assert!(window.last().wrapping_add(1).wrapping_sub(window.expected()) <= 200);
            }
        }
    }
}
