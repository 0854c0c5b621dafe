//! What initiators are told of the ways, at each place that a gateway can have in a group.

use block::{Epoch, Quality};
use mirror::{HandoverStatus, Role};

use super::*;
use crate::migration::tests::{primary, upstream, well};

/// East, group 1, with two portals; west is reached at group 2, south at group 3.
fn east() -> Ways {
    let ways = Ways::new(side(1, &["10.0.0.1:3260", "10.0.0.2:3260"]));
    ways.learn(GatewayId::of(2), side(2, &["10.0.1.1:3260"]));
    ways.learn(GatewayId::of(3), side(3, &["10.0.2.1:3260"]));
    ways
}

fn side(group: u16, portals: &[&str]) -> Side {
    Side { group, portals: portals.iter().map(|portal| (*portal).to_owned()).collect() }
}

/// A mirror of the gateway 2.
fn mirror(link: LinkState) -> GroupStatus {
    GroupStatus {
        role: Role::Secondary,
        serving: Serving::NotPrimary,
        quality: Quality::InSync,
        upstream: Some(upstream(link)),
        ..primary(Vec::new())
    }
}

fn lost(gateway: u128) -> mirror::LegStatus {
    mirror::LegStatus { link: LinkState::Connecting, ..well(gateway, "lost") }
}

fn states(paths: &Paths) -> Vec<(u16, PortState)> {
    paths.groups.iter().map(|group| (group.group, group.state)).collect()
}

fn portals(paths: &Paths) -> Vec<(&str, u16)> {
    paths.portals.iter().map(|portal| (portal.address.as_str(), portal.tag)).collect()
}

#[test]
fn a_primary_is_the_best_way_and_its_mirrors_stand_by() {
    let paths = east().of(&primary(vec![well(2, "west"), lost(3)]));
    let told = [(1, PortState::Optimized), (2, PortState::Standby), (3, PortState::Unavailable)];
    assert_eq!(states(&paths), told);
    assert_eq!(paths.groups[0].ports, [0x101], "the portals of a group are one port");
    assert_eq!(paths.groups[1].ports, [0x201]);
    // Where the lost one was reached is still told, behind those that live.
    let told =
        [("10.0.0.1:3260", 1), ("10.0.0.2:3260", 1), ("10.0.1.1:3260", 2), ("10.0.2.1:3260", 3)];
    assert_eq!(portals(&paths), told);
}

#[test]
fn a_mirror_points_to_its_primary_while_it_hears_it() {
    let paths = east().of(&mirror(LinkState::Connected));
    assert_eq!(states(&paths), [(1, PortState::Standby), (2, PortState::Optimized)]);
    assert_eq!(portals(&paths)[0], ("10.0.1.1:3260", 2));
}

/// Linux takes what any port says of all groups: a mirror that lost its primary and called it
/// unavailable would close the way to a primary that goes on alone.
#[test]
fn a_gateway_that_serves_nobody_does_not_talk_hosts_out_of_a_way_it_cannot_see() {
    for link in [LinkState::Off, LinkState::Connecting] {
        let paths = east().of(&mirror(link));
        assert_eq!(states(&paths), [(1, PortState::Standby)]);
        let told = [("10.0.0.1:3260", 1), ("10.0.0.2:3260", 1), ("10.0.1.1:3260", 2)];
        assert_eq!(portals(&paths), told);
    }
    for serving in [
        Serving::WaitingForMirror,
        Serving::WaitingForWitness,
        Serving::NoWitness,
        Serving::Halted,
        Serving::Latched,
    ] {
        let status = GroupStatus { serving, ..primary(vec![lost(2)]) };
        assert_eq!(states(&east().of(&status)), [(1, PortState::NonOptimized)]);
    }
    let serving = Serving::Fenced { by: Epoch::ZERO.next(1) };
    let status = GroupStatus { serving, role: Role::Fenced, ..primary(vec![lost(2)]) };
    assert_eq!(states(&east().of(&status)), [(1, PortState::Standby)]);
}

#[test]
fn a_swap_of_roles_is_a_transition_until_nobody_knows_how_it_ended() {
    let swap = |unanswered| HandoverStatus {
        leg: block::LegId::new(0).unwrap(),
        epoch: Epoch::ZERO.next(1),
        drained: true,
        unanswered,
    };
    for (unanswered, state) in [(false, PortState::Transitioning), (true, PortState::NonOptimized)]
    {
        let handover = Some(swap(unanswered));
        let status =
            GroupStatus { serving: Serving::HandingOver, handover, ..primary(vec![well(2, "w")]) };
        assert_eq!(east().of(&status).own, state);
    }
}

#[test]
fn what_shares_a_number_is_not_told() {
    let ways = east();
    ways.learn(GatewayId::of(2), side(1, &["10.0.1.1:3260"]));
    assert!(ways.collides(&side(1, &["10.0.1.1:3260"])) && !ways.collides(&side(1, &[])));
    let paths = ways.of(&primary(vec![well(2, "west"), well(3, "south")]));
    assert_eq!(states(&paths), [(1, PortState::Optimized), (3, PortState::Standby)]);
    ways.learn(GatewayId::of(2), side(3, &["10.0.1.1:3260"]));
    let paths = ways.of(&primary(vec![lost(2), well(3, "south")]));
    assert_eq!(states(&paths), [(1, PortState::Optimized), (3, PortState::Standby)]);
    assert_eq!(portals(&paths).last(), Some(&("10.0.2.1:3260", 3)));
}

#[test]
fn what_another_gateway_says_of_itself_is_looked_at() {
    assert!(side(2, &["10.0.1.1:3260", "[2001:db8::1]:3260", "san.example:3260"]).is_sound());
    assert!(side(2, &[]).is_sound());
    let long = format!("{}:1", "x".repeat(300));
    let every = ["0.0.0.0:3260", "[::]:3260"];
    for bad in ["10.0.1.1", "a,1:3260", "a b:1", "a\0b:1", ":x", &long].into_iter().chain(every) {
        assert!(!side(2, &[bad]).is_sound(), "{bad:?}");
    }
    assert!(!side(0, &[]).is_sound() && !side(256, &[]).is_sound());
    let many: Vec<&str> = std::iter::repeat_n("a:1", 256).collect();
    assert!(!side(2, &many).is_sound());
}
