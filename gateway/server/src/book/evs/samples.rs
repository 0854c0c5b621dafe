//! Records of nothing, as tests begin with them.

use uuid::Uuid;

use super::{Dialect, Group, Head, Life, Pair, Wanted};

/// A group that runs, of no pairs.
pub(crate) fn group() -> Group {
    Group {
        head: Head::default(),
        dialect: Dialect::Sdrs,
        name: "shop".to_owned(),
        description: String::new(),
        stations: Default::default(),
        primary: 0,
        core: None,
        life: Life::Available,
        wanted: Wanted::Running,
        fault: None,
        worker: None,
        vpc: String::new(),
        domain: String::new(),
        drilled_ms: None,
        epoch: 0,
    }
}

/// A pair of no volume.
pub(crate) fn pair() -> Pair {
    Pair {
        head: Head::default(),
        dialect: Dialect::Evs,
        name: String::new(),
        description: String::new(),
        disks: Default::default(),
        names: Default::default(),
        stations: Default::default(),
        volume: Uuid::nil(),
        bytes: 1 << 20,
        primary: 0,
        group: None,
        life: Life::Available,
        fault: None,
        is_made: false,
        overwrites: false,
        leaves: false,
    }
}
