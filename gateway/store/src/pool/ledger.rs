//! Small records that a gateway must not forget.
//!
//! Invariant: puts take effect in the order they were made, whichever shard made them; those that
//! come while one is being committed share the next commit.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use block::{IoError, Ledger, Ticket};
use bytes::Bytes;
use redb::{Database, ReadableDatabase, TableDefinition, TableError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::codec::Format;
use crate::database;
use crate::error::StoreError;
use crate::executor::{Executor, Lane};
use crate::medium::LockGuard;

const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("ledger");
const FORMAT: Format = Format { what: "ledger record", magic: *b"TSLEDGR\0", version: 1 };

type Records = Vec<(String, Option<Bytes>)>;
type Answered = (u64, Result<(), IoError>);

/// The small records of a gateway, as one thread uses them. Its [`PoolLedger::pump`] must run on
/// that thread, unless everything is done inline.
pub struct PoolLedger {
    group: Arc<Group>,
    waiting: RefCell<Waiting>,
    sender: UnboundedSender<Answered>,
    done: Rc<RefCell<UnboundedReceiver<Answered>>>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    tickets: HashMap<u64, Ticket>,
}

/// What all ledgers of a pool share.
pub(super) struct Group {
    database: Arc<Database>,
    executor: Executor,
    queue: Mutex<Queue>,
    /// The pool stays locked while records are written, or may be.
    _lock: Arc<LockGuard>,
}

#[derive(Default)]
struct Queue {
    puts: Vec<Put>,
    running: bool,
}

struct Put {
    records: Records,
    id: u64,
    answer: UnboundedSender<Answered>,
}

// === impl PoolLedger ===

impl PoolLedger {
    pub(super) fn new(group: Arc<Group>) -> Rc<Self> {
        let (sender, receiver) = unbounded_channel();
        Rc::new(Self {
            group,
            waiting: RefCell::default(),
            sender,
            done: Rc::new(RefCell::new(receiver)),
        })
    }

    /// Delivers answers for as long as the ledger is there.
    ///
    /// # Cancellation
    /// Safe; but while nobody runs it, puts are answered only when another is made.
    pub fn pump(self: &Rc<Self>) -> impl Future<Output = ()> + 'static + use<> {
        let done = Rc::clone(&self.done);
        let ledger = Rc::downgrade(self);
        async move {
            while let Some(answered) = poll_fn(|cx| done.borrow_mut().poll_recv(cx)).await {
                let Some(ledger) = ledger.upgrade() else { return };
                ledger.deliver(answered);
            }
        }
    }

    fn deliver(&self, (id, result): Answered) {
        let ticket = self.waiting.borrow_mut().tickets.remove(&id);
        if let Some(ticket) = ticket {
            ticket.answer(result.map(|()| block::Answer::Done));
        }
    }
}

impl Ledger for PoolLedger {
    fn get(&self, key: &str) -> Result<Option<Bytes>, IoError> {
        self.group.get(key).map_err(|e| {
            tracing::error!(error = %format!("{e:#}"), key, "read ledger");
            e.for_request()
        })
    }

    fn put(&self, records: Records, ticket: Ticket) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.next += 1;
        let id = waiting.next;
        waiting.tickets.insert(id, ticket);
        drop(waiting);
        Group::put(&self.group, Put { records, id, answer: self.sender.clone() });
        loop {
            let answered = self.done.borrow_mut().try_recv();
            let Ok(answered) = answered else { return };
            self.deliver(answered);
        }
    }
}

impl fmt::Debug for PoolLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolLedger").finish_non_exhaustive()
    }
}

// === impl Group ===

impl Group {
    pub(super) fn new(
        database: Arc<Database>,
        executor: Executor,
        lock: Arc<LockGuard>,
    ) -> Arc<Self> {
        Arc::new(Self { database, executor, queue: Mutex::default(), _lock: lock })
    }

    fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let transaction =
            self.database.begin_read().map_err(StoreError::database("begin reading the ledger"))?;
        let table = match transaction.open_table(RECORDS) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(e) => return Err(StoreError::database("open the ledger")(e)),
        };
        let Some(value) = table.get(key).map_err(StoreError::database("read the ledger"))? else {
            return Ok(None);
        };
        let mut reader = FORMAT.open(value.value())?;
        Ok(Some(Bytes::copy_from_slice(reader.counted()?)))
    }

    fn put(self: &Arc<Self>, put: Put) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.puts.push(put);
        if !std::mem::replace(&mut queue.running, true) {
            drop(queue);
            let group = Arc::clone(self);
            self.executor.run(Lane::Sync, move || group.work());
        }
    }

    /// Commits what waits until nothing does.
    fn work(&self) {
        loop {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let puts = std::mem::take(&mut queue.puts);
            if puts.is_empty() {
                queue.running = false;
                return;
            }
            drop(queue);
            let result = self.commit(&puts).map_err(|e| {
                tracing::error!(error = %format!("{e:#}"), "write ledger");
                e.for_request()
            });
            for put in puts {
                // Nobody waits for it any more when the ledger is gone.
                put.answer.send((put.id, result)).ok();
            }
        }
    }

    fn commit(&self, puts: &[Put]) -> Result<(), StoreError> {
        let transaction = database::begin(&self.database)?;
        {
            let mut table =
                transaction.open_table(RECORDS).map_err(StoreError::database("open the ledger"))?;
            for (key, value) in puts.iter().flat_map(|p| &p.records) {
                let changed = match value {
                    Some(value) => {
                        let mut body = Vec::with_capacity(value.len() + 4);
                        crate::codec::put_counted(&mut body, value);
                        table.insert(key.as_str(), FORMAT.seal(&body).as_slice()).map(drop)
                    }
                    None => table.remove(key.as_str()).map(drop),
                };
                changed.map_err(StoreError::database("write the ledger"))?;
            }
        }
        transaction.commit().map_err(StoreError::database("commit the ledger"))
    }
}
