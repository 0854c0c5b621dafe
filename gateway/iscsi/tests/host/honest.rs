//! What initiators do.

use std::time::Duration;

use block::IoError;
use twinspan_iscsi::scsi::{PortGroup, PortState, UnitEvent};
use twinspan_iscsi::wire::{AsyncEvent, Function, LoginStatus, NO_TAG, Request, Response, text};
use twinspan_iscsi::{Auth, ChapUser, Ending, Secret};

use crate::initiator::{Ended, Initiator, READ, UNMAP, WRITE, cdb, compare_and_write, unmap};
use crate::managed::write_late;
use crate::rig::{TARGET, with};

pub(crate) fn content(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at / 512 * 31 + at + seed) % 251).unwrap()).collect()
}

pub(crate) const GOOD: Ended = Ended { status: 0, sense: None, data: Vec::new(), residual: 0 };

#[test]
fn what_is_written_is_read_whatever_was_agreed_on() {
    let digests = ["HeaderDigest=None", "HeaderDigest=CRC32C"];
    let data_digests = ["DataDigest=None", "DataDigest=CRC32C,None"];
    for (number, (head, data)) in digests.into_iter().zip(data_digests).enumerate() {
        for (r2t, immediate) in [("Yes", "Yes"), ("No", "Yes"), ("Yes", "No"), ("No", "No")] {
            let r2t = format!("InitialR2T={r2t}");
            let allowed = immediate == "Yes";
            let immediate = format!("ImmediateData={immediate}");
            let keys = [
                head,
                data,
                &r2t,
                &immediate,
                "MaxBurstLength=65536",
                "MaxOutstandingR2T=3",
                "FirstBurstLength=65536",
                "MaxRecvDataSegmentLength=10000",
            ];
            with(
                |_| {},
                |rig| async move {
                    let mut host = Initiator::login(rig.address, &keys).await;
                    assert_eq!(host.digests, (number == 1, number == 1));
                    for (len, first) in [(512, 512), (4096, 4096), (300_032, 65_536), (1 << 20, 0)]
                    {
                        let blocks = u16::try_from(len / 512).unwrap();
                        let (written, first) = (content(len, len), if allowed { first } else { 0 });
                        let wrote =
                            host.command_with(cdb(WRITE, 9, blocks), (0, &written), first).await;
                        assert_eq!(wrote, GOOD);
                        let room = u32::try_from(len).unwrap();
                        let read = host.command(cdb(READ, 9, blocks), room, &[]).await;
                        assert_eq!((read.status, read.data == written), (0, true), "{len}");
                    }
                    host.ping(b"still there?").await;
                },
            );
        }
    }
}

/// The host learns of each command how much of what it announced was not used, or how much it would have
/// taken more (RFC 7143 §11.4.5).
#[test]
fn what_was_announced_and_not_transferred_is_told_and_so_is_what_was_not_announced() {
    with(
        |_| {},
        |rig| async move {
            let mut host = Initiator::login(rig.address, &[]).await;
            let written = content(3, 2048);
            let done = |data: &[u8], residual| Ended { data: data.to_vec(), residual, ..GOOD };
            // More, less and as much as the CDB says.
            for (announced, residual) in [(2048, -1024), (512, 512), (1024, 0)] {
                let wrote = host.command(cdb(WRITE, 8, 2), 0, &written[..announced]).await;
                assert_eq!(wrote, done(&[], residual), "a write of {announced}");
            }
            for (room, residual) in [(2048, -1024), (512, 512), (1024, 0)] {
                let read = host.command(cdb(READ, 8, 2), room, &[]).await;
                let here = (room as usize).min(1024);
                assert_eq!(read, done(&written[..here], residual), "a read of {room}");
            }
            // What is refused transfers nothing, and data whose length a host does not know is short.
            let refused = host.command(cdb(READ, u32::MAX, 2), 1024, &[]).await;
            assert_eq!((refused.sense, refused.residual), (Some((5, 0x2100)), -1024));
            let refused = host.command(cdb(WRITE, u32::MAX, 2), 0, &written[..1024]).await;
            assert_eq!((refused.sense, refused.residual), (Some((5, 0x2100)), -1024));
            let mut inquiry = [0; 16];
            (inquiry[0], inquiry[4]) = (0x12, 255);
            let told = host.command(inquiry, 255, &[]).await;
            assert_eq!((told.data.len(), told.residual), (96, 96 - 255));
        },
    );
}

/// One that had to wait for its blocks ends as one that had not.
#[test]
fn what_waited_for_a_compare_and_write_transfers_what_it_announced() {
    with(
        |_| {},
        |rig| async move {
            let (mut host, mut other) = Initiator::login_two(rig.address, &[]).await;
            write_late(&rig, &mut other).await;
            // COMPARE AND WRITE has the block, and waits for the write.
            let request = other.command_of(compare_and_write(), 0, 1024);
            let swap = [[7; 512], [8; 512]].concat();
            other.send(&request.encode(false), &swap).await;
            other.ping(b"taken?").await;
            let read = host.command_of(cdb(READ, 0, 1), 1024, 0);
            host.send(&read.encode(false), &[]).await;
            let write = host.command_of(cdb(WRITE, 0, 1), 0, 1024);
            host.send(&write.encode(false), &[9; 1024]).await;
            host.ping(b"nothing yet").await;
            rig.volume.catch_up();
            assert_eq!((other.finish(&[]).await, other.finish(&[]).await), (GOOD, GOOD));
            // Which of both is first is nobody's promise.
            for _ in 0..2 {
                let ended = host.finish(&[]).await;
                assert_eq!((ended.status, ended.residual), (0, -512));
            }
            assert_eq!(host.command(cdb(READ, 0, 1), 512, &[]).await.data, [9; 512]);
        },
    );
}

#[test]
fn data_comes_unasked_where_that_was_agreed_on() {
    with(
        |_| {},
        |rig| async move {
            let keys = ["InitialR2T=No", "FirstBurstLength=200000", "MaxBurstLength=200000"];
            let mut host = Initiator::login(rig.address, &keys).await;
            let written = content(1, 400_384);
            let mut request = host.command_of(cdb(WRITE, 0, 782), 0, 400_384);
            let Request::Command { is_final, tag, .. } = &mut request else { unreachable!() };
            (*is_final, *tag) = (false, 77);
            host.send(&request.encode(false), &written[..8192]).await;
            host.give((77, NO_TAG), 8192, &written[8192..200_000]).await;
            assert_eq!(host.finish(&written).await, GOOD);
            let read = host.command(cdb(READ, 0, 782), 400_384, &[]).await;
            assert!(read.data == written);
        },
    );
}

/// What is answered to `SendTargets`.
async fn targets(host: &mut Initiator, asked: &str) -> Vec<u8> {
    let request = Request::Text {
        more: false,
        is_final: true,
        tag: 5,
        target_tag: NO_TAG,
        cmd_sn: host.cmd_sn,
        exp_stat_sn: host.exp_stat_sn,
    };
    host.cmd_sn += 1;
    host.send(&request.encode(false), format!("SendTargets={asked}\0").as_bytes()).await;
    let (response, data) = host.receive().await.unwrap();
    assert!(matches!(response, Response::Text { is_final: true, .. }), "{response:?}");
    data
}

#[test]
fn a_session_is_told_of_its_own_target_in_whatever_case_it_asks() {
    with(
        |_| {},
        |rig| async move {
            let mut host = Initiator::login(rig.address, &[]).await;
            let own = [("TargetName", TARGET)];
            for (asked, count) in [("", 1), (TARGET, 1), ("IQN.T:Disk", 1), ("iqn.t:none", 0)] {
                let data = targets(&mut host, asked).await;
                assert_eq!(text::parse(&data).as_deref(), Ok(&own[..count]), "{asked}");
            }
        },
    );
}

#[test]
fn targets_are_told_to_those_who_ask() {
    with(
        |_| {},
        |rig| async move {
            let mut host = Initiator::call(rig.address).await;
            let keys = ["InitiatorName=iqn.i:test", "SessionType=Discovery"];
            assert_eq!(host.log_in(&keys).await, LoginStatus::Success);
            let address = format!("{},1", rig.address);
            let all = [("TargetName", TARGET), ("TargetAddress", address.as_str())];
            // A name is the same in every case, as it is at a login (RFC 3722).
            for (asked, count) in [("All", 2), (TARGET, 2), ("IQN.T:Disk", 2), ("iqn.t:none", 0)] {
                let data = targets(&mut host, asked).await;
                assert_eq!(text::parse(&data).as_deref(), Ok(&all[..count]), "{asked}");
            }
            let request = logout(&host);
            host.send(&request.encode(false), &[]).await;
            assert!(matches!(
                host.receive().await,
                Some((Response::Logout { response: 0, .. }, _))
            ));
            assert!(host.is_closed().await);
        },
    );
}

#[test]
fn a_login_is_told_why_it_is_refused() {
    let secret = Secret::new(b"secretsecret12".to_vec()).unwrap();
    let user = ChapUser::new("joe".to_owned(), secret, None).unwrap();
    with(
        |config| config.auth = std::sync::Arc::new(Auth::Chap(vec![user])),
        |rig| async move {
            let mut host = Initiator::call(rig.address).await;
            let keys = ["InitiatorName=iqn.i:test", "TargetName=iqn.t:disk"];
            assert_eq!(host.log_in(&keys).await, LoginStatus::AuthenticationFailure);
            assert!(host.is_closed().await);
        },
    );
    with(
        |_| {},
        |rig| async move {
            for (name, expected) in [
                ("TargetName=iqn.t:away", LoginStatus::ServiceUnavailable),
                ("TargetName=iqn.t:none", LoginStatus::NotFound),
            ] {
                let mut host = Initiator::call(rig.address).await;
                assert_eq!(host.log_in(&["InitiatorName=iqn.i:test", name]).await, expected);
                assert!(host.is_closed().await);
            }
        },
    );
}

#[test]
fn a_new_login_ends_the_session_before_it() {
    with(
        |_| {},
        |mut rig| async move {
            let mut first = Initiator::login(rig.address, &[]).await;
            let mut second = Initiator::login(rig.address, &[]).await;
            assert!(first.is_closed().await);
            assert_eq!(rig.endings.recv().await, Some(Ending::Reinstated));
            second.ping(b"").await;
            let mut other = Initiator::call(rig.address).await;
            other.isid = 2;
            let keys = ["InitiatorName=iqn.i:test", "TargetName=iqn.t:disk"];
            assert_eq!(other.log_in(&keys).await, LoginStatus::Success);
            second.ping(b"").await;
        },
    );
}

#[test]
fn a_command_in_doubt_is_held_and_pings_are_answered() {
    with(
        // A session that stays awake for a while would do so for ever once the clock stands still.
        |config| config.busy_poll = Duration::ZERO,
        |mut rig| async move {
            let mut host = Initiator::login(rig.address, &["ImmediateData=Yes"]).await;
            rig.volume.doubt.set(Some(IoError::NoWitness));
            let request = host.command_of(cdb(WRITE, 0, 1), 0, 512);
            host.send(&request.encode(false), &[1; 512]).await;
            // The answer to the ping is the first thing that comes.
            host.ping(b"and you?").await;
            tokio::time::pause();
            assert_eq!(host.receive().await.unwrap().0, DROPPED);
            assert!(host.receive().await.is_none());
            assert_eq!(rig.endings.recv().await, Some(Ending::InDoubt));
        },
    );
}

fn ways(own: PortState) -> UnitEvent {
    let other = PortGroup { group: 2, state: PortState::Optimized, ports: vec![2] };
    UnitEvent::Groups(vec![PortGroup { group: 1, state: own, ports: vec![1] }, other])
}

/// A gateway that lost the volume with writes under way: their hosts need not wait for the end of their
/// patience, and their sessions stay.
#[test]
fn what_is_in_doubt_is_sent_elsewhere_when_another_gateway_has_the_volume() {
    with(
        |_| {},
        |rig| async move {
            let mut host = Initiator::login(rig.address, &["ImmediateData=Yes"]).await;
            rig.volume.doubt.set(Some(IoError::Fenced));
            let request = host.command_of(cdb(WRITE, 0, 1), 0, 512);
            host.send(&request.encode(false), &[1; 512]).await;
            host.ping(b"are you there?").await;
            rig.unit.changed(ways(PortState::Standby));
            let elsewhere = Some((2, 0x040b));
            assert_eq!(host.finish(&[1; 512]).await.sense, elsewhere);
            let told = host.command(cdb(READ, 0, 1), 512, &[]).await;
            assert_eq!(told.sense, Some((6, 0x2a06)));
            assert_eq!(host.command(cdb(READ, 0, 1), 512, &[]).await.sense, elsewhere);
            // One that is handed down just before the gateway knows is told the same.
            rig.unit.changed(ways(PortState::Optimized));
            host.command([0; 16], 0, &[]).await;
            rig.volume.doubt.set(None);
            assert_eq!(host.command(cdb(READ, 0, 1), 512, &[]).await.data, [0; 512]);
        },
    );
}

#[test]
fn what_is_in_doubt_is_done_when_the_volume_serves_again() {
    with(
        |_| {},
        |rig| async move {
            let mut host = Initiator::login(rig.address, &["ImmediateData=Yes"]).await;
            rig.volume.doubt.set(Some(IoError::NoWitness));
            let request = host.command_of(cdb(WRITE, 8, 1), 0, 512);
            host.send(&request.encode(false), &[7; 512]).await;
            host.ping(b"1").await;
            // Asked once more, it is in doubt still.
            rig.unit.resume();
            host.ping(b"2").await;
            rig.volume.doubt.set(None);
            rig.unit.resume();
            assert_eq!(host.finish(&[7; 512]).await, GOOD);
            assert_eq!(host.command(cdb(READ, 8, 1), 512, &[]).await.data, [7; 512]);
        },
    );
}

pub(crate) fn function(host: &Initiator, function: Function, referenced: u32) -> Request {
    Request::Task {
        function,
        lun: [0, host.lun, 0, 0, 0, 0, 0, 0],
        tag: 0x9000,
        referenced,
        cmd_sn: host.cmd_sn,
        exp_stat_sn: host.exp_stat_sn,
        ref_cmd_sn: host.cmd_sn.wrapping_sub(1),
    }
}

#[test]
fn commands_are_aborted_and_the_session_goes_on() {
    with(
        |_| {},
        |rig| async move {
            let mut host = Initiator::login(rig.address, &["ImmediateData=No"]).await;
            for (kind, attention) in
                [(Function::AbortTask, None), (Function::LogicalUnitReset, Some((6, 0x2903)))]
            {
                let request = host.command_of(cdb(WRITE, 0, 1), 0, 512);
                let Request::Command { tag, .. } = request else { unreachable!() };
                host.send(&request.encode(false), &[]).await;
                let asked = host.receive().await;
                assert!(matches!(asked, Some((Response::ReadyToTransfer { .. }, _))), "{asked:?}");
                host.send(&function(&host, kind, tag).encode(true), &[]).await;
                let done = host.receive().await.unwrap().0;
                assert_eq!(done, Response::Task { tag: 0x9000, response: 0 }, "{kind:?}");
                if attention.is_some() {
                    assert_eq!(host.command([0; 16], 0, &[]).await.sense, attention);
                }
            }
            let none = function(&host, Function::AbortTask, 0x1234);
            host.send(&none.encode(true), &[]).await;
            let done = host.receive().await.unwrap().0;
            assert_eq!(done, Response::Task { tag: 0x9000, response: 1 });
            // Data of a command that was aborted is nobody's.
            host.give((3, 0), 0, &[1; 512]).await;
            assert_eq!(host.command(cdb(WRITE, 0, 1), 0, &[2; 512]).await, GOOD);
        },
    );
}

/// That this connection is dropped, and when to come back.
pub(crate) const DROPPED: Response =
    Response::Async(AsyncEvent::Dropping { connection: 0, wait: 2, retain: 0 });

fn logout(host: &Initiator) -> Request {
    Request::Logout {
        reason: 0,
        tag: 6,
        connection: 0,
        cmd_sn: host.cmd_sn,
        exp_stat_sn: host.exp_stat_sn,
    }
}

#[test]
fn a_gateway_that_stops_asks_for_a_logout_and_drops_who_stays() {
    with(
        |_| {},
        |mut rig| async move {
            let mut host = Initiator::login(rig.address, &["ImmediateData=Yes"]).await;
            rig.volume.is_late.set(true);
            rig.stop.cancel();
            let said = host.receive().await.unwrap().0;
            assert_eq!(said, Response::Async(AsyncEvent::LogoutRequest { within: 1 }));
            // What comes now is not begun, nor refused: it is done elsewhere, or later.
            let request = host.command_of(cdb(WRITE, 0, 1), 0, 512);
            host.send(&request.encode(false), &[7; 512]).await;
            assert_eq!(host.receive().await.unwrap().0, DROPPED);
            assert!(host.receive().await.is_none());
            assert_eq!(rig.endings.recv().await, Some(Ending::Stopped));
            assert_eq!(rig.volume.late(), 0);
        },
    );
}

#[test]
fn who_logs_out_when_asked_is_answered_and_hears_what_it_had_begun() {
    with(
        |_| {},
        |mut rig| async move {
            let mut host = Initiator::login(rig.address, &["ImmediateData=Yes"]).await;
            write_late(&rig, &mut host).await;
            rig.stop.cancel();
            let said = host.receive().await.unwrap().0;
            assert_eq!(said, Response::Async(AsyncEvent::LogoutRequest { within: 1 }));
            rig.volume.catch_up();
            assert_eq!(host.finish(&[]).await, GOOD);
            let request = logout(&host);
            host.send(&request.encode(true), &[]).await;
            let answer = Response::Logout { tag: 6, response: 0, wait: 2, retain: 0 };
            assert_eq!(host.receive().await.unwrap().0, answer);
            assert!(host.receive().await.is_none());
            drop(host);
            assert_eq!(rig.endings.recv().await, Some(Ending::Stopped));
        },
    );
}

#[test]
fn a_command_of_many_steps_is_done_while_its_initiator_is_asked_to_log_out() {
    with(
        |_| {},
        |rig| async move {
            let mut host = Initiator::login(rig.address, &["ImmediateData=Yes"]).await;
            rig.volume.is_late.set(true);
            let request = host.command_of(cdb(UNMAP, 0, 40), 0, 40);
            host.send(&request.encode(false), &unmap(&[0, 8])).await;
            host.ping(b"taken?").await;
            assert_eq!(rig.volume.late(), 1, "the first of two");
            rig.stop.cancel();
            let said = host.receive().await.unwrap().0;
            assert_eq!(said, Response::Async(AsyncEvent::LogoutRequest { within: 1 }));
            rig.volume.catch_up();
            assert_eq!(host.finish(&[]).await, GOOD);
        },
    );
}

#[test]
fn a_function_is_answered_while_its_initiator_is_asked_to_log_out() {
    with(
        |_| {},
        |rig| async move {
            let mut host = Initiator::login(rig.address, &["ImmediateData=Yes"]).await;
            rig.volume.is_late.set(true);
            let request = host.command_of(cdb(WRITE, 0, 1), 0, 512);
            let Request::Command { tag, .. } = request else { unreachable!() };
            host.send(&request.encode(false), &[7; 512]).await;
            host.send(&function(&host, Function::AbortTask, tag).encode(true), &[]).await;
            host.ping(b"not yet?").await;
            rig.stop.cancel();
            let said = host.receive().await.unwrap().0;
            assert_eq!(said, Response::Async(AsyncEvent::LogoutRequest { within: 1 }));
            rig.volume.catch_up();
            assert_eq!(
                host.receive().await.unwrap().0,
                Response::Task { tag: 0x9000, response: 0 }
            );
        },
    );
}
