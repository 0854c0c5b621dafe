//! A discovery session: which targets there are, and where (RFC 7143 §4.3).
//!
//! Invariant: an initiator is told of the targets that it may see, and of nothing else; it may ask
//! for so long and then is dropped.

use std::future::poll_fn;
use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use zerocopy::IntoBytes;

use crate::export::{Targets, push_target};
use crate::limits::QUEUE_DEPTH;
use crate::negotiate::Agreed;
use crate::session::parts::{Body, Due, Item, Outgoing, Place, Receiver, TextExchange, Window};
use crate::wire::text::push;
use crate::wire::{Header, NO_TAG, RejectReason, Request, Response, Stamp};

/// A discovery session.
struct Discovery<'d> {
    agreed: &'d Agreed,
    stat_sn: u32,
    window: Window,
    outgoing: Outgoing,
    text: TextExchange,
    targets: &'d dyn Targets,
    over: bool,
}

/// Answers until the initiator logs out.
///
/// # Cancellation
/// Closes the connection.
pub(super) async fn run(
    mut stream: TcpStream,
    received: &[u8],
    (agreed, stat_sn): (&Agreed, u32),
    targets: &dyn Targets,
) -> io::Result<()> {
    let params = agreed.params;
    let mut receiver = Receiver::new((params.header_digest, params.data_digest), received);
    let mut session = Discovery {
        agreed,
        stat_sn,
        window: Window::new(agreed.cmd_sn, QUEUE_DEPTH),
        outgoing: Outgoing::new(params.header_digest, params.data_digest),
        text: TextExchange::default(),
        targets,
        over: false,
    };
    while !session.over {
        match receiver.next(|_| Place::Shared) {
            Ok(Item::Pdu(header, body)) => {
                session.take(&header, &body);
                poll_fn(|cx| session.outgoing.poll_send(cx, &mut stream)).await?;
            }
            Ok(Item::NeedBytes) => {
                if poll_fn(|cx| receiver.poll_fill(cx, &mut stream)).await? == 0 {
                    return Ok(());
                }
            }
            Err(_violation) => return Ok(()),
        }
    }
    stream.shutdown().await
}

impl Discovery<'_> {
    fn take(&mut self, header: &Header, body: &Body) {
        let data: &[u8] = if let Body::Shared(data) = body { data } else { &[] };
        let Ok(request) = Request::decode(header) else {
            return self.reject(RejectReason::NotSupported, header);
        };
        let due = |number| self.window.take(number, header.immediate());
        match request.command_sn().map(due) {
            None | Some(Due::Due) => {}
            Some(Due::Outside) => return,
            Some(Due::Gap) => self.over = true,
        }
        match request {
            Request::NopOut { tag: NO_TAG, .. } => {}
            Request::NopOut { tag, .. } => {
                let len = data.len().min(self.agreed.params.send_segment as usize);
                let lun = [0; 8];
                self.say(Response::NopIn { lun, tag, target_tag: NO_TAG }, &data[..len]);
            }
            Request::Text { more, tag, target_tag, .. } => {
                self.answer((more, tag, target_tag), header, data);
            }
            Request::Logout { tag, .. } => {
                self.say(Response::Logout { tag, response: 0, wait: 0, retain: 0 }, &[]);
                self.over = true;
            }
            Request::Command { .. }
            | Request::Task { .. }
            | Request::Login { .. }
            | Request::DataOut { .. }
            | Request::Snack { .. } => self.reject(RejectReason::Protocol, header),
        }
    }

    fn answer(&mut self, (more, tag, target_tag): (bool, u32, u32), header: &Header, data: &[u8]) {
        let (targets, initiator) = (self.targets, &self.agreed.initiator);
        let answer = |pairs: &[(&str, &str)]| {
            let mut out = Vec::new();
            for (key, value) in pairs {
                match *key {
                    "SendTargets" => {
                        for target in targets.list(initiator) {
                            if *value == "All" || value.eq_ignore_ascii_case(&target.name) {
                                push_target(&mut out, &target.name, &target.portals);
                            }
                        }
                    }
                    other => push(&mut out, other, "NotUnderstood"),
                }
            }
            out
        };
        let room = self.agreed.params.send_segment as usize;
        match self.text.take((more, target_tag), data, room, answer) {
            Ok(reply) => {
                let (is_final, more, target_tag) = (reply.is_final, reply.more, reply.target_tag);
                let response = Response::Text { is_final, more, lun: [0; 8], tag, target_tag };
                self.say(response, &reply.data);
            }
            Err(_bad) => self.reject(RejectReason::Protocol, header),
        }
    }

    fn say(&mut self, response: Response, data: &[u8]) {
        self.window.grant(QUEUE_DEPTH);
        let stamp = Stamp {
            stat_sn: self.stat_sn,
            exp_cmd_sn: self.window.expected(),
            max_cmd_sn: self.window.last(),
        };
        self.outgoing.pdu(response.encode(stamp), data);
        if response.counts() {
            self.stat_sn = self.stat_sn.wrapping_add(1);
        }
    }

    fn reject(&mut self, reason: RejectReason, header: &Header) {
        self.say(Response::Reject(reason), header.as_bytes());
    }
}
