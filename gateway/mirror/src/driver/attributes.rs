//! What host protocols keep of volumes, from where they stand.
//!
//! Invariant: whoever waits is answered once; one that went away changes nothing for the others.

use std::rc::Rc;

use block::{IoError, VolumeId};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Core, Group};
use crate::machine::Event;

impl Group {
    /// What is kept of a volume beside its content: what was given to [`Self::set_attributes`] last,
    /// here or at the gateway that was the primary then.
    #[must_use]
    pub fn attributes(&self, volume: VolumeId) -> Option<Bytes> {
        self.core.borrow().machine.attributes(volume)
    }

    /// Keeps something of a volume in place of what was kept: at most 64 KiB. Answers when it is
    /// durable here and at every mirror that hosts' writes wait for.
    ///
    /// # Errors
    /// [`IoError::ShuttingDown`] when the group is closed meanwhile, [`IoError::Invalid`] when it is too
    /// long or there is no such volume, [`IoError::Unsupported`] when an in-sync mirror is of a release
    /// before protocol version 7, [`IoError::Halted`] while hosts are held, else what a write would be
    /// refused with. What was kept may have been replaced if it was refused after it had begun.
    ///
    /// # Cancellation
    /// It may be kept.
    pub async fn set_attributes(
        self: &Rc<Self>,
        volume: VolumeId,
        bytes: Bytes,
    ) -> Result<(), IoError> {
        if self.stopping.is_cancelled() {
            return Err(IoError::ShuttingDown);
        }
        let (answer, waiting) = oneshot::channel();
        {
            let mut core = self.core.borrow_mut();
            core.attempts += 1;
            let token = core.attempts;
            core.keepers.insert(token, answer);
            core.events.push(Event::SetAttributes { at: (volume, token), bytes });
        }
        self.turn();
        // A group that is closed answers nobody any more.
        let answered = self.stopping.run_until_cancelled(waiting).await;
        answered.and_then(Result::ok).unwrap_or(Err(IoError::ShuttingDown))
    }
}

impl Core {
    pub(super) fn attributes_kept(&mut self, token: u64, result: Result<(), IoError>) {
        if let Some(waiter) = self.keepers.remove(&token) {
            // A caller that went away no longer wants to know.
            let _unheard = waiter.send(result);
        }
    }
}
