//! The dialects' own codes: where a refusal carries one, and which stands for what the core says.
//!
//! Invariant: a code stands at the end of a refusal's words, in brackets, so that it survives being passed
//! on between gateways; a plugin's is read the same way.

use api::Code;

use super::INTERNAL;
use crate::book::evs::{Dialect, Fault};
use crate::refusal::Refused;

/// A refusal with the dialect's own code at the end of its words, where it survives being passed on.
pub(crate) fn coded(code: Code, theirs: &str, detail: impl std::fmt::Display) -> Refused {
    Refused::new(code, format!("{detail} ({theirs})"))
}

/// The dialect's own code at the end of words, as the gateway or a plugin puts it there.
#[must_use]
pub(crate) fn own_code(detail: &str) -> Option<&str> {
    let (_, last) = detail.strip_suffix(')')?.rsplit_once('(')?;
    let code = last.rsplit(' ').next()?;
    let digits = |text: &str, count: usize| {
        text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let is_own = digits(code, 8) || code.strip_prefix("SDRS.").is_some_and(|n| digits(n, 4));
    is_own.then_some(code)
}

/// The volume service's number for what the core says.
fn number_of(refused: &Refused) -> &'static str {
    match Code::parse(&refused.0.code) {
        Some(Code::BadSize) => "37100041",
        Some(Code::PeerUnreachable | Code::PeerUnknown | Code::MirrorUnreachable) => "37100043",
        Some(Code::Filling) => "37100044",
        Some(Code::Busy | Code::Starting | Code::ShardSilent) => "37000216",
        Some(Code::PoolFailed | Code::PoolFull | Code::Latched | Code::NotOpened) => "37100177",
        _ => INTERNAL,
    }
}

/// A refusal as a record keeps it.
pub(crate) fn fault(refused: &Refused, dialect: Dialect) -> Fault {
    let code = own_code(&refused.0.detail).map(str::to_owned).unwrap_or_else(|| match dialect {
        Dialect::Evs => number_of(refused).to_owned(),
        Dialect::Sdrs => "SDRS.0405".to_owned(),
    });
    let next = refused.0.next.as_ref().map(|next| format!("; next: {next}")).unwrap_or_default();
    Fault { code, why: format!("{}{next}", refused.0.detail) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evs_02_a_code_of_the_dialect_survives_being_passed_on() {
        for (text, code) in [
            ("they differ (37100041)", Some("37100041")),
            ("west: they differ (37100041)", Some("37100041")),
            ("both are in one zone (evs-pairing: 37100053)", Some("37100053")),
            ("not now (SDRS.1002)", Some("SDRS.1002")),
            ("sizes differ (16 MiB)", None),
            ("no code at all", None),
        ] {
            assert_eq!(own_code(text), code, "{text}");
        }
        let kept = fault(&coded(Code::BadSize, "37100041", "they differ"), Dialect::Evs);
        assert_eq!(kept.code, "37100041");
    }

    #[test]
    fn evs_07_what_the_core_says_has_a_number() {
        for (code, number) in [
            (Code::PeerUnreachable, "37100043"),
            (Code::Filling, "37100044"),
            (Code::PoolFailed, "37100177"),
            (Code::Busy, "37000216"),
            (Code::Internal, "37000212"),
        ] {
            assert_eq!(fault(&Refused::new(code, "why"), Dialect::Evs).code, number);
        }
    }
}
