//! The iSCSI target: the other host protocol in front of a [`block::Volume`] (RFC 7143).
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod limits;
pub mod scsi;
pub mod status;
pub mod wire;
