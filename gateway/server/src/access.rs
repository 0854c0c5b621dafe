//! Who may attach a volume: addresses, networks, names of client certificates and of initiators.

use std::net::IpAddr;

use api::VolumeSettings;
use iscsi::InitiatorInfo;
use nbd_server::{ClientAddress, ClientInfo};

/// One line of an access list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule<'a> {
    Network(IpAddr, u8),
    Name(&'a str),
    Initiator(&'a str),
    User(&'a str),
}

fn rule(text: &str) -> Result<Rule<'_>, String> {
    match text.split_once(':') {
        Some((kind @ ("cn" | "user"), "")) => return Err(format!("{kind}: needs a name")),
        Some(("cn", name)) => return Ok(Rule::Name(name)),
        Some(("user", name)) => return Ok(Rule::User(name)),
        _ => {}
    }
    if is_initiator(text) {
        return Ok(Rule::Initiator(text));
    }
    let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
    let address: IpAddr = address.parse().map_err(|_e| {
        format!("{text:?} is no address, network, cn:NAME, user:NAME or iSCSI name")
    })?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => longest,
        Some(length) => length
            .parse()
            .ok()
            .filter(|length| *length <= longest)
            .ok_or_else(|| format!("{text:?}: the length is a number up to {longest}"))?,
    };
    Ok(Rule::Network(address, length))
}

/// Whether this looks like the name of an initiator (RFC 7143 §4.2.7).
pub(crate) fn is_initiator(text: &str) -> bool {
    let kind = text.get(..4).map(str::to_ascii_lowercase).unwrap_or_default();
    ["iqn.", "eui.", "naa."].contains(&kind.as_str())
}

/// Whether these can be in force.
///
/// # Errors
/// The first line that is no rule.
pub(crate) fn check(settings: &VolumeSettings) -> Result<(), String> {
    settings.allow.iter().try_for_each(|text| rule(text).map(|_| ()))
}

/// Whether this client may attach. A Unix socket is guarded by its permissions, so an access list
/// of networks lets it in; one of certificates does not.
#[must_use]
pub(crate) fn may_attach(settings: &VolumeSettings, client: &ClientInfo) -> bool {
    let rules: Vec<Rule<'_>> = settings.allow.iter().filter_map(|text| rule(text).ok()).collect();
    if settings.allow.is_empty() {
        return true;
    }
    rules.iter().any(|rule| match rule {
        Rule::Name(name) => client.tls_subject.as_ref().is_some_and(|s| s.is_named(name)),
        Rule::Initiator(_) | Rule::User(_) => false,
        Rule::Network(network, length) => match &client.address {
            ClientAddress::Tcp(from) => contains(*network, *length, from.ip().to_canonical()),
            ClientAddress::Unix { .. } => true,
        },
    })
}

/// Whether this initiator may log in. Its name is what it says, unless it is bound to the user that it
/// proved to be; that user is what `user:` asks for.
#[must_use]
pub(crate) fn may_log_in(settings: &VolumeSettings, initiator: &InitiatorInfo) -> bool {
    let from = initiator.address.ip().to_canonical();
    settings.allow.is_empty()
        || settings.allow.iter().filter_map(|text| rule(text).ok()).any(|rule| match rule {
            Rule::Name(_) => false,
            Rule::User(name) => initiator.user.as_deref() == Some(name),
            Rule::Initiator(name) => name.eq_ignore_ascii_case(&initiator.name),
            Rule::Network(network, length) => contains(network, length, from),
        })
}

fn contains(network: IpAddr, length: u8, address: IpAddr) -> bool {
    let (a, b, bits) = match (network, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    let host = bits - u32::from(length);
    a.checked_shr(host).unwrap_or(0) == b.checked_shr(host).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> ClientInfo {
        ClientInfo {
            address: ClientAddress::Tcp(address.parse().unwrap()),
            tls: false,
            tls_subject: None,
            listener: "tcp".to_owned(),
        }
    }

    fn allowing(rules: &[&str]) -> VolumeSettings {
        VolumeSettings {
            allow: rules.iter().map(|rule| (*rule).to_owned()).collect(),
            ..VolumeSettings::default()
        }
    }

    #[test]
    fn networks_are_matched_by_their_length() {
        let list = allowing(&["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]);
        assert_eq!(check(&list), Ok(()));
        for (address, allowed) in [
            ("10.255.0.1:1", true),
            ("11.0.0.1:1", false),
            ("192.0.2.7:1", true),
            ("192.0.2.8:1", false),
            ("[2001:db8:1::1]:1", true),
            ("[2001:db9::1]:1", false),
            ("[::ffff:10.1.1.1]:1", true),
        ] {
            assert_eq!(may_attach(&list, &client(address)), allowed, "{address}");
        }
        assert!(may_attach(&allowing(&[]), &client("198.51.100.1:1")));
        assert!(may_attach(&allowing(&["0.0.0.0/0"]), &client("198.51.100.1:1")));
        assert!(!may_attach(&allowing(&["cn:db1"]), &client("198.51.100.1:1")));
    }

    #[test]
    fn initiators_are_told_by_name_and_network() {
        let initiator = |name: &str| InitiatorInfo {
            address: "10.0.0.1:1".parse().unwrap(),
            name: name.to_owned(),
            user: None,
            listener: "tcp".to_owned(),
        };
        let list = allowing(&["iqn.2026-01.com.example:host1", "192.0.2.0/24"]);
        assert_eq!(check(&list), Ok(()));
        assert!(may_log_in(&list, &initiator("iqn.2026-01.com.example:host1")));
        let shouted = allowing(&["IQN.2026-01.COM.EXAMPLE:Host1"]);
        assert_eq!(check(&shouted), Ok(()));
        assert!(may_log_in(&shouted, &initiator("iqn.2026-01.com.example:host1")));
        assert!(!may_log_in(&list, &initiator("iqn.2026-01.com.example:host2")));
        assert!(may_log_in(&allowing(&[]), &initiator("any")));
        assert!(may_log_in(&allowing(&["10.0.0.0/8"]), &initiator("any")));
        assert!(!may_log_in(&allowing(&["cn:host1"]), &initiator("host1")));
        assert!(!may_attach(&list, &client("198.51.100.1:1")));
        let proven = InitiatorInfo { user: Some("host1".to_owned()), ..initiator("any") };
        let users = allowing(&["user:host1"]);
        assert_eq!(check(&users), Ok(()));
        assert!(may_log_in(&users, &proven) && !may_log_in(&users, &initiator("host1")));
        assert!(!may_attach(&users, &client("198.51.100.1:1")));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for bad in ["10.0.0.0/33", "10.0.0", "host", "cn:", "user:", ""] {
            assert!(check(&allowing(&[bad])).is_err(), "{bad:?}");
        }
    }
}
