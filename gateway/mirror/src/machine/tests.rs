//! Event lists.
