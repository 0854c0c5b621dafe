//! Initiators that say nothing, send nothing or take nothing: for how long that is borne.

use std::io::ErrorKind;
use std::time::Duration;

use twinspan_iscsi::limits::{NOP_INTERVAL, NOP_TIMEOUT, STALL_TIMEOUT};
use twinspan_iscsi::wire::{NO_TAG, Request, Response};
use twinspan_iscsi::{Ending, ListenerConfig};

use crate::honest::DROPPED;
use crate::initiator::{Initiator, READ, WRITE, cdb};
use crate::rig::with;

/// Lets so much time pass at once. Before and after, the clock goes as it does: what is on its way
/// through the kernel arrives in time.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// A session that goes on looking would set its timer only after the time has passed.
fn sleeps_at_once(config: &mut ListenerConfig) {
    config.busy_poll = Duration::ZERO;
}

const PING: Response = Response::NopIn { lun: [0; 8], tag: NO_TAG, target_tag: 1 };

#[test]
fn who_is_silent_is_asked_whether_it_lives_and_dropped_if_it_does_not_say() {
    with(sleeps_at_once, |mut rig| async move {
        let mut host = Initiator::login(rig.address, &[]).await;
        for _ in 0..3 {
            pass(NOP_INTERVAL).await;
            assert_eq!(host.receive().await.unwrap().0, PING);
            let answer = Request::NopOut {
                lun: [0; 8],
                tag: NO_TAG,
                target_tag: 1,
                cmd_sn: host.cmd_sn,
                exp_stat_sn: host.exp_stat_sn,
            };
            host.send(&answer.encode(true), &[]).await;
            // Nothing is said to the answer: what comes next is of the next ping.
            host.ping(b"and you?").await;
        }
        pass(NOP_INTERVAL).await;
        assert_eq!(host.receive().await.unwrap().0, PING);
        pass(NOP_TIMEOUT).await;
        assert!(host.is_closed().await);
        assert_eq!(rig.endings.recv().await, Some(Ending::Lost(ErrorKind::TimedOut)));
    });
}

#[test]
fn who_does_not_send_the_data_of_a_command_is_dropped() {
    with(sleeps_at_once, |mut rig| async move {
        let mut host = Initiator::login(rig.address, &["ImmediateData=No"]).await;
        let request = host.command_of(cdb(WRITE, 0, 1), 0, 512);
        host.send(&request.encode(false), &[]).await;
        let asked = host.receive().await;
        assert!(matches!(asked, Some((Response::ReadyToTransfer { .. }, _))), "{asked:?}");
        pass(STALL_TIMEOUT / 2).await;
        // That it lives is not enough.
        host.ping(b"in a moment").await;
        pass(STALL_TIMEOUT).await;
        assert_eq!(host.receive().await.unwrap().0, DROPPED);
        assert!(host.receive().await.is_none());
        assert_eq!(rig.endings.recv().await, Some(Ending::Stalled));
    });
}

#[test]
fn who_takes_none_of_its_answers_is_dropped() {
    with(sleeps_at_once, |mut rig| async move {
        let keys = ["MaxRecvDataSegmentLength=262144"];
        let mut host = Initiator::login(rig.address, &keys).await;
        // More than the kernel has room for.
        for _ in 0..100 {
            let request = host.command_of(cdb(READ, 0, 2048), 1 << 20, 0);
            host.send(&request.encode(false), &[]).await;
        }
        let mut ending = None;
        for _ in 0..20 {
            // As long as bytes go into the kernel's buffers, it is not stuck.
            let ended = rig.endings.recv();
            if let Ok(ended) = tokio::time::timeout(Duration::from_millis(100), ended).await {
                ending = ended;
                break;
            }
            pass(STALL_TIMEOUT).await;
        }
        assert_eq!(ending, Some(Ending::Stalled));
    });
}
