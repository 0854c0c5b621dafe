//! How much memory a piece of a test takes.
//!
//! Invariant: it counts per thread, costs a few instructions an allocation, and changes nothing of what
//! the system's allocator does. Only test programs that name it as their allocator are counted; in
//! others nothing is, and [`most`] says so by panicking.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counted. A test program says `#[global_allocator]` of one.
#[derive(Clone, Copy, Debug)]
pub struct Counted;

fn note(more: usize, less: usize) {
    let signed = |bytes: usize| isize::try_from(bytes).unwrap_or(isize::MAX);
    // A thread that ends has lost its numbers already.
    let _counted = HELD.try_with(|held| {
        held.set(held.get().wrapping_add(signed(more)).wrapping_sub(signed(less)));
        let _counted = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

#[expect(
    unsafe_code,
    reason = "an allocator is one by an unsafe trait; each call is handed on as it is"
)]
// SAFETY: every call goes to the system's allocator with the same arguments, and its answer comes back.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note(0, layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size, layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Runs `work`; what it gives, and how many bytes it held at most on this thread, beyond what was held
/// before.
///
/// # Panics
/// When this program's allocator is not [`Counted`].
pub fn most<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    MOST.set(before);
    drop(std::hint::black_box(Box::new(0_u64)));
    assert!(MOST.get() > before, "the test program's allocator is not `testkit::heap::Counted`");
    MOST.set(before);
    let done = work();
    (done, usize::try_from(MOST.get() - before).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_that_was_held_is_told_whatever_is_given_back() {
        let (kept, most) = most(|| {
            drop(std::hint::black_box(vec![1_u8; 100_000]));
            std::hint::black_box(vec![1_u8; 50_000])
        });
        assert!((100_000..120_000).contains(&most), "{most}");
        drop(kept);
        assert!(super::most(|| ()).1 < 100);
    }
}
