//! Sites: join tokens, joining, and the desk where another gateway redeems one.

use std::sync::Arc;

use api::{Code, JoinToken, SiteList};
use block::GroupId;
use link::{JoinDesk, JoinError, JoinFuture, JoinProof, JoinRefused, Token, TokenRecord};

use super::Gateway;
use crate::book::{Book, BookError, PeerEntry, hex, unhex};
use crate::clock::{Clock, text};
use crate::events::Events;
use crate::refusal::Refused;

/// A token that was not used for a day is of no use to anybody honest.
const TTL_SECONDS_MAX: u64 = 86_400;
const TTL_SECONDS: u64 = 3_600;

impl Gateway {
    /// This site and those it knows.
    pub(crate) async fn show_sites(&self) -> SiteList {
        let groups = self.show_groups().await;
        SiteList {
            as_of: self.clock.rfc3339(),
            this: self.site_info(),
            peers: self.show_peers(&groups),
        }
    }

    /// Makes a join token.
    ///
    /// # Errors
    /// [`Code::Invalid`] for a time to live that is no good.
    pub(crate) async fn make_join_token(
        &self,
        ttl_seconds: Option<u64>,
    ) -> Result<JoinToken, Refused> {
        let ttl = ttl_seconds.unwrap_or(TTL_SECONDS);
        if ttl == 0 || ttl > TTL_SECONDS_MAX {
            let detail = format!("ttl_seconds must be 1 to {TTL_SECONDS_MAX}");
            return Err(Refused::new(Code::Invalid, detail));
        }
        let now = self.clock.unix_s();
        let expires = now.saturating_add(ttl);
        let addresses = [self.config.link.advertise.clone()];
        let (token, record) = Token::issue(self.links.fingerprint(), &addresses, expires)
            .map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        self.book
            .change(Vec::new(), |pages| {
                pages.joins.retain(|coded| {
                    record_of(coded).is_some_and(|record| record.expires_unix_s() > now)
                });
                pages.joins.push(hex(&record.to_bytes()));
                Ok::<(), BookError>(())
            })
            .await?;
        self.events.tell("site", &self.config.site.name, "a join token was made");
        Ok(JoinToken { token: token.text(), expires_at: text(expires.saturating_mul(1000)) })
    }

    /// Joins the site that made the token.
    ///
    /// # Errors
    /// [`Code::JoinTokenBad`], [`Code::PeerUnreachable`].
    pub(crate) async fn join_site(&self, token: &str) -> Result<SiteList, Refused> {
        let (token, links, now) = (token.to_owned(), self.links.clone(), self.clock.unix_s());
        // On a shard, because a dial may stay on its thread; it waits there for nobody else.
        let shard = self.shard_of(GroupId::of(0)).clone();
        let joined =
            shard.run(move |_state| async move { link::join(&token, &links, now).await }).await?;
        let peer = joined.map_err(|error| {
            let code = match &error {
                JoinError::Malformed(_)
                | JoinError::Expired
                | JoinError::WrongIssuer { .. }
                | JoinError::Imposture { .. }
                | JoinError::Refused(_) => Code::JoinTokenBad,
                JoinError::Link(_) => Code::PeerUnreachable,
            };
            Refused::new(code, error.to_string())
        })?;
        record_peer(&self.book, &peer, |_pages| ()).await?;
        self.links.trusted().add(peer.clone());
        let companion = peer.site == self.config.site.name;
        let how = if companion { "joined, another gateway of this site" } else { "joined" };
        self.events.tell("site", &peer.site, how);
        Ok(self.show_sites().await)
    }
}

async fn record_peer<T>(
    book: &Book,
    peer: &link::Peer,
    more: impl FnOnce(&mut crate::book::Pages) -> T,
) -> Result<T, BookError> {
    let entry = PeerEntry::of(peer);
    book.change(Vec::new(), |pages| {
        pages.put_peer(entry);
        Ok(more(pages))
    })
    .await
}

fn record_of(coded: &str) -> Option<TokenRecord> {
    TokenRecord::from_bytes(&unhex(coded)?).ok()
}

/// Where another gateway redeems a join token.
pub(crate) struct Desk {
    book: Arc<std::sync::OnceLock<Arc<Book>>>,
    events: Arc<Events>,
    clock: Clock,
    site: String,
}

impl Desk {
    /// A desk for the site of this name. It refuses until the book is there.
    #[must_use]
    pub(crate) fn new(
        site: &str,
        book: Arc<std::sync::OnceLock<Arc<Book>>>,
        events: Arc<Events>,
        clock: Clock,
    ) -> Self {
        Self { book, events, clock, site: site.to_owned() }
    }

    async fn admit(&self, proof: &JoinProof, joiner: &link::Peer) -> Result<(), JoinRefused> {
        let unavailable = |text: &str| JoinRefused::Unavailable(text.to_owned());
        let book = self.book.get().ok_or_else(|| unavailable("the gateway is starting"))?;
        let now = self.clock.unix_s();
        let entry = PeerEntry::of(joiner);
        let outcome = book
            .change(Vec::new(), |pages| {
                let mut found = pages
                    .joins
                    .iter_mut()
                    .filter_map(|coded| record_of(coded).map(|record| (coded, record)))
                    .find(|(_, record)| record.id() == proof.token());
                let Some((coded, record)) = found.as_mut() else {
                    return Err(Admission::Refused(JoinRefused::UnknownToken));
                };
                record.redeem(proof, now).map_err(Admission::Refused)?;
                **coded = hex(&record.to_bytes());
                pages.put_peer(entry);
                Ok(())
            })
            .await;
        match outcome {
            Ok(()) => {
                let companion = joiner.site == self.site;
                let how = if companion { ", another gateway of this site" } else { "" };
                let text = format!("joined with a token of this site{how}");
                self.events.tell("site", &joiner.site, text);
                Ok(())
            }
            Err(Admission::Refused(refused)) => Err(refused),
            Err(Admission::Book(error)) => Err(unavailable(&error.to_string())),
        }
    }
}

/// Why somebody is not let in.
enum Admission {
    Refused(JoinRefused),
    Book(BookError),
}

impl From<BookError> for Admission {
    fn from(error: BookError) -> Self {
        Self::Book(error)
    }
}

impl JoinDesk for Desk {
    fn redeem<'a>(&'a self, proof: &'a JoinProof, joiner: &'a link::Peer) -> JoinFuture<'a> {
        Box::pin(self.admit(proof, joiner))
    }
}
