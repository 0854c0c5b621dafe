//! A target of several disks.

use std::rc::Rc;

use block::IoError;
use twinspan_iscsi::Lun;
use twinspan_iscsi::wire::{Function, LoginStatus, NO_TAG, Request};

use crate::honest::GOOD;
use crate::initiator::{Initiator, READ, UNMAP, WRITE, cdb, compare_and_write, unmap};
use crate::managed::{DONE, ask, begin};
use crate::rig::{LONELY, LONELY_LUN, OTHER_LUN, READER, TARGET, TWO, with};

/// REPORT LUNS, with room for all.
const REPORT: [u8; 16] = [0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
/// INQUIRY, the first byte.
const INQUIRY: [u8; 16] = [0x12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const NO_UNIT: Option<(u8, u16)> = Some((5, 0x2500));

/// A session with the target of two disks, of which both are known to be on.
async fn login(address: std::net::SocketAddr, isid: u8) -> Initiator {
    let mut host = Initiator { isid, ..Initiator::call(address).await };
    let keys = ["InitiatorName=iqn.i:test", &format!("TargetName={TWO}"), "ImmediateData=No"];
    assert_eq!(host.log_in(&keys).await, LoginStatus::Success);
    for lun in [0, OTHER_LUN] {
        host.lun = lun;
        assert_eq!(host.command([0; 16], 0, &[]).await.sense, Some((6, 0x2900)));
    }
    host
}

/// The numbers in an answer to REPORT LUNS.
fn numbers(data: &[u8]) -> Vec<u8> {
    data[8..].chunks_exact(8).map(|lun| lun[1]).collect()
}

#[test]
fn disks_of_a_target_are_told_apart_by_their_numbers() {
    with(
        |_| {},
        |rig| async move {
            let mut host = login(rig.address, 1).await;
            for lun in [OTHER_LUN, 0] {
                host.lun = lun;
                assert_eq!(numbers(&host.command(REPORT, 256, &[]).await.data), [0, OTHER_LUN]);
                assert_eq!(host.command(cdb(WRITE, 8, 1), 0, &[lun + 1; 512]).await, GOOD);
            }
            for lun in [0, OTHER_LUN] {
                host.lun = lun;
                let read = host.command(cdb(READ, 8, 1), 512, &[]).await;
                assert_eq!(read.data, [lun + 1; 512]);
            }
            // One that is not there says so, and which there are.
            host.lun = 1;
            assert_eq!(host.command([0; 16], 0, &[]).await.sense, NO_UNIT);
            assert_eq!(host.command(INQUIRY, 1, &[]).await.data, [0x7f]);
            assert_eq!(numbers(&host.command(REPORT, 256, &[]).await.data), [0, OTHER_LUN]);
            // Who sees one of the two sees no trace of the other.
            let mut narrow = Initiator::login_as(rig.address, 2, &[]).await;
            assert_eq!(numbers(&narrow.command(REPORT, 256, &[]).await.data), [0]);
            narrow.lun = OTHER_LUN;
            assert_eq!(narrow.command([0; 16], 0, &[]).await.sense, NO_UNIT);
            assert_eq!(numbers(&narrow.command(REPORT, 256, &[]).await.data), [0]);
        },
    );
}

/// Initiators that look for disks ask number 0 for their numbers first, whether there is such a disk or
/// not.
#[test]
fn a_target_without_a_disk_of_number_zero_tells_which_there_are() {
    with(
        |_| {},
        |rig| async move {
            let mut host = Initiator::call(rig.address).await;
            let keys = ["InitiatorName=iqn.i:test", &format!("TargetName={LONELY}")];
            assert_eq!(host.log_in(&keys).await, LoginStatus::Success);
            assert_eq!(host.command(INQUIRY, 1, &[]).await.data, [0x7f], "no device can be here");
            assert_eq!(numbers(&host.command(REPORT, 256, &[]).await.data), [LONELY_LUN]);
            let (mut page, mut sense) = (INQUIRY, INQUIRY);
            (page[1], page[2], page[4]) = (1, 0x83, 255);
            (sense[0], sense[4]) = (0x03, 252);
            for cdb in [[0; 16], page, cdb(READ, 0, 1)] {
                let refused = host.command(cdb, 255, &[]).await;
                assert_eq!((refused.sense, refused.residual), (NO_UNIT, -255), "{cdb:x?}");
            }
            let told = host.command(sense, 252, &[]).await;
            assert_eq!((told.status, &told.data[12..14]), (0, &[0x25, 0][..]));
            host.lun = LONELY_LUN;
            assert_eq!(host.command([0; 16], 0, &[]).await.sense, Some((6, 0x2900)));
            assert_eq!(numbers(&host.command(REPORT, 256, &[]).await.data), [LONELY_LUN]);
            assert_eq!(host.command(cdb(WRITE, 8, 1), 0, &[5; 512]).await, GOOD);
            assert_eq!(host.command(cdb(READ, 8, 1), 512, &[]).await.data, [5; 512]);
        },
    );
}

#[test]
fn data_for_a_disk_that_is_not_there_is_awaited_and_never_asked_for() {
    with(
        |_| {},
        |rig| async move {
            let keys = ["InitialR2T=No", "FirstBurstLength=65536", "MaxBurstLength=65536"];
            let mut host = Initiator::login(rig.address, &keys).await;
            host.lun = 1;
            let mut request = host.command_of(cdb(WRITE, 0, 256), 0, 131_072);
            let Request::Command { is_final, tag, .. } = &mut request else { unreachable!() };
            let tag = *tag;
            *is_final = false;
            host.send(&request.encode(false), &[1; 8192]).await;
            // What comes by itself is on its way: the answer to the ping is what comes.
            host.ping(b"not yet?").await;
            host.give((tag, NO_TAG), 8192, &[2; 65_536 - 8192]).await;
            // Data that were asked for would not be there to give.
            let refused = host.finish(&[]).await;
            assert_eq!((refused.status, refused.sense), (2, NO_UNIT));
            assert_eq!(refused.residual, -131_072, "nothing was transferred");
            let asked = host.command(cdb(WRITE, 0, 256), 0, &[]).await;
            assert_eq!((asked.sense, asked.residual), (NO_UNIT, 0), "and nothing was announced");
            host.lun = 0;
            assert_eq!(host.command(cdb(READ, 0, 1), 512, &[]).await.data, [0; 512]);
        },
    );
}

#[test]
fn a_reset_of_one_disk_leaves_the_commands_for_the_others() {
    with(
        |_| {},
        |rig| async move {
            let mut host = login(rig.address, 1).await;
            for kind in [Function::AbortTaskSet, Function::ClearTaskSet, Function::LogicalUnitReset]
            {
                host.lun = 0;
                let kept = begin(&mut host).await;
                host.lun = OTHER_LUN;
                let ended = begin(&mut host).await;
                ask(&mut host, kind).await;
                assert_eq!(host.receive().await.unwrap().0, DONE, "{kind:?}");
                // Data of the one that ended is nobody's.
                host.give(ended, 0, &[1; 512]).await;
                host.give(kept, 0, &[2; 512]).await;
                assert_eq!(host.finish(&[]).await, GOOD, "{kind:?}");
            }
            assert_eq!(host.command([0; 16], 0, &[]).await.sense, Some((6, 0x2903)));
            host.lun = 0;
            assert_eq!(host.command([0; 16], 0, &[]).await, GOOD);
            ask(&mut host, Function::TargetWarmReset).await;
            assert_eq!(host.receive().await.unwrap().0, DONE);
            for lun in [0, OTHER_LUN] {
                host.lun = lun;
                assert_eq!(host.command([0; 16], 0, &[]).await.sense, Some((6, 0x2903)));
            }
        },
    );
}

#[test]
fn a_disk_in_doubt_holds_its_own_commands_only() {
    with(
        |_| {},
        |rig| async move {
            let mut host = login(rig.address, 1).await;
            rig.other.doubt.set(Some(IoError::Fenced));
            host.lun = OTHER_LUN;
            let request = host.command_of(cdb(READ, 0, 1), 512, 0);
            host.send(&request.encode(false), &[]).await;
            host.lun = 0;
            assert_eq!(host.command(cdb(WRITE, 0, 1), 0, &[5; 512]).await, GOOD);
            // The one that was held is answered when its own volume serves again.
            rig.unit.resume();
            host.ping(b"nothing yet").await;
            rig.other.doubt.set(None);
            rig.other_unit.resume();
            assert_eq!(host.finish(&[]).await.data, [0; 512]);
        },
    );
}

#[test]
fn a_disk_that_is_added_is_told_at_those_that_are_known_and_seen_at_once() {
    with(
        |_| {},
        |rig| async move {
            let mut host = Initiator::login(rig.address, &[]).await;
            assert_eq!(numbers(&host.command(REPORT, 256, &[]).await.data), [0]);
            let (number, volume) = (OTHER_LUN, Rc::clone(&rig.other));
            let (unit, label) = (Rc::clone(&rig.other_unit), "added".to_owned());
            let lun = Lun { number, volume, unit, label, read_only: false };
            rig.more.borrow_mut().push(lun);
            assert_eq!(host.command([0; 16], 0, &[]).await.sense, Some((6, 0x3f0e)));
            assert_eq!(numbers(&host.command(REPORT, 256, &[]).await.data), [0, OTHER_LUN]);
            host.lun = OTHER_LUN;
            assert_eq!(host.command([0; 16], 0, &[]).await.sense, Some((6, 0x2900)));
            assert_eq!(host.command(cdb(WRITE, 8, 1), 0, &[9; 512]).await, GOOD);
            assert_eq!(numbers(&host.command(REPORT, 256, &[]).await.data), [0, OTHER_LUN]);
        },
    );
}

/// Every command that changes content, of the first block.
fn changes() -> Vec<([u8; 16], Vec<u8>)> {
    let block = vec![0x33; 512];
    let mut all = vec![(cdb(WRITE, 0, 1), block.clone())];
    all.push((cdb(0x2e, 0, 1), block.clone())); // WRITE AND VERIFY
    all.push((cdb(0x41, 0, 1), block.clone())); // WRITE SAME
    all.push((cdb(UNMAP, 0, 24), unmap(&[0])));
    all.push((compare_and_write(), vec![0; 1024]));
    for (opcode, count_at) in [(0x8a, 13), (0x8b, 13), (0x93, 13), (0x9c, 13)] {
        // WRITE, ORWRITE, WRITE SAME, WRITE ATOMIC
        let mut one = [0; 16];
        (one[0], one[count_at]) = (opcode, 1);
        all.push((one, block.clone()));
    }
    // EXTENDED COPY of nothing.
    let mut copy = [0; 16];
    (copy[0], copy[13]) = (0x83, 16);
    all.push((copy, vec![0; 16]));
    all
}

/// Who logged in to read made a disk read-only for those who were writing it.
#[test]
fn who_may_only_read_keeps_nobody_else_from_writing() {
    with(
        |_| {},
        |rig| async move {
            let mut writer = Initiator::login(rig.address, &[]).await;
            let mut reader = Initiator { isid: 2, ..Initiator::call(rig.address).await };
            let names = [format!("InitiatorName={READER}"), format!("TargetName={TARGET}")];
            let status = reader.log_in(&[&names[0], &names[1]]).await;
            assert_eq!(status, LoginStatus::Success);
            assert_eq!(reader.command([0; 16], 0, &[]).await.sense, Some((6, 0x2900)));
            for (cdb, data) in changes() {
                let refused = reader.command(cdb, 0, &data).await;
                assert_eq!(refused.sense, Some((7, 0x2700)), "{:#x}", cdb[0]);
            }
            let mut sense = [0; 16];
            (sense[0], sense[1], sense[2], sense[4]) = (0x1a, 0x08, 0x3f, 255);
            assert_eq!(reader.command(sense, 255, &[]).await.data[2] & 0x80, 0x80);
            assert_eq!(writer.command(sense, 255, &[]).await.data[2] & 0x80, 0);
            assert_eq!(writer.command(cdb(WRITE, 0, 1), 0, &[5; 512]).await, GOOD);
            assert_eq!(reader.command(cdb(READ, 0, 1), 512, &[]).await.data, [5; 512]);
        },
    );
}
