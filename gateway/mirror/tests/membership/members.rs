//! Volumes that join and leave, and copies that are longer than they should be.

use block::IoError;
use twinspan_mirror::{Command, Consent, LegStatus, Refusal, SessionState};

use super::*;

fn only_leg(site: &Site) -> LegStatus {
    site.status().legs[0].clone()
}

#[test]
fn a_volume_joins_and_leaves_while_a_host_writes() {
    World::run(|world| async move {
        let (mut east, west) = world.mirrored().await;
        east.write(0, 1, 4096).await.unwrap();
        east.flush().await.unwrap();
        east.enlist().await.unwrap();
        east.write(4096, 2, 4096).await.unwrap();
        let west = world.follow(west).await;
        east.until_equivalent().await;
        assert_eq!(west.content(0, Site::BYTES), east.content(0, Site::BYTES));
        assert_eq!(west.second_content(), east.second_content());
        let sessions = only_leg(&east).sessions;
        assert!(!sessions[0].full && sessions[1].full);
        assert!(sessions[0].resync_total_bytes <= 2 * 4096, "only the difference of the old one");

        // A change that is on its way when the volume leaves is answered first.
        let late = east.start(Op::Write(extent(8192, 4096), bytes(3, 4096)));
        east.dismiss().await.unwrap();
        late.await.unwrap();
        assert!(east.has_own_group());
        east.write(12_288, 4, 4096).await.unwrap();
        let west = world.follow(west).await;
        assert!(west.has_own_group(), "the copy is kept there too");
        east.until_equivalent().await;
        assert_eq!(west.content(0, Site::BYTES), east.content(0, Site::BYTES));
        assert_eq!(only_leg(&east).sessions.len(), 1);
    });
}

#[test]
fn a_change_of_members_outlives_a_crash_at_either_side() {
    World::run(|world| async move {
        let (mut east, west) = world.mirrored().await;
        world.cut();
        east.enlist().await.unwrap();
        world.heal();
        let east = world.restart(east);
        let west = world.restart(west);
        let west = world.follow(west).await;
        let west = world.restart(west);
        east.until_equivalent().await;
        assert_eq!(west.second_content(), east.second_content());
        east.dismiss().await.unwrap();
        let east = world.restart(east);
        let west = world.follow(west).await;
        east.until_equivalent().await;
        assert_eq!(east.status().volumes.len(), 1);
        assert_eq!(west.status().volumes.len(), 1);
    });
}

#[test]
fn a_longer_copy_that_was_never_written_behind_the_end_is_accepted() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        world.cut();
        west.stretch(1 << 20);
        world.heal();
        east.until_equivalent().await;
        assert_eq!(west.content(Site::BYTES, 1 << 20), bytes(0, 1 << 20));
    });
}

#[test]
fn a_longer_copy_with_content_behind_the_end_is_refused_and_emptied_by_consent() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        world.cut();
        west.stretch(1 << 20);
        west.scribble(Site::BYTES, 7, 4096);
        world.heal();
        world.pass(5).await;
        let leg = only_leg(&east);
        assert_eq!(leg.state, SessionState::Error);
        let why = format!("{:?}", leg.cause);
        for size in [Site::BYTES, Site::BYTES + (1 << 20)] {
            assert!(why.contains(&size.to_string()), "both sizes are named: {why}");
        }
        assert_eq!(west.content(Site::BYTES, 4096), bytes(7, 4096), "nothing was touched");
        east.command(Command::Resume { leg: leg.leg, discard: true }).await.unwrap();
        east.until_equivalent().await;
        assert_eq!(west.content(Site::BYTES, 1 << 20), bytes(0, 1 << 20));
        assert_eq!(west.content(0, Site::BYTES), east.content(0, Site::BYTES));
    });
}

/// A group that was closed, so that its members could be changed, heard that its mirror kept a cut,
/// and wrote its record over the changed one. The gateway did not open the group any more.
#[test]
fn a_group_that_is_closed_changes_nothing_whatever_it_is_asked_or_hears() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        let leg = only_leg(&east).leg;
        east.close().await.unwrap();
        let record = east.record();
        let asked = east.command(Command::Suspend { leg }).await;
        assert_eq!(asked, Err(Refusal::Interrupted));
        assert_eq!(east.write(0, 1, 4096).await, Err(IoError::ShuttingDown));
        assert_eq!(east.flush().await, Err(IoError::ShuttingDown));
        // A primary of a higher epoch calls: the group that is opened next here hears of it.
        west.close().await.unwrap();
        let west = world.restart_uncut(west);
        west.command(Command::Promote { consent: Consent::InSync }).await.unwrap();
        world.pass(60).await;
        assert_eq!(east.record(), record);
        assert_eq!(east.content(0, 4096), bytes(0, 4096));
    });
}
