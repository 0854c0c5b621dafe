//! How two gateways come to trust each other: one token, used once.
//!
//! ```text
//!   issuer                                    joiner
//!   Token::issue ── one line, by hand ──────▶ join(token)
//!   keeps a TokenRecord, not the secret        dials, pins the issuer's certificate
//!        ◀─────────────────────────── Join{proof over both certificates, who I am}
//!   JoinDesk::redeem: records the peer
//!   Joined{who I am} ───────────────────────▶ records the peer
//! ```
//!
//! Invariant: the secret never goes over the network. The proof is good for these two certificates
//! and these words about the joiner only, so somebody in the middle, who has another certificate,
//! can neither use it nor change what it says. A token lets one certificate in; the same one may
//! come again, because its first answer may have been lost.

mod token;

use std::pin::Pin;

use block::{GatewayId, LinkError};
use tokio_rustls::TlsStream;

use crate::endpoint::{LinkContext, dial_tls, first_of, in_time};
use crate::handshake::Talk;
use crate::socket::Socket;
use crate::trust::{Fingerprint, Peer};
use crate::wire::{Greeting, JoinAnswer, JoinRequest, Refusal, Unsendable};

pub use token::{Token, TokenRecord};

/// Why the issuer does not let a gateway join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefused {
    /// No such token was issued here, or it was withdrawn.
    #[error("the token was not issued by this gateway or was withdrawn")]
    UnknownToken,
    /// The token's time is over.
    #[error("the token has expired: issue a new one")]
    Expired,
    /// Another gateway joined with it.
    #[error("the token was used by another gateway: issue a new one")]
    AlreadyUsed,
    /// The proof does not match: the secret is wrong, or somebody stands in between.
    #[error("the proof of the token's secret does not match")]
    WrongProof,
    /// A gateway cannot join itself.
    #[error("the token was issued by this very gateway: redeem it at the other site")]
    Itself,
    /// A gateway of this identity is trusted already, with another certificate.
    #[error(
        "a gateway of this identity is already trusted, with another certificate: remove it first"
    )]
    KnownOtherwise,
    /// The issuer takes no tokens.
    #[error("the issuer takes no tokens")]
    NoDesk,
    /// The issuer could not record the new peer.
    #[error("the issuer could not record the new peer: {0}")]
    Unavailable(String),
}

impl JoinRefused {
    fn refusal(&self) -> Refusal {
        let code = match self {
            Self::UnknownToken => 1,
            Self::Expired => 2,
            Self::AlreadyUsed => 3,
            Self::WrongProof => 4,
            Self::Itself => 5,
            Self::NoDesk => 6,
            Self::Unavailable(_) => 7,
            Self::KnownOtherwise => 8,
        };
        let text = if let Self::Unavailable(text) = self { text.clone() } else { self.to_string() };
        Refusal { code, text }
    }

    fn from_refusal(refusal: Refusal) -> Self {
        match refusal.code {
            1 => Self::UnknownToken,
            2 => Self::Expired,
            3 => Self::AlreadyUsed,
            4 => Self::WrongProof,
            5 => Self::Itself,
            6 => Self::NoDesk,
            8 => Self::KnownOtherwise,
            _ => Self::Unavailable(refusal.text),
        }
    }
}

/// Why a token led to no peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The text is no token, or was damaged when it was copied.
    #[error("this is not a join token: {0}")]
    Malformed(&'static str),
    /// Its time is over.
    #[error("the token has expired: issue a new one")]
    Expired,
    /// Who answers there is not who issued the token.
    #[error(
        "the gateway that answers is not the one that issued the token (its certificate is {found})"
    )]
    WrongIssuer {
        /// The fingerprint of the certificate that was shown.
        found: Fingerprint,
    },
    /// The issuer says that it is this gateway, or one that is trusted already with another
    /// certificate.
    #[error("the issuer claims the identity of another gateway ({claimed})")]
    Imposture {
        /// The identity.
        claimed: GatewayId,
    },
    /// The issuer said no.
    #[error("the issuer refused: {0}")]
    Refused(#[source] JoinRefused),
    /// The issuer could not be reached or understood.
    #[error("talk to the issuer: {0}")]
    Link(#[source] LinkError),
}

impl From<LinkError> for JoinError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl From<Unsendable> for JoinError {
    fn from(error: Unsendable) -> Self {
        Self::Link(error.into())
    }
}

/// What a joiner shows: checked by [`TokenRecord::redeem`].
#[derive(Clone, Debug)]
pub struct JoinProof {
    token: [u8; 16],
    issuer: Fingerprint,
    joiner: Fingerprint,
    statement: Vec<u8>,
    mac: [u8; 32],
}

impl JoinProof {
    /// Which token it is about, as [`TokenRecord::id`].
    #[must_use]
    pub const fn token(&self) -> [u8; 16] {
        self.token
    }
}

/// What [`JoinDesk::redeem`] returns.
pub type JoinFuture<'a> = Pin<Box<dyn Future<Output = Result<(), JoinRefused>> + Send + 'a>>;

/// Where tokens are kept and peers are recorded.
pub trait JoinDesk: Send + Sync {
    /// Finds the record of the token, asks [`TokenRecord::redeem`], then durably records both that
    /// it was used and the new peer. After that the link trusts the peer.
    ///
    /// # Errors
    /// What `TokenRecord::redeem` says, [`JoinRefused::UnknownToken`] without a record,
    /// [`JoinRefused::Unavailable`] when it cannot be recorded.
    fn redeem<'a>(&'a self, proof: &'a JoinProof, joiner: &'a Peer) -> JoinFuture<'a>;
}

/// Redeems a token: afterwards the issuer trusts this gateway. The caller durably records the peer
/// that is returned and adds it to its trusted set; until then this may be called again.
///
/// # Errors
/// [`JoinError`]; nothing was changed here.
///
/// # Cancellation
/// Safe: the issuer may have recorded this gateway, and the same token may be redeemed again.
pub async fn join(token: &str, us: &LinkContext, now_unix_s: u64) -> Result<Peer, JoinError> {
    let token = Token::parse(token)?;
    if token.issuer() == us.fingerprint() {
        return Err(JoinError::Refused(JoinRefused::Itself));
    }
    if token.expires_unix_s() <= now_unix_s {
        return Err(JoinError::Expired);
    }
    let stream = first_of(token.addresses(), async |address| dial_tls(address, us).await).await?;
    in_time(us.patience(), async { Ok(redeem(stream, &token, us).await) }).await?
}

async fn redeem(
    (stream, certificate): (TlsStream<Socket>, Vec<u8>),
    token: &Token,
    us: &LinkContext,
) -> Result<Peer, JoinError> {
    let found = Fingerprint::of(&certificate);
    if found != token.issuer() {
        return Err(JoinError::WrongIssuer { found });
    }
    let ours = us.describe();
    let mut request = JoinRequest {
        token: token.id(),
        proof: [0; 32],
        gateway: ours.gateway,
        site: ours.site,
        addresses: ours.addresses,
    };
    request.proof = token.prove(us.fingerprint(), &request.statement()?);
    let mut talk = Talk::new(stream);
    talk.say(&Greeting::Join(request)).await?;
    match talk.hear().await? {
        Greeting::Joined(JoinAnswer { gateway, site, addresses }) => {
            if gateway == us.describe().gateway || known_otherwise(us, gateway, found) {
                return Err(JoinError::Imposture { claimed: gateway });
            }
            Ok(Peer { gateway, site, certificate, addresses })
        }
        Greeting::Refused(refusal) => Err(JoinError::Refused(JoinRefused::from_refusal(refusal))),
        Greeting::Hello(_) | Greeting::Join(_) => {
            Err(LinkError::Corrupt("not the greeting that belongs here").into())
        }
    }
}

/// A token lets a gateway in; it must not put another one out.
fn known_otherwise(us: &LinkContext, gateway: GatewayId, certificate: Fingerprint) -> bool {
    let known = us.trusted().all();
    known.iter().any(|peer| peer.gateway == gateway && peer.fingerprint() != certificate)
}

/// The issuer's side: asks the desk and answers.
pub(crate) async fn serve(
    mut talk: Talk<TlsStream<Socket>>,
    request: JoinRequest,
    certificate: Vec<u8>,
    us: &LinkContext,
) -> Result<Result<Peer, JoinRefused>, LinkError> {
    let proof = JoinProof {
        token: request.token,
        issuer: us.fingerprint(),
        joiner: Fingerprint::of(&certificate),
        statement: request.statement()?,
        mac: request.proof,
    };
    let JoinRequest { gateway, site, addresses, .. } = request;
    let joiner = Peer { gateway, site, certificate, addresses };
    let ours = us.describe();
    let outcome = match us.desk() {
        None => Err(JoinRefused::NoDesk),
        Some(_) if joiner.gateway == ours.gateway => Err(JoinRefused::Itself),
        Some(_) if known_otherwise(us, joiner.gateway, proof.joiner) => {
            Err(JoinRefused::KnownOtherwise)
        }
        Some(desk) => desk.redeem(&proof, &joiner).await,
    };
    let answer = match &outcome {
        Ok(()) => {
            us.trusted().add(joiner.clone());
            Greeting::Joined(JoinAnswer {
                gateway: ours.gateway,
                site: ours.site,
                addresses: ours.addresses,
            })
        }
        Err(refused) => Greeting::Refused(refused.refusal()),
    };
    if let Err(error) = talk.say(&answer).await {
        // The joiner comes again with the same token.
        tracing::debug!(%error, "joiner did not hear the answer");
    }
    Ok(outcome.map(|()| joiner))
}
