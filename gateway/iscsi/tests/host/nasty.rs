//! What nobody should do: it harms nobody else.

use std::time::Duration;

use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use twinspan_iscsi::Ending;
use twinspan_iscsi::wire::{Header, RejectReason, Request, Response};
use zerocopy::IntoBytes;

use crate::initiator::{Initiator, READ, WRITE, cdb};
use crate::rig::with;

#[test]
fn who_does_not_log_in_is_dropped() {
    with(
        |config| config.login_timeout = Duration::from_millis(50),
        |rig| async move {
            let mut silent = Initiator::call(rig.address).await;
            assert!(silent.is_closed().await);
            let mut half = Initiator::call(rig.address).await;
            half.stream.write_all(&[0x43; 20]).await.unwrap();
            assert!(half.is_closed().await);
        },
    );
}

#[test]
fn wrong_digests_end_the_session() {
    with(
        |_| {},
        |mut rig| async move {
            let keys = ["HeaderDigest=CRC32C", "DataDigest=CRC32C"];
            for (at, rejected) in [(10, false), (60, true)] {
                let mut host = Initiator::login(rig.address, &keys).await;
                let request = host.command_of(cdb(WRITE, 0, 1), 0, 512);
                let mut bytes = host.bytes(&request.encode(false), &[7; 512]);
                bytes[at] ^= 1;
                host.stream.write_all(&bytes).await.unwrap();
                if rejected {
                    let said = host.receive().await.unwrap().0;
                    assert_eq!(said, Response::Reject(RejectReason::DataDigest));
                }
                assert!(host.is_closed().await);
                drop(host);
                assert_eq!(rig.endings.recv().await, Some(Ending::Violated));
                // It was not written.
                let mut other = Initiator::login(rig.address, &[]).await;
                assert_eq!(other.command(cdb(READ, 0, 1), 512, &[]).await.data, [0; 512]);
                drop(other);
                assert_eq!(rig.endings.recv().await, Some(Ending::Closed));
            }
        },
    );
}

#[test]
fn data_that_does_not_fit_ends_its_command_only() {
    with(
        |_| {},
        |rig| async move {
            let mut host = Initiator::login(rig.address, &["ImmediateData=No"]).await;
            for (sn, at, len, is_final) in
                [(1, 0, 1024, true), (0, 512, 512, true), (0, 0, 2048, true), (0, 0, 512, true)]
            {
                let request = host.command_of(cdb(WRITE, 0, 2), 0, 1024);
                host.send(&request.encode(false), &[]).await;
                let Some((Response::ReadyToTransfer { tag, target_tag, offset, .. }, _)) =
                    host.receive().await
                else {
                    panic!("it was not asked for")
                };
                let wrong = Request::DataOut {
                    is_final,
                    tag,
                    target_tag,
                    exp_stat_sn: host.exp_stat_sn,
                    data_sn: sn,
                    offset: offset + at,
                };
                host.send(&wrong.encode(false), &vec![9; len]).await;
                let ended = host.finish(&[]).await;
                assert_eq!((ended.status, ended.sense), (2, Some((0xb, 0x4b00))));
            }
            assert_eq!(host.command(cdb(READ, 0, 2), 1024, &[]).await.data, [0; 1024]);
        },
    );
}

#[test]
fn commands_out_of_their_order_are_not_done() {
    with(
        |_| {},
        |mut rig| async move {
            let mut host = Initiator::login(rig.address, &[]).await;
            for off in [u32::MAX, 200] {
                let mut request = host.command_of([0; 16], 0, 0);
                let Request::Command { cmd_sn, .. } = &mut request else { unreachable!() };
                *cmd_sn = cmd_sn.wrapping_add(off);
                host.cmd_sn = host.cmd_sn.wrapping_sub(1);
                host.send(&request.encode(false), &[]).await;
            }
            // They are ignored: the ping is what is answered.
            host.ping(b"").await;
            host.cmd_sn += 1;
            let request = host.command_of([0; 16], 0, 0);
            host.send(&request.encode(false), &[]).await;
            assert_eq!(host.receive().await.unwrap().0, Response::Reject(RejectReason::Protocol));
            assert!(host.is_closed().await);
            drop(host);
            assert_eq!(rig.endings.recv().await, Some(Ending::Violated));
        },
    );
}

#[test]
fn what_is_not_understood_is_rejected_and_too_much_is_not_read() {
    with(
        |_| {},
        |rig| async move {
            let mut host = Initiator::login(rig.address, &[]).await;
            let mut unknown = Request::Snack { tag: 1, exp_stat_sn: 0 }.encode(true);
            unknown.opcode = 0x1f;
            host.send(&unknown, b"what?").await;
            let said = host.receive().await.unwrap().0;
            assert_eq!(said, Response::Reject(RejectReason::NotSupported));
            let snack = Request::Snack { tag: 1, exp_stat_sn: 0 };
            host.send(&snack.encode(false), &[]).await;
            assert_eq!(host.receive().await.unwrap().0, Response::Reject(RejectReason::Snack));
            let long = snack.encode(false).with_data_len(0x00ff_ffff);
            host.stream.write_all(long.as_bytes()).await.unwrap();
            assert!(host.is_closed().await);
        },
    );
}

#[test]
fn a_flood_that_takes_no_answer_is_not_read_and_harms_nobody() {
    with(
        |_| {},
        |rig| async move {
            let mut flood =
                Initiator::login(rig.address, &["MaxRecvDataSegmentLength=262144"]).await;
            let ping = Request::NopOut {
                lun: [0; 8],
                tag: 5,
                target_tag: u32::MAX,
                cmd_sn: flood.cmd_sn,
                exp_stat_sn: 0,
            };
            let bytes = flood.bytes(&ping.encode(true), &vec![1; 200_000]);
            let send = async {
                // The kernel's buffers and ours are full long before.
                for _ in 0..2000 {
                    flood.stream.write_all(&bytes).await.unwrap();
                }
            };
            let stopped = tokio::time::timeout(Duration::from_secs(3), send).await;
            assert!(stopped.is_err(), "everything was read");
            let mut other = Initiator::call(rig.address).await;
            other.isid = 9;
            let keys = ["InitiatorName=iqn.i:other", "TargetName=iqn.t:disk"];
            other.log_in(&keys).await;
            other.ping(b"hello").await;
        },
    );
}

/// TARGET COLD RESET (RFC 7143 §11.5.1).
const COLD_RESET: u8 = 7;

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn random_pdus_harm_nobody(
        pdus in proptest::collection::vec((any::<[u8; 48]>(), 0u8..8, 0usize..3000, any::<bool>()), 1..40),
    ) {
        with(|_| {}, |rig| async move {
            let mut nasty = Initiator::login(rig.address, &["InitialR2T=No"]).await;
            for (bytes, code, len, counted) in pdus {
                let mut header = Header::read(&bytes).unwrap();
                header.opcode = [0, 1, 2, 4, 5, 0x10, 0x41, 0x42][usize::from(code)];
                header.ahs_words = 0;
                if header.opcode & 0x3f == 2 && header.flags & 0x7f == COLD_RESET {
                    // It ends the sessions of others, as it should.
                    header.flags -= 1;
                }
                if counted {
                    header.words[1] = nasty.cmd_sn.into();
                    nasty.cmd_sn += u32::from(!header.immediate());
                    header.lun = [0; 8];
                }
                let bytes = nasty.bytes(&header, &vec![bytes[9]; len]);
                if nasty.stream.write_all(&bytes).await.is_err() { break }
            }
            let mut other = Initiator::call(rig.address).await;
            other.isid = 9;
            let keys = ["InitiatorName=iqn.i:other", "TargetName=iqn.t:disk"];
            other.log_in(&keys).await;
            other.ping(b"hello").await;
        });
    }
}
