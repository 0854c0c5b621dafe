//! How a plugin has behaved lately: one that faults again and again rests.
//!
//! Invariant: a plugin of which one function faults on every call is called ever more seldom, whatever
//! it answers elsewhere, and one good answer of that function makes up for all.

use tokio::time::Instant;

use crate::error::CallError;
use crate::limits::{FAULTS_MAX, REST_MAX, REST_MIN};

/// Faults in a row, and until when it rests.
#[derive(Debug, Default)]
pub(crate) struct Health {
    faults: u32,
    /// Which function the last one was in.
    function: Option<&'static str>,
    rest: Option<(Instant, String)>,
}

impl Health {
    /// Whether it may be called now.
    ///
    /// # Errors
    /// [`CallError::Resting`].
    pub(crate) fn may(&self, now: Instant) -> Result<(), CallError> {
        match &self.rest {
            Some((until, why)) if *until > now => {
                Err(CallError::Resting { left: *until - now, why: why.clone() })
            }
            _ => Ok(()),
        }
    }

    /// A call of a function came to an end. Answers the faults since the last good answer of the one
    /// that faulted: a plugin that says that it is ready, and then traps, is not well.
    pub(crate) fn ended(
        &mut self,
        now: Instant,
        function: &'static str,
        fault: Option<&CallError>,
    ) -> u32 {
        let Some(fault) = fault else {
            if self.function == Some(function) {
                *self = Self::default();
            }
            return self.faults;
        };
        self.function = Some(function);
        self.faults = self.faults.saturating_add(1);
        if let Some(beyond) = self.faults.checked_sub(FAULTS_MAX) {
            let rest = REST_MIN.saturating_mul(2_u32.saturating_pow(beyond)).min(REST_MAX);
            self.rest = Some((now + rest, fault.to_string()));
        }
        self.faults
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn faults_make_it_rest_ever_longer_and_a_good_answer_makes_up_for_them() {
        let mut health = Health::default();
        let fault = CallError::Trap("unreachable".to_owned());
        let mut rests = Vec::new();
        for _ in 0..20 {
            let now = Instant::now();
            health.ended(now, "run", Some(&fault));
            health.ended(now, "check", None);
            if let Err(CallError::Resting { left, why }) = health.may(now) {
                assert!(why.contains("unreachable"));
                rests.push(left);
                tokio::time::advance(left).await;
                assert_eq!(health.may(Instant::now()), Ok(()));
            }
        }
        assert_eq!(rests.len(), 18, "the first two are forgiven");
        assert_eq!(rests[..3], [1, 2, 4].map(Duration::from_secs));
        assert_eq!(rests[17], REST_MAX);
        assert_eq!(health.ended(Instant::now(), "check", None), 20, "it was not that one");
        assert_eq!(health.ended(Instant::now(), "run", None), 0);
        assert_eq!(health.ended(Instant::now(), "run", Some(&fault)), 1);
        assert_eq!(health.may(Instant::now()), Ok(()));
    }
}
