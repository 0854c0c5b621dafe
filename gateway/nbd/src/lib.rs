//! The NBD server: one host protocol in front of a [`block::Volume`].
//!
//! ```text
//!   control runtime                                  the volume's thread
//!   Listener ─accept─▶ handshake (negotiate, TLS) ─Negotiated─▶ serve(connection, Attachment)
//!                          │ asks                      (Exports::seat carries it over)
//!                          ▼
//!                     dyn Exports (the gateway)
//! ```
//!
//! Invariant: nothing a client sends can panic this, make it hold memory without bound, or hold up
//! another client. It knows nothing of mirrors: it sees volumes.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod contexts;
mod export;
pub mod limits;
mod metrics;
pub mod negotiate;
mod server;
mod session;
mod status;
mod stream;
pub mod wire;

pub use contexts::{Context, Contexts};
pub use export::{Bitmap, ClientAddress, ClientInfo, ExportInfo, Exports, Refusal, TlsSubject};
pub use host::Capacity;
pub use negotiate::TlsMode;
pub use server::{ListenAddress, ListenError, Listener, ListenerConfig, TlsPolicy, listen};
pub use session::{Attachment, Changes, Ending, Negotiated, serve};
pub use stream::{DetachedStream, HostStream, Socket};

/// What decoders take of memory is part of their tests.
#[cfg(test)]
#[global_allocator]
static COUNTED: testkit::heap::Counted = testkit::heap::Counted;
