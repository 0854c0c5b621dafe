//! The handshake as a state machine: bytes in, bytes and a decision out, no I/O.
//!
//! ```text
//!   ClientFlags ──▶ Options ──GO / EXPORT_NAME──▶ Transmission
//!                    │  ▲ ╰──────ABORT──────────▶ Closed
//!           STARTTLS ▼  │ secured(): all that was agreed is forgotten
//!                    (TLS)
//! ```
//!
//! Invariant: one option is taken at a time and its answer is sent before the next is looked at,
//! so what is buffered is bounded by one answer. Before TLS, a listener that requires it tells
//! nothing of any export. Plaintext behind `STARTTLS` ends the connection: it could have been put
//! there by somebody else.

mod options;

use bytes::{Buf, BytesMut};

use crate::contexts::Contexts;
use crate::export::{ClientInfo, ExportInfo, Exports};
use crate::limits::{OPTION_BYTES_MAX, OPTIONS_MAX};
use crate::wire::{ClientFlags, HeaderStyle, OptionCode, OptionHeader, OptionReply, push_reply};

/// Whether a listener speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Off,
    /// If the client asks for it.
    Optional,
    /// Nothing is told without.
    Required,
}

/// What the two sides agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The export, as it was told to the client.
    pub export: ExportInfo,
    /// The headers.
    pub style: HeaderStyle,
    /// The metadata contexts.
    pub contexts: Contexts,
}

/// What follows from the bytes so far. Whatever was put out is to be sent first.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    NeedBytes,
    /// An option was dealt with: go on.
    Continue,
    /// Start TLS, then say [`Negotiation::secured`].
    StartTls,
    /// Transmission starts; what is left of the input are requests.
    Transmission(Box<Agreed>),
    /// The client ended the handshake.
    Closed,
}

/// Why the connection is closed without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The bytes are not of this protocol.
    #[error("client does not speak the protocol")]
    Malformed,
    /// It never comes to the point.
    #[error("client sent more than {OPTIONS_MAX} options")]
    TooManyOptions,
    /// Bytes in the clear followed the wish for TLS.
    #[error("client sent plaintext behind STARTTLS")]
    PlaintextBehindStartTls,
    /// The old way to open an export knows no error reply.
    #[error("client asked the old way for an export that it does not get")]
    ExportRefused,
    /// Likewise, of a listener that requires TLS.
    #[error("client asked for an export without TLS")]
    TlsRequired,
}

/// Who asks whom.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// The gateway.
    pub exports: &'a dyn Exports,
    /// The client.
    pub client: &'a ClientInfo,
}

/// One handshake.
#[derive(Debug)]
pub struct Negotiation {
    tls: TlsMode,
    secure: bool,
    flags: Option<ClientFlags>,
    style: HeaderStyle,
    /// The contexts, and the export that they were chosen for.
    chosen: Option<(String, Contexts)>,
    options_left: usize,
    skip: Option<Skip>,
}

/// The payload of an option that is too long to be kept.
#[derive(Debug)]
struct Skip {
    number: u32,
    left: usize,
}

impl Negotiation {
    /// A handshake on a listener of this mode, of which the greeting was sent.
    #[must_use]
    pub const fn new(tls: TlsMode) -> Self {
        Self {
            tls,
            secure: false,
            flags: None,
            style: HeaderStyle::Simple,
            chosen: None,
            options_left: OPTIONS_MAX,
            skip: None,
        }
    }

    /// TLS is on.
    pub fn secured(&mut self) {
        self.secure = true;
        self.style = HeaderStyle::Simple;
        self.chosen = None;
    }

    /// Takes one step from the front of `input`, and appends what is to be sent to `out`.
    ///
    /// # Errors
    /// When the connection is to be closed without a word.
    pub fn advance(
        &mut self,
        input: &mut BytesMut,
        asking: Asking<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Progress, Violation> {
        let malformed = |crate::wire::Malformed| Violation::Malformed;
        if self.flags.is_none() {
            let Some(flags) = ClientFlags::read(input).map_err(malformed)? else {
                return Ok(Progress::NeedBytes);
            };
            input.advance(ClientFlags::BYTES);
            self.flags = Some(flags);
        }
        if self.skip.is_some() {
            return Ok(self.skip_some(input, out));
        }
        let Some(header) = OptionHeader::read(input).map_err(malformed)? else {
            return Ok(Progress::NeedBytes);
        };
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        if len > OPTION_BYTES_MAX {
            return self.refuse_long(input, header, len);
        }
        let Some(whole) = OptionHeader::BYTES.checked_add(len).filter(|n| *n <= input.len()) else {
            return Ok(Progress::NeedBytes);
        };
        self.count()?;
        let mut option = input.split_to(whole);
        option.advance(OptionHeader::BYTES);
        self.option((header.number, &option), asking, out, input.is_empty())
    }

    fn count(&mut self) -> Result<(), Violation> {
        self.options_left = self.options_left.checked_sub(1).ok_or(Violation::TooManyOptions)?;
        Ok(())
    }

    fn refuse_long(
        &mut self,
        input: &mut BytesMut,
        header: OptionHeader,
        len: usize,
    ) -> Result<Progress, Violation> {
        self.count()?;
        if OptionCode::of(header.number) == OptionCode::ExportName {
            return Err(Violation::ExportRefused);
        }
        input.advance(OptionHeader::BYTES);
        self.skip = Some(Skip { number: header.number, left: len });
        Ok(Progress::Continue)
    }

    fn skip_some(&mut self, input: &mut BytesMut, out: &mut Vec<u8>) -> Progress {
        let Some(skip) = &mut self.skip else {
            return Progress::Continue;
        };
        let here = skip.left.min(input.len());
        input.advance(here);
        skip.left = skip.left.saturating_sub(here);
        if skip.left > 0 {
            return Progress::NeedBytes;
        }
        let number = skip.number;
        self.skip = None;
        let reply = match OptionCode::of(number) {
            _ if self.needs_tls() => OptionReply::TlsRequired,
            OptionCode::Unknown => OptionReply::Unsupported,
            _ => OptionReply::TooBig,
        };
        push_reply(out, number, reply, &[b"option is too long"]);
        Progress::Continue
    }

    const fn needs_tls(&self) -> bool {
        matches!(self.tls, TlsMode::Required) && !self.secure
    }

    fn option(
        &mut self,
        (number, data): (u32, &[u8]),
        asking: Asking<'_>,
        out: &mut Vec<u8>,
        last: bool,
    ) -> Result<Progress, Violation> {
        let code = OptionCode::of(number);
        if self.needs_tls() {
            match code {
                OptionCode::StartTls | OptionCode::Abort => {}
                OptionCode::ExportName => return Err(Violation::TlsRequired),
                _ => {
                    push_reply(out, number, OptionReply::TlsRequired, &[b"TLS is required here"]);
                    return Ok(Progress::Continue);
                }
            }
        }
        let mut answer = options::Answer { number, out };
        match code {
            OptionCode::ExportName => return self.export_name(data, asking, &mut answer),
            OptionCode::Abort => {
                answer.ack();
                return Ok(Progress::Closed);
            }
            OptionCode::StartTls => return self.start_tls(data, last, &mut answer),
            OptionCode::Go => {
                if let Some(agreed) = self.describe(data, asking, &mut answer) {
                    return Ok(Progress::Transmission(Box::new(agreed)));
                }
            }
            OptionCode::Info => {
                self.describe(data, asking, &mut answer);
            }
            OptionCode::List => options::list(data, asking, &mut answer),
            OptionCode::StructuredReply => self.structured(data, &mut answer),
            OptionCode::ExtendedHeaders => self.extended(data, &mut answer),
            OptionCode::ListMetaContext => self.list_contexts(data, asking, &mut answer),
            OptionCode::SetMetaContext => self.set_contexts(data, asking, &mut answer),
            OptionCode::Unknown => {
                answer.refuse(OptionReply::Unsupported, "option is not known here");
            }
        }
        Ok(Progress::Continue)
    }

    fn start_tls(
        &self,
        data: &[u8],
        last: bool,
        answer: &mut options::Answer<'_>,
    ) -> Result<Progress, Violation> {
        if !data.is_empty() {
            answer.refuse(OptionReply::Invalid, "STARTTLS takes no data");
        } else if self.secure {
            answer.refuse(OptionReply::Invalid, "TLS is on already");
        } else if self.tls == TlsMode::Off {
            answer.refuse(OptionReply::Policy, "TLS is not configured here");
        } else if last {
            answer.ack();
            return Ok(Progress::StartTls);
        } else {
            return Err(Violation::PlaintextBehindStartTls);
        }
        Ok(Progress::Continue)
    }
}

#[cfg(test)]
mod tests;
