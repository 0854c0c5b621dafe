//! Commands that are not SIMPLE, as initiators send them (RFC 7143 §11.3.1, SAM-5 §8.6).

use std::time::Duration;

use twinspan_iscsi::Ending;
use twinspan_iscsi::limits::LINGER;
use twinspan_iscsi::wire::{Function, NO_TAG, Request, Response};

use crate::honest::{GOOD, content, function};
use crate::initiator::{Initiator, READ, WRITE, cdb};
use crate::managed::{DONE, ask, begin};
use crate::rig::with;

const UNTAGGED: u8 = 0;
const SIMPLE: u8 = 1;
const ORDERED: u8 = 2;
const HEAD: u8 = 3;
const ACA: u8 = 4;
const RESERVED: u8 = 7;

/// Sends a command with this attribute; the tag that it has.
async fn send(
    host: &mut Initiator,
    code: u8,
    (cdb, read): ([u8; 16], u32),
    (len, first): (u32, &[u8]),
) -> u32 {
    let mut request = host.command_of(cdb, read, len);
    let Request::Command { attribute, tag, .. } = &mut request else { unreachable!() };
    let tag = *tag;
    *attribute = code;
    host.send(&request.encode(false), first).await;
    tag
}

/// A write of the first block whose data has to be asked for.
async fn write(host: &mut Initiator, code: u8) -> u32 {
    send(host, code, (cdb(WRITE, 0, 1), 0), (512, &[])).await
}

/// A read of the first block.
async fn read(host: &mut Initiator, code: u8) -> u32 {
    send(host, code, (cdb(READ, 0, 1), 512), (0, &[])).await
}

#[test]
fn an_ordered_command_overtakes_nobody_and_is_not_overtaken() {
    with(
        |_| {},
        |rig| async move {
            let mut host = Initiator::login(rig.address, &["ImmediateData=No"]).await;
            let first = begin(&mut host).await;
            write(&mut host, ORDERED).await;
            for code in [SIMPLE, UNTAGGED, RESERVED] {
                read(&mut host, code).await;
            }
            // No data is asked for, and nothing is read: the answer to the ping is what comes.
            host.ping(b"in turn?").await;
            host.give(first, 0, &[1; 512]).await;
            assert_eq!(host.finish(&[]).await, GOOD);
            assert_eq!(host.finish(&[2; 512]).await, GOOD);
            for _ in 0..3 {
                assert_eq!(host.finish(&[]).await.data, [2; 512]);
            }
        },
    );
}

#[test]
fn an_ordered_command_holds_up_those_of_other_initiators_too() {
    with(
        |_| {},
        |rig| async move {
            let keys = ["ImmediateData=No"];
            let (mut host, mut other) = Initiator::login_two(rig.address, &keys).await;
            let older = begin(&mut other).await;
            write(&mut host, ORDERED).await;
            host.ping(b"it is there").await;
            read(&mut other, SIMPLE).await;
            other.ping(b"nothing yet").await;
            other.give(older, 0, &[1; 512]).await;
            assert_eq!(other.finish(&[]).await, GOOD);
            assert_eq!(host.finish(&[2; 512]).await, GOOD);
            assert_eq!(other.finish(&[]).await.data, [2; 512]);
        },
    );
}

#[test]
fn a_command_for_the_head_of_the_queue_waits_for_nobody_and_who_comes_waits_for_it() {
    with(
        |_| {},
        |rig| async move {
            let mut host = Initiator::login(rig.address, &[]).await;
            let mut other = Initiator::login_as(rig.address, 2, &["ImmediateData=No"]).await;
            let first = begin(&mut other).await;
            write(&mut other, ORDERED).await;
            other.ping(b"it waits").await;
            rig.volume.is_late.set(true);
            send(&mut host, HEAD, (cdb(WRITE, 0, 1), 0), (512, &[3; 512])).await;
            host.ping(b"taken?").await;
            assert_eq!(rig.volume.late(), 1, "it is at the volume");
            read(&mut host, SIMPLE).await;
            host.ping(b"nothing yet").await;
            rig.volume.catch_up();
            assert_eq!(host.finish(&[]).await, GOOD);
            other.give(first, 0, &[1; 512]).await;
            assert_eq!(other.finish(&[]).await, GOOD);
            assert_eq!(other.finish(&[2; 512]).await, GOOD);
            assert_eq!(host.finish(&[]).await.data, [2; 512], "it came behind both");
        },
    );
}

#[test]
fn what_comes_unasked_for_a_command_that_waits_is_kept() {
    with(
        |_| {},
        |rig| async move {
            let keys = ["InitialR2T=No", "FirstBurstLength=131072", "MaxBurstLength=131072"];
            let mut host = Initiator::login(rig.address, &keys).await;
            let written = content(1, 400_384);
            let mut slow = Initiator::login_as(rig.address, 2, &["ImmediateData=No"]).await;
            let first = begin(&mut slow).await;
            let mut request = host.command_of(cdb(WRITE, 0, 782), 0, 400_384);
            let Request::Command { attribute, is_final, tag, .. } = &mut request else {
                unreachable!()
            };
            let tag = *tag;
            (*attribute, *is_final) = (ORDERED, false);
            host.send(&request.encode(false), &written[..8192]).await;
            host.give((tag, NO_TAG), 8192, &written[8192..131_072]).await;
            // Of the other one more is announced than it takes.
            let mut request = host.command_of(cdb(WRITE, 782, 1), 0, 131_072);
            let Request::Command { is_final, tag, .. } = &mut request else { unreachable!() };
            let tag = *tag;
            *is_final = false;
            host.send(&request.encode(false), &[5; 8192]).await;
            host.give((tag, NO_TAG), 8192, &[6; 131_072 - 8192]).await;
            host.ping(b"nothing yet").await;
            slow.give(first, 0, &[1; 512]).await;
            assert_eq!(slow.finish(&[]).await, GOOD);
            assert_eq!(host.finish(&written).await, GOOD);
            let cut = host.finish(&[]).await;
            assert_eq!((cut.status, cut.residual), (0, 512 - 131_072));
            let read = host.command(cdb(READ, 0, 784), 784 * 512, &[]).await.data;
            assert!(read[..400_384] == written && read[400_384..400_896] == [5; 512]);
            assert!(read[400_896..] == [0; 512]);
        },
    );
}

#[test]
fn a_command_that_waits_is_aborted_and_waited_for_no_more() {
    with(
        |_| {},
        |rig| async move {
            let mut host = Initiator::login(rig.address, &["ImmediateData=No"]).await;
            let first = begin(&mut host).await;
            let tag = write(&mut host, ORDERED).await;
            read(&mut host, SIMPLE).await;
            host.ping(b"nothing yet").await;
            host.send(&function(&host, Function::AbortTask, tag).encode(true), &[]).await;
            // What waited for it goes on, though the first one has not ended.
            let mut said = [host.receive_by_itself().await, host.receive_by_itself().await];
            said.sort_by_key(|said| *said != DONE);
            assert_eq!(said[0], DONE);
            assert!(matches!(said[1], Response::DataIn { .. }), "{said:?}");
            host.give(first, 0, &[1; 512]).await;
            assert_eq!(host.finish(&[]).await, GOOD);
            assert_eq!(host.command(cdb(READ, 0, 1), 512, &[]).await.data, [1; 512]);
        },
    );
}

/// Whatever an initiator began and does not finish, another one that resets the disk gets through.
#[test]
fn a_reset_ends_the_order_with_the_commands() {
    with(
        |_| {},
        |rig| async move {
            let keys = ["ImmediateData=No"];
            let (mut host, mut other) = Initiator::login_two(rig.address, &keys).await;
            let first = begin(&mut host).await;
            write(&mut host, ORDERED).await;
            host.ping(b"it waits").await;
            read(&mut other, SIMPLE).await;
            other.ping(b"nothing yet").await;
            ask(&mut other, Function::LogicalUnitReset).await;
            assert_eq!(other.receive_by_itself().await, DONE);
            for session in [&mut other, &mut host] {
                assert_eq!(session.command([0; 16], 0, &[]).await.sense, Some((6, 0x2903)));
                assert_eq!(session.command(cdb(READ, 0, 1), 512, &[]).await.data, [0; 512]);
            }
            // Data of what was ended is nobody's.
            host.give(first, 0, &[1; 512]).await;
            assert_eq!(host.command(cdb(READ, 0, 1), 512, &[]).await.data, [0; 512]);
        },
    );
}

#[test]
fn an_initiator_that_leaves_before_its_data_holds_up_nobody() {
    with(
        |_| {},
        |mut rig| async move {
            let keys = ["ImmediateData=No"];
            let (mut host, mut other) = Initiator::login_two(rig.address, &keys).await;
            begin(&mut host).await;
            write(&mut host, ORDERED).await;
            host.ping(b"it waits").await;
            read(&mut other, SIMPLE).await;
            other.ping(b"nothing yet").await;
            drop(host);
            // It is gone at once, and not when one that may have commands under way would be.
            let gone: Duration = LINGER / 2;
            let ended = tokio::time::timeout(gone, rig.endings.recv()).await;
            assert_eq!(ended, Ok(Some(Ending::Closed)));
            assert_eq!(other.finish(&[]).await.data, [0; 512]);
        },
    );
}

#[test]
fn an_attribute_for_a_condition_that_there_never_is_is_refused() {
    with(
        |_| {},
        |rig| async move {
            let mut host = Initiator::login(rig.address, &[]).await;
            send(&mut host, ACA, ([0; 16], 0), (0, &[])).await;
            assert_eq!(host.finish(&[]).await.sense, Some((5, 0x2400)));
            send(&mut host, ORDERED, ([0; 16], 0), (0, &[])).await;
            assert_eq!(host.finish(&[]).await, GOOD);
            send(&mut host, HEAD, ([0; 16], 0), (0, &[])).await;
            assert_eq!(host.finish(&[]).await, GOOD);
        },
    );
}
