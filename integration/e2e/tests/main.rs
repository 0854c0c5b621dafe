//! Real gateways as processes, real clients, real faults: one module for each subject.
//!
//! Invariant: what is waited for has a deadline; what is measured is printed; nothing that was
//! started outlives its test.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a test says what it measured")]

mod azurite;
mod backup_runs;
mod backups;
mod cascade;
mod chain;
mod changes;
mod clients;
mod clones;
mod compare;
mod conformance;
mod copies;
mod deletions;
mod demo;
mod evs;
mod evs_cloud;
mod failover;
mod groups;
mod guest;
mod guide;

mod hostile;
mod hostile_initiators;
mod hydration;
mod initiator;
mod instances;
mod iscsi;
mod lserver;
mod lserver_journal;
mod lserver_kills;
mod lserver_limits;
mod luns;
mod metrics;
mod modes;
mod moments;
mod moves;
mod operator;
mod pair;
mod parts;
mod plugin_harm;
mod plugins;
mod points;
mod policies;
mod rados;
mod random;
mod rec;
mod rec_plugin;
mod records;
mod reserved;
mod restores;
mod rewind;
mod runs;
mod scrubs;
mod snapshots;
mod witness;
