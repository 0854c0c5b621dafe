//! Task management, where more than one session has commands under way.

use twinspan_iscsi::Ending;
use twinspan_iscsi::wire::{Function, NO_TAG, Request, Response};

use crate::honest::{GOOD, function};
use crate::initiator::{Initiator, READ, UNMAP, WRITE, cdb, compare_and_write, unmap};
use crate::rig::{Rig, with};

const RESERVE: u8 = 0x16;
const RESERVATION_CONFLICT: u8 = 0x18;

pub(crate) const DONE: Response = Response::Task { tag: 0x9000, response: 0 };

/// A write of one block that waits for its data; gives the tags under which it is asked for.
pub(crate) async fn begin(host: &mut Initiator) -> (u32, u32) {
    let request = host.command_of(cdb(WRITE, 0, 1), 0, 512);
    host.send(&request.encode(false), &[]).await;
    let asked = host.receive().await;
    let Some((Response::ReadyToTransfer { tag, target_tag, .. }, _)) = asked else {
        panic!("{asked:?}")
    };
    (tag, target_tag)
}

/// Writes the first block, and the volume has that and is late.
pub(crate) async fn write_late(rig: &Rig, host: &mut Initiator) {
    rig.volume.is_late.set(true);
    let request = host.command_of(cdb(WRITE, 0, 1), 0, 512);
    host.send(&request.encode(false), &[7; 512]).await;
    // The volume has the write by the time that the ping is answered.
    host.ping(b"taken?").await;
    assert_eq!(rig.volume.late(), 1);
}

pub(crate) async fn ask(host: &mut Initiator, kind: Function) {
    let request = function(host, kind, NO_TAG);
    host.send(&request.encode(true), &[]).await;
}

#[test]
fn who_aborts_its_commands_aborts_nobody_elses() {
    with(
        |_| {},
        |rig| async move {
            let keys = ["ImmediateData=No"];
            let (mut host, mut other) = Initiator::login_two(rig.address, &keys).await;
            let first = begin(&mut host).await;
            let second = begin(&mut host).await;
            let others = begin(&mut other).await;
            ask(&mut host, Function::AbortTaskSet).await;
            assert_eq!(host.receive().await.unwrap().0, DONE);
            // Data of commands that were aborted is nobody's, and there is nothing to be told.
            for tags in [first, second] {
                host.give(tags, 0, &[1; 512]).await;
            }
            assert_eq!(host.command([0; 16], 0, &[]).await, GOOD);
            other.give(others, 0, &[2; 512]).await;
            assert_eq!(other.finish(&[]).await, GOOD);
            assert_eq!(other.command([0; 16], 0, &[]).await, GOOD);
        },
    );
}

#[test]
fn who_clears_the_commands_of_all_has_the_others_told() {
    with(
        |_| {},
        |rig| async move {
            let keys = ["ImmediateData=No"];
            let (mut host, mut other) = Initiator::login_two(rig.address, &keys).await;
            let mut idle = Initiator::login_as(rig.address, 3, &keys).await;
            let (own, others) = (begin(&mut host).await, begin(&mut other).await);
            ask(&mut host, Function::ClearTaskSet).await;
            assert_eq!(host.receive().await.unwrap().0, DONE);
            host.give(own, 0, &[1; 512]).await;
            assert_eq!(host.command([0; 16], 0, &[]).await, GOOD);
            other.give(others, 0, &[2; 512]).await;
            assert_eq!(other.command([0; 16], 0, &[]).await.sense, Some((6, 0x2f00)));
            assert_eq!(other.command([0; 16], 0, &[]).await, GOOD);
            // Of whom nothing was cleared has nothing to be told.
            assert_eq!(idle.command([0; 16], 0, &[]).await, GOOD);
        },
    );
}

/// LOGICAL UNIT RESET and TARGET WARM RESET are one here, where a target has one unit: sessions stay,
/// their commands end without an answer, RESERVE ends, and everybody is told, once.
#[test]
fn a_reset_that_ends_no_session_ends_what_all_had_begun_and_reserved_and_tells_each_once() {
    for kind in [Function::LogicalUnitReset, Function::TargetWarmReset] {
        with(
            |_| {},
            |mut rig| async move {
                let keys = ["ImmediateData=No"];
                let (mut host, mut other) = Initiator::login_two(rig.address, &keys).await;
                assert_eq!(other.command(cdb(RESERVE, 0, 0), 0, &[]).await, GOOD);
                let conflict = host.command(cdb(READ, 0, 1), 512, &[]).await;
                assert_eq!(conflict.status, RESERVATION_CONFLICT);
                let others = begin(&mut other).await;
                ask(&mut host, kind).await;
                assert_eq!(host.receive().await.unwrap().0, DONE, "{kind:?}");
                // Data of a command that was ended is nobody's.
                other.give(others, 0, &[2; 512]).await;
                for session in [&mut host, &mut other] {
                    let told = session.command([0; 16], 0, &[]).await;
                    assert_eq!(told.sense, Some((6, 0x2903)), "{kind:?}");
                    let read = session.command(cdb(READ, 0, 1), 512, &[]).await;
                    assert_eq!((read.status, read.data), (0, vec![0; 512]), "{kind:?}");
                }
                assert!(rig.endings.try_recv().is_err(), "no session ends");
            },
        );
    }
}

#[test]
fn a_reset_is_answered_when_what_other_sessions_had_begun_has_ended() {
    for kind in [
        Function::ClearTaskSet,
        Function::LogicalUnitReset,
        Function::TargetWarmReset,
        Function::TargetColdReset,
    ] {
        with(
            |_| {},
            |rig| async move {
                let (mut host, mut victim) = Initiator::login_two(rig.address, &[]).await;
                write_late(&rig, &mut victim).await;
                ask(&mut host, kind).await;
                // The answer to the ping is the first thing that comes.
                host.ping(b"not yet?").await;
                rig.volume.catch_up();
                assert_eq!(host.receive().await.unwrap().0, DONE, "{kind:?}");
                if kind != Function::TargetColdReset {
                    // The write has no answer.
                    victim.ping(b"and now?").await;
                }
            },
        );
    }
}

/// Of a command of minutes no more than the step that is under way is waited for: initiators take a
/// function that is not answered in time for a target that hangs.
#[test]
fn a_command_of_many_steps_takes_none_after_it_was_aborted() {
    for kind in [Function::AbortTask, Function::AbortTaskSet] {
        with(
            |_| {},
            |rig| async move {
                let mut host = Initiator::login(rig.address, &[]).await;
                assert_eq!(host.command(cdb(WRITE, 0, 24), 0, &[7; 24 * 512]).await, GOOD);
                rig.volume.is_late.set(true);
                let list = unmap(&[0, 8, 16]);
                let request = host.command_of(cdb(UNMAP, 0, 56), 0, 56);
                let Request::Command { tag, .. } = request else { unreachable!() };
                host.send(&request.encode(false), &list).await;
                host.ping(b"taken?").await;
                assert_eq!(rig.volume.late(), 1, "the first of three");
                host.send(&function(&host, kind, tag).encode(true), &[]).await;
                // The answer to the ping is the first thing that comes.
                host.ping(b"not yet?").await;
                rig.volume.catch_up();
                assert_eq!(host.receive_by_itself().await, DONE, "{kind:?}");
                let read = host.command(cdb(READ, 0, 24), 24 * 512, &[]).await.data;
                assert!(read[..4096] == [0; 4096], "{kind:?}: the first was under way");
                assert!(read[4096..] == [7; 8192], "{kind:?}: the others were not");
            },
        );
    }
}

#[test]
fn a_command_that_waits_for_its_blocks_ends_at_once_when_it_is_aborted() {
    with(
        |_| {},
        |rig| async move {
            let (mut host, mut other) = Initiator::login_two(rig.address, &[]).await;
            write_late(&rig, &mut other).await;
            // COMPARE AND WRITE of the same block, which the write is ahead of.
            let request = host.command_of(compare_and_write(), 0, 1024);
            let Request::Command { tag, .. } = request else { unreachable!() };
            host.send(&request.encode(false), &[0; 1024]).await;
            host.ping(b"it waits?").await;
            host.send(&function(&host, Function::AbortTask, tag).encode(true), &[]).await;
            assert_eq!(host.receive_by_itself().await, DONE);
            assert_eq!(rig.volume.late(), 1, "nothing of it is at the volume");
            rig.volume.catch_up();
            assert_eq!(other.finish(&[]).await, GOOD);
            assert_eq!(host.command(cdb(READ, 0, 1), 512, &[]).await.data, [7; 512]);
        },
    );
}

#[test]
fn a_cold_reset_ends_every_session_of_the_target() {
    with(
        |_| {},
        |mut rig| async move {
            let (mut host, mut other) = Initiator::login_two(rig.address, &[]).await;
            ask(&mut host, Function::TargetColdReset).await;
            assert_eq!(host.receive().await.unwrap().0, DONE);
            assert!(host.is_closed().await && other.is_closed().await);
            drop((host, other));
            for _ in 0..2 {
                assert_eq!(rig.endings.recv().await, Some(Ending::Reset));
            }
            let mut anew = Initiator::login(rig.address, &[]).await;
            anew.ping(b"").await;
        },
    );
}
