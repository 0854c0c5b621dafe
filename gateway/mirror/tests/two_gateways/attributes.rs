//! What host protocols keep of a volume: at the mirror before it is answered, and there after the
//! primary is lost.

use block::IoError;
use twinspan_mirror::{Command, Consent, Policy};

use crate::world::World;

#[test]
fn rule_1_what_was_answered_is_at_the_mirror_when_the_primary_dies() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        east.set_attributes(b"registered").await.unwrap();
        assert_eq!(west.attributes().as_deref(), Some(&b"registered"[..]));
        world.kill(&east);
        world.pass(5).await;
        west.command(Command::Promote { consent: Consent::InSync }).await.unwrap();
        west.set_attributes(b"preempted").await.unwrap();
        let west = world.restart(west);
        assert_eq!(west.attributes().as_deref(), Some(&b"preempted"[..]));
    });
}

#[test]
fn a_mirror_that_was_away_hears_of_it_when_it_is_back() {
    World::run(|world| async move {
        let (east, west) = world.two_sites();
        east.set_attributes(b"before").await.unwrap();
        east.mirror_to(&west, Policy::default()).await.unwrap();
        east.until_equivalent().await;
        assert_eq!(west.attributes().as_deref(), Some(&b"before"[..]));
        assert_eq!(west.set_attributes(b"here").await, Err(IoError::ReadOnly));
        world.cut();
        world.pass(20).await;
        east.set_attributes(b"alone").await.unwrap();
        assert_eq!(west.attributes().as_deref(), Some(&b"before"[..]));
        world.heal();
        east.until_equivalent().await;
        assert_eq!(west.attributes().as_deref(), Some(&b"alone"[..]));
    });
}
