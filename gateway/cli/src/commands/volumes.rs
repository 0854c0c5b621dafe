//! `twinspan volume`.

use std::io::Write;

use api::units::bytes_text;
use api::{
    Filling, Moment, MomentOpen, Scrub, Volume, VolumeCreate, VolumeDigest, VolumeGrow, VolumeList,
    VolumeLun, VolumeSettings,
};
use ureq::http::Method;

use super::backups::begin;
use super::segment;
use crate::args::{self, Global};
use crate::client::Client;
use crate::failure::{FAILED, Failure};
use crate::output::{known, show, table, word};
use crate::place::client;
use crate::{Outcome, copy};

/// What is read of a volume at once.
const PIECE_BYTES: u64 = 4 << 20;

/// `twinspan volume`
pub(crate) fn volume(command: &args::Volume, global: &Global) -> Outcome {
    if let args::Volume::Probe { uri } = command {
        return copy::probe(uri, global.output);
    }
    let client = client(global)?;
    match command {
        args::Volume::Create { .. } => create(&client, command, global)?,
        args::Volume::List => {
            let list: VolumeList = client.get("/api/v1/volumes")?;
            show(global.output, &list, |list| rows(&list.items));
        }
        args::Volume::Show { volume } => {
            let volume: Volume = client.get(&path(volume, ""))?;
            show(global.output, &volume, one);
        }
        args::Volume::Delete { volume } => client.delete(&path(volume, ""))?,
        args::Volume::Grow { volume, size } => {
            let volume: Volume =
                client.post(&path(volume, "/grow"), &VolumeGrow { bytes: *size })?;
            show(global.output, &volume, one);
        }
        args::Volume::Allow { volume, rules, read_only } => {
            let settings = VolumeSettings { read_only: *read_only, allow: rules.clone() };
            if let Some(volume) = client.ask(&Method::PUT, &path(volume, ""), &settings)? {
                show(global.output, &volume, one);
            }
        }
        args::Volume::Lun { volume, number, initiator, .. } => {
            let wanted = VolumeLun { lun: *number, initiator: initiator.clone() };
            if let Some(volume) = client.ask(&Method::PUT, &path(volume, "/lun"), &wanted)? {
                show(global.output, &volume, one);
            }
        }
        args::Volume::Scrub { volume, follow } => {
            let wanted = serde_json::json!({});
            return begin(&client, &path(volume, "/scrub"), &wanted, (follow, global));
        }
        args::Volume::Digest { volume } => {
            let digest: VolumeDigest = client.get_patiently(&path(volume, "/digest"))?;
            show(global.output, &digest, |d| format!("{}  {} at {}", d.digest, volume, d.site));
        }
        args::Volume::Read { volume, file } => read(&client, volume, file)?,
        args::Volume::Import { uri, volume } => {
            copy::copy(uri, &served(&client, volume)?, global.output)?;
        }
        args::Volume::Export { volume, to } => {
            copy::copy(&served(&client, volume)?, to, global.output)?;
        }
        args::Volume::Probe { .. } => {}
    }
    Ok(0)
}

/// A volume that is new, or a group's as of a moment.
fn create(client: &Client, command: &args::Volume, global: &Global) -> Result<(), Failure> {
    match command {
        args::Volume::Create {
            name, from_group: Some(of), at: Some(at), read_only, allow, ..
        } => {
            let settings = VolumeSettings { read_only: *read_only, allow: allow.clone() };
            let wanted = MomentOpen { name: name.clone(), at: at.clone(), settings };
            let path = format!("/api/v1/groups/{}/moments", segment(of));
            let moment: Moment = client.post_patiently(&path, &wanted)?;
            show(global.output, &moment, opened);
        }
        args::Volume::Create {
            name,
            size,
            from_snapshot,
            group,
            part_of,
            read_only,
            allow,
            ..
        } => {
            let wanted = VolumeCreate {
                name: name.clone(),
                bytes: *size,
                from: from_snapshot.clone(),
                group: group.clone(),
                part_of: *part_of,
                settings: VolumeSettings { read_only: *read_only, allow: allow.clone() },
            };
            let volume: Volume = client.post("/api/v1/volumes", &wanted)?;
            show(global.output, &volume, one);
        }
        _ => {}
    }
    Ok(())
}

fn path(volume: &str, rest: &str) -> String {
    format!("/api/v1/volumes/{}{rest}", segment(volume))
}

/// Where a volume is attached, of those ways that the copier can go.
fn served(client: &Client, name: &str) -> Result<String, Failure> {
    let volume: Volume = client.get(&path(name, ""))?;
    volume
        .exports
        .into_iter()
        .find(|uri| uri.starts_with("nbd:") || uri.starts_with("nbd+unix:"))
        .ok_or_else(|| {
            let what = format!("{name} is not served by {} without TLS", client.url());
            Failure::new(FAILED, what).next("ask the site that serves it: twinspan status names it")
        })
}

fn rows(volumes: &[Volume]) -> String {
    let rows = volumes.iter().map(|volume| {
        vec![
            volume.name.clone(),
            bytes_text(volume.bytes),
            volume.mapped_bytes.map_or_else(|| "UNKNOWN".to_owned(), bytes_text),
            volume.group.clone(),
            known(volume.role.as_ref()),
            word(&volume.copy),
            word(&volume.health).to_uppercase(),
            volume.exports.first().cloned().unwrap_or_else(|| "-".to_owned()),
        ]
    });
    table(&["VOLUME", "SIZE", "MAPPED", "GROUP", "ROLE", "COPY", "HEALTH", "EXPORT"], rows)
}

/// A group as of a second.
fn opened(moment: &Moment) -> String {
    format!("{} as of {}\n{}", moment.of, moment.at, rows(&moment.volumes))
}

fn one(volume: &Volume) -> String {
    let mut out = rows(std::slice::from_ref(volume));
    for export in volume.exports.iter().skip(1) {
        out.push_str(&format!("export {export}\n"));
    }
    out.push_str(&format!("id     {}\n", volume.id));
    if !volume.settings.allow.is_empty() {
        out.push_str(&format!("allow  {}\n", volume.settings.allow.join(", ")));
    }
    if let Some(lun) = volume.lun {
        out.push_str(&format!("lun    {lun} of its group's target\n"));
    }
    for (initiator, lun) in &volume.initiator_luns {
        out.push_str(&format!("lun    {lun} for {initiator}\n"));
    }
    if let Some(filling) = &volume.filling {
        out.push_str(&filled(filling));
    }
    if let Some(scrub) = &volume.scrub {
        out.push_str(&scrubbed(scrub));
    }
    for explanation in &volume.explanations {
        out.push_str(&format!("cause  {} [{}]\n", explanation.cause, explanation.code));
        out.push_str(&format!("next   {}\n", explanation.next));
    }
    out
}

/// What the last scrub found.
fn scrubbed(scrub: &Scrub) -> String {
    let (read, bad, repaired) =
        (bytes_text(scrub.read_bytes), scrub.bad_blocks, scrub.repaired_blocks);
    let left = match (&scrub.cause, scrub.left.as_slice()) {
        (None, _) => String::new(),
        (Some(cause), []) => format!(": {cause}"),
        (Some(cause), left) => format!(": {left:?} are bad: {cause}"),
    };
    format!("scrub  {}, {read} read, {bad} bad, {repaired} repaired{left}\n", scrub.ended_at)
}

/// How far a volume is that is used before it is filled.
fn filled(filling: &Filling) -> String {
    let left = filling.left_bytes.map_or_else(|| "not counted yet".to_owned(), bytes_text);
    let state = word(&filling.state);
    let cause = filling.cause.as_ref().map_or_else(String::new, |cause| format!(": {cause}"));
    format!("filled from {}, left {left}, {state}{cause}\n", filling.from)
}

fn read(client: &Client, name: &str, file: &std::path::Path) -> Result<(), Failure> {
    let volume: Volume = client.get(&path(name, ""))?;
    let failed =
        |error: std::io::Error| Failure::new(FAILED, format!("{}: {error}", file.display()));
    let mut out = std::fs::File::create_new(file).map_err(failed)?;
    let mut offset = 0;
    while offset < volume.bytes {
        let length = PIECE_BYTES.min(volume.bytes - offset);
        let content =
            client.content(&path(name, &format!("/content?offset={offset}&length={length}")))?;
        out.write_all(&content).map_err(failed)?;
        offset += length;
    }
    out.sync_all().map_err(failed)
}
