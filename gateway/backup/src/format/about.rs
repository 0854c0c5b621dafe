//! What is known of a backup before anything of it is stored; in its run's pin and its manifest.
//!
//! Invariant: a run that is resumed ends in a manifest with what its pin says, so that nobody can
//! tell that it was interrupted.

use block::GroupId;
use jiff::Timestamp;

use crate::codec::{Malformed, Reader, Writer};
use crate::limits::LABELS_MAX;

/// Who asked for a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A person or a script: no retention removes it.
    Manual,
    /// A policy.
    Scheduled,
}

/// What state the volumes were in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// As after a loss of power: all volumes at one moment.
    Crash,
    /// The applications had written what they held and stood still.
    Application,
}

/// What a backup is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Its name, for people.
    pub name: String,
    /// The gateway that takes it.
    pub gateway: String,
    /// Who asked for it.
    pub origin: Origin,
    /// The policy that asked for it.
    pub policy: Option<String>,
    /// When it was begun, by that gateway's clock. It orders nothing.
    pub created: Timestamp,
    /// Higher than that of every backup that was known when it was begun: the order of backups,
    /// which no clock can disturb.
    pub ordinal: u64,
    /// What state its volumes were in.
    pub consistency: Consistency,
    /// The group whose cut it is, and the group's name.
    pub group: Option<(GroupId, String)>,
    /// Anything that its maker wants to find again.
    pub labels: Vec<(String, String)>,
    /// Nobody removes it before.
    pub locked_until: Option<Timestamp>,
}

impl About {
    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.text(&self.name);
        writer.text(&self.gateway);
        writer.byte(u8::from(self.origin == Origin::Scheduled));
        writer.optional(self.policy.as_deref(), Writer::text);
        writer.signed(self.created.as_millisecond());
        writer.number(self.ordinal);
        writer.byte(u8::from(self.consistency == Consistency::Application));
        writer.optional(self.group.as_ref(), |writer, (id, name)| {
            writer.uuid(id.uuid());
            writer.text(name);
        });
        writer.length(self.labels.len());
        for (name, value) in &self.labels {
            writer.text(name);
            writer.text(value);
        }
        writer.optional(self.locked_until.map(Timestamp::as_second), Writer::signed);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            name: reader.text()?,
            gateway: reader.text()?,
            origin: choice(reader, Origin::Manual, Origin::Scheduled)?,
            policy: reader.optional(Reader::text)?,
            created: Timestamp::from_millisecond(reader.signed()?).map_err(no_time)?,
            ordinal: reader.number()?,
            consistency: choice(reader, Consistency::Crash, Consistency::Application)?,
            group: reader
                .optional(|reader| Ok((GroupId::from_uuid(reader.uuid()?), reader.text()?)))?,
            labels: (0..reader.count(LABELS_MAX)?)
                .map(|_| Ok((reader.text()?, reader.text()?)))
                .collect::<Result<_, Malformed>>()?,
            locked_until: reader
                .optional(|reader| Timestamp::from_second(reader.signed()?).map_err(no_time))?,
        })
    }
}

/// One of two.
pub(crate) fn choice<T>(reader: &mut Reader<'_>, no: T, yes: T) -> Result<T, Malformed> {
    match reader.byte()? {
        0 => Ok(no),
        1 => Ok(yes),
        _ => Err(Malformed("a choice is none that is known")),
    }
}

fn no_time(_error: jiff::Error) -> Malformed {
    Malformed("a time is none")
}

#[cfg(test)]
pub(crate) fn example() -> About {
    About {
        name: "nightly".to_owned(),
        gateway: "east-1".to_owned(),
        origin: Origin::Scheduled,
        policy: Some("gold".to_owned()),
        created: Timestamp::from_millisecond(1_795_000_000_123).expect("a time"),
        ordinal: 12,
        consistency: Consistency::Application,
        group: Some((GroupId::of(3), "erp".to_owned())),
        labels: vec![("owner".to_owned(), "db".to_owned())],
        locked_until: Timestamp::from_second(1_900_000_000).ok(),
    }
}
