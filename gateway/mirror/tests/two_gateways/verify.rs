//! Verification of a mirror that should be identical.

use twinspan_mirror::{Command, Phase, Refusal};

use crate::world::{World, bytes};

const FAST: u64 = 1 << 30;

#[test]
fn a_verification_compares_every_mapped_block_and_certifies_it() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        for n in 0..300u64 {
            east.write(n * 8192, 7, 4096).await.unwrap();
        }
        let leg = east.status().legs[0].leg;
        east.command(Command::Verify { leg, bytes_per_second: FAST }).await.unwrap();
        // Hosts go on, also where it is comparing.
        for n in 0..300u64 {
            east.write(n * 8192, 9, 4096).await.unwrap();
        }
        world.pass(30).await;
        let status = east.status();
        let found = status.legs[0].verified.expect("it came to its end");
        assert_eq!((found.mismatched, found.unreadable), (0, 0));
        assert!(found.blocks >= 300, "{found:?}");
        assert_eq!(status.legs[0].verifying, None);
        assert_eq!(west.content(0, 4 << 20), east.content(0, 4 << 20));
        // It outlives the process.
        let east = world.restart(east);
        assert_eq!(east.status().legs[0].verified, Some(found));
    });
}

#[test]
fn what_differs_is_counted_and_repaired_from_the_primary() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        for n in 0..64u64 {
            east.write(n * 4096, 7, 4096).await.unwrap();
        }
        west.scribble(5 * 4096, 1, 4096);
        // A block that only the mirror has mapped is a difference too.
        west.scribble(1 << 20, 2, 8192);
        let leg = east.status().legs[0].leg;
        east.command(Command::Verify { leg, bytes_per_second: FAST }).await.unwrap();
        world.pass(30).await;
        let status = east.status();
        assert_eq!(status.legs[0].verified.unwrap().mismatched, 3);
        assert_eq!(status.legs[0].sessions[0].mismatched_bytes, 3 * 4096);
        assert_eq!(status.legs[0].phase, Phase::Equivalent);
        assert_eq!(west.content(0, 4 << 20), east.content(0, 4 << 20));
        assert_eq!(west.content(5 * 4096, 4096), bytes(7, 4096));
        east.command(Command::Verify { leg, bytes_per_second: FAST }).await.unwrap();
        world.pass(30).await;
        assert_eq!(east.status().legs[0].verified.unwrap().mismatched, 0);
    });
}

#[test]
fn a_verification_keeps_to_its_pace_and_ends_with_its_link() {
    World::run(|world| async move {
        let (east, _west) = world.mirrored().await;
        for n in 0..64u64 {
            east.write(n * 65_536, 7, 65_536).await.unwrap();
        }
        let leg = east.status().legs[0].leg;
        let begin = Command::Verify { leg, bytes_per_second: 128 << 10 };
        east.command(begin.clone()).await.unwrap();
        world.pass(10).await;
        let verifying = east.status().legs[0].verifying.expect("4 MiB take 32 s");
        assert_eq!(verifying.total, 1024);
        assert!((256..=400).contains(&verifying.done), "{verifying:?}");
        world.cut();
        east.write(0, 1, 4096).await.unwrap();
        world.pass(5).await;
        assert_eq!(east.status().legs[0].verifying, None);
        assert_eq!(east.status().legs[0].verified, None, "half a run certifies nothing");
        assert_eq!(east.command(begin).await, Err(Refusal::NotInSync));
    });
}
