//! A mirror's copy that is open to hosts while its session is suspended: REC-05, REC-06, REC-10.

use block::IoError;
use twinspan_mirror::{Command, Consent, Policy, Refusal, Role, Serving, SessionState};

use crate::world::{Site, World, bytes};

/// A session that is suspended, and the word that opens its destination.
async fn suspended(world: &World) -> (Site, Site) {
    let (east, west) = world.mirrored().await;
    for n in 0..64u64 {
        east.write(n * 4096, 1, 4096).await.unwrap();
    }
    east.flush().await.unwrap();
    let leg = east.status().legs[0].leg;
    east.command(Command::Suspend { leg }).await.unwrap();
    world.pass(2).await;
    (east, west)
}

#[test]
fn rec_05_a_destination_is_not_attachable_while_its_session_runs() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        assert_eq!(west.command(Command::Detach).await, Err(Refusal::NotSuspended));
        assert_eq!(west.status().serving, Serving::NotPrimary);
        assert_eq!(west.write(0, 2, 4096).await, Err(IoError::ReadOnly));
        // Out of reach is not suspended: the primary's writes may be waiting for it.
        world.cut();
        world.pass(10).await;
        assert_eq!(west.command(Command::Detach).await, Err(Refusal::NotSuspended));
        assert_eq!(east.command(Command::Detach).await, Err(Refusal::NotSecondary));
    });
}

#[test]
fn rec_06_suspended_both_sides_serve_and_track_and_resume_copies_both_differences() {
    World::run(|world| async move {
        let (east, west) = suspended(&world).await;
        west.command(Command::Detach).await.unwrap();
        assert_eq!(
            (west.status().role, west.status().serving),
            (Role::Secondary, Serving::Detached)
        );
        assert_eq!(west.read(0, 4096).await.unwrap(), bytes(1, 4096));
        east.write(0, 7, 4096).await.unwrap();
        west.write(5 * 4096, 8, 4096).await.unwrap();
        assert_eq!(east.read(5 * 4096, 4096).await.unwrap(), bytes(1, 4096));
        assert_eq!(west.read(0, 4096).await.unwrap(), bytes(1, 4096));
        let hosts = west.hosts();

        // REC-10: what only the destination has is discarded by a word, not silently.
        let leg = east.status().legs[0].leg;
        east.command(Command::Resume { leg, discard: false }).await.unwrap();
        world.pass(10).await;
        assert_eq!(east.status().legs[0].state, SessionState::Error);
        assert_eq!(west.status().serving, Serving::Detached);
        assert!(!hosts.is_cancelled());

        east.command(Command::Resume { leg, discard: true }).await.unwrap();
        east.until_equivalent().await;
        assert!(hosts.is_cancelled());
        assert_eq!(west.status().serving, Serving::NotPrimary);
        assert_eq!(west.content(0, 1 << 20), east.content(0, 1 << 20));
        assert_eq!(west.content(5 * 4096, 4096), bytes(1, 4096));
        let session = &east.status().legs[0].sessions[0];
        assert!(!session.full);
        assert!(session.resync_total_bytes <= 2 * 4096, "two blocks: {session:?}");
    });
}

#[test]
fn a_detached_copy_that_nobody_wrote_to_is_taken_back_without_a_word() {
    World::run(|world| async move {
        let (east, west) = suspended(&world).await;
        west.command(Command::Detach).await.unwrap();
        east.write(0, 7, 4096).await.unwrap();
        let leg = east.status().legs[0].leg;
        east.command(Command::Resume { leg, discard: false }).await.unwrap();
        east.until_equivalent().await;
        assert_eq!(west.content(0, 1 << 20), east.content(0, 1 << 20));
    });
}

#[test]
fn a_detached_copy_stays_so_and_keeps_its_map_over_a_restart() {
    World::run(|world| async move {
        let (east, west) = suspended(&world).await;
        west.command(Command::Detach).await.unwrap();
        west.write(5 * 4096, 8, 4096).await.unwrap();
        let west = world.restart(west);
        assert_eq!(west.status().serving, Serving::Detached);
        assert_eq!(west.read(5 * 4096, 4096).await.unwrap(), bytes(8, 4096));
        let leg = east.status().legs[0].leg;
        east.command(Command::Resume { leg, discard: true }).await.unwrap();
        east.until_equivalent().await;
        assert_eq!(west.content(0, 1 << 20), east.content(0, 1 << 20));
        assert!(!east.status().legs[0].sessions[0].full);
    });
}

#[test]
fn rec_11_a_detached_copy_can_become_the_source_and_both_differences_are_copied() {
    World::run(|world| async move {
        let (east, west) = suspended(&world).await;
        west.command(Command::Detach).await.unwrap();
        west.write(5 * 4096, 8, 4096).await.unwrap();
        east.write(9 * 4096, 9, 4096).await.unwrap();
        west.command(Command::Promote { consent: Consent::Outdated }).await.unwrap();
        assert_eq!(west.status().role, Role::Primary);
        let leg = west.status().legs[0].leg;
        west.command(Command::Resume { leg, discard: true }).await.unwrap();
        west.until_equivalent().await;
        assert_eq!(east.status().role, Role::Secondary);
        assert_eq!(east.content(0, 1 << 20), west.content(0, 1 << 20));
        assert_eq!(east.content(5 * 4096, 4096), bytes(8, 4096));
        assert_eq!(east.content(9 * 4096, 4096), bytes(1, 4096));
        assert!(!west.status().legs[0].sessions[0].full);
    });
}

#[test]
fn rec_08_a_copy_whose_suspension_was_forced_is_no_use_to_hosts() {
    World::run(|world| async move {
        let (east, west) = world.two_sites();
        for n in 0..512u64 {
            east.write(n * 4096, 1, 4096).await.unwrap();
        }
        east.mirror_to(&west, Policy::default()).await.unwrap();
        let leg = east.status().legs[0].leg;
        east.command(Command::Suspend { leg }).await.unwrap();
        world.pass(5).await;
        let refused = west.command(Command::Detach).await;
        assert!(matches!(refused, Err(Refusal::QualityTooLow { .. })), "{refused:?}");
    });
}
