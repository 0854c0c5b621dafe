//! Clients that stall, lie, flood or vanish. Beside each of them an honest one must be served.

use std::time::Duration;

use twinspan_nbd::Ending;

use super::client::{Client, Reply, hang_up, option, unix, unix_pair};
use super::rig::{Plan, Rig, wait_for};

/// An honest client reads a few blocks, and not slowly.
fn others_are_served(rig: &Rig) {
    let mut client = Client::structured(rig);
    let start = tokio::time::Instant::now();
    for cookie in 0..20 {
        client.read(cookie, 0, 4096, true);
    }
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
}

#[test]
fn half_a_header_holds_up_nobody() {
    let rig = Rig::start(Plan::default());
    let mut half = Client::structured(&rig);
    half.send(&0x2560_9513u32.to_be_bytes());
    let mut early = Client::over(unix(&rig));
    early.take(18);
    early.send(&[0, 0]);
    others_are_served(&rig);
    // The other half makes it whole.
    let rest = half.header((0, 0), 1, (0, 512))[4..].to_vec();
    half.send(&rest);
    assert!(matches!(half.reply(), Reply::Chunk { cookie: 1, .. }));
}

#[test]
fn a_handshake_that_takes_too_long_is_dropped() {
    let plan = Plan { handshake_timeout: Duration::from_millis(300), ..Plan::default() };
    let rig = Rig::start(plan);
    let mut idle = Client::over(unix(&rig));
    let mut slow = Client::over(unix(&rig));
    slow.greet();
    slow.send(b"IHAVE");
    assert!(idle.is_closed());
    assert!(slow.is_closed());
    // Transmission has no such deadline.
    let mut client = Client::structured(&rig);
    std::thread::sleep(Duration::from_millis(500));
    client.read(1, 0, 512, true);
}

#[test]
fn idlers_in_the_handshake_cannot_keep_newcomers_out() {
    let rig = Rig::start(Plan { connections_max: 65, ..Plan::default() });
    let mut idle: Vec<Client> = (0..64).map(|_| Client::over(unix(&rig))).collect();
    others_are_served(&rig);
    // The oldest had to give way.
    assert!(idle[0].is_closed());
}

#[test]
fn over_the_limit_of_connections_a_newcomer_is_turned_away() {
    let rig = Rig::start(Plan { connections_max: 1, ..Plan::default() });
    let (mut first, side) = unix_pair(&rig);
    first.greet();
    first.start("disk", &[]);
    assert!(Client::over(unix(&rig)).is_closed());
    hang_up(&side);
    rig.wait_ending();
    let mut client = Client::structured(&rig);
    client.read(1, 0, 512, true);
}

#[test]
fn a_length_that_lies_costs_the_liar_only() {
    let rig = Rig::start(Plan::default());
    let (mut liar, side) = unix_pair(&rig);
    liar.greet();
    liar.start("disk", &[]);
    liar.request((1, 0), 1, (0, 64 << 20));
    liar.send(&[1; 1000]);
    others_are_served(&rig);
    hang_up(&side);
    assert_eq!(rig.wait_ending(), Ending::Closed);
    assert!(rig.shared.log.lock().unwrap().iter().all(|line| !line.starts_with("write")));
}

#[test]
fn liars_who_hold_the_budget_do_not_starve_small_requests() {
    let rig = Rig::start(Plan { gateway_bytes: 64 << 20, ..Plan::default() });
    let mut liars: Vec<Client> = (0..4).map(|_| Client::structured(&rig)).collect();
    for liar in &mut liars {
        liar.request((1, 0), 1, (0, 60 << 20));
        liar.send(&[1; 1000]);
    }
    others_are_served(&rig);
    // A large request waits for the budget, and gets it once a liar is gone.
    let mut large = Client::structured(&rig);
    large.request((0, 0), 1, (0, 32 << 20));
    std::thread::sleep(Duration::from_millis(100));
    drop(liars);
    assert!(matches!(large.reply(), Reply::Chunk { cookie: 1, last: true, kind: 2, .. }));
}

#[test]
fn a_payload_over_the_limit_is_consumed_and_answered() {
    let rig = Rig::start(Plan::default());
    let mut client = Client::structured(&rig);
    client.write(1, 0, &vec![1; (64 << 20) + 1]);
    assert_eq!(client.outcome(), 22);
    client.read(2, 0, 512, true);
    let mut client = Client::extended(&rig);
    client.request((1, 32), 3, (0, 1 << 60));
    assert!(client.is_closed());
    wait_for(|| rig.shared.endings.lock().unwrap().contains(&Ending::Violated));
}

#[test]
fn a_payload_where_none_belongs_is_consumed() {
    let rig = Rig::start(Plan::default());
    let mut client = Client::extended(&rig);
    for command in [0, 3, 4, 5, 6, 7, 99] {
        client.request((command, 32), 1, (0, 3000));
        client.send(&[0x25; 3000]);
        assert_eq!(client.outcome(), 22, "{command}");
    }
    client.read(2, 0, 512, true);
}

#[test]
fn garbage_closes_the_connection_and_nothing_else() {
    let rig = Rig::start(Plan::default());
    let mut client = Client::structured(&rig);
    client.send(&[0x5a; 28]);
    assert!(client.is_closed());
    assert_eq!(rig.wait_ending(), Ending::Violated);
    // An extended client may not fall back to compact requests.
    let mut client = Client::extended(&rig);
    client.extended = false;
    client.request((0, 0), 1, (0, 512));
    client.request((0, 0), 2, (0, 512));
    assert!(client.is_closed());
    let mut client = Client::over(unix(&rig));
    client.take(18);
    client.send(b"GET / HTTP/1.1\r\n\r\n");
    assert!(client.is_closed());
    others_are_served(&rig);
}

#[test]
fn a_flood_without_reading_is_held_back_and_then_answered() {
    const READS: u64 = 20_000;
    let rig = Rig::start(Plan::default());
    let (mut sender, side) = unix_pair(&rig);
    let mut receiver = Client::over(side);
    sender.greet();
    sender.start("disk", &[]);
    sender.write(0, 0, &[3; 65_536]);
    assert_eq!(sender.outcome(), 0);
    let writer = std::thread::spawn(move || {
        for cookie in 0..READS {
            sender.request((0, 0), cookie, (0, 65_536));
        }
        sender
    });
    std::thread::sleep(Duration::from_millis(300));
    let taken = rig.shared.submitted.load(std::sync::atomic::Ordering::SeqCst) as u64;
    assert!(taken < 1000, "took {taken} requests of a client that reads nothing");
    others_are_served(&rig);
    let mut seen = vec![false; usize::try_from(READS).unwrap()];
    for _ in 0..READS {
        let Reply::Simple { cookie, error: 0 } = receiver.reply() else { panic!() };
        assert!(!std::mem::replace(&mut seen[usize::try_from(cookie).unwrap()], true));
        assert_eq!(receiver.take(65_536)[..4], [3; 4]);
    }
    drop(writer.join().unwrap());
}

#[test]
fn at_least_128_requests_are_in_flight_and_not_without_bound() {
    let rig = Rig::start(Plan::default());
    let mut client = Client::structured(&rig);
    rig.hold();
    let many: Vec<u8> =
        (0..1000).flat_map(|n| client.header((0, 0), n, (n * 4096, 4096))).collect();
    client.send(&many);
    rig.wait_submitted(256);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(rig.shared.submitted.load(std::sync::atomic::Ordering::SeqCst), 256);
    rig.release();
    for _ in 0..1000 {
        assert!(matches!(client.reply(), Reply::Chunk { last: true, kind: 2, .. }));
    }
}

#[test]
fn a_client_that_vanishes_with_requests_in_flight_leaves_no_trace() {
    let rig = Rig::start(Plan { connections_max: 1, ..Plan::default() });
    let (mut client, side) = unix_pair(&rig);
    client.greet();
    client.start("disk", &[]);
    rig.hold();
    for cookie in 0..10 {
        client.write(cookie, 0, &[7; 4096]);
    }
    rig.wait_submitted(10);
    hang_up(&side);
    drop(client);
    rig.release();
    assert!(matches!(rig.wait_ending(), Ending::Closed | Ending::Lost(_)));
    // Its place is free again, and what it wrote is there.
    let mut client = Client::structured(&rig);
    assert_eq!(client.read(1, 0, 4096, true), [7; 4096]);
}

#[test]
fn a_petabyte_of_zeroes_does_not_hold_up_others() {
    let rig = Rig::start(Plan { bytes: 1 << 50, ..Plan::default() });
    let mut client = Client::extended(&rig);
    for cookie in 0..4 {
        client.request((6, 0), cookie, (0, 1 << 50));
    }
    others_are_served(&rig);
}

#[test]
fn an_option_of_four_gibibytes_is_skipped_and_never_kept() {
    let rig = Rig::start(Plan { handshake_timeout: Duration::from_millis(500), ..Plan::default() });
    let mut client = Client::over(unix(&rig));
    client.greet();
    let mut bytes = option(99, b"");
    bytes.splice(12..16, u32::MAX.to_be_bytes());
    client.send(&bytes);
    client.send(&vec![0; 1 << 20]);
    others_are_served(&rig);
    assert!(client.is_closed());
}
