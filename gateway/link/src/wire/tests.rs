//! The codec against arbitrary messages, arbitrary bytes and arbitrary damage.

mod fuzz;

use block::{
    BlockRange, BootId, Change, DirtyReport, Epoch, Extent, GatewayId, Generation, Goodbye,
    GroupId, Identity, IoError, MirrorState, Mode, Open, Opened, Predecessor, Quality, Seq,
    SessionId, VolumeId, VolumeOffer, Vote,
};
use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::limits::{
    ACKS_PER_FRAME_MAX, LONG_QUESTION_BYTES_MAX, QUESTION_BYTES_MAX, RANGES_PER_FRAME_MAX,
};

const VERSION: u16 = block::PROTOCOL_VERSION;

fn seq() -> impl Strategy<Value = Seq> {
    any::<u64>().prop_map(Seq::new)
}

fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u64>().prop_map(Epoch::new)
}

fn generation() -> impl Strategy<Value = Generation> {
    any::<u128>().prop_map(Generation::of)
}

fn history() -> impl Strategy<Value = (Generation, Vec<Generation>)> {
    (generation(), vec(generation(), 0..5))
}

fn state() -> impl Strategy<Value = MirrorState> {
    let mode = prop_oneof![Just(Mode::Sync), Just(Mode::Consistency), Just(Mode::Stack)];
    let lag = proptest::option::of(0..u32::MAX);
    (any::<bool>(), any::<bool>(), any::<u64>(), seq(), mode, lag).prop_map(
        |(in_sync, copying, out_of_sync_bytes, seq, mode, lag_ms)| MirrorState {
            in_sync,
            copying,
            out_of_sync_bytes,
            seq,
            mode,
            lag_ms,
        },
    )
}

fn change() -> impl Strategy<Value = Message> {
    let what = prop_oneof![
        vec(any::<u8>(), 1..3000).prop_map(|data| Change::Write(Bytes::from(data))),
        any::<bool>().prop_map(|may_trim| Change::Zero { may_trim }),
        Just(Change::Trim),
    ];
    (seq(), any::<u16>(), 0..u64::MAX / 2, 1..u64::MAX / 2, what, any::<(bool, bool)>()).prop_map(
        |(seq, volume, offset, len, change, (fua, resync))| {
            let len = if let Change::Write(data) = &change { data.len() as u64 } else { len };
            let extent = Extent::new(offset, len).unwrap();
            Message::Change { seq, volume, extent, change, fua, resync }
        },
    )
}

fn open() -> impl Strategy<Value = Message> {
    let offer = (any::<u128>(), any::<u128>(), ".{0,20}", any::<u64>()).prop_map(
        |(volume, session, name, bytes)| VolumeOffer {
            volume: VolumeId::of(volume),
            session: SessionId::of(session),
            name,
            bytes,
        },
    );
    let predecessor = (any::<u128>(), epoch()).prop_map(|(gateway, epoch)| {
        let gateway = GatewayId::of(gateway);
        Predecessor { gateway, epoch }
    });
    let flags = (any::<bool>(), any::<bool>(), proptest::option::of(predecessor));
    (any::<u128>(), ".{0,30}", epoch(), history(), vec(offer, 0..4), flags).prop_map(
        |(group, name, epoch, (generation, ancestors), volumes, (discard, relayed, heir_of))| {
            let group = GroupId::of(group);
            Message::Open(Open {
                group,
                name,
                epoch,
                generation,
                ancestors,
                volumes,
                discard,
                relayed,
                heir_of,
            })
        },
    )
}

fn opened() -> impl Strategy<Value = Message> {
    let quality = prop_oneof![
        Just(Quality::Blank),
        Just(Quality::Inconsistent),
        Just(Quality::Outdated),
        Just(Quality::InSync),
        Just(Quality::Consistent),
        Just(Quality::Source),
    ];
    (quality, proptest::option::of(generation()), vec(generation(), 0..4), any::<bool>()).prop_map(
        |(quality, generation, ancestors, differences_known)| {
            Message::Opened(Opened { quality, generation, ancestors, differences_known })
        },
    )
}

fn goodbye() -> impl Strategy<Value = Message> {
    prop_oneof![
        epoch().prop_map(|epoch| Goodbye::Fenced { epoch }),
        any::<u64>().prop_map(|theirs_bytes| Goodbye::SplitBrain { theirs_bytes }),
        ".{0,40}".prop_map(Goodbye::Refused),
        Just(Goodbye::Shutdown),
        Just(Goodbye::Suspended),
        ".{0,40}".prop_map(Goodbye::Protocol),
    ]
    .prop_map(Message::Goodbye)
}

fn differs() -> impl Strategy<Value = Message> {
    (any::<u16>(), vec((any::<u64>(), any::<u64>()), 0..9)).prop_map(|(volume, ranges)| {
        let blocks = ranges.into_iter().map(|(a, b)| BlockRange::new(a.min(b), a.max(b))).collect();
        Message::Differs(DirtyReport { volume, blocks })
    })
}

fn mapped() -> impl Strategy<Value = Message> {
    (any::<u16>(), vec((any::<u64>(), any::<u64>()), 0..9), any::<bool>()).prop_map(
        |(volume, ranges, last)| {
            let range = |(a, b): (u64, u64)| BlockRange::new(a.min(b), a.max(b));
            let blocks = ranges.into_iter().map(range).collect();
            Message::Mapped { volume, blocks, last }
        },
    )
}

fn compare() -> impl Strategy<Value = Message> {
    let extent = (0_u64..1 << 40, 1_u64..1 << 20);
    prop_oneof![
        (seq(), any::<u16>(), extent, vec(any::<u8>(), 0..99)).prop_map(
            |(seq, volume, (offset, len), sums)| {
                let extent = Extent::new(offset, len).unwrap();
                Message::Compare { seq, volume, extent, sums: sums.into() }
            }
        ),
        (seq(), vec(0_u64..1 << 38, 0..9)).prop_map(|(seq, blocks)| {
            let differs =
                blocks.into_iter().map(|b| BlockRange::new(b, b.saturating_add(1))).collect();
            Message::Compared { seq, differs }
        }),
    ]
}

fn small() -> impl Strategy<Value = Message> {
    let error = (1_u64..=14).prop_map(|code| status::error(code).unwrap());
    prop_oneof![
        seq().prop_map(|seq| Message::Flush { seq }),
        seq().prop_map(|seq| Message::Durable { seq }),
        seq().prop_map(|seq| Message::CutApplied { seq }),
        (seq(), error).prop_map(|(seq, error)| Message::Failed { seq, error }),
        epoch().prop_map(|epoch| Message::Handover { epoch }),
        Just(Message::Voted(Vote::InSync)),
        epoch().prop_map(|epoch| Message::Voted(Vote::TookOver { epoch })),
        Just(Message::Outdate),
        any::<u16>().prop_map(|volume| Message::List { volume }),
        vec(any::<u8>(), 0..200).prop_map(|text| Message::Ask(Bytes::from(text))),
        vec(any::<u8>(), 0..200).prop_map(|text| Message::Told(Bytes::from(text))),
        vec(any::<u8>(), 0..200).prop_map(|text| Message::Policy(Bytes::from(text))),
        vec(any::<u8>(), 0..200).prop_map(|text| Message::Span(Bytes::from(text))),
        vec(any::<u8>(), 0..200).prop_map(|text| Message::Snapshot(Bytes::from(text))),
        any::<(u16, u64)>().prop_map(|(volume, bytes)| Message::Grow { volume, bytes }),
        any::<(u16, u64)>().prop_map(|(volume, bytes)| Message::Grown { volume, bytes }),
        (any::<u64>(), state()).prop_map(|(stamp, state)| Message::Ping { stamp, state }),
        (any::<u64>(), state(), any::<u32>())
            .prop_map(|(stamp, state, persist_us)| { Message::Pong { stamp, state, persist_us } }),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        4 => change(),
        2 => vec(seq(), 1..40).prop_map(Message::Acks),
        3 => small(),
        1 => open(),
        1 => opened(),
        1 => differs(),
        1 => mapped(),
        1 => compare(),
        1 => history().prop_map(|(generation, ancestors)| Message::Promote { generation, ancestors }),
        1 => (seq(), history())
            .prop_map(|(seq, (generation, ancestors))| Message::Cut { seq, generation, ancestors }),
        1 => goodbye(),
    ]
}

fn bytes_of(messages: &[Message]) -> Vec<u8> {
    bytes_in(VERSION, messages)
}

fn bytes_in(version: u16, messages: &[Message]) -> Vec<u8> {
    let mut outbox = Outbox::new();
    for message in messages {
        encode(version, message.clone(), &mut outbox).unwrap();
    }
    outbox.to_vec()
}

/// Everything that can be cut off `inbox`.
fn drain(decoder: Decoder, inbox: &mut BytesMut) -> Result<Vec<Frame>, Corrupt> {
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next(inbox)? {
        frames.push(frame);
    }
    Ok(frames)
}

fn messages_of(bytes: &[u8]) -> Result<Vec<Message>, Corrupt> {
    messages_in(VERSION, bytes)
}

fn messages_in(version: u16, bytes: &[u8]) -> Result<Vec<Message>, Corrupt> {
    let frames = drain(Decoder::messages(version), &mut BytesMut::from(bytes))?;
    let message = |frame| match frame {
        Frame::Message(message) => Ok(message),
        Frame::Greeting(_) => Err(Corrupt("a greeting")),
    };
    frames.into_iter().map(message).collect()
}

fn hello() -> Hello {
    Hello {
        identity: Identity {
            gateway: GatewayId::of(0x11),
            boot: BootId::of(0x22),
            site: "east".to_owned(),
        },
        version_min: 1,
        version_max: 2,
        release: "0.1.0".to_owned(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_messages_survive_any_fragmentation(
        messages in vec(message(), 1..12),
        cuts in vec(1_usize..700, 1..20),
    ) {
        let bytes = bytes_of(&messages);
        let (decoder, mut inbox, mut seen) =
            (Decoder::messages(VERSION), BytesMut::new(), Vec::new());
        let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            inbox.extend_from_slice(now);
            rest = later;
            seen.extend(drain(decoder, &mut inbox).unwrap());
            // What is said to be missing is never more than what there is to come.
            prop_assert!(decoder.missing(&inbox).unwrap() <= rest.len().max(HEADER_BYTES));
        }
        let sent: Vec<Frame> = messages.into_iter().map(Frame::Message).collect();
        prop_assert_eq!(seen, sent);
        prop_assert!(inbox.is_empty());
    }

    #[test]
    fn a_flipped_bit_is_noticed(
        messages in vec(message(), 1..4),
        place in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let mut bytes = bytes_of(&messages);
        let at = place.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // A length that was made longer could only wait for more; the header's sum forbids it.
        prop_assert!(messages_of(&bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_are_no_frames(bytes in vec(any::<u8>(), 0..400)) {
        for decoder in [Decoder::messages(1), Decoder::messages(2), Decoder::greetings()] {
            let mut inbox = BytesMut::from(&bytes[..]);
            let frames = drain(decoder, &mut inbox);
            prop_assert!(frames.map_or(true, |frames| frames.is_empty()));
        }
    }

    /// Bodies of whoever has the checksums right: damage that is meant.
    #[test]
    fn hostile_fields_neither_panic_nor_allocate(
        kind in prop_oneof![0_u8..5, 16_u8..19, 32_u8..43, 48_u8..56, 64_u8..66, Just(80), 96_u8..98, any::<u8>()],
        flags in prop_oneof![Just(0), any::<u8>()],
        fields in any::<(u16, u64, u64, u64, u64, u64)>(),
        payload in vec(prop_oneof![any::<u8>(), Just(0), Just(255)], 0..200),
        claimed in proptest::option::of(any::<u32>()),
    ) {
        let (volume, seq, epoch, offset, len, aux) = fields;
        let version = if kind < kind::FIRST_MESSAGE { GREETING_VERSION } else { VERSION };
        let mut raw = RawHeader {
            magic: U32::new(MAGIC),
            version: U16::new(version),
            kind,
            flags,
            volume: U16::new(volume),
            reserved: U16::ZERO,
            payload_bytes: U32::new(claimed.unwrap_or(u32::try_from(payload.len()).unwrap())),
            seq: U64::new(seq),
            epoch: U64::new(epoch),
            offset: U64::new(offset),
            len: U64::new(len),
            aux: U64::new(aux),
            payload_crc: U32::new(crc(&payload)),
            header_crc: U32::ZERO,
        };
        raw.header_crc = U32::new(crc(&raw.as_bytes()[..60]));
        let bytes = [raw.as_bytes(), &payload].concat();
        for decoder in [Decoder::messages(1), Decoder::messages(2), Decoder::greetings()] {
            let most = crate::limits::PAYLOAD_BYTES_MAX;
            prop_assert!(decoder.missing(&bytes).map_or(true, |missing| missing <= most));
            if let Ok(frames) = drain(decoder, &mut BytesMut::from(&bytes[..])) {
                prop_assert!(frames.len() <= 1);
            }
        }
    }
}

fn join_request() -> JoinRequest {
    JoinRequest {
        token: [7; 16],
        proof: [8; 32],
        gateway: GatewayId::of(9),
        site: "west".to_owned(),
        addresses: vec!["a:1".to_owned(), "b:2".to_owned()],
    }
}

#[test]
fn greetings_survive_and_belong_before_messages() {
    let join = join_request();
    let joined =
        JoinAnswer { gateway: GatewayId::of(3), site: "east".to_owned(), addresses: Vec::new() };
    for greeting in [
        Greeting::Hello(hello()),
        Greeting::Refused(Refusal { code: 4, text: "no".to_owned() }),
        Greeting::Join(join),
        Greeting::Joined(joined),
    ] {
        let mut outbox = Outbox::new();
        encode_greeting(&greeting, &mut outbox).unwrap();
        let bytes = outbox.to_vec();
        let frames = drain(Decoder::greetings(), &mut BytesMut::from(&bytes[..])).unwrap();
        assert_eq!(frames, [Frame::Greeting(greeting)]);
        assert!(messages_of(&bytes).is_err());
    }
    let message = bytes_of(&[Message::Outdate]);
    assert!(drain(Decoder::greetings(), &mut BytesMut::from(&message[..])).is_err());
}

#[test]
fn a_later_release_may_say_more_in_its_hello() {
    let mut body = Vec::new();
    body::write_hello(&mut cursor::Writer::new(&mut body), &hello()).unwrap();
    body.extend_from_slice(b"what nobody knows yet");
    assert_eq!(body::read_hello(&body), Ok(hello()));
}

#[test]
fn a_frame_of_another_version_is_refused() {
    let mut outbox = Outbox::new();
    encode(VERSION + 1, Message::Outdate, &mut outbox).unwrap();
    assert_eq!(messages_of(&outbox.to_vec()), Err(Corrupt("frame of another protocol version")));
}

#[test]
fn data_is_not_copied_in_either_direction() {
    let data = Bytes::from(vec![5; 4096]);
    let message = Message::Change {
        seq: Seq::new(1),
        volume: 0,
        extent: Extent::new(0, 4096).unwrap(),
        change: Change::Write(data.clone()),
        fua: false,
        resync: false,
    };
    let mut outbox = Outbox::new();
    encode(VERSION, message, &mut outbox).unwrap();
    let mut slices = [std::io::IoSlice::new(&[]); 4];
    assert_eq!(outbox.slices(&mut slices), 2);
    assert_eq!(slices[1].as_ptr(), data.as_ptr());

    let mut inbox = BytesMut::from(&outbox.to_vec()[..]);
    let at = inbox[HEADER_BYTES..].as_ptr();
    let Ok(Some(Frame::Message(Message::Change { change: Change::Write(seen), .. }))) =
        Decoder::messages(VERSION).next(&mut inbox)
    else {
        panic!("not the change")
    };
    assert_eq!(seen.as_ptr(), at);
    assert_eq!(seen, data);
}

#[test]
fn long_lists_become_several_frames() {
    let blocks: Vec<_> = (0..RANGES_PER_FRAME_MAX as u64 * 2 + 1)
        .map(|n| BlockRange::new(n * 2, n * 2 + 1))
        .collect();
    let report = DirtyReport { volume: 3, blocks: blocks.clone() };
    let seen = messages_of(&bytes_of(&[Message::Differs(report)])).unwrap();
    assert_eq!(seen.len(), 3);
    let together: Vec<_> = seen
        .into_iter()
        .flat_map(|message| match message {
            Message::Differs(DirtyReport { volume: 3, blocks }) => blocks,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(together, blocks);

    let acks: Vec<_> = (0..ACKS_PER_FRAME_MAX as u64 + 1).map(Seq::new).collect();
    let seen = messages_of(&bytes_of(&[Message::Acks(acks)])).unwrap();
    assert_eq!(seen.len(), 2);
}

#[test]
fn what_does_not_fit_is_refused_whole() {
    let extent = Extent::new(0, 10).unwrap();
    let change = |change| Message::Change {
        seq: Seq::new(1),
        volume: 0,
        extent,
        change,
        fua: false,
        resync: false,
    };
    let mut outbox = Outbox::new();
    let short = change(Change::Write(Bytes::from_static(b"nine byte")));
    assert!(encode(VERSION, short, &mut outbox).is_err());
    let huge = Message::Change {
        seq: Seq::new(1),
        volume: 0,
        extent: Extent::new(0, (64 << 20) + 1).unwrap(),
        change: Change::Write(Bytes::from(vec![0; (64 << 20) + 1])),
        fua: false,
        resync: false,
    };
    assert!(encode(VERSION, huge, &mut outbox).is_err());
    assert!(outbox.is_empty());
    // A text for people is cut instead, between two characters.
    let text = Goodbye::Refused("ä".repeat(5000));
    let seen = messages_of(&bytes_of(&[Message::Goodbye(text)])).unwrap();
    assert_eq!(seen, [Message::Goodbye(Goodbye::Refused("ä".repeat(2048)))]);
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(char::is_ascii_hexdigit)
        .map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap())
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// The bytes of version 1. A change of them is a change of the protocol and needs a new version.
#[test]
fn decodes_the_bytes_of_version_1() {
    let bytes = from_hex(include_str!("version_1.hex"));
    let expected = [
        Message::Change {
            seq: Seq::new(7),
            volume: 2,
            extent: Extent::new(4096, 5).unwrap(),
            change: Change::Write(Bytes::from_static(b"hello")),
            fua: true,
            resync: false,
        },
        Message::Change {
            seq: Seq::new(8),
            volume: 1,
            extent: Extent::new(1 << 40, 65_536).unwrap(),
            change: Change::Zero { may_trim: true },
            fua: false,
            resync: true,
        },
        Message::Acks(vec![Seq::new(7), Seq::new(8)]),
        Message::Failed { seq: Seq::new(9), error: IoError::NoSpace },
        Message::Opened(Opened {
            quality: Quality::Outdated,
            generation: Some(Generation::of(5)),
            ancestors: vec![Generation::of(4)],
            differences_known: true,
        }),
        Message::Goodbye(Goodbye::Fenced { epoch: Epoch::new(12) }),
    ];
    assert_bytes(1, &expected, &bytes);
}

/// A number that a release does not know ends its link, so what answers no change gets none.
#[test]
fn a_snapshot_that_is_not_kept_has_no_number_that_an_earlier_release_does_not_know() {
    let number = status::code(IoError::TooManySnapshots);
    assert_eq!(status::error(number), Some(IoError::NoSpace));
}

/// Messages are these bytes in this version, and the other way round.
fn assert_bytes(version: u16, expected: &[Message], bytes: &[u8]) {
    let encoded: String = bytes_in(version, expected)
        .chunks(32)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n")
        .collect();
    assert_eq!(messages_in(version, bytes).as_deref(), Ok(expected), "now it is\n{encoded}");
    assert_eq!(bytes_in(version, expected), bytes, "now it is\n{encoded}");
}

/// The bytes of version 2, of what version 1 has not.
#[test]
fn decodes_the_bytes_of_version_2() {
    let bytes = from_hex(include_str!("version_2.hex"));
    let state = MirrorState {
        in_sync: false,
        copying: true,
        out_of_sync_bytes: 4096,
        seq: Seq::new(5),
        mode: Mode::Consistency,
        lag_ms: Some(1_250),
    };
    let expected = [
        Message::Cut {
            seq: Seq::new(11),
            generation: Generation::of(5),
            ancestors: vec![Generation::of(4)],
        },
        Message::CutApplied { seq: Seq::new(11) },
        Message::Ping { stamp: 3, state },
        Message::Pong { stamp: 3, state: MirrorState { lag_ms: None, ..state }, persist_us: 77 },
        Message::Opened(Opened {
            quality: Quality::Consistent,
            generation: Some(Generation::of(5)),
            ancestors: Vec::new(),
            differences_known: true,
        }),
        Message::List { volume: 3 },
        Message::Mapped {
            volume: 3,
            blocks: vec![BlockRange::new(4, 9), BlockRange::new(1 << 33, (1 << 33) + 1)],
            last: true,
        },
        Message::Ask(Bytes::from_static(b"who?")),
        Message::Told(Bytes::from_static(b"me")),
    ];
    assert_bytes(2, &expected, &bytes);
    // What only this version knows is unknown to the one before.
    for message in &expected[5..] {
        let old = bytes_in(1, std::slice::from_ref(message));
        assert_eq!(messages_in(1, &old), Err(Corrupt("unknown kind of frame")));
    }
}

/// Only a primary opens a group in the versions before 3.
#[test]
fn version_2_knows_no_gateway_but_a_primary_that_opens_a_group() {
    let open = |relayed| {
        Message::Open(Open {
            group: GroupId::of(1),
            name: "orders".to_owned(),
            epoch: Epoch::new(2),
            generation: Generation::of(3),
            ancestors: Vec::new(),
            volumes: Vec::new(),
            discard: false,
            relayed,
            heir_of: None,
        })
    };
    let mut outbox = Outbox::new();
    assert!(encode(2, open(true), &mut outbox).is_err());
    assert!(outbox.is_empty());
    assert!(encode(2, open(false), &mut outbox).is_ok());
    let bytes = bytes_in(3, &[open(true)]);
    assert_eq!(messages_in(3, &bytes), Ok(vec![open(true)]));
    assert!(messages_in(2, &bytes).is_err());
}

/// A gateway of an earlier version is opened as by any other primary.
#[test]
fn version_8_knows_no_heirs() {
    let open = |heir_of| {
        Message::Open(Open {
            group: GroupId::of(1),
            name: "orders".to_owned(),
            epoch: Epoch::new(3),
            generation: Generation::of(3),
            ancestors: Vec::new(),
            volumes: Vec::new(),
            discard: true,
            relayed: false,
            heir_of,
        })
    };
    let heir = open(Some(Predecessor { gateway: GatewayId::of(5), epoch: Epoch::new(2) }));
    let bytes = bytes_in(9, std::slice::from_ref(&heir));
    assert_eq!(messages_in(9, &bytes), Ok(vec![heir.clone()]));
    let old = bytes_in(8, &[heir]);
    assert_eq!(messages_in(8, &old), Ok(vec![open(None)]));
    assert_eq!(old, bytes_in(8, &[open(None)]));
}

/// What the other mirrors of a primary lack is longer than what is said of a snapshot: a swap of roles
/// ended at a word that could not be sent.
#[test]
fn what_is_told_of_snapshots_may_be_long_since_version_9() {
    let word = |bytes| Message::Snapshot(Bytes::from(vec![7; bytes]));
    for (version, bytes_max) in [(8, QUESTION_BYTES_MAX), (9, LONG_QUESTION_BYTES_MAX)] {
        let longest = bytes_in(version, &[word(bytes_max)]);
        assert_eq!(messages_in(version, &longest), Ok(vec![word(bytes_max)]));
        let mut outbox = Outbox::new();
        assert!(encode(version, word(bytes_max + 1), &mut outbox).is_err());
        assert!(outbox.is_empty());
    }
    let long = bytes_in(9, &[word(QUESTION_BYTES_MAX + 1)]);
    assert!(messages_in(8, &long).is_err());
}

#[test]
fn version_1_has_no_cuts_and_tells_a_consistent_copy_as_an_old_one() {
    let mut outbox = Outbox::new();
    assert!(encode(1, Message::CutApplied { seq: Seq::new(1) }, &mut outbox).is_err());
    let cut =
        Message::Cut { seq: Seq::new(1), generation: Generation::of(1), ancestors: Vec::new() };
    assert!(encode(1, cut, &mut outbox).is_err());
    assert!(outbox.is_empty());
    let state = MirrorState { mode: Mode::Stack, lag_ms: Some(9), ..MirrorState::default() };
    let opened = |quality| Opened {
        quality,
        generation: Some(Generation::of(5)),
        ancestors: Vec::new(),
        differences_known: true,
    };
    let said = [Message::Ping { stamp: 1, state }, Message::Opened(opened(Quality::Consistent))];
    let heard = [
        Message::Ping { stamp: 1, state: MirrorState::default() },
        Message::Opened(opened(Quality::Outdated)),
    ];
    assert_eq!(messages_in(1, &bytes_in(1, &said)).as_deref(), Ok(&heard[..]));
}

/// The bytes of version 3, of what version 2 has not.
#[test]
fn decodes_the_bytes_of_version_3_and_version_2_has_no_policies() {
    let bytes = from_hex(include_str!("version_3.hex"));
    let expected =
        [Message::Policy(Bytes::from_static(b"as it is")), Message::Policy(Bytes::new())];
    assert_bytes(3, &expected, &bytes);
    let mut outbox = Outbox::new();
    assert!(encode(2, expected[0].clone(), &mut outbox).is_err());
    assert!(outbox.is_empty());
    // One that says so all the same, in a frame that is whole otherwise, is not understood.
    let mut said = bytes_in(3, &expected[..1]);
    said[4..6].copy_from_slice(&2_u16.to_le_bytes());
    let checked = HEADER_BYTES - 4;
    let crc = crc(&said[..checked]);
    said[checked..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(messages_in(2, &said), Err(Corrupt("unknown kind of frame")));
}

/// The bytes of version 4, of what version 3 has not.
#[test]
fn decodes_the_bytes_of_version_4_and_version_3_has_no_other_parts() {
    let bytes = from_hex(include_str!("version_4.hex"));
    let expected = [Message::Span(Bytes::from_static(b"as it is")), Message::Span(Bytes::new())];
    assert_bytes(4, &expected, &bytes);
    let mut outbox = Outbox::new();
    assert!(encode(3, expected[0].clone(), &mut outbox).is_err());
    assert!(outbox.is_empty());
}

/// The bytes of version 5, of what version 4 has not.
#[test]
fn decodes_the_bytes_of_version_5_and_version_4_has_no_snapshots() {
    let bytes = from_hex(include_str!("version_5.hex"));
    let expected =
        [Message::Snapshot(Bytes::from_static(b"as it is")), Message::Snapshot(Bytes::new())];
    assert_bytes(5, &expected, &bytes);
    let mut outbox = Outbox::new();
    assert!(encode(4, expected[0].clone(), &mut outbox).is_err());
    assert!(outbox.is_empty());
}
