//! The committed OpenAPI document is the one that the code gives; calls are let through and
//! answered as it says.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::book::{RoleEntry, TokenEntry};
use crate::gateway::tests::Rig;
use crate::refusal::Refused;

#[test]
fn the_committed_document_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../api/openapi.json");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    let current = super::openapi();
    assert!(
        committed == current,
        "gateway/api/openapi.json is not current: run `cargo xtask openapi`"
    );
    for word in ["plan_failover", "create_volume", "\"Problem\"", "reverse_session"] {
        assert!(current.contains(word), "{word} is missing");
    }
}

async fn call(address: std::net::SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

fn request(method: &str, path: &str, token: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         authorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

async fn with_tokens(rig: &Rig) {
    let tokens = [("viewer", RoleEntry::Viewer), ("operator", RoleEntry::Operator)];
    let recorded = rig.gateway.book.change(Vec::new(), |pages| {
        pages.tokens.extend(tokens.map(|(name, role)| TokenEntry {
            name: name.to_owned(),
            hash: super::hash_token(name),
            role,
        }));
        Ok::<(), Refused>(())
    });
    recorded.await.unwrap();
}

#[tokio::test]
async fn calls_need_a_token_and_errors_are_problems() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path()).await;
    let address = listen(&rig).await;
    let volume = "{\"name\":\"orders\",\"bytes\":1048576}";
    let unknown = "{\"name\":\"orders\",\"byts\":1048576}";
    let (again, token) = ("/api/v1/groups/orders/reprotect/run", "{\"token\":\"X\"}");
    let cases = [
        ("GET", "/healthz", "nobody", "", 200, "ok"),
        ("GET", "/readyz", "nobody", "", 200, "ready"),
        ("GET", "/api/v1/status", "nobody", "", 401, "GW0201"),
        ("GET", "/api/v1/status", "viewer", "", 200, "\"verdict\":\"empty\""),
        ("POST", "/api/v1/volumes", "viewer", volume, 403, "GW0202"),
        ("POST", "/api/v1/volumes", "operator", unknown, 400, "byts"),
        ("POST", "/api/v1/volumes", "operator", volume, 201, "\"serving\""),
        ("POST", "/api/v1/volumes", "operator", volume, 409, "GW0205"),
        ("GET", "/api/v1/volumes/orders", "viewer", "", 200, "nbd://127.0.0.1:1/orders"),
        ("GET", "/api/v1/volumes?limit=1&sort=-bytes", "viewer", "", 200, "\"orders\""),
        ("GET", "/api/v1/volumes?health=at_risk", "viewer", "", 200, "\"items\":[]"),
        ("GET", "/api/v1/volumes?colour=red", "viewer", "", 400, "colour"),
        ("GET", "/api/v1/groups?name=orders&role=primary", "viewer", "", 200, "\"orders\""),
        ("GET", "/api/v1/sessions?sort=leg.phase", "viewer", "", 200, "\"items\":[]"),
        ("GET", "/api/v1/operations?limit=0", "viewer", "", 400, "limit"),
        ("GET", "/api/v1/volumes/nothing", "viewer", "", 404, "GW0204"),
        ("POST", "/api/v1/groups/orders/failover/plan", "operator", "", 200, "blocked"),
        ("POST", "/api/v1/groups/orders/reprotect/plan", "operator", "", 409, "GW0415"),
        ("POST", again, "viewer", token, 403, "GW0202"),
        ("POST", again, "operator", token, 409, "dry-run"),
        ("POST", "/api/v1/sites/token", "operator", "", 403, "GW0202"),
        ("GET", "/api/v1/events?follow=false", "viewer", "", 200, "created"),
        ("DELETE", "/api/v1/volumes/orders", "operator", "", 204, ""),
    ];
    ask(address, &cases).await;
    rig.close().await;
}

#[tokio::test]
async fn snap_05_snapshots_are_listed_in_pages_and_taken_by_operators() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path()).await;
    let address = listen(&rig).await;
    let volume = "{\"name\":\"orders\",\"bytes\":1048576}";
    let (all, one) = ("/api/v1/groups/orders/snapshots", "/api/v1/groups/orders/snapshots/one");
    let pages = format!("{all}?limit=1&sort=-name");
    let states = format!("{all}?state=rollbacking");
    let odd = format!("{all}?colour=red");
    let changes = format!("{one}/changes?limit=5");
    let between = format!("{one}/changes?from=one&volume=orders&offset=8192");
    let nothing = format!("{one}/changes?from=none");
    let clone = "{\"name\":\"a\",\"from\":{\"group\":\"orders\",\"snapshot\":\"one\"}}";
    let small =
        "{\"name\":\"b\",\"bytes\":4096,\"from\":{\"group\":\"orders\",\"snapshot\":\"one\"}}";
    let (plan, run) = (format!("{one}/rollback/plan"), format!("{one}/rollback"));
    let cases = [
        ("POST", "/api/v1/volumes", "operator", volume, 201, "\"serving\""),
        ("POST", all, "viewer", "{\"name\":\"one\"}", 403, "GW0202"),
        ("POST", all, "operator", "{\"name\":\"one\"}", 201, "\"available\""),
        ("POST", all, "operator", "{\"name\":\"auto.x\"}", 400, "GW0461"),
        ("POST", all, "operator", "{\"nmae\":\"x\"}", 400, "nmae"),
        ("POST", all, "operator", "", 201, "\"manual\""),
        ("GET", &pages, "viewer", "", 200, "\"next\":"),
        ("GET", &states, "viewer", "", 200, "\"items\":[]"),
        ("GET", &odd, "viewer", "", 400, "colour"),
        ("GET", one, "viewer", "", 200, "nbd://127.0.0.1:1/orders@one"),
        ("GET", &changes, "viewer", "", 200, "\"items\":[]"),
        ("GET", &between, "viewer", "", 200, "\"items\":[]"),
        ("GET", &nothing, "viewer", "", 404, "GW0204"),
        ("POST", "/api/v1/volumes", "operator", clone, 201, "\"filling\""),
        ("POST", "/api/v1/volumes", "operator", small, 400, "GW0493"),
        ("POST", &plan, "operator", "", 200, "\"token\""),
        ("POST", &run, "operator", "{\"token\":\"XXXXXX\"}", 409, "GW0411"),
        ("DELETE", one, "viewer", "", 403, "GW0202"),
        ("DELETE", one, "operator", "", 204, ""),
    ];
    ask(address, &cases).await;
    rig.close().await;
}

#[tokio::test]
async fn a_connection_goes_on_behind_a_body_that_no_handler_wants() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path()).await;
    rig.make_orders().await;
    let address = listen(&rig).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let first = request("GET", "/api/v1/volumes/orders", "operator", "{}");
    let first = first.replace("connection: close\r\n", "");
    let (head, body) = first.split_at(first.len() - 2);
    stream.write_all(head.as_bytes()).await.unwrap();
    // Whoever answers without it has answered by then.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let second = request("GET", "/healthz", "nobody", "");
    stream.write_all(format!("{body}{second}").as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
    rig.close().await;
}

type Case<'a> = (&'a str, &'a str, &'a str, &'a str, u16, &'a str);

/// Makes the calls one after the other; each is answered with its status and a word.
async fn ask(address: std::net::SocketAddr, cases: &[Case<'_>]) {
    for (method, path, token, body, status, word) in cases.iter().copied() {
        let (got, answer) = call(address, &request(method, path, token, body)).await;
        assert_eq!(got, status, "{method} {path}: {answer}");
        assert!(answer.contains(word), "{method} {path}: {answer}");
        if status >= 400 {
            assert!(answer.contains("application/problem+json"), "{answer}");
        }
    }
}

/// Serves the calls of a gateway, for three tokens.
async fn listen(rig: &Rig) -> std::net::SocketAddr {
    with_tokens(rig).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = super::router(Arc::clone(&rig.gateway));
    let stopping = rig.gateway.stopping.clone();
    rig.gateway.tasks.spawn(async move {
        let server = axum::serve(listener, router);
        let stopped = async move { stopping.cancelled().await };
        server.with_graceful_shutdown(stopped).await.unwrap();
    });
    address
}
