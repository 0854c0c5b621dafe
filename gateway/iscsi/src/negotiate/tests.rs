//! Logins, as initiators do them and as they must not.

mod fuzz;

use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

struct One;

impl Targets for One {
    fn list(&self, _: &InitiatorInfo) -> Vec<TargetInfo> {
        Vec::new()
    }

    fn find(&self, name: &str, _: &InitiatorInfo) -> Result<TargetInfo, Refusal> {
        match name {
            "iqn.t:one" => Ok(TargetInfo { name: name.to_owned(), portals: Vec::new() }),
            "iqn.t:away" => Err(Refusal::NotServed),
            _ => Err(Refusal::Unknown),
        }
    }

    fn seat(&self, _: crate::session::LoggedIn) {}
}

/// A gateway that is starting.
struct Starting;

impl Targets for Starting {
    fn is_ready(&self) -> bool {
        false
    }

    fn list(&self, _: &InitiatorInfo) -> Vec<TargetInfo> {
        Vec::new()
    }

    fn find(&self, _: &str, _: &InitiatorInfo) -> Result<TargetInfo, Refusal> {
        Err(Refusal::NotReady)
    }

    fn seat(&self, _: crate::session::LoggedIn) {}
}

fn login(auth: Auth) -> Login {
    let address: SocketAddr = "192.0.2.1:1000".parse().unwrap();
    let initiator =
        InitiatorInfo { address, name: String::new(), user: None, listener: "tcp".to_owned() };
    Login::new(Terms { tag: 1, auth: Arc::new(auth) }, initiator)
}

fn ask(stage: u8, next: Option<u8>, more: bool) -> Request {
    Request::Login {
        transit: next.is_some(),
        more,
        stage,
        next_stage: next.unwrap_or(0),
        version_max: 0,
        version_min: 0,
        isid: [0x80, 1, 2, 3, 4, 5],
        tsih: 0,
        tag: 7,
        connection: 0,
        cmd_sn: 5,
        exp_stat_sn: 0,
    }
}

fn pairs(list: &[&str]) -> Vec<u8> {
    list.iter().flat_map(|pair| [pair.as_bytes(), &[0]].concat()).collect()
}

fn take(login: &mut Login, request: &Request, list: &[&str]) -> Reply {
    login.take(request, &pairs(list), &One, &mut |bytes| bytes.fill(9))
}

fn status(reply: &Reply) -> LoginStatus {
    let Response::Login { status, .. } = reply.response else { panic!("{reply:?}") };
    status
}

fn said(reply: &Reply) -> Vec<String> {
    let text = text::parse(&reply.text).unwrap();
    text.iter().map(|(key, value)| format!("{key}={value}")).collect()
}

const WHO: [&str; 2] = ["InitiatorName=iqn.i:a", "TargetName=iqn.t:one"];

fn user() -> ChapUser {
    let secret = |text: &str| Secret::new(text.as_bytes().to_vec()).unwrap();
    let ours = ("gateway".to_owned(), secret("the gateway's own"));
    ChapUser::new("joe".to_owned(), secret("secretsecret12"), Some(ours)).unwrap()
}

#[test]
fn nobody_is_told_that_there_are_no_targets_by_a_gateway_that_starts() {
    for keys in [&["InitiatorName=iqn.i:a", "SessionType=Discovery"], &WHO] {
        let mut login = login(Auth::None);
        let request = ask(1, Some(3), false);
        let reply = login.take(&request, &pairs(keys), &Starting, &mut |bytes| bytes.fill(9));
        assert_eq!(status(&reply), LoginStatus::ServiceUnavailable);
    }
}

/// RFC 3722: what is reserved under one spelling of a name is reserved under all.
#[test]
fn an_initiator_is_the_same_whatever_case_it_writes_its_name_in() {
    let mut login = login(Auth::None);
    let keys = ["InitiatorName=IQN.2026-01.Com.Example:A", "TargetName=iqn.t:one"];
    assert_eq!(take(&mut login, &ask(1, Some(3), false), &keys).next, Next::Agreed);
    assert_eq!(login.agreed().unwrap().initiator.name, "iqn.2026-01.com.example:a");
}

#[test]
fn an_open_target_is_reached_in_one_step() {
    let mut login = login(Auth::None);
    let mut keys = WHO.to_vec();
    keys.extend([
        "HeaderDigest=CRC32C,None",
        "DataDigest=None",
        "InitialR2T=No",
        "ImmediateData=Yes",
        "MaxBurstLength=16776192",
        "FirstBurstLength=262144",
        "MaxRecvDataSegmentLength=262144",
        "MaxOutstandingR2T=1",
        "MaxConnections=1",
        "ErrorRecoveryLevel=2",
        "DefaultTime2Wait=0",
        "IFMarker=Yes",
        "OFMarkInt=2048",
        "X-com.example=1",
    ]);
    let reply = take(&mut login, &ask(1, Some(3), false), &keys);
    assert_eq!(reply.next, Next::Agreed);
    assert_eq!(
        said(&reply),
        [
            "TargetPortalGroupTag=1",
            "HeaderDigest=CRC32C",
            "DataDigest=None",
            "InitialR2T=No",
            "ImmediateData=Yes",
            "MaxBurstLength=1048576",
            "FirstBurstLength=262144",
            "MaxOutstandingR2T=1",
            "MaxConnections=1",
            "ErrorRecoveryLevel=0",
            "DefaultTime2Wait=2",
            "IFMarker=No",
            "OFMarkInt=Reject",
            "X-com.example=NotUnderstood",
            "MaxRecvDataSegmentLength=262144",
        ]
    );
    let agreed = login.agreed().unwrap();
    assert!(agreed.params.header_digest && !agreed.params.initial_r2t);
    assert_eq!((agreed.params.send_segment, agreed.cmd_sn), (262_144, 5));
    assert_eq!(agreed.target.unwrap().name, "iqn.t:one");
}

/// RFC 7143 §13.14.
#[test]
fn no_first_burst_is_longer_than_a_burst_whichever_is_said_first() {
    let (burst, first) = ("MaxBurstLength=65536", "FirstBurstLength=131072");
    for keys in [[burst, first], [first, burst]] {
        let mut login = login(Auth::None);
        let reply = take(&mut login, &ask(1, Some(3), false), &[&WHO[..], &keys].concat());
        assert_eq!(reply.next, Next::Agreed);
        let params = login.agreed().unwrap().params;
        assert_eq!((params.max_burst, params.first_burst), (65_536, 65_536), "{keys:?}");
    }
}

#[test]
fn chap_both_ways() {
    for (number, challenge_bytes) in [("5", 16), ("6", 20), ("7", 32)] {
        let mut login = login(Auth::Chap(vec![user()]));
        let mut keys = WHO.to_vec();
        keys.push("AuthMethod=CHAP,None");
        let reply = take(&mut login, &ask(0, Some(1), false), &keys);
        assert_eq!((reply.next, status(&reply)), (Next::Continue, LoginStatus::Success));
        assert!(matches!(reply.response, Response::Login { transit: false, .. }));
        let offer = format!("CHAP_A={number}");
        let reply = take(&mut login, &ask(0, None, false), &[&offer]);
        let challenge = vec![9; challenge_bytes];
        let sent = format!("CHAP_C={}", text::hex(&challenge));
        assert_eq!(said(&reply), [offer.as_str(), "CHAP_I=9", sent.as_str()]);
        // What the initiator answers is what its own side computes.
        let expected = answer_of(number, 9, b"secretsecret12", &challenge);
        let response = format!("CHAP_R={}", text::hex(&expected));
        let last = ["CHAP_N=joe", &response, "CHAP_I=3", "CHAP_C=0x0102"];
        let reply = take(&mut login, &ask(0, Some(1), false), &last);
        let ours = text::hex(&answer_of(number, 3, b"the gateway's own", &[1, 2]));
        assert_eq!(said(&reply), ["CHAP_N=gateway".to_owned(), format!("CHAP_R={ours}")]);
        assert!(matches!(reply.response, Response::Login { transit: true, next_stage: 1, .. }));
        let reply = take(&mut login, &ask(1, Some(3), false), &[]);
        assert_eq!(reply.next, Next::Agreed);
        assert_eq!(login.agreed().unwrap().initiator.user.as_deref(), Some("joe"));
    }
}

/// Its secret proves who it is, and so which names are its own.
#[test]
fn a_user_that_is_bound_to_names_logs_in_under_those_only() {
    for (names, comes_in) in
        [(&["IQN.I:A"][..], true), (&["iqn.i:b", "iqn.i:c"], false), (&[], true)]
    {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut login = login(Auth::Chap(vec![user().known_as(&names)]));
        let keys = [&WHO[..], &["AuthMethod=CHAP"]].concat();
        take(&mut login, &ask(0, None, false), &keys);
        take(&mut login, &ask(0, None, false), &["CHAP_A=5"]);
        let proof = text::hex(&answer_of("5", 9, b"secretsecret12", &[9; 16]));
        let proof = format!("CHAP_R={proof}");
        let reply = take(&mut login, &ask(0, Some(1), false), &["CHAP_N=joe", &proof]);
        let wanted =
            if comes_in { LoginStatus::Success } else { LoginStatus::AuthorizationFailure };
        assert_eq!(status(&reply), wanted, "{names:?}");
    }
}

/// Whoever has proven nothing is told the same of a target that there is and of one that there is not.
#[test]
fn a_stranger_learns_of_no_targets() {
    for target in ["iqn.t:one", "iqn.t:away", "iqn.t:none"] {
        let mut login = login(Auth::Chap(vec![user()]));
        let named = format!("TargetName={target}");
        let keys = ["InitiatorName=iqn.i:a", named.as_str(), "AuthMethod=CHAP"];
        let reply = take(&mut login, &ask(0, None, false), &keys);
        assert_eq!(status(&reply), LoginStatus::Success, "{target}");
    }
}

fn answer_of(number: &str, id: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
    let all = [&[id], secret, challenge].concat();
    match number {
        "5" => {
            use md5::Digest;
            md5::Md5::digest(&all).to_vec()
        }
        "6" => {
            ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &all).as_ref().to_vec()
        }
        _ => ring::digest::digest(&ring::digest::SHA256, &all).as_ref().to_vec(),
    }
}

/// One user had the gateway answer what it asked of another, where the gateway's secret for the one was
/// the other's own.
#[test]
fn no_secret_serves_both_ways_not_even_of_two_users() {
    let secret = |text: &str| Secret::new(text.as_bytes().to_vec()).unwrap();
    let user = |name: &str, own: &str, ours: Option<&str>| {
        let ours = ours.map(|ours| ("gateway".to_owned(), secret(ours)));
        ChapUser::new(name.to_owned(), secret(own), ours).unwrap()
    };
    let joe = || user("joe", "only joe knows", None);
    for users in [
        vec![joe(), user("eve", "only eve knows", Some("only joe knows"))],
        vec![user("eve", "only eve knows", Some("only joe knows")), joe()],
    ] {
        let shared = Auth::chap(users).unwrap_err();
        assert_eq!((shared.seen_by.as_str(), shared.of.as_str()), ("eve", "joe"));
        assert!(!shared.to_string().contains("knows"), "{shared}");
    }
    // The gateway may be the same to everyone.
    let ours = Some("gateway's own");
    let apart = vec![user("joe", "only joe knows", ours), user("eve", "only eve knows", ours)];
    assert!(matches!(Auth::chap(apart), Ok(Auth::Chap(users)) if users.len() == 2));
}

#[test]
fn nobody_comes_in_without_proof() {
    let fails = |steps: &[(Request, Vec<&str>)]| {
        let mut login = login(Auth::Chap(vec![user()]));
        let mut last = LoginStatus::Success;
        for (request, keys) in steps {
            let reply = take(&mut login, request, keys);
            assert_ne!(reply.next, Next::Agreed);
            last = status(&reply);
        }
        assert_eq!(last, LoginStatus::AuthenticationFailure, "{steps:?}");
    };
    let with = |more: &[&'static str]| [&WHO[..], more].concat();
    fails(&[(ask(1, Some(3), false), with(&[]))]);
    fails(&[(ask(0, Some(1), false), with(&["AuthMethod=None"]))]);
    let chap = || (ask(0, None, false), with(&["AuthMethod=CHAP"]));
    let md5 = || (ask(0, None, false), vec!["CHAP_A=5"]);
    fails(&[chap(), (ask(0, None, false), vec!["CHAP_A=99"])]);
    let wrong = "CHAP_R=0x00112233445566778899aabbccddeeff";
    fails(&[chap(), md5(), (ask(0, Some(1), false), vec!["CHAP_N=joe", wrong])]);
    fails(&[chap(), md5(), (ask(0, Some(1), false), vec!["CHAP_N=joe"])]);
    // Its own challenge back: who sends it wants our answer to it.
    let right = text::hex(&answer_of("5", 9, b"secretsecret12", &[9; 16]));
    let response: &'static str = format!("CHAP_R={right}").leak();
    let mirror: &'static str = format!("CHAP_C={}", text::hex(&[9; 16])).leak();
    fails(&[
        chap(),
        md5(),
        (ask(0, Some(1), false), vec!["CHAP_N=joe", response, "CHAP_I=1", mirror]),
    ]);
    let nobody = "CHAP_N=nobody";
    fails(&[chap(), md5(), (ask(0, Some(1), false), vec![nobody, response])]);
}

#[test]
fn what_passes_is_told_apart_from_what_is_not_there() {
    for (target, expected) in [
        ("TargetName=iqn.t:away", LoginStatus::ServiceUnavailable),
        ("TargetName=iqn.t:none", LoginStatus::NotFound),
        ("SessionType=Normal", LoginStatus::MissingParameter),
        ("SessionType=Copy", LoginStatus::SessionTypeUnsupported),
    ] {
        let mut login = login(Auth::None);
        let reply = take(&mut login, &ask(0, Some(1), false), &["InitiatorName=iqn.i:a", target]);
        assert_eq!((reply.next, status(&reply)), (Next::Refused, expected), "{target}");
    }
}

#[test]
fn text_may_come_in_pieces_and_only_so_much_of_it() {
    let mut login = login(Auth::None);
    let fill: Fill<'_> = &mut |_| {};
    let whole = pairs(&WHO);
    let (first, second) = whole.split_at(9);
    let reply = login.take(&ask(0, None, true), first, &One, fill);
    assert!(reply.text.is_empty() && reply.next == Next::Continue);
    let reply = login.take(&ask(0, Some(1), false), second, &One, fill);
    assert_eq!(said(&reply), ["TargetPortalGroupTag=1"]);
    let mut greedy = tests::login(Auth::None);
    let refused = (0..8).map(|_| greedy.take(&ask(0, None, true), &[b'a'; 8192], &One, fill));
    assert!(refused.into_iter().any(|reply| status(&reply) == LoginStatus::OutOfResources));
}

#[test]
fn a_key_is_negotiated_once_and_a_session_is_joined_by_nobody() {
    let mut login = login(Auth::None);
    take(&mut login, &ask(0, Some(1), false), &[WHO[0], WHO[1], "InitialR2T=No"]);
    let reply = take(&mut login, &ask(1, None, false), &["InitialR2T=Yes"]);
    assert_eq!(status(&reply), LoginStatus::InitiatorError);
    let mut request = ask(0, None, false);
    if let Request::Login { tsih, .. } = &mut request {
        *tsih = 4;
    }
    let reply = take(&mut tests::login(Auth::None), &request, &WHO);
    assert_eq!(status(&reply), LoginStatus::NoSuchSession);
}

proptest! {
    #[test]
    fn no_text_panics(
        steps in proptest::collection::vec(
            (0u8..4, proptest::option::of(0u8..4), any::<bool>(),
             proptest::collection::vec(("(AuthMethod|CHAP_[A-Z]|InitiatorName|[A-Z][A-Za-z]{1,8}|MaxBurstLength)", "[ -~]{0,40}"), 0..6)),
            1..6),
        chap: bool,
    ) {
        let mut login = login(if chap { Auth::Chap(vec![user()]) } else { Auth::None });
        for (stage, next, more, keys) in steps {
            let mut text = pairs(&WHO);
            for (key, value) in keys {
                text::push(&mut text, &key, &value);
            }
            let reply = login.take(&ask(stage, next, more), &text, &One, &mut |_| {});
            prop_assert!(!(chap && reply.next == Next::Agreed));
            if reply.next != Next::Continue { break }
        }
    }
}
