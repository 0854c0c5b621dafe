//! Blocks that one command has for itself, and the moment at which nothing is under way.
//!
//! Invariant: whoever waits here changes nothing, and may give up at any time.

use std::future::poll_fn;

use block::{Extent, Hold};

use super::Unit;

impl Unit {
    /// Waits until these blocks are free and no change of them is under way, and takes them: against
    /// other initiators, and against every other way to the volume.
    ///
    /// # Cancellation
    /// Safe: nothing is taken.
    pub(in crate::scsi) async fn exclusively(&self, extent: Extent) -> Hold {
        // Whoever waits for all blocks would never have them if others went on taking some.
        drop(self.settling.lock().await);
        self.hold(extent).await
    }

    /// Waits until every change that was handed to the volume before, by whatever way, is in what a
    /// read gives: nothing of what was aborted by then appears later. Changes that come meanwhile wait
    /// for this, so that it ends however much others write. Where another gateway has the volume there
    /// is nothing to wait for: what was under way here is there by now, or never will be.
    ///
    /// # Cancellation
    /// Safe: what waits for it goes on.
    pub async fn settle(&self) {
        let _turn = self.settling.lock().await;
        if self.detour().is_none() {
            drop(self.hold(self.volume.0.geometry().whole()).await);
        }
    }

    async fn hold(&self, extent: Extent) -> Hold {
        let hold = self.holds.take(extent).await;
        poll_fn(|context| self.volume.0.poll_settled(extent, context)).await;
        hold
    }

    /// Waits until these blocks are free.
    ///
    /// # Cancellation
    /// Safe: nothing is changed.
    pub(in crate::scsi) async fn until_free(&self, extent: Extent) {
        self.holds.until_free(extent).await;
    }
}
