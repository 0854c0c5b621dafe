//! The bodies of the messages that do not fit a header.
//!
//! Invariant: each pair of functions writes and reads the same fields in the same order; a body
//! has no bytes left over, but for `Hello`, behind whose fields a later release may say more.

use block::{
    BlockRange, BlockSet, BootId, CUTS_SINCE_VERSION, Epoch, GatewayId, Generation, Goodbye,
    GroupId, HEIRS_SINCE_VERSION, Hello, Identity, Open, Opened, Predecessor, Quality, SessionId,
    VolumeId, VolumeOffer,
};

use super::cursor::{Reader, Writer};
use super::{Corrupt, Unsendable};
use crate::limits::{
    ADDRESS_BYTES_MAX, ADDRESSES_MAX, ANCESTORS_MAX, NAME_BYTES_MAX, RANGES_PER_FRAME_MAX,
    TEXT_BYTES_MAX, VOLUMES_MAX,
};

/// Why a peer is not let in. The numbers are those of [`crate::JoinRefused`], or 0 for a greeting
/// from a stranger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, for programs.
    pub code: u16,
    /// The reason, for people.
    pub text: String,
}

/// What a gateway that holds a token says of itself. Its certificate is the one of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// Which token, by a hash of its secret.
    pub token: [u8; 16],
    /// That the secret is known to who holds this certificate and says these things.
    pub proof: [u8; 32],
    /// Who is speaking.
    pub gateway: GatewayId,
    /// The name of its site.
    pub site: String,
    /// Where its gateway listens for links.
    pub addresses: Vec<String>,
}

impl JoinRequest {
    /// Everything that the proof must cover: all fields but the proof itself.
    pub(crate) fn statement(&self) -> Result<Vec<u8>, Unsendable> {
        let mut out = Vec::new();
        write_join(&mut Writer::new(&mut out), &Self { proof: [0; 32], ..self.clone() })?;
        Ok(out)
    }
}

/// What the gateway that issued the token says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinAnswer {
    /// Who is speaking.
    pub gateway: GatewayId,
    /// The name of its site.
    pub site: String,
    /// Where its gateway listens for links.
    pub addresses: Vec<String>,
}

pub(super) fn write_hello(w: &mut Writer<'_>, hello: &Hello) -> Result<(), Unsendable> {
    w.u16(hello.version_min);
    w.u16(hello.version_max);
    w.uuid(hello.identity.gateway.uuid());
    w.uuid(hello.identity.boot.uuid());
    w.name(&hello.identity.site, NAME_BYTES_MAX)?;
    w.text(&hello.release, TEXT_BYTES_MAX);
    Ok(())
}

pub(super) fn read_hello(body: &[u8]) -> Result<Hello, Corrupt> {
    let mut r = Reader::new(body);
    let (version_min, version_max) = (r.u16()?, r.u16()?);
    if version_min > version_max {
        return Err(Corrupt("range of versions is empty"));
    }
    let identity = Identity {
        gateway: GatewayId::from_uuid(r.uuid()?),
        boot: BootId::from_uuid(r.uuid()?),
        site: r.text(NAME_BYTES_MAX)?,
    };
    Ok(Hello { identity, version_min, version_max, release: r.text(TEXT_BYTES_MAX)? })
}

pub(super) fn write_refusal(w: &mut Writer<'_>, refusal: &Refusal) {
    w.u16(refusal.code);
    w.text(&refusal.text, TEXT_BYTES_MAX);
}

pub(super) fn read_refusal(body: &[u8]) -> Result<Refusal, Corrupt> {
    let mut r = Reader::new(body);
    let refusal = Refusal { code: r.u16()?, text: r.text(TEXT_BYTES_MAX)? };
    r.end().map(|()| refusal)
}

fn write_addresses(w: &mut Writer<'_>, addresses: &[String]) -> Result<(), Unsendable> {
    w.count(addresses.len(), ADDRESSES_MAX)?;
    addresses.iter().try_for_each(|address| w.name(address, ADDRESS_BYTES_MAX))
}

fn read_addresses(r: &mut Reader<'_>) -> Result<Vec<String>, Corrupt> {
    r.list(ADDRESSES_MAX, 2, |r| r.text(ADDRESS_BYTES_MAX))
}

pub(super) fn write_join(w: &mut Writer<'_>, join: &JoinRequest) -> Result<(), Unsendable> {
    w.bytes(&join.token);
    w.bytes(&join.proof);
    w.uuid(join.gateway.uuid());
    w.name(&join.site, NAME_BYTES_MAX)?;
    write_addresses(w, &join.addresses)
}

pub(super) fn read_join(body: &[u8]) -> Result<JoinRequest, Corrupt> {
    let mut r = Reader::new(body);
    let join = JoinRequest {
        token: r.array()?,
        proof: r.array()?,
        gateway: GatewayId::from_uuid(r.uuid()?),
        site: r.text(NAME_BYTES_MAX)?,
        addresses: read_addresses(&mut r)?,
    };
    r.end().map(|()| join)
}

pub(super) fn write_joined(w: &mut Writer<'_>, joined: &JoinAnswer) -> Result<(), Unsendable> {
    w.uuid(joined.gateway.uuid());
    w.name(&joined.site, NAME_BYTES_MAX)?;
    write_addresses(w, &joined.addresses)
}

pub(super) fn read_joined(body: &[u8]) -> Result<JoinAnswer, Corrupt> {
    let mut r = Reader::new(body);
    let joined = JoinAnswer {
        gateway: GatewayId::from_uuid(r.uuid()?),
        site: r.text(NAME_BYTES_MAX)?,
        addresses: read_addresses(&mut r)?,
    };
    r.end().map(|()| joined)
}

fn write_history(
    w: &mut Writer<'_>,
    generation: Generation,
    ancestors: &[Generation],
) -> Result<(), Unsendable> {
    w.uuid(generation.uuid());
    // Newest first, so that the oldest are the ones left out.
    let kept = ancestors.len().min(ANCESTORS_MAX);
    w.count(kept, ANCESTORS_MAX)?;
    for ancestor in ancestors.iter().take(kept) {
        w.uuid(ancestor.uuid());
    }
    Ok(())
}

fn read_history(r: &mut Reader<'_>) -> Result<(Generation, Vec<Generation>), Corrupt> {
    let generation = Generation::from_uuid(r.uuid()?);
    let ancestors = r.list(ANCESTORS_MAX, 16, |r| r.uuid().map(Generation::from_uuid))?;
    Ok((generation, ancestors))
}

pub(super) fn write_open(w: &mut Writer<'_>, open: &Open, version: u16) -> Result<(), Unsendable> {
    w.uuid(open.group.uuid());
    w.name(&open.name, NAME_BYTES_MAX)?;
    write_history(w, open.generation, &open.ancestors)?;
    w.count(open.volumes.len(), VOLUMES_MAX)?;
    for offer in &open.volumes {
        w.uuid(offer.volume.uuid());
        w.uuid(offer.session.uuid());
        w.name(&offer.name, NAME_BYTES_MAX)?;
        w.u64(offer.bytes);
    }
    heir_of(open, version).into_iter().for_each(|heir_of| w.uuid(heir_of.gateway.uuid()));
    Ok(())
}

/// Whose heir the sender is. One that does not know heirs takes it for another primary, and is copied
/// whole.
pub(super) fn heir_of(open: &Open, version: u16) -> Option<Predecessor> {
    open.heir_of.filter(|_| version >= HEIRS_SINCE_VERSION)
}

pub(super) fn read_open(
    body: &[u8],
    epoch: Epoch,
    (discard, relayed): (bool, bool),
    heir_of: Option<Epoch>,
) -> Result<Open, Corrupt> {
    let mut r = Reader::new(body);
    let group = GroupId::from_uuid(r.uuid()?);
    let name = r.text(NAME_BYTES_MAX)?;
    let (generation, ancestors) = read_history(&mut r)?;
    let volumes = r.list(VOLUMES_MAX, 42, |r| {
        Ok(VolumeOffer {
            volume: VolumeId::from_uuid(r.uuid()?),
            session: SessionId::from_uuid(r.uuid()?),
            name: r.text(NAME_BYTES_MAX)?,
            bytes: r.u64()?,
        })
    })?;
    let predecessor =
        |epoch| r.uuid().map(|uuid| Predecessor { gateway: GatewayId::from_uuid(uuid), epoch });
    let heir_of = heir_of.map(predecessor).transpose()?;
    r.end()?;
    Ok(Open { group, name, epoch, generation, ancestors, volumes, discard, relayed, heir_of })
}

pub(super) fn write_opened(
    w: &mut Writer<'_>,
    opened: &Opened,
    version: u16,
) -> Result<(), Unsendable> {
    w.byte(match opened.quality {
        Quality::Consistent if version >= CUTS_SINCE_VERSION => 5,
        // To a gateway that knows no cuts it is what it is worth there: an old point in time.
        Quality::Consistent => 2,
        Quality::Blank => 0,
        Quality::Inconsistent => 1,
        Quality::Outdated => 2,
        Quality::InSync => 3,
        Quality::Source => 4,
    });
    w.byte(u8::from(opened.differences_known));
    w.byte(u8::from(opened.generation.is_some()));
    write_history(w, opened.generation.unwrap_or(Generation::of(0)), &opened.ancestors)
}

pub(super) fn read_opened(body: &[u8]) -> Result<Opened, Corrupt> {
    let mut r = Reader::new(body);
    let quality = match r.byte()? {
        0 => Quality::Blank,
        1 => Quality::Inconsistent,
        2 => Quality::Outdated,
        3 => Quality::InSync,
        4 => Quality::Source,
        5 => Quality::Consistent,
        _ => return Err(Corrupt("unknown quality of a copy")),
    };
    let (differences_known, some) = (r.bool()?, r.bool()?);
    let (generation, ancestors) = read_history(&mut r)?;
    r.end()?;
    Ok(Opened { quality, generation: some.then_some(generation), ancestors, differences_known })
}

pub(super) fn write_blocks(w: &mut Writer<'_>, blocks: &[BlockRange]) -> Result<(), Unsendable> {
    w.count(blocks.len(), RANGES_PER_FRAME_MAX)?;
    for range in blocks {
        w.u64(range.first());
        w.u64(range.end());
    }
    Ok(())
}

pub(super) fn read_blocks(body: &[u8]) -> Result<BlockSet, Corrupt> {
    let mut r = Reader::new(body);
    let blocks = r.list(RANGES_PER_FRAME_MAX, 16, |r| {
        let (first, end) = (r.u64()?, r.u64()?);
        if first > end {
            return Err(Corrupt("range of blocks ends before it begins"));
        }
        Ok(BlockRange::new(first, end))
    })?;
    r.end().map(|()| blocks)
}

pub(super) fn write_promote(
    w: &mut Writer<'_>,
    generation: Generation,
    ancestors: &[Generation],
) -> Result<(), Unsendable> {
    write_history(w, generation, ancestors)
}

pub(super) fn read_promote(body: &[u8]) -> Result<(Generation, Vec<Generation>), Corrupt> {
    let mut r = Reader::new(body);
    let history = read_history(&mut r)?;
    r.end().map(|()| history)
}

pub(super) fn write_goodbye(w: &mut Writer<'_>, goodbye: &Goodbye) {
    let (tag, number, text) = match goodbye {
        Goodbye::Fenced { epoch } => (1, epoch.get(), ""),
        Goodbye::SplitBrain { theirs_bytes } => (2, *theirs_bytes, ""),
        Goodbye::Refused(text) => (3, 0, text.as_str()),
        Goodbye::Shutdown => (4, 0, ""),
        Goodbye::Suspended => (5, 0, ""),
        Goodbye::Protocol(text) => (6, 0, text.as_str()),
    };
    w.byte(tag);
    w.u64(number);
    w.text(text, TEXT_BYTES_MAX);
}

pub(super) fn read_goodbye(body: &[u8]) -> Result<Goodbye, Corrupt> {
    let mut r = Reader::new(body);
    let (tag, number, text) = (r.byte()?, r.u64()?, r.text(TEXT_BYTES_MAX)?);
    r.end()?;
    Ok(match tag {
        1 => Goodbye::Fenced { epoch: Epoch::new(number) },
        2 => Goodbye::SplitBrain { theirs_bytes: number },
        3 => Goodbye::Refused(text),
        4 => Goodbye::Shutdown,
        5 => Goodbye::Suspended,
        6 => Goodbye::Protocol(text),
        _ => return Err(Corrupt("unknown goodbye")),
    })
}
