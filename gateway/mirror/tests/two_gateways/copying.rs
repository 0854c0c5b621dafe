//! What a copier may send, over swaps of roles, and mirrors that hold the content already.

use block::Op;
use twinspan_mirror::{Bandwidth, Command, Phase, Policy, Priority, Window};

use crate::world::{World, bytes, extent};

#[test]
fn a_limit_holds_while_the_mirror_is_filled_and_hosts_go_on() {
    World::run(|world| async move {
        let (east, west) = world.two_sites();
        for n in 0..64u64 {
            let op = Op::Write(extent(n * 131_072, 131_072), bytes(7, 131_072));
            east.start(op).await.unwrap();
        }
        let bandwidth = Bandwidth { usual: Some(1 << 20), windows: [].into() };
        east.mirror_to(&west, Policy { bandwidth, ..Policy::default() }).await.unwrap();
        world.pass(3).await;
        // 8 MiB at 1 MiB a second: not done, and a host's write is not held back.
        assert_eq!(east.status().legs[0].phase, Phase::Copying);
        assert_eq!(east.status().legs[0].bytes_per_second_max, Some(1 << 20));
        let before = tokio::time::Instant::now();
        east.write(0, 9, 4096).await.unwrap();
        assert!(before.elapsed().as_millis() < 100);
        east.set(|policy| policy.bandwidth.usual = None).await.unwrap();
        world.pass(1).await;
        assert_eq!(east.status().legs[0].phase, Phase::Equivalent);
        assert!(east.equals(&west));
    });
}

#[test]
fn policies_are_those_of_the_session_whoever_is_its_source() {
    World::run(|world| async move {
        let (east, west) = world.mirrored().await;
        let windows = [Window::parse("mon-fri 08:00-18:00 Europe/Berlin", 0).unwrap()];
        let bandwidth = Bandwidth { usual: Some(50 << 20), windows: windows.into() };
        let moved = east.status().legs[0].sessions[0].resync_total_bytes;
        let wanted = bandwidth.clone();
        east.set(|policy| (policy.bandwidth, policy.priority) = (wanted, Priority::High))
            .await
            .unwrap();
        assert_eq!(east.status().legs[0].phase, Phase::Equivalent, "nothing is copied for it");
        assert_eq!(east.status().legs[0].sessions[0].resync_total_bytes, moved);
        world.pass(1).await;
        // The mirror has it durably: also after a restart.
        let west = world.restart(west);
        world.pass(3).await;
        east.until_equivalent().await;
        let leg = east.status().legs[0].leg;
        east.command(Command::Reverse { leg }).await.unwrap();
        west.until(|status| status.legs.iter().any(|leg| leg.phase == Phase::Equivalent)).await;
        let policy = west.status().legs[0].policy.clone();
        assert_eq!((policy.bandwidth, policy.priority), (bandwidth, Priority::High));
    });
}

#[test]
fn a_mirror_that_holds_the_content_is_sent_only_what_differs() {
    World::run(|world| async move {
        let (east, west) = world.two_sites();
        for n in 0..50u64 {
            east.write(n * 65_536, 7, 4096).await.unwrap();
            // One block differs, one is there and not here.
            west.scribble(n * 65_536, if n == 20 { 8 } else { 7 }, 4096);
        }
        west.scribble(9 << 20, 5, 4096);
        east.command(Command::AddLeg {
            gateway: west.identity.gateway,
            site: west.identity.site.clone(),
            sessions: vec![block::SessionId::of(5), block::SessionId::of(6)],
            policy: Policy::default(),
            holds_content: true,
        })
        .await
        .unwrap();
        east.write(3 << 20, 9, 4096).await.unwrap();
        east.until_equivalent().await;
        assert!(east.equals(&west));
        let status = east.status();
        let moved = status.legs[0].sessions[0].resync_copied_bytes;
        assert!(moved <= 3 * 4096, "{moved} bytes were sent");
        assert!(!status.legs[0].comparing);
    });
}
