//! Login, as a machine: requests in, responses out, until both sides agree (RFC 7143 §6 and §13).
//!
//! ```text
//!   Security ──────────────▶ Operational ──▶ Full feature
//!      ╰── AuthMethod=None, or CHAP done ──────▲ (or straight on)
//! ```
//!
//! Invariant: nobody reaches full feature phase of a target that asks for CHAP without having
//! proven itself; each key is negotiated at most once; what an initiator makes us keep is bounded.
//! A target that is not served now is never told as one that does not exist.

mod chap;
mod keys;

use std::sync::Arc;

use crate::export::{InitiatorInfo, Refusal, TargetInfo, Targets};
use crate::limits::{LOGIN_REQUESTS_MAX, NAME_BYTES_MAX, RECV_SEGMENT_BYTES, TEXT_BYTES_MAX};
use crate::wire::{LoginStatus, Request, Response, text};

pub use chap::{Auth, ChapUser, Fill, Secret, SharedSecret, WeakSecret};
use chap::{Chap, ChapStep};
pub use keys::Params;
use keys::{Answer, answer};

/// What kind of session an initiator opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionType {
    /// To find targets.
    Discovery,
    /// To use one.
    Normal,
}

/// What both sides agreed on.
#[derive(Clone, Debug)]
pub struct Agreed {
    /// What kind of session it is.
    pub kind: SessionType,
    /// Who logged in.
    pub initiator: InitiatorInfo,
    /// Its part of the session's identity.
    pub isid: [u8; 6],
    /// The connection's number.
    pub connection: u16,
    /// The target; a discovery session has none.
    pub target: Option<TargetInfo>,
    /// How data is sent.
    pub params: Params,
    /// The number of its first command.
    pub cmd_sn: u32,
}

/// What is sent back, and what follows.
#[derive(Debug)]
pub struct Reply {
    /// The response.
    pub response: Response,
    /// Its text.
    pub text: Vec<u8>,
    /// What follows.
    pub next: Next,
}

/// What follows a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The initiator's next request.
    Continue,
    /// Both agree: full feature phase.
    Agreed,
    /// The connection is closed.
    Refused,
}

/// What holds for logins at one listener.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Its portal group.
    pub tag: u16,
    /// Who must prove what.
    pub auth: Arc<Auth>,
}

const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;

/// One login.
#[derive(Debug)]
pub struct Login {
    terms: Terms,
    initiator: InitiatorInfo,
    first: Option<First>,
    stage: u8,
    requests: usize,
    pending: Vec<u8>,
    kind: SessionType,
    /// The target that it names, until it has proven who it is.
    wanted: Option<String>,
    target: Option<TargetInfo>,
    params: Params,
    chap: Chap,
    seen: Vec<String>,
    introduced: bool,
    declared: bool,
}

/// What the first request fixes for the rest.
#[derive(Clone, Copy, Debug)]
struct First {
    isid: [u8; 6],
    tag: u32,
    connection: u16,
    cmd_sn: u32,
}

impl Login {
    /// A login at a listener, from this address; the name in `initiator` comes with it.
    #[must_use]
    pub fn new(terms: Terms, initiator: InitiatorInfo) -> Self {
        let chap = Chap::new(Arc::clone(&terms.auth));
        Self {
            terms,
            initiator,
            first: None,
            stage: SECURITY,
            requests: 0,
            pending: Vec::new(),
            kind: SessionType::Normal,
            wanted: None,
            target: None,
            params: Params::default(),
            chap,
            seen: Vec::new(),
            introduced: false,
            declared: false,
        }
    }

    /// Takes one login request with its data.
    pub fn take(
        &mut self,
        request: &Request,
        data: &[u8],
        targets: &dyn Targets,
        fill: Fill<'_>,
    ) -> Reply {
        let mut text = Vec::new();
        match self.step(request, data, &mut text, (targets, fill)) {
            Ok(Some(next_stage)) => {
                let stage = std::mem::replace(&mut self.stage, next_stage);
                let next = if next_stage == FULL_FEATURE { Next::Agreed } else { Next::Continue };
                self.reply((stage, Some(next_stage)), LoginStatus::Success, text, next)
            }
            Ok(None) => self.reply((self.stage, None), LoginStatus::Success, text, Next::Continue),
            Err(status) => self.reply((self.stage, None), status, Vec::new(), Next::Refused),
        }
    }

    /// A refusal, whatever was said before.
    #[must_use]
    pub fn refuse(&self, status: LoginStatus) -> Reply {
        self.reply((self.stage, None), status, Vec::new(), Next::Refused)
    }

    /// What was agreed on; of use after [`Next::Agreed`].
    #[must_use]
    pub fn agreed(self) -> Option<Agreed> {
        let First { isid, connection, cmd_sn, .. } = self.first?;
        (self.stage == FULL_FEATURE).then_some(Agreed {
            kind: self.kind,
            initiator: self.initiator,
            isid,
            connection,
            target: self.target,
            params: self.params,
            cmd_sn,
        })
    }

    /// The initiator and the session it asks for, as far as they are known.
    #[must_use]
    pub fn session(&self) -> Option<(SessionType, &InitiatorInfo, [u8; 6], Option<&TargetInfo>)> {
        let first = self.first?;
        Some((self.kind, &self.initiator, first.isid, self.target.as_ref()))
    }

    fn reply(
        &self,
        (stage, next_stage): (u8, Option<u8>),
        status: LoginStatus,
        text: Vec<u8>,
        next: Next,
    ) -> Reply {
        let response = Response::Login {
            transit: next_stage.is_some(),
            more: false,
            stage,
            next_stage: next_stage.unwrap_or(0),
            isid: self.first.map_or([0; 6], |first| first.isid),
            // The session gets its number when it begins.
            tsih: 0,
            tag: self.first.map_or(0, |first| first.tag),
            status,
        };
        Reply { response, text, next }
    }

    /// One request; the stage that it leads to, if it leads on.
    fn step(
        &mut self,
        request: &Request,
        data: &[u8],
        out: &mut Vec<u8>,
        (targets, fill): (&dyn Targets, Fill<'_>),
    ) -> Result<Option<u8>, LoginStatus> {
        let Request::Login { transit, more, stage, next_stage, .. } = *request else {
            return Err(LoginStatus::InvalidDuringLogin);
        };
        self.begin(request)?;
        self.requests += 1;
        if stage != self.stage || self.requests > LOGIN_REQUESTS_MAX || (more && transit) {
            return Err(LoginStatus::InitiatorError);
        }
        if self.pending.len() + data.len() > TEXT_BYTES_MAX {
            return Err(LoginStatus::OutOfResources);
        }
        self.pending.extend_from_slice(data);
        if more {
            return Ok(None);
        }
        let whole = std::mem::take(&mut self.pending);
        let pairs = text::parse(&whole).map_err(|_malformed| LoginStatus::InitiatorError)?;
        let mut pairs = self.once(pairs)?;
        if !self.introduced {
            self.introduce(&mut pairs, out)?;
        }
        let wants = transit.then_some(next_stage);
        if stage == SECURITY {
            self.secure(&pairs, out, fill)?
        } else {
            self.operate(&pairs, out)?
        }
        // Whoever has not proven itself yet is not told which targets there are.
        if self.chap.is_done() {
            self.find(targets)?;
        }
        match (stage, wants) {
            (_, None) => Ok(None),
            (SECURITY, Some(next @ (OPERATIONAL | FULL_FEATURE))) => {
                // An initiator may ask to go on too early; it is told to stay.
                Ok(self.chap.is_done().then_some(next))
            }
            (OPERATIONAL, Some(FULL_FEATURE)) => Ok(Some(FULL_FEATURE)),
            (_, Some(_)) => Err(LoginStatus::InitiatorError),
        }
    }

    fn begin(&mut self, request: &Request) -> Result<(), LoginStatus> {
        let Request::Login { stage, version_min, isid, tsih, tag, connection, cmd_sn, .. } =
            *request
        else {
            return Err(LoginStatus::InvalidDuringLogin);
        };
        if let Some(first) = self.first {
            let same = (isid, tag, connection) == (first.isid, first.tag, first.connection);
            return if same { Ok(()) } else { Err(LoginStatus::InitiatorError) };
        }
        self.first = Some(First { isid, tag, connection, cmd_sn });
        if version_min > 0 {
            return Err(LoginStatus::UnsupportedVersion);
        }
        if tsih != 0 {
            // One connection is a session; a second one cannot join it.
            return Err(LoginStatus::NoSuchSession);
        }
        match stage {
            SECURITY => {}
            OPERATIONAL if self.terms.auth.is_open() => self.stage = OPERATIONAL,
            OPERATIONAL => return Err(LoginStatus::AuthenticationFailure),
            _ => return Err(LoginStatus::InitiatorError),
        }
        Ok(())
    }

    /// Refuses a key that was negotiated before; security keys come in rounds.
    fn once<'t>(
        &mut self,
        pairs: Vec<(&'t str, &'t str)>,
    ) -> Result<Vec<(&'t str, &'t str)>, LoginStatus> {
        for (key, _) in &pairs {
            if key.starts_with("CHAP_") {
                continue;
            }
            if self.seen.iter().any(|seen| seen == key) {
                return Err(LoginStatus::InitiatorError);
            }
            self.seen.push((*key).to_owned());
        }
        Ok(pairs)
    }

    /// Who it is and what it wants, from the first request.
    fn introduce(
        &mut self,
        pairs: &mut Vec<(&str, &str)>,
        out: &mut Vec<u8>,
    ) -> Result<(), LoginStatus> {
        let find = |wanted: &str| pairs.iter().find(|(key, _)| *key == wanted).map(|(_, v)| *v);
        let name = find("InitiatorName").ok_or(LoginStatus::MissingParameter)?;
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(LoginStatus::InitiatorError);
        }
        // Names are compared without regard to case (RFC 3722): here they are lower case from now on,
        // in access lists and in reservations too.
        self.initiator.name = name.to_ascii_lowercase();
        self.kind = match find("SessionType") {
            None | Some("Normal") => SessionType::Normal,
            Some("Discovery") => SessionType::Discovery,
            Some(_) => return Err(LoginStatus::SessionTypeUnsupported),
        };
        if self.kind == SessionType::Normal {
            let wanted = find("TargetName").ok_or(LoginStatus::MissingParameter)?;
            self.wanted = Some(wanted.to_owned());
            text::push(out, "TargetPortalGroupTag", &self.terms.tag.to_string());
        }
        const SAID: [&str; 4] = ["InitiatorName", "SessionType", "TargetName", "InitiatorAlias"];
        pairs.retain(|(key, _)| !SAID.contains(key));
        self.introduced = true;
        Ok(())
    }

    /// Looks for the target that this initiator wants, once; who discovers wants all that there are.
    fn find(&mut self, targets: &dyn Targets) -> Result<(), LoginStatus> {
        if self.kind == SessionType::Discovery && !targets.is_ready() {
            return Err(LoginStatus::ServiceUnavailable);
        }
        let Some(wanted) = self.wanted.take() else { return Ok(()) };
        let found = targets.find(&wanted, &self.initiator);
        self.target = Some(found.map_err(|refusal| match refusal {
            Refusal::Unknown => LoginStatus::NotFound,
            Refusal::NotServed | Refusal::NotReady => LoginStatus::ServiceUnavailable,
        })?);
        Ok(())
    }

    fn secure(
        &mut self,
        pairs: &[(&str, &str)],
        out: &mut Vec<u8>,
        fill: Fill<'_>,
    ) -> Result<(), LoginStatus> {
        match self.chap.take(pairs, (&self.initiator.name, out), fill) {
            ChapStep::Goes => {}
            ChapStep::Done(user) => self.initiator.user = Some(user),
            ChapStep::Failed => return Err(LoginStatus::AuthenticationFailure),
            ChapStep::Posing => return Err(LoginStatus::AuthorizationFailure),
        }
        for (key, value) in pairs {
            let of_security = *key == "AuthMethod" || key.starts_with("CHAP_");
            if !of_security {
                self.one(key, value, out)?;
            }
        }
        Ok(())
    }

    fn operate(&mut self, pairs: &[(&str, &str)], out: &mut Vec<u8>) -> Result<(), LoginStatus> {
        for (key, value) in pairs {
            self.one(key, value, out)?;
        }
        if !self.declared {
            self.declared = true;
            let len = RECV_SEGMENT_BYTES.to_string();
            text::push(out, "MaxRecvDataSegmentLength", &len);
        }
        Ok(())
    }

    fn one(&mut self, key: &str, value: &str, out: &mut Vec<u8>) -> Result<(), LoginStatus> {
        match answer(&mut self.params, key, value) {
            Answer::Say(value) => text::push(out, key, &value),
            Answer::Silent => {}
            Answer::Wrong => return Err(LoginStatus::InitiatorError),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
