//! What each option does.
//!
//! Invariant: every option but `EXPORT_NAME` is answered, well formed or not.

use smallvec::SmallVec;

use super::{Agreed, Asking, Negotiation, Progress, Violation};
use crate::contexts::{Context, Contexts, is_listed_by};
use crate::export::{ExportInfo, Refusal};
use crate::limits::{BLOCK_BYTES_MAX, NAME_BYTES_MAX, QUERIES_MAX};
use crate::wire::{
    Cursor, EXPORT_NAME_PADDING, HeaderStyle, Info, OptionReply, checked_name, push_reply,
    transmission_flags as flag,
};

/// The answer to one option, on its way out.
pub(super) struct Answer<'a> {
    pub(super) number: u32,
    pub(super) out: &'a mut Vec<u8>,
}

impl Answer<'_> {
    pub(super) fn ack(&mut self) {
        self.push(OptionReply::Ack, &[]);
    }

    pub(super) fn refuse(&mut self, reply: OptionReply, why: &str) {
        self.push(reply, &[why.as_bytes()]);
    }

    fn push(&mut self, reply: OptionReply, parts: &[&[u8]]) {
        push_reply(self.out, self.number, reply, parts);
    }

    fn info(&mut self, info: Info, parts: [&[u8]; 3]) {
        let [a, b, c] = parts;
        self.push(OptionReply::Info, &[&info.number().to_be_bytes(), a, b, c]);
    }

    fn refused(&mut self, refusal: Refusal) {
        let reply = match refusal {
            Refusal::Unknown => OptionReply::UnknownExport,
            Refusal::NotServed => OptionReply::Policy,
            Refusal::TlsRequired => OptionReply::TlsRequired,
            Refusal::ShuttingDown => OptionReply::Shutdown,
        };
        self.refuse(reply, &refusal.to_string());
    }
}

impl Negotiation {
    pub(super) fn export_name(
        &self,
        data: &[u8],
        asking: Asking<'_>,
        answer: &mut Answer<'_>,
    ) -> Result<Progress, Violation> {
        let export = checked_name(data)
            .and_then(|name| asking.exports.find(name, asking.client).ok())
            .ok_or(Violation::ExportRefused)?;
        let agreed = self.agree(export);
        answer.out.extend_from_slice(&agreed.export.bytes.to_be_bytes());
        answer.out.extend_from_slice(&agreed.flags().to_be_bytes());
        if !self.flags.unwrap_or_default().no_zeroes {
            answer.out.extend_from_slice(&[0; EXPORT_NAME_PADDING]);
        }
        Ok(Progress::Transmission(Box::new(agreed)))
    }

    /// Answers `INFO` and `GO`, which say the same; `None` when the export was refused.
    pub(super) fn describe(
        &self,
        data: &[u8],
        asking: Asking<'_>,
        answer: &mut Answer<'_>,
    ) -> Option<Agreed> {
        let Some((name, wishes)) = read_wishes(data) else {
            answer.refuse(OptionReply::Invalid, "name or information requests are malformed");
            return None;
        };
        let export = match asking.exports.find(name, asking.client) {
            Ok(export) => export,
            Err(refusal) => {
                answer.refused(refusal);
                return None;
            }
        };
        let agreed = self.agree(export);
        let export = &agreed.export;
        if wishes.contains(&Info::Name.number()) {
            answer.info(Info::Name, [cut(&export.name).as_bytes(), &[], &[]]);
        }
        if wishes.contains(&Info::Description.number()) && !export.description.is_empty() {
            answer.info(Info::Description, [cut(&export.description).as_bytes(), &[], &[]]);
        }
        let (smallest, preferred) = (1u32, PREFERRED_BYTES);
        answer.info(
            Info::BlockSize,
            [&smallest.to_be_bytes(), &preferred.to_be_bytes(), &BLOCK_BYTES_MAX.to_be_bytes()],
        );
        answer
            .info(Info::Export, [&export.bytes.to_be_bytes(), &agreed.flags().to_be_bytes(), &[]]);
        answer.ack();
        Some(agreed)
    }

    fn agree(&self, export: ExportInfo) -> Agreed {
        let contexts = match &self.chosen {
            Some((name, contexts)) if *name == export.name => contexts.clone(),
            _ => Contexts::new(),
        };
        Agreed { export, style: self.style, contexts }
    }

    pub(super) fn structured(&mut self, data: &[u8], answer: &mut Answer<'_>) {
        if !data.is_empty() {
            answer.refuse(OptionReply::Invalid, "STRUCTURED_REPLY takes no data");
            return;
        }
        match self.style {
            HeaderStyle::Simple => {
                self.style = HeaderStyle::Structured;
                answer.ack();
            }
            HeaderStyle::Structured => {
                answer.refuse(OptionReply::Invalid, "structured replies are on already");
            }
            HeaderStyle::Extended => {
                answer.refuse(OptionReply::ExtendedHeaders, "extended headers are on already");
            }
        }
    }

    pub(super) fn extended(&mut self, data: &[u8], answer: &mut Answer<'_>) {
        if !data.is_empty() {
            answer.refuse(OptionReply::Invalid, "EXTENDED_HEADERS takes no data");
        } else if self.style == HeaderStyle::Extended {
            answer.refuse(OptionReply::Invalid, "extended headers are on already");
        } else {
            self.style = HeaderStyle::Extended;
            answer.ack();
        }
    }

    pub(super) fn list_contexts(&self, data: &[u8], asking: Asking<'_>, answer: &mut Answer<'_>) {
        let Some((export, queries)) = self.queries(data, asking, answer) else {
            return;
        };
        for (_, name) in Context::all_of(&export) {
            if queries.is_empty() || queries.iter().any(|query| is_listed_by(&name, query)) {
                let parts: [&[u8]; 2] = [&0u32.to_be_bytes(), name.as_bytes()];
                answer.push(OptionReply::MetaContext, &parts);
            }
        }
        answer.ack();
    }

    pub(super) fn set_contexts(
        &mut self,
        data: &[u8],
        asking: Asking<'_>,
        answer: &mut Answer<'_>,
    ) {
        self.chosen = None;
        let Some((export, queries)) = self.queries(data, asking, answer) else {
            return;
        };
        let all = Context::all_of(&export);
        let mut contexts = Contexts::new();
        // No namespace stands for what is in it here: each is named.
        let named = queries.iter().filter_map(|query| all.iter().find(|(_, name)| name == query));
        for (context, name) in named {
            if !contexts.contains(context) {
                contexts.push(*context);
                let parts: [&[u8]; 2] = [&context.id().to_be_bytes(), name.as_bytes()];
                answer.push(OptionReply::MetaContext, &parts);
            }
        }
        self.chosen = Some((export.name, contexts));
        answer.ack();
    }

    /// Reads what both context options carry, and looks the export up.
    fn queries<'d>(
        &self,
        data: &'d [u8],
        asking: Asking<'_>,
        answer: &mut Answer<'_>,
    ) -> Option<(ExportInfo, Vec<&'d str>)> {
        if !self.style.has_chunks() {
            answer.refuse(OptionReply::Invalid, "structured replies must come first");
            return None;
        }
        let Some((name, queries)) = read_queries(data) else {
            answer.refuse(OptionReply::Invalid, "name or queries are malformed");
            return None;
        };
        match asking.exports.find(name, asking.client) {
            Ok(export) => Some((export, queries)),
            Err(refusal) => {
                answer.refused(refusal);
                None
            }
        }
    }
}

impl Agreed {
    /// What the client is told of the export.
    #[must_use]
    pub fn flags(&self) -> u16 {
        let mut flags = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::SEND_CACHE;
        if self.export.read_only {
            flags |= flag::READ_ONLY;
        } else {
            flags |= flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO;
        }
        if self.export.multi_conn {
            flags |= flag::CAN_MULTI_CONN;
        }
        if self.style.has_chunks() {
            flags |= flag::SEND_DF;
        }
        if self.style == HeaderStyle::Extended && !self.contexts.is_empty() {
            flags |= flag::BLOCK_STATUS_PAYLOAD;
        }
        flags
    }
}

pub(super) fn list(data: &[u8], asking: Asking<'_>, answer: &mut Answer<'_>) {
    if !data.is_empty() {
        answer.refuse(OptionReply::Invalid, "LIST takes no data");
        return;
    }
    for export in asking.exports.list(asking.client) {
        let name = cut(&export.name);
        // `cut` leaves at most 4096 bytes.
        let len = u32::try_from(name.len()).unwrap_or(0);
        let description = cut(&export.description);
        answer.push(
            OptionReply::Server,
            &[&len.to_be_bytes(), name.as_bytes(), description.as_bytes()],
        );
    }
    answer.ack();
}

/// The block size that suits the pool: nothing smaller needs fewer bytes read or written.
const PREFERRED_BYTES: u32 = 4096;
const _: () = assert!(PREFERRED_BYTES as u64 == block::BLOCK_BYTES);

/// No more than the protocol lets a text be.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(NAME_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    &text[..end]
}

fn read_wishes(data: &[u8]) -> Option<(&str, SmallVec<[u16; 8]>)> {
    let mut cursor = Cursor::new(data);
    let name = cursor.text()?;
    let count = usize::from(cursor.u16()?);
    if count > QUERIES_MAX {
        return None;
    }
    let mut wishes = SmallVec::new();
    for _ in 0..count {
        wishes.push(cursor.u16()?);
    }
    cursor.is_at_end().then_some((name, wishes))
}

fn read_queries(data: &[u8]) -> Option<(&str, Vec<&str>)> {
    let mut cursor = Cursor::new(data);
    let name = cursor.text()?;
    let count = usize::try_from(cursor.u32()?).ok().filter(|count| *count <= QUERIES_MAX)?;
    let mut queries = Vec::new();
    for _ in 0..count {
        queries.push(cursor.text()?);
    }
    cursor.is_at_end().then_some((name, queries))
}
