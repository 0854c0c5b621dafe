//! Which sessions there are, so that an initiator that logs in anew takes its place back
//! (RFC 7143 §6.3.5), and one that resets a target ends all of them (§11.5.1).
//!
//! Invariant: an initiator port has one session with a target at most. The one before ends before
//! the new one begins, or is given up after a bounded time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Who has a session with whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Port {
    pub(super) initiator: String,
    pub(super) isid: [u8; 6],
    pub(super) target: String,
    pub(super) tag: u16,
}

/// The sessions of a gateway.
#[derive(Debug, Default)]
pub struct Sessions {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tsih: u16,
    id: u64,
    open: HashMap<Port, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    id: u64,
    replaced: CancellationToken,
    reset: CancellationToken,
    ended: CancellationToken,
}

/// The place of a session among the others; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Place {
    sessions: Arc<Sessions>,
    port: Port,
    entry: Entry,
}

/// The other sessions with the target of one.
#[derive(Debug)]
pub(crate) struct Peers {
    sessions: Arc<Sessions>,
    target: String,
    /// The one that is none of them.
    id: u64,
}

impl Sessions {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done in here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a new session, never 0.
    pub(super) fn number(&self) -> u16 {
        let mut state = self.state();
        state.tsih = state.tsih.wrapping_add(1).max(1);
        state.tsih
    }

    /// A place for a new session. The one that had it is told to end; what is cancelled when it has
    /// is given back.
    pub(super) fn take(self: &Arc<Self>, port: Port) -> (Place, Option<CancellationToken>) {
        let mut state = self.state();
        state.id += 1;
        let entry = Entry {
            id: state.id,
            replaced: CancellationToken::new(),
            reset: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        let before = state.open.insert(port.clone(), entry.clone());
        drop(state);
        let ended = before.map(|before| {
            before.replaced.cancel();
            before.ended
        });
        (Place { sessions: Arc::clone(self), port, entry }, ended)
    }

    /// How many sessions there are with a target.
    #[must_use]
    pub fn of_target(&self, target: &str) -> usize {
        self.state().open.keys().filter(|port| port.target == target).count()
    }
}

impl Place {
    /// Cancelled when the same initiator port logged in anew.
    pub(crate) fn replaced(&self) -> CancellationToken {
        self.entry.replaced.clone()
    }

    /// Cancelled when another session reset the target.
    pub(crate) fn reset(&self) -> CancellationToken {
        self.entry.reset.clone()
    }

    /// The other sessions with the target, whichever there are by the time that it matters.
    pub(crate) fn peers(&self) -> Peers {
        let (sessions, target) = (Arc::clone(&self.sessions), self.port.target.clone());
        Peers { sessions, target, id: self.entry.id }
    }
}

impl Peers {
    /// Tells all of them to end. Those at other gateways are not known here.
    pub(crate) fn reset(&self) {
        let state = self.sessions.state();
        let of_target = state.open.iter().filter(|(port, _)| port.target == self.target);
        let others = of_target.map(|(_, entry)| entry).filter(|entry| entry.id != self.id);
        let resets: Vec<CancellationToken> = others.map(|entry| entry.reset.clone()).collect();
        drop(state);
        resets.iter().for_each(CancellationToken::cancel);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.sessions.state();
        if state.open.get(&self.port).is_some_and(|entry| entry.id == self.entry.id) {
            state.open.remove(&self.port);
        }
        drop(state);
        self.entry.ended.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port_of(isid: u8, target: &str) -> Port {
        Port { initiator: "i".to_owned(), isid: [isid; 6], target: target.to_owned(), tag: 1 }
    }

    #[test]
    fn a_reset_ends_the_other_sessions_with_the_target_and_none_that_comes_later() {
        let sessions = Arc::new(Sessions::default());
        let (own, _) = sessions.take(port_of(1, "t"));
        let (other, _) = sessions.take(port_of(2, "t"));
        let (elsewhere, _) = sessions.take(port_of(2, "u"));
        own.peers().reset();
        let (later, _) = sessions.take(port_of(3, "t"));
        let places = [&own, &other, &elsewhere, &later];
        let is_reset = places.map(|place| place.reset().is_cancelled());
        assert_eq!(is_reset, [false, true, false, false]);
    }

    #[test]
    fn a_new_login_takes_the_place_of_the_old_one() {
        let sessions = Arc::new(Sessions::default());
        let port = |isid: u8| port_of(isid, "t");
        let (first, before) = sessions.take(port(1));
        assert!(before.is_none());
        let (other, before) = sessions.take(port(2));
        assert!(before.is_none() && !first.replaced().is_cancelled());
        let (second, before) = sessions.take(port(1));
        let ended = before.unwrap();
        assert!(first.replaced().is_cancelled() && !ended.is_cancelled());
        drop(first);
        assert!(ended.is_cancelled() && !second.replaced().is_cancelled());
        assert_eq!(sessions.of_target("t"), 2);
        drop((second, other));
        assert_eq!(sessions.of_target("t"), 0);
        assert_ne!(sessions.number(), sessions.number());
    }
}
