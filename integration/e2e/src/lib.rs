//! End-to-end tests of whole gateways; there is nothing here but the tests beside this folder.
#![forbid(unsafe_code)]
