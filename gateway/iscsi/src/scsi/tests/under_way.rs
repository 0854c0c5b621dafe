//! Commands that the volume has when another initiator aborts them: nothing tells them to stop, so
//! whoever aborts them waits.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use block::{IoError, Run};

use super::*;

/// A volume that keeps changes until it is told to do them.
struct Late {
    volume: Rc<dyn Volume>,
    late: RefCell<Vec<Request>>,
    wakers: RefCell<Vec<Waker>>,
}

impl Volume for Late {
    fn geometry(&self) -> Geometry {
        self.volume.geometry()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn submit(&self, batch: &mut Vec<Request>) {
        self.late.borrow_mut().extend(batch.extract_if(.., |request| request.op.is_change()));
        self.volume.submit(batch);
    }

    fn layout(&self, extent: Extent, limit: usize) -> Result<Vec<Run>, IoError> {
        self.volume.layout(extent, limit)
    }

    fn poll_settled(&self, extent: Extent, context: &mut Context<'_>) -> Poll<()> {
        let is_of = |request: &Request| request.op.extent().is_some_and(|of| of.overlaps(extent));
        if !self.late.borrow().iter().any(is_of) {
            return Poll::Ready(());
        }
        self.wakers.borrow_mut().push(context.waker().clone());
        Poll::Pending
    }
}

impl Late {
    /// Takes a write of one block, as a session hands it down.
    fn begin(&self, lba: u64) {
        let op = Op::Write(block_at(lba), Bytes::from(vec![7; 512]));
        self.submit(&mut vec![Request { op, fua: false, ticket: Ticket::ignored() }]);
    }

    /// Does what it has.
    fn catch_up(&self) {
        self.volume.submit(&mut self.late.take());
        self.wakers.take().into_iter().for_each(Waker::wake);
    }
}

fn late() -> (Rig, Rc<Late>) {
    let volume = MemoryStore::new(Geometry::new(BYTES).unwrap());
    let (late, wakers) = (RefCell::default(), RefCell::default());
    let late = Rc::new(Late { volume, late, wakers });
    let rig = Rig::over(Rc::<Late>::clone(&late), Rc::new(Drawer::default()));
    (rig, late)
}

/// Keeps what it is given at once, or when it is told to, as where a mirror is waited for.
#[derive(Default)]
struct Hesitant {
    drawer: Drawer,
    hesitates: Cell<bool>,
    answers: RefCell<Vec<tokio::sync::oneshot::Sender<()>>>,
    rests: RefCell<Vec<RestFuture>>,
}

impl fmt::Debug for Hesitant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a keeper that hesitates")
    }
}

impl ReservationKeeper for Hesitant {
    fn load(&self) -> Result<Option<Bytes>, KeepError> {
        self.drawer.load()
    }

    fn lost_power(&self) -> bool {
        false
    }

    fn keep(&self, state: Bytes) -> KeepFuture {
        let kept = self.drawer.keep(state);
        if !self.hesitates.get() {
            return kept;
        }
        let (answer, waiting) = tokio::sync::oneshot::channel();
        self.answers.borrow_mut().push(answer);
        Box::pin(async move { waiting.await.map_err(|_gone| KeepError::NotNow) })
    }

    fn see_through(&self, rest: RestFuture) {
        self.rests.borrow_mut().push(rest);
    }
}

fn hesitant() -> (Rig, Rc<Hesitant>) {
    let keeper = Rc::new(Hesitant::default());
    let volume = MemoryStore::new(Geometry::new(BYTES).unwrap());
    (Rig::over(volume, Rc::<Hesitant>::clone(&keeper)), keeper)
}

/// Begins an order; it is dropped with its session.
fn ordered(
    rig: &Rig,
    host: &Nexus,
    (cdb, list): ([u8; 10], [u8; 24]),
) -> Pin<Box<dyn Future<Output = Result<Outcome, IoError>>>> {
    let Plan::Slow(slow) = rig.unit.begin(host, &cdb) else { panic!("it is known at once") };
    let list = Bytes::copy_from_slice(&list);
    let mut order: Pin<Box<dyn Future<Output = _>>> =
        Box::pin(Rc::clone(&rig.unit).run(host.clone(), slow, list));
    assert!(is_pending(order.as_mut()));
    order
}

/// Two hosts that are registered with their numbers; the second holds a reservation for both.
fn rivals(rig: &Rig) -> [Nexus; 2] {
    let hosts = [rig.host(1), rig.host(2)];
    for (host, key) in hosts.iter().zip(1..) {
        let (cdb, list) = register(0, 0, 0, key, 0);
        assert_eq!(rig.ask(host, &cdb, &list).status, Status::Good);
    }
    let (cdb, list) = register(1, 5, 2, 0, 0);
    assert_eq!(rig.ask(&hosts[1], &cdb, &list).status, Status::Good);
    hosts
}

fn block_at(lba: u64) -> Extent {
    Extent::new(lba * 512, 512).unwrap()
}

fn is_pending<F: Future + ?Sized>(future: Pin<&mut F>) -> bool {
    future.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[test]
fn a_preemption_that_aborts_is_answered_when_nothing_of_its_victim_is_under_way() {
    let (rig, late) = late();
    let [host, victim] = rivals(&rig);
    let epoch = victim.epoch();
    assert!(matches!(rig.unit.admit(&victim, epoch, block_at(0), Some(false)), Admission::Go));
    late.begin(0);
    let (cdb, list) = register(5, 5, 1, 2, 0);
    let Plan::Slow(slow) = rig.unit.begin(&host, &cdb) else { panic!("it is known at once") };
    let list = Bytes::copy_from_slice(&list);
    let mut preempts = Box::pin(Rc::clone(&rig.unit).run(host.clone(), slow, list));
    assert!(is_pending(preempts.as_mut()));
    assert_ne!(victim.epoch(), epoch, "it is in force");
    // Another order does not wait for what this one aborted.
    let (cdb, list) = register(0, 0, 1, 3, 0);
    assert_eq!(rig.ask(&host, &cdb, &list).status, Status::Good);
    assert!(is_pending(preempts.as_mut()));
    late.catch_up();
    assert_eq!(rig.runtime.block_on(preempts).unwrap().status, Status::Good);
    assert_eq!(rig.ask(&host, &cdb_16(0x88, 0, 0, 1), &[]).data_in, [7; 512][..]);
}

#[test]
fn a_preemption_that_aborts_nothing_waits_for_nothing() {
    let (rig, late) = late();
    let [host, victim] = rivals(&rig);
    late.begin(0);
    let (cdb, list) = register(4, 5, 1, 2, 0);
    assert_eq!(rig.ask(&host, &cdb, &list).status, Status::Good);
    let told = rig.ask(&victim, &[0; 6], &[]).sense;
    assert_eq!(told, Some(Sense::attention(REGISTRATION_PREEMPTED)));
}

/// A node fences another one and is lost while the mirror is slow: the record has the victim out, and so
/// has the gateway.
#[test]
fn an_order_is_in_force_when_it_is_kept_though_whoever_sent_it_is_gone() {
    for is_kept in [true, false] {
        let (rig, keeper) = hesitant();
        let [host, victim] = rivals(&rig);
        keeper.hesitates.set(true);
        let preempts = ordered(&rig, &host, register(4, 5, 1, 2, 0));
        drop((preempts, host));
        let write = || rig.ask(&victim, &cdb_16(0x8a, 0, 0, 1), &[0; 512]).status;
        assert_eq!(write(), Status::Good, "a mirror may not have it yet");
        for answer in keeper.answers.take() {
            if is_kept {
                answer.send(()).unwrap();
            }
        }
        let rests = keeper.rests.take();
        assert_eq!(rests.len(), 1, "it is kept, whoever waits for that");
        rests.into_iter().for_each(|rest| rig.runtime.block_on(rest));
        if is_kept {
            let told = rig.ask(&victim, &[0; 6], &[]).sense;
            assert_eq!(told, Some(Sense::attention(REGISTRATION_PREEMPTED)));
            assert_eq!(write(), Status::ReservationConflict);
        } else {
            assert_eq!(write(), Status::Good);
        }
    }
}

#[test]
fn nobody_reserves_a_unit_while_a_registration_of_it_is_being_kept() {
    let (rig, keeper) = hesitant();
    let (host, other) = (rig.host(1), rig.host(2));
    keeper.hesitates.set(true);
    let registers = ordered(&rig, &host, register(0, 0, 0, 1, 0));
    let reserve = || rig.ask(&other, &[0x16, 0, 0, 0, 0, 0], &[]).status;
    assert_eq!(reserve(), Status::Busy);
    keeper.answers.take().into_iter().for_each(|answer| answer.send(()).unwrap());
    assert_eq!(rig.runtime.block_on(registers).unwrap().status, Status::Good);
    assert_eq!(reserve(), Status::ReservationConflict);
}

#[test]
fn an_order_that_waits_for_another_is_not_done_when_whoever_sent_it_is_gone() {
    let (rig, keeper) = hesitant();
    let [host, victim] = rivals(&rig);
    keeper.hesitates.set(true);
    let first = ordered(&rig, &host, register(0, 0, 1, 3, 0));
    let second = ordered(&rig, &host, register(4, 5, 3, 2, 0));
    drop(second);
    keeper.answers.take().into_iter().for_each(|answer| answer.send(()).unwrap());
    assert_eq!(rig.runtime.block_on(first).unwrap().status, Status::Good);
    assert!(keeper.rests.take().is_empty() && keeper.answers.take().is_empty());
    let write = rig.ask(&victim, &cdb_16(0x8a, 0, 0, 1), &[0; 512]);
    assert_eq!(write.status, Status::Good);
}

#[test]
fn who_waits_for_all_that_is_under_way_is_not_overtaken_for_ever() {
    let (rig, late) = late();
    let host = rig.host(1);
    late.begin(0);
    let mut settles = pin!(rig.unit.settle());
    assert!(is_pending(settles.as_mut()));
    // What begins now is of other blocks, and waits all the same.
    let admitted = rig.unit.admit(&host, host.epoch(), block_at(8), Some(false));
    assert!(matches!(admitted, Admission::Slow(_)));
    let mut takes = pin!(rig.unit.exclusively(block_at(8)));
    assert!(is_pending(takes.as_mut()));
    late.catch_up();
    assert!(!is_pending(settles.as_mut()) && !is_pending(takes.as_mut()));
    let admitted = rig.unit.admit(&host, host.epoch(), block_at(8), Some(false));
    assert!(matches!(admitted, Admission::Go));
}

#[test]
fn who_gives_up_waiting_for_all_that_is_under_way_holds_up_nobody() {
    let (rig, late) = late();
    let host = rig.host(1);
    late.begin(0);
    let mut settles = Box::pin(rig.unit.settle());
    assert!(is_pending(settles.as_mut()));
    drop(settles);
    let admitted = rig.unit.admit(&host, host.epoch(), block_at(8), Some(false));
    assert!(matches!(admitted, Admission::Go));
    assert!(!is_pending(pin!(rig.unit.exclusively(block_at(8)))));
}
