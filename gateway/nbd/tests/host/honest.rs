//! Clients that mean well: every command, in every style, over every kind of socket.

use twinspan_nbd::Ending;

use super::client::{Client, Reply, tcp, unix};
use super::rig::{BAD_OFFSET, Plan, Rig};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect()
}

#[test]
fn every_style_writes_and_reads_back() {
    let rig = Rig::start(Plan::default());
    for (options, chunks) in [(&[][..], false), (&[8], true), (&[11], true)] {
        for over_tcp in [false, true] {
            let mut client = if over_tcp {
                Client::open(tcp(&rig), options)
            } else {
                Client::open(unix(&rig), options)
            };
            assert_eq!(client.size, 256 << 20);
            for (cookie, (at, len)) in
                [(0, 1), (4095, 2), (100, 5000), (1 << 20, 65_536), (3 << 20, 3_000_001)]
                    .into_iter()
                    .enumerate()
            {
                let cookie = cookie as u64;
                let data = pattern(len);
                client.write(cookie, at, &data);
                assert_eq!(client.outcome(), 0);
                assert_eq!(client.read(cookie, at, len, chunks), data);
            }
            client.request((2, 0), 0, (0, 0));
            assert!(client.is_closed());
            assert_eq!(rig.wait_ending(), Ending::Disconnected);
        }
    }
}

#[test]
fn holes_are_told_as_holes_and_not_to_be_fragmented_means_one_chunk() {
    let rig = Rig::start(Plan::default());
    let mut client = Client::structured(&rig);
    client.write(1, 64 << 10, &pattern(4096));
    assert_eq!(client.outcome(), 0);
    client.request((0, 0), 2, (0, 256 << 10));
    let kinds: Vec<(u16, bool, usize)> = (0..3)
        .map(|_| match client.reply() {
            Reply::Chunk { kind, last, data, .. } => (kind, last, data.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, [(2, false, 12), (1, false, 8 + 4096), (2, true, 12)]);
    client.request((0, 4), 3, (0, 256 << 10));
    let Reply::Chunk { kind: 1, last: true, data, .. } = client.reply() else { panic!() };
    assert_eq!(data.len(), 8 + (256 << 10));
    assert_eq!(data[8 + (64 << 10)..][..4096], pattern(4096));
}

#[test]
fn sixty_four_mebibytes_in_one_request() {
    let rig = Rig::start(Plan::default());
    let mut client = Client::structured(&rig);
    let data = pattern(64 << 20);
    client.write(1, 4096, &data);
    assert_eq!(client.outcome(), 0);
    assert!(client.read(2, 4096, 64 << 20, true) == data);
}

#[test]
fn flags_and_flushes_reach_the_volume_in_order() {
    let rig = Rig::start(Plan::default());
    let (mut one, mut other) = (Client::structured(&rig), Client::structured(&rig));
    one.write(1, 0, &[1; 512]);
    assert_eq!(one.outcome(), 0);
    other.request((3, 0), 2, (0, 0));
    assert_eq!(other.outcome(), 0);
    for (cookie, (command, range)) in [
        ((6, 1), (0, 8192)),
        ((6, 2), (0, 8192)),
        ((6, 16), (0, 8192)),
        ((4, 1), (0, 8192)),
        ((5, 0), (0, 8192)),
        ((0, 1), (0, 512)),
    ]
    .into_iter()
    .enumerate()
    {
        one.request(command, cookie as u64, range);
        match one.reply() {
            Reply::Simple { error: 0, .. } | Reply::Chunk { kind: 1 | 2, .. } => {}
            other => panic!("{other:?}"),
        }
    }
    let log = rig.shared.log.lock().unwrap();
    assert_eq!(
        *log,
        [
            "write 0+512",
            "flush",
            "zero 0+8192 fua",
            "fill 0+8192",
            "zero 0+8192",
            "trim 0+8192 fua",
            "cache 0+8192",
            "read 0+512"
        ]
    );
}

#[test]
fn a_request_for_no_bytes_gets_a_reply() {
    let rig = Rig::start(Plan::default());
    for options in [&[][..], &[8], &[11]] {
        let mut client = Client::open(unix(&rig), options);
        for command in [0, 1, 4, 5, 6] {
            client.request((command, 0), 9, (4096, 0));
            match client.reply() {
                Reply::Simple { cookie: 9, error: 0 } => {
                    assert!(command != 0 || options.is_empty(), "a simple reply to a read");
                }
                Reply::Chunk { cookie: 9, last: true, kind: 0, data } => assert!(data.is_empty()),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn an_error_is_an_error_chunk_with_words_or_a_bare_simple_reply() {
    let rig = Rig::start(Plan::default());
    let mut client = Client::structured(&rig);
    client.request((0, 0), 5, (BAD_OFFSET, 4096));
    let Reply::Chunk { cookie: 5, last: true, kind, data } = client.reply() else { panic!() };
    assert_eq!((kind, &data[..4]), (0x8001, &5u32.to_be_bytes()[..]));
    assert_eq!(&data[6..], b"stored block does not match its checksum");
    assert_eq!(client.read(6, 0, 512, true), [0; 512]);
    let mut client = Client::open(unix(&rig), &[]);
    client.request((0, 0), 7, (BAD_OFFSET, 4096));
    assert_eq!(client.reply(), Reply::Simple { cookie: 7, error: 5 });
    assert_eq!(client.read(8, 0, 512, false), [0; 512]);
}

#[test]
fn a_read_only_export_consumes_what_it_refuses() {
    let rig = Rig::start(Plan::default());
    let mut client = Client::over(unix(&rig));
    client.greet();
    client.start("locked", &[8]);
    assert_eq!(client.flags & 2, 2);
    for len in [512, 100_000] {
        client.write(1, 0, &vec![7; len]);
        assert_eq!(client.outcome(), 1);
    }
    client.request((6, 0), 2, (0, 4096));
    assert_eq!(client.outcome(), 1);
    client.request((4, 0), 2, (0, 4096));
    assert_eq!(client.outcome(), 1);
    assert_eq!(client.read(3, 0, 512, true), [0; 512]);
    assert!(rig.shared.log.lock().unwrap().iter().all(|line| line.starts_with("read")));
}

#[test]
fn requests_right_behind_go_are_not_lost() {
    let rig = Rig::start(Plan::default());
    let mut client = Client::over(unix(&rig));
    client.greet();
    let mut bytes = super::client::option(7, &super::client::go_data(""));
    for cookie in 0..10 {
        bytes.extend(client.header((0, 0), cookie, (0, 16)));
    }
    client.send(&bytes);
    // Block size, size and acknowledgement.
    client.take(20 + 14 + 20 + 12 + 20);
    for cookie in 0..10 {
        assert_eq!(client.reply(), Reply::Simple { cookie, error: 0 });
        client.take(16);
    }
}

#[test]
fn the_old_way_to_open_an_export_works_with_and_without_padding() {
    let rig = Rig::start(Plan::default());
    for (flags, padding) in [(1u32, 124), (3, 0)] {
        let mut client = Client::over(unix(&rig));
        client.take(18);
        client.send(&flags.to_be_bytes());
        client.send(&super::client::option(1, b"disk"));
        assert_eq!(client.take(8), (256u64 << 20).to_be_bytes());
        client.take(2 + padding);
        assert_eq!(client.read(1, 0, 100, false), [0; 100]);
    }
}

#[test]
fn goodbye_waits_for_what_is_in_flight() {
    let rig = Rig::start(Plan::default());
    let mut client = Client::structured(&rig);
    rig.hold();
    client.write(1, 0, &[9; 4096]);
    client.request((2, 0), 2, (0, 0));
    rig.wait_submitted(1);
    rig.release();
    assert_eq!(client.outcome(), 0);
    assert!(client.is_closed());
    assert_eq!(rig.wait_ending(), Ending::Disconnected);
}

#[test]
fn a_client_that_closes_its_side_still_gets_its_replies() {
    let rig = Rig::start(Plan::default());
    let (mut client, side) = super::client::unix_pair(&rig);
    client.greet();
    client.start("disk", &[]);
    rig.hold();
    client.write(1, 0, &[9; 4096]);
    side.shutdown(std::net::Shutdown::Write).unwrap();
    rig.wait_submitted(1);
    rig.release();
    assert_eq!(client.outcome(), 0);
    assert!(client.is_closed());
    assert_eq!(rig.wait_ending(), Ending::Closed);
}

#[test]
fn stop_closes_at_once_and_promises_nothing_that_was_not_done() {
    let rig = Rig::start(Plan::default());
    let mut client = Client::structured(&rig);
    client.write(1, 0, &[1; 512]);
    assert_eq!(client.outcome(), 0);
    rig.hold();
    client.write(2, 0, &[2; 512]);
    rig.wait_submitted(2);
    rig.stop.cancel();
    assert_eq!(rig.wait_ending(), Ending::Stopped);
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut client.stream, &mut rest).unwrap();
    assert!(rest.is_empty(), "the second write was never answered by the volume");
}

#[test]
fn the_status_of_a_petabyte_is_one_hole() {
    let rig = Rig::start(Plan { bytes: 1 << 50, ..Plan::default() });
    let mut client = Client::structured(&rig);
    client.write(1, 1 << 40, &[1; 4096]);
    assert_eq!(client.outcome(), 0);
    // CVE-2025-47711 and -47712: the last byte of the range, and lengths near 2^32.
    client.request((7, 0), 2, (0, u32::MAX.into()));
    let Reply::Chunk { last: true, kind: 5, data, .. } = client.reply() else { panic!() };
    assert_eq!(data, [0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 3]);
    client.request((7, 0), 3, ((1 << 40) - 4096, 3 * 4096));
    let Reply::Chunk { data, .. } = client.reply() else { panic!() };
    assert_eq!(
        data[4..],
        [0, 0, 16, 0, 0, 0, 0, 3, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 3]
    );
    client.request((7, 8), 4, ((1 << 40) - 4096, 3 * 4096));
    let Reply::Chunk { data, .. } = client.reply() else { panic!() };
    assert_eq!(data.len(), 12);
    let mut client = Client::extended(&rig);
    client.request((7, 0), 5, (0, 1 << 50));
    let Reply::Chunk { last: true, kind: 6, data, .. } = client.reply() else { panic!() };
    assert_eq!(data[..8], [0, 0, 0, 1, 0, 0, 0, 3]);
    let lens: Vec<u64> =
        data[8..].chunks(16).map(|run| u64::from_be_bytes(run[..8].try_into().unwrap())).collect();
    assert_eq!(lens, [1 << 40, 4096, (1 << 50) - (1 << 40) - 4096]);
    // A payload that names the context.
    client.request((7, 32), 6, (0, 12));
    client.send(&[&(1u64 << 50).to_be_bytes()[..], &1u32.to_be_bytes()].concat());
    let Reply::Chunk { kind: 6, .. } = client.reply() else { panic!() };
    client.request((7, 32), 7, (0, 12));
    client.send(&[&(1u64 << 50).to_be_bytes()[..], &9u32.to_be_bytes()].concat());
    assert_eq!(client.outcome(), 22);
}

#[test]
fn huge_zeroing_is_done_in_pieces_and_leaves_no_byte() {
    let rig = Rig::start(Plan { bytes: 1 << 43, ..Plan::default() });
    let mut client = Client::extended(&rig);
    for at in [0, (4 << 30) - 4096, (1 << 43) - 4096] {
        client.write(1, at, &[5; 4096]);
        assert_eq!(client.outcome(), 0);
    }
    client.request((6, 0), 2, (0, 1 << 43));
    assert_eq!(client.outcome(), 0);
    for at in [0, (4 << 30) - 4096, (1 << 43) - 4096] {
        assert_eq!(client.read(3, at, 4096, true), [0; 4096]);
    }
    assert_eq!(rig.shared.log.lock().unwrap()[4], "zero 1073741824+1073741824");
}
