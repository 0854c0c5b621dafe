//! Handshakes as byte tables, and as noise.

mod fuzz;

use proptest::prelude::*;

use super::*;
use crate::contexts::Context;
use block::SnapshotId;

use crate::export::{Bitmap, ClientAddress, Refusal};
use crate::limits::OPTION_BYTES_MAX;
use crate::session::Negotiated;

struct One;

impl Exports for One {
    fn list(&self, client: &ClientInfo) -> Vec<ExportInfo> {
        self.find("", client).into_iter().collect()
    }

    fn find(&self, name: &str, _: &ClientInfo) -> Result<ExportInfo, Refusal> {
        match name {
            "" | "orders" => Ok(ExportInfo {
                name: "orders".to_owned(),
                description: "all of them".to_owned(),
                bytes: 1 << 20,
                read_only: false,
                bitmaps: [("monday", 7), ("tuesday", 8)]
                    .map(|(name, id)| Bitmap { name: name.to_owned(), since: SnapshotId::of(id) })
                    .into(),
                multi_conn: true,
            }),
            "draining" => Err(Refusal::ShuttingDown),
            _ => Err(Refusal::Unknown),
        }
    }

    fn seat(&self, _: Negotiated) {}
}

fn client() -> ClientInfo {
    ClientInfo {
        address: ClientAddress::Unix { uid: 0, gid: 0, pid: None },
        tls: false,
        tls_subject: None,
        listener: "test".to_owned(),
    }
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend(data);
    bytes
}

fn go(name: &str, wishes: &[u16]) -> Vec<u8> {
    let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend(u16::try_from(wishes.len()).unwrap().to_be_bytes());
    data.extend(wishes.iter().flat_map(|wish| wish.to_be_bytes()));
    option(7, &data)
}

fn contexts(number: u32, name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend(u32::try_from(queries.len()).unwrap().to_be_bytes());
    for query in queries {
        data.extend(u32::try_from(query.len()).unwrap().to_be_bytes());
        data.extend(query.as_bytes());
    }
    option(number, &data)
}

/// An answer: option, reply, data.
type Told = (u32, u32, Vec<u8>);

/// Runs a handshake to its end.
fn run(tls: TlsMode, input: &[u8]) -> (Result<Progress, Violation>, Vec<Told>) {
    let mut negotiation = Negotiation::new(tls);
    let mut input = BytesMut::from(input);
    let mut out = Vec::new();
    let client = client();
    let asking = Asking { exports: &One, client: &client };
    let end = loop {
        match negotiation.advance(&mut input, asking, &mut out) {
            Ok(Progress::Continue) => {}
            end => break end,
        }
    };
    (end, answers(&out))
}

fn answers(mut out: &[u8]) -> Vec<Told> {
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let mut answers = Vec::new();
    while out.len() >= 20 && out[..8] == crate::wire::OPTION_REPLY_MAGIC.to_be_bytes() {
        let len = number(&out[16..20]) as usize;
        answers.push((number(&out[8..12]), number(&out[12..16]), out[20..20 + len].to_vec()));
        out = &out[20 + len..];
    }
    answers
}

fn with_flags(flags: u32, options: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = flags.to_be_bytes().to_vec();
    bytes.extend(options.concat());
    bytes
}

const ERROR: u32 = 1 << 31;

#[test]
fn go_tells_size_blocks_name_and_description_and_starts() {
    let (end, answers) = run(TlsMode::Off, &with_flags(3, &[option(8, b""), go("", &[1, 2])]));
    let kinds: Vec<(u32, u32)> = answers.iter().map(|(o, r, _)| (*o, *r)).collect();
    assert_eq!(kinds, [(8, 1), (7, 3), (7, 3), (7, 3), (7, 3), (7, 1)]);
    assert_eq!(answers[1].2, b"\0\x01orders");
    assert_eq!(answers[2].2, b"\0\x02all of them");
    assert_eq!(answers[3].2, [0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0]);
    assert_eq!(answers[4].2[..10], [0, 0, 0, 0, 0, 0, 0, 16, 0, 0]);
    let Ok(Progress::Transmission(agreed)) = end else { panic!("{end:?}") };
    assert_eq!(agreed.style, HeaderStyle::Structured);
    assert_eq!(answers[4].2[10..], agreed.flags().to_be_bytes());
    assert_eq!(agreed.flags(), 0b1101_1110_1101);
}

#[test]
fn an_option_that_is_unknown_or_malformed_is_answered_and_forgotten() {
    let go_on = option(2, b"");
    for (bad, reply) in [
        (option(99, &[7; 100]), ERROR | 1),
        (option(4, b""), ERROR | 1),
        (option(3, b"x"), ERROR | 3),
        (option(8, b"x"), ERROR | 3),
        (option(7, b"\xff\xff\xff\xff"), ERROR | 3),
        (option(7, b"\0\0\0\x01a\0\x02\0\0"), ERROR | 3),
        (go("nobody", &[]), ERROR | 6),
        (go("draining", &[]), ERROR | 7),
        (option(5, b""), ERROR | 2),
        (contexts(10, "", &["base:allocation"]), ERROR | 3),
        (option(6, &vec![0; OPTION_BYTES_MAX + 1]), ERROR | 9),
        (option(77, &vec![0; OPTION_BYTES_MAX + 1]), ERROR | 1),
    ] {
        let (end, answers) = run(TlsMode::Off, &with_flags(1, &[bad, go_on.clone()]));
        assert_eq!(end, Ok(Progress::Closed));
        assert_eq!(answers[0].1, reply, "{answers:?}");
        assert_eq!((answers.len(), answers[1].0, answers[1].1), (2, 2, 1));
    }
}

#[test]
fn before_tls_nothing_is_told_where_it_is_required() {
    let asked = [option(3, b""), go("", &[]), option(99, b""), option(8, b""), option(2, b"")];
    let (end, answers) = run(TlsMode::Required, &with_flags(3, &asked));
    assert_eq!(end, Ok(Progress::Closed));
    let replies: Vec<u32> = answers.iter().map(|(_, reply, _)| *reply).collect();
    assert_eq!(replies, [ERROR | 5, ERROR | 5, ERROR | 5, ERROR | 5, 1]);
    let (end, _) = run(TlsMode::Required, &with_flags(3, &[option(1, b"orders")]));
    assert_eq!(end, Err(Violation::TlsRequired));
}

#[test]
fn plaintext_behind_starttls_ends_the_connection() {
    let (end, _) = run(TlsMode::Required, &with_flags(3, &[option(5, b"")]));
    assert_eq!(end, Ok(Progress::StartTls));
    let (end, answers) = run(TlsMode::Optional, &with_flags(3, &[option(5, b""), go("", &[])]));
    assert_eq!(end, Err(Violation::PlaintextBehindStartTls));
    assert!(answers.is_empty());
}

#[test]
fn tls_forgets_what_was_agreed_before() {
    let mut negotiation = Negotiation::new(TlsMode::Optional);
    let client = client();
    let asking = Asking { exports: &One, client: &client };
    let mut out = Vec::new();
    let first =
        with_flags(3, &[option(8, b""), contexts(10, "", &["base:allocation"]), option(5, b"")]);
    let mut input = BytesMut::from(&first[..]);
    while negotiation.advance(&mut input, asking, &mut out) != Ok(Progress::StartTls) {}
    negotiation.secured();
    let mut input = BytesMut::from(&go("", &[])[..]);
    let end = negotiation.advance(&mut input, asking, &mut out).unwrap();
    let Progress::Transmission(agreed) = end else { panic!("{end:?}") };
    assert_eq!(agreed.style, HeaderStyle::Simple);
    assert!(agreed.contexts.is_empty());
}

#[test]
fn the_old_way_pads_unless_told_not_to() {
    for (flags, len) in [(1u32, 10 + 124), (3, 10)] {
        let mut negotiation = Negotiation::new(TlsMode::Off);
        let client = client();
        let asking = Asking { exports: &One, client: &client };
        let bytes = with_flags(flags, &[option(1, b"orders")]);
        let mut out = Vec::new();
        let end = negotiation.advance(&mut BytesMut::from(&bytes[..]), asking, &mut out);
        assert!(matches!(end, Ok(Progress::Transmission(_))));
        assert_eq!(out.len(), len);
    }
    let (end, _) = run(TlsMode::Off, &with_flags(3, &[option(1, b"nobody")]));
    assert_eq!(end, Err(Violation::ExportRefused));
}

#[test]
fn contexts_are_chosen_by_name_for_the_export_that_is_opened() {
    let choose = |name: &str, queries: &[&str]| {
        let asked = [option(11, b""), contexts(10, name, queries), go("orders", &[])];
        match run(TlsMode::Off, &with_flags(3, &asked)) {
            (Ok(Progress::Transmission(agreed)), answers) => (agreed, answers),
            other => panic!("{other:?}"),
        }
    };
    let (agreed, answers) = choose("", &["qemu:dirty-bitmap:x", "base:allocation"]);
    assert_eq!(agreed.contexts.len(), 1);
    assert_eq!(answers[1].2, b"\0\0\0\x01base:allocation");
    assert_ne!(agreed.flags() & (1 << 12), 0);
    let (agreed, answers) = choose("", &["qemu:dirty-bitmap:tuesday", "base:allocation"]);
    let since = SnapshotId::of(8);
    assert_eq!(agreed.contexts[..], [Context::Dirty { id: 3, since }, Context::Allocation]);
    assert_eq!(answers[1].2, b"\0\0\0\x03qemu:dirty-bitmap:tuesday");
    let (agreed, _) = choose("", &["qemu:dirty-bitmap:", "qemu:"]);
    assert!(agreed.contexts.is_empty(), "a namespace chooses nothing");
    let (agreed, answers) = choose("", &["base:"]);
    assert!(agreed.contexts.is_empty());
    assert_eq!((answers[1].0, answers[1].1), (10, 1));
    assert_eq!(agreed.flags() & (1 << 12), 0);
}

#[test]
fn listing_contexts_takes_a_namespace_or_nothing() {
    for (queries, found) in [
        (&[][..], 3),
        (&["base:"], 1),
        (&["qemu:"], 2),
        (&["qemu:dirty-bitmap:"], 2),
        (&["qemu:dirty-bitmap:tuesday"], 1),
        (&["qemu:dirty-bitmap:wed"], 0),
        (&["base:allocation", "x-y:z"], 1),
    ] {
        let asked = [option(8, b""), contexts(9, "", queries), option(2, b"")];
        let (_, answers) = run(TlsMode::Off, &with_flags(3, &asked));
        assert_eq!(answers.iter().filter(|(_, reply, _)| *reply == 4).count(), found);
    }
}

#[test]
fn structured_after_extended_is_refused_as_such() {
    let asked = [option(11, b""), option(8, b""), option(11, b""), option(2, b"")];
    let (_, answers) = run(TlsMode::Off, &with_flags(3, &asked));
    let replies: Vec<u32> = answers.iter().map(|(_, reply, _)| *reply).collect();
    assert_eq!(replies, [1, ERROR | 10, ERROR | 3, 1]);
}

#[test]
fn a_client_that_never_comes_to_the_point_is_dropped() {
    let endless = vec![option(3, b""); OPTIONS_MAX + 1];
    let (end, _) = run(TlsMode::Off, &with_flags(3, &endless));
    assert_eq!(end, Err(Violation::TooManyOptions));
}

#[test]
fn an_unknown_client_flag_is_no_client_of_ours() {
    assert_eq!(run(TlsMode::Off, &7u32.to_be_bytes()).0, Err(Violation::Malformed));
    assert_eq!(run(TlsMode::Off, &with_flags(3, &[vec![0; 16]])).0, Err(Violation::Malformed));
}

proptest! {
    #[test]
    fn noise_never_panics_and_never_grows(
        tls in prop_oneof![Just(TlsMode::Off), Just(TlsMode::Optional), Just(TlsMode::Required)],
        options in proptest::collection::vec(
            (0u32..14, proptest::collection::vec(any::<u8>(), 0..64), any::<bool>()), 0..20),
        noise in proptest::collection::vec(any::<u8>(), 0..64),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = 3u32.to_be_bytes().to_vec();
        for (number, data, honest) in &options {
            bytes.extend(option(*number, data));
            if !honest {
                // A length that lies.
                let at = bytes.len() - data.len() - 2;
                bytes[at] ^= 1;
            }
        }
        bytes.extend(noise);
        bytes.truncate(cut.index(bytes.len() + 1));
        let (_, answers) = run(tls, &bytes);
        prop_assert!(answers.len() <= options.len() * 5 + 5);
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_are_cut(step in 1usize..40) {
        let asked = with_flags(
            3,
            &[option(11, b""), option(99, &[1; 50]), contexts(10, "", &["base:allocation"]),
              go("orders", &[1])],
        );
        let whole = run(TlsMode::Off, &asked);
        let mut negotiation = Negotiation::new(TlsMode::Off);
        let client = client();
        let asking = Asking { exports: &One, client: &client };
        let (mut input, mut out) = (BytesMut::new(), Vec::new());
        let mut end = Ok(Progress::NeedBytes);
        for piece in asked.chunks(step) {
            input.extend_from_slice(piece);
            end = loop {
                match negotiation.advance(&mut input, asking, &mut out) {
                    Ok(Progress::Continue) => {}
                    end => break end,
                }
            };
        }
        prop_assert_eq!(end, whole.0);
        prop_assert_eq!(answers(&out), whole.1);
    }
}
