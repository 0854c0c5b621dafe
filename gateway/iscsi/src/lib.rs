//! The iSCSI target: the other host protocol in front of a [`block::Volume`] (RFC 7143).
//!
//! ```text
//!   control runtime                                    the volume's thread
//!   Listener ─accept─▶ login (negotiate) ─LoggedIn───▶ serve(connection, Attachment)
//!                        │ asks  ╰─▶ discovery            session ─CDB─▶ scsi::Unit
//!                        ▼       (Targets::seat carries it over)
//!                   dyn Targets (the gateway)
//! ```
//!
//! Invariant: nothing an initiator sends can panic this, make it hold memory without bound, or hold
//! up another initiator. It knows nothing of mirrors: it sees volumes. What passes is never told as
//! what stays: initiators give up a disk that is broken or gone, and wait for one that is busy.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod export;
pub mod limits;
mod metrics;
pub mod negotiate;
pub mod scsi;
mod server;
mod session;
pub mod status;
pub mod wire;

pub use export::{InitiatorInfo, Portal, Refusal, TargetInfo, Targets};
pub use host::Capacity;
pub use negotiate::{Auth, ChapUser, Secret, SharedSecret, WeakSecret};
pub use server::{ListenError, Listener, ListenerConfig, Sessions};
pub use session::{Attachment, Ending, LoggedIn, Lun, More, Told, serve};

/// What decoders take of memory is part of their tests.
#[cfg(test)]
#[global_allocator]
static COUNTED: testkit::heap::Counted = testkit::heap::Counted;
