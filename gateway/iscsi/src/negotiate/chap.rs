//! CHAP, one way and mutual (RFC 7143 §12.1.3, RFC 1994).
//!
//! ```text
//!   AuthMethod=CHAP ▶          ◀ AuthMethod=CHAP
//!   CHAP_A=7,6,5    ▶          ◀ CHAP_A CHAP_I CHAP_C
//!   CHAP_N CHAP_R (CHAP_I CHAP_C) ▶   ◀ (CHAP_N CHAP_R)
//! ```
//!
//! Invariant: secrets are compared in constant time and never shown. A challenge of ours that comes
//! back as theirs is refused, so nobody can have us compute its own answer.

use std::fmt;
use std::hint::black_box;
use std::sync::Arc;

use md5::{Digest, Md5};
use ring::digest;
use zeroize::Zeroizing;

use crate::wire::text::{binary, hex, number, push};

/// Fills bytes with randomness.
pub type Fill<'f> = &'f mut dyn FnMut(&mut [u8]);

/// The longest challenge that an initiator may send.
const CHALLENGE_BYTES_MAX: usize = 1024;

/// The shortest secret (RFC 7143 §9.2.1: 96 bits).
const SECRET_BYTES_MIN: usize = 12;

/// A secret, shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// Why a secret cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeakSecret {
    /// Shorter than the standard allows.
    #[error("a CHAP secret has at least {SECRET_BYTES_MIN} bytes")]
    Short,
    /// The same both ways: each side could answer with what the other sent.
    #[error("the secret of the initiator and that of the gateway must differ")]
    Same,
    /// A name that is empty.
    #[error("a CHAP name is not empty")]
    NoName,
}

impl Secret {
    /// These bytes.
    ///
    /// # Errors
    /// When they are too few.
    pub fn new(bytes: Vec<u8>) -> Result<Self, WeakSecret> {
        let secret = Self(Zeroizing::new(bytes));
        if secret.0.len() < SECRET_BYTES_MIN { Err(WeakSecret::Short) } else { Ok(secret) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// An initiator that can prove itself, and what is proven to it.
#[derive(Clone, Debug)]
pub struct ChapUser {
    name: String,
    secret: Secret,
    mutual: Option<(String, Secret)>,
    /// The initiators that it may be, in lower case; empty: any.
    initiators: Vec<String>,
}

impl ChapUser {
    /// A user with its secret; with a name and a secret of the gateway's if it is asked for them.
    ///
    /// # Errors
    /// When the names or secrets are no good.
    pub fn new(
        name: String,
        secret: Secret,
        mutual: Option<(String, Secret)>,
    ) -> Result<Self, WeakSecret> {
        if name.is_empty() || mutual.as_ref().is_some_and(|(name, _)| name.is_empty()) {
            return Err(WeakSecret::NoName);
        }
        if mutual.as_ref().is_some_and(|(_, ours)| *ours == secret) {
            return Err(WeakSecret::Same);
        }
        Ok(Self { name, secret, mutual, initiators: Vec::new() })
    }

    /// The same user, who may log in under these names of initiators only. Without any it may give every
    /// name, so that a list of names proves nothing of it.
    #[must_use]
    pub fn known_as(mut self, initiators: &[String]) -> Self {
        self.initiators = initiators.iter().map(|name| name.to_ascii_lowercase()).collect();
        self
    }

    fn may_be(&self, initiator: &str) -> bool {
        self.initiators.is_empty() || self.initiators.iter().any(|name| name == initiator)
    }
}

/// Who must prove what.
#[derive(Clone, Debug)]
pub enum Auth {
    /// Nobody anything.
    None,
    /// Each initiator that it is one of these; [`Self::chap`] sees to it that they go together.
    Chap(Vec<ChapUser>),
}

/// A secret by which the gateway proves itself to one user, and another proves itself to the gateway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the gateway proves itself to {seen_by} with the secret of {of}, so that whoever logs in as \
     {seen_by} can have it answer for {of}: give the gateway another secret for {seen_by}"
)]
pub struct SharedSecret {
    /// The user to whom the gateway proves itself.
    pub seen_by: String,
    /// The user who has the same secret.
    pub of: String,
}

impl Auth {
    /// Each initiator must prove that it is one of these. No secret may serve both ways (RFC 7143
    /// §9.2.1), be it of two users: one of them would send on what the gateway asks of the other, have
    /// the gateway answer it, and log in with that.
    ///
    /// # Errors
    /// Whose secrets are the same.
    pub fn chap(users: Vec<ChapUser>) -> Result<Self, SharedSecret> {
        let mutual = users.iter().filter_map(|user| Some((user, &user.mutual.as_ref()?.1)));
        for (seen_by, ours) in mutual {
            if let Some(of) = users.iter().find(|other| other.secret == *ours) {
                let (seen_by, of) = (seen_by.name.clone(), of.name.clone());
                return Err(SharedSecret { seen_by, of });
            }
        }
        Ok(Self::Chap(users))
    }

    /// Whether nobody must prove anything.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// How a challenge is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Md5,
    Sha1,
    Sha256,
}

impl Algorithm {
    const fn of(number: u32) -> Option<Self> {
        match number {
            5 => Some(Self::Md5),
            6 => Some(Self::Sha1),
            7 => Some(Self::Sha256),
            _ => None,
        }
    }

    const fn number(self) -> &'static str {
        match self {
            Self::Md5 => "5",
            Self::Sha1 => "6",
            Self::Sha256 => "7",
        }
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    fn respond(self, id: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
        let parts: [&[u8]; 3] = [&[id], &secret.0, challenge];
        if self == Self::Md5 {
            let mut sum = Md5::new();
            parts.iter().for_each(|part| sum.update(part));
            return sum.finalize().to_vec();
        }
        let algorithm =
            if self == Self::Sha1 { &digest::SHA1_FOR_LEGACY_USE_ONLY } else { &digest::SHA256 };
        let mut sum = digest::Context::new(algorithm);
        parts.iter().for_each(|part| sum.update(part));
        sum.finish().as_ref().to_vec()
    }
}

/// How a round ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ChapStep {
    /// It goes on.
    Goes,
    /// This user has proven itself.
    Done(String),
    /// It has, and may not be the initiator that it says it is.
    Posing,
    /// It has not.
    Failed,
}

#[derive(Debug)]
enum State {
    /// Nothing was said yet.
    Method,
    /// CHAP was agreed on.
    Algorithms,
    /// A challenge was sent.
    Challenged { algorithm: Algorithm, id: u8, challenge: Vec<u8> },
    /// Nothing more has to be proven.
    Done,
}

/// The security stage of one login.
#[derive(Debug)]
pub(super) struct Chap {
    auth: Arc<Auth>,
    state: State,
}

impl Chap {
    pub(super) fn new(auth: Arc<Auth>) -> Self {
        Self { auth, state: State::Method }
    }

    pub(super) fn is_done(&self) -> bool {
        match self.state {
            State::Done => true,
            State::Method => self.auth.is_open(),
            State::Algorithms | State::Challenged { .. } => false,
        }
    }

    /// One round.
    pub(super) fn take(
        &mut self,
        pairs: &[(&str, &str)],
        (initiator, out): (&str, &mut Vec<u8>),
        fill: Fill<'_>,
    ) -> ChapStep {
        let find = |wanted: &str| pairs.iter().find(|(key, _)| *key == wanted).map(|(_, v)| *v);
        if let Some(methods) = find("AuthMethod") {
            if !matches!(self.state, State::Method) {
                return ChapStep::Failed;
            }
            let wanted = if self.auth.is_open() { "None" } else { "CHAP" };
            if !methods.split(',').any(|one| one == wanted) {
                return ChapStep::Failed;
            }
            push(out, "AuthMethod", wanted);
            self.state = if self.auth.is_open() { State::Done } else { State::Algorithms };
        }
        match &self.state {
            State::Method | State::Done => ChapStep::Goes,
            State::Algorithms => match find("CHAP_A") {
                Some(list) => self.challenge(list, out, fill),
                // It may come with the next request.
                None => ChapStep::Goes,
            },
            State::Challenged { .. } => self.verify(find, (initiator, out)),
        }
    }

    fn challenge(&mut self, list: &str, out: &mut Vec<u8>, fill: Fill<'_>) -> ChapStep {
        let offered = list.split(',').find_map(|one| Algorithm::of(number(one)?));
        let Some(algorithm) = offered else { return ChapStep::Failed };
        let (mut id, mut challenge) = ([0], vec![0; algorithm.bytes()]);
        fill(&mut id);
        fill(&mut challenge);
        push(out, "CHAP_A", algorithm.number());
        push(out, "CHAP_I", &id[0].to_string());
        push(out, "CHAP_C", &hex(&challenge));
        self.state = State::Challenged { algorithm, id: id[0], challenge };
        ChapStep::Goes
    }

    fn verify<'t>(
        &mut self,
        find: impl Fn(&str) -> Option<&'t str>,
        (initiator, out): (&str, &mut Vec<u8>),
    ) -> ChapStep {
        // A challenge serves once, whatever comes of it.
        let State::Challenged { algorithm, id, challenge } =
            std::mem::replace(&mut self.state, State::Algorithms)
        else {
            return ChapStep::Failed;
        };
        let (Some(name), Some(response)) = (find("CHAP_N"), find("CHAP_R").and_then(binary)) else {
            return ChapStep::Failed;
        };
        let Auth::Chap(users) = &*self.auth else { return ChapStep::Failed };
        let mut proven = None;
        // All are tried, so that the time does not tell which names there are.
        for user in users {
            let expected = algorithm.respond(id, &user.secret, &challenge);
            if same(&expected, &response) & same(user.name.as_bytes(), name.as_bytes()) {
                proven = Some(user);
            }
        }
        let Some(user) = proven else { return ChapStep::Failed };
        if !user.may_be(initiator) {
            return ChapStep::Posing;
        }
        match (find("CHAP_I"), find("CHAP_C")) {
            (None, None) => {}
            (Some(their_id), Some(theirs)) => {
                let their_id = number(their_id).and_then(|id| u8::try_from(id).ok());
                let theirs = binary(theirs).filter(|bytes| bytes.len() <= CHALLENGE_BYTES_MAX);
                let (Some(their_id), Some(theirs), Some((name, secret))) =
                    (their_id, theirs, &user.mutual)
                else {
                    return ChapStep::Failed;
                };
                if theirs == challenge {
                    return ChapStep::Failed;
                }
                push(out, "CHAP_N", name);
                push(out, "CHAP_R", &hex(&algorithm.respond(their_id, secret, &theirs)));
            }
            _ => return ChapStep::Failed,
        }
        self.state = State::Done;
        ChapStep::Done(user.name.clone())
    }
}

/// Whether both are the same, in a time that tells nothing of where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0, |all, (a, b)| black_box(all | (a ^ b)));
    a.len() == b.len() && black_box(differing) == 0
}
