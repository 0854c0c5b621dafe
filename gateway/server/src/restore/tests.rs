//! Where a restore stands is read from the group, and what was not meant is refused by name.

use block::Epoch;
use mirror::Phase;

use super::*;
use crate::migration::tests::{primary, upstream, well};

fn copy(quality: Quality, link: LinkState) -> GroupStatus {
    let mut status = primary(Vec::new());
    (status.role, status.serving, status.quality) = (Role::Secondary, Serving::NotPrimary, quality);
    status.upstream = Some(upstream(link));
    status
}

fn awaiting() -> LegStatus {
    let mut leg = well(2, "east");
    (leg.state, leg.phase) = (SessionState::Halted, Phase::Tracking);
    (leg.in_sync, leg.link, leg.cause) = (false, LinkState::Off, Some(Cause::AwaitingReprotect));
    leg
}

fn code(result: Result<Aim, Refused>) -> String {
    result.unwrap_err().0.code
}

#[test]
fn the_way_back_is_taken_up_where_it_stands() {
    let mut detached = copy(Quality::Outdated, LinkState::Off);
    detached.serving = Serving::Detached;
    let east = aim(&detached, None, None).unwrap();
    assert_eq!(east.site, "east");
    let begun = Some(GatewayId::of(2));
    let mut copying = well(2, "east");
    (copying.in_sync, copying.phase) = (false, Phase::Copying);
    let leg = LegId::new(0).unwrap();
    let steps = [
        (detached, Stand::Promote(Consent::Outdated)),
        (primary(vec![awaiting()]), Stand::Follow(leg)),
        (primary(vec![copying]), Stand::Copy(leg)),
        (primary(vec![well(2, "east")]), Stand::Swap(leg)),
        (copy(Quality::InSync, LinkState::Connected), Stand::Over),
    ];
    for (status, wanted) in steps {
        // Whoever begins it again after a restart finds the same aim and the same step.
        assert_eq!(aim(&status, begun, None).unwrap(), east, "{wanted:?}");
        assert_eq!(stand(&status, &east).unwrap(), wanted);
    }
}

#[test]
fn a_group_that_is_at_home_is_not_moved() {
    let wrong = Code::WrongState.as_str();
    assert_eq!(code(aim(&primary(vec![well(2, "west")]), None, None)), wrong);
    assert_eq!(code(aim(&primary(vec![well(2, "west")]), None, Some("west"))), wrong);
    assert_eq!(code(aim(&copy(Quality::InSync, LinkState::Connected), None, None)), wrong);
    let lost = aim(&copy(Quality::InSync, LinkState::Off), None, None).unwrap_err();
    assert!(lost.0.next.unwrap().contains("failover plan"));
    let following = copy(Quality::Inconsistent, LinkState::Connected);
    assert!(aim(&following, None, None).unwrap_err().0.next.unwrap().contains("suspend"));
    // A source whose session was suspended is no copy that was promoted.
    let mut suspended = awaiting();
    (suspended.state, suspended.cause) = (SessionState::Suspended, Some(Cause::Operator));
    assert_eq!(code(aim(&primary(vec![suspended]), None, None)), wrong);
    let mut fenced = primary(vec![awaiting()]);
    fenced.role = Role::Fenced;
    assert_eq!(code(aim(&fenced, None, None)), Code::NotPrimary.as_str());
}

#[test]
fn of_several_sites_one_is_named_and_a_lost_aim_is_told() {
    let mut other = awaiting();
    (other.gateway, other.site, other.leg) =
        (GatewayId::of(3), "north".to_owned(), LegId::new(1).unwrap());
    let status = primary(vec![awaiting(), other]);
    assert_eq!(code(aim(&status, None, None)), Code::Invalid.as_str());
    assert_eq!(aim(&status, None, Some("north")).unwrap().gateway, GatewayId::of(3));
    assert_eq!(code(aim(&status, None, Some("south"))), Code::NotFound.as_str());
    let gone = aim(&status, Some(GatewayId::of(4)), None).unwrap_err();
    assert!(gone.0.next.unwrap().contains("--give-up"));
    let mut swapping = primary(vec![well(2, "east")]);
    let leg = LegId::new(0).unwrap();
    let epoch = Epoch::ZERO.next(1);
    let handover = |unanswered| mirror::HandoverStatus { leg, epoch, drained: true, unanswered };
    let east = Aim { gateway: GatewayId::of(2), site: "east".to_owned() };
    for (unanswered, code) in [(true, Code::HandoverUnanswered), (false, Code::Busy)] {
        swapping.handover = Some(handover(unanswered));
        assert_eq!(stand(&swapping, &east).unwrap_err().0.code, code.as_str());
    }
}

#[test]
fn a_half_copied_copy_is_no_source() {
    let status = copy(Quality::Inconsistent, LinkState::Off);
    let east = aim(&status, None, None).unwrap();
    assert_eq!(stand(&status, &east).unwrap_err().0.code, Code::CopyStale.as_str());
}
