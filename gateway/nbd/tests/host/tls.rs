//! TLS: optional and required, with client certificates, and what an eavesdropper might slip in.

use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use twinspan_nbd::TlsPolicy;

use super::client::{Client, context_data, go_data, option, tcp, unix};
use super::rig::{Plan, Rig};

struct Authority {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

fn authority() -> Authority {
    let issuer = CertifiedIssuer::self_signed(
        {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params
        },
        KeyPair::generate().unwrap(),
    )
    .unwrap();
    let issue = |name: &str, purpose| {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (vec![certificate.der().clone()], key)
    };
    let mut roots = RootCertStore::empty();
    roots.add(issuer.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (chain, key) = issue("gateway.test", ExtendedKeyUsagePurpose::ServerAuth);
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots.clone()),
        Arc::clone(&provider),
    )
    .build()
    .unwrap();
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    let (chain, key) = issue("host.test", ExtendedKeyUsagePurpose::ClientAuth);
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    Authority { server: Arc::new(server), client: Arc::new(client) }
}

#[test]
fn everything_works_over_tls_on_both_kinds_of_socket() {
    let authority = authority();
    let rig = Rig::start(Plan {
        tls: TlsPolicy::Required(Arc::clone(&authority.server)),
        ..Plan::default()
    });
    for over_tcp in [true, false] {
        let name = ServerName::try_from("gateway.test").unwrap();
        let connection = ClientConnection::new(Arc::clone(&authority.client), name).unwrap();
        let mut client = if over_tcp {
            let mut plain = tcp(&rig);
            start_tls(Client::over(plain.try_clone().unwrap()));
            std::io::Write::flush(&mut plain).unwrap();
            Client::over(StreamOwned::new(connection, plain))
        } else {
            let plain = unix(&rig);
            start_tls(Client::over(plain.try_clone().unwrap()));
            Client::over(StreamOwned::new(connection, plain))
        };
        client.start("disk", &[11]);
        let data = vec![0xa5; 3 << 20];
        client.write(1, 4096, &data);
        assert_eq!(client.outcome(), 0);
        assert!(client.read(2, 4096, 3 << 20, true) == data);
        for cookie in 0..100 {
            client.request((0, 0), cookie, (4096, 4096));
        }
        for _ in 0..100 {
            assert_eq!(client.outcome(), 0);
        }
        client.request((2, 0), 3, (0, 0));
        assert!(client.is_closed(), "closed with a TLS farewell");
    }
}

fn start_tls(mut plain: Client) {
    plain.greet();
    assert_eq!(plain.ask(5, b""), [(1, Vec::new())]);
}

#[test]
fn without_tls_nothing_is_told_where_it_is_required() {
    let rig = Rig::start(Plan { tls: TlsPolicy::Required(authority().server), ..Plan::default() });
    let mut client = Client::over(unix(&rig));
    client.greet();
    let context = context_data("", "base:allocation");
    for (number, data) in [
        (3, &b""[..]),
        (6, &go_data("disk")),
        (7, &go_data("")),
        (8, b""),
        (10, &context),
        (99, b""),
    ] {
        let answers = client.ask(number, data);
        assert_eq!((answers.len(), answers[0].0), (1, (1 << 31) | 5));
        assert!(!String::from_utf8_lossy(&answers[0].1).contains("disk"));
    }
    assert_eq!(client.ask(2, b""), [(1, Vec::new())]);
    assert!(client.is_closed());
    let mut old = Client::over(unix(&rig));
    old.greet();
    old.send(&option(1, b"disk"));
    assert!(old.is_closed());
}

#[test]
fn what_is_slipped_in_behind_starttls_is_never_obeyed() {
    let rig = Rig::start(Plan { tls: TlsPolicy::Optional(authority().server), ..Plan::default() });
    let mut client = Client::over(unix(&rig));
    client.greet();
    let mut bytes = option(5, b"");
    bytes.extend(option(7, &go_data("disk")));
    client.send(&bytes);
    let mut rest = Vec::new();
    drop(std::io::Read::read_to_end(&mut client.stream, &mut rest));
    assert!(rest.is_empty(), "neither acknowledged nor obeyed");
    // Slipped in after the acknowledgement it is no TLS, and ends the connection too.
    let mut client = Client::over(unix(&rig));
    client.greet();
    assert_eq!(client.ask(5, b"").len(), 1);
    client.send(&option(7, &go_data("disk")));
    let mut rest = Vec::new();
    drop(std::io::Read::read_to_end(&mut client.stream, &mut rest));
    assert!(!rest.windows(8).any(|part| part == 0x0003_e889_0455_65a9u64.to_be_bytes()));
}

#[test]
fn where_tls_is_optional_plain_clients_are_served() {
    let rig = Rig::start(Plan { tls: TlsPolicy::Optional(authority().server), ..Plan::default() });
    let mut client = Client::structured(&rig);
    client.read(1, 0, 512, true);
    let rig = Rig::start(Plan::default());
    let mut client = Client::over(unix(&rig));
    client.greet();
    assert_eq!(client.ask(5, b"")[0].0, (1 << 31) | 2);
    client.start("disk", &[]);
}
