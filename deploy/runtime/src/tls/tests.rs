//! Handshakes of real programs with real certificates: who is let in, who is spoken with, and what happens when files change.

mod revocation;

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use super::*;

/// An authority that signs for names.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What one certificate says.
struct Name<'a> {
    uris: &'a [&'a str],
    purposes: &'a [ExtendedKeyUsagePurpose],
    years: (i32, i32),
    serial: Option<u64>,
}

const BOTH: &[ExtendedKeyUsagePurpose] =
    &[ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
const DISPATCHER: &str = "spiffe://prod/backhaul/dispatcher";
const WORKER: &str = "spiffe://prod/backhaul/worker";

impl Authority {
    fn new() -> Self {
        Self::named("authority")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A program's files in `dir`, signed by this authority and trusting `trusted`.
    fn program(&self, dir: &Path, name: &Name<'_>, trusted: &Self) -> TlsSettings {
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            name.uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.subject_alt_names.push(SanType::DnsName("dispatcher".try_into().unwrap()));
        params.extended_key_usages = name.purposes.to_vec();
        params.not_before = date_time_ymd(name.years.0, 1, 1);
        params.not_after = date_time_ymd(name.years.1, 1, 1);
        params.serial_number = name.serial.map(Into::into);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let settings = TlsSettings {
            certificate: dir.join("cert.pem"),
            key: dir.join("key.pem"),
            bundle: dir.join("bundle.pem"),
            crl: None,
            trust_domains: vec!["prod".parse().unwrap()],
            anonymous_peers: false,
        };
        fs::write(&settings.certificate, certificate.pem()).unwrap();
        fs::write(&settings.key, key.serialize_pem()).unwrap();
        fs::write(&settings.bundle, &trusted.pem).unwrap();
        settings
    }

    fn open(&self, uri: &str) -> (Tls, Reloader, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let (tls, reloader) = Tls::open(self.program(dir.path(), &Name::of(&[uri]), self)).unwrap();
        (tls, reloader, dir)
    }
}

impl<'a> Name<'a> {
    const fn of(uris: &'a [&'a str]) -> Self {
        Self { uris, purposes: BOTH, years: (2020, 2120), serial: None }
    }
}

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

/// A handshake of both, and a byte each way: in TLS 1.3 a client learns only afterwards that it was refused.
async fn handshake(client: &Tls, server: &Tls, expected: &str) -> (io::Result<()>, io::Result<PeerIdentity>) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let expected = id(expected);
    let calls = async {
        let mut stream = client.connect(near, &expected).await?;
        stream.write_all(b"?").await?;
        stream.flush().await?;
        stream.read_u8().await.map(drop)
    };
    let answers = async {
        let (mut stream, peer) = server.accept(far).await?;
        stream.read_u8().await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        peer.ok_or_else(|| io::Error::other("anonymous"))
    };
    tokio::join!(calls, answers)
}

#[tokio::test]
async fn programs_of_one_trust_domain_know_each_other_by_name() {
    let authority = Authority::new();
    let (dispatcher, _r1, _d1) = authority.open(DISPATCHER);
    let (worker, _r2, _d2) = authority.open(WORKER);
    let (called, answered) = handshake(&worker, &dispatcher, DISPATCHER).await;
    called.unwrap();
    let peer = answered.unwrap();
    assert_eq!(peer.id, id(WORKER));
    assert_eq!(peer.not_after, SystemTime::UNIX_EPOCH + Duration::from_secs(4_733_510_400));
}

#[tokio::test]
async fn a_worker_does_not_speak_with_a_program_of_another_name() {
    let authority = Authority::new();
    let (impostor, _r1, _d1) = authority.open(WORKER);
    let (worker, _r2, _d2) = authority.open(WORKER);
    let (called, answered) = handshake(&worker, &impostor, DISPATCHER).await;
    assert!(called.unwrap_err().to_string().contains("names another program"));
    answered.unwrap_err();
}

#[tokio::test]
async fn whoever_cannot_prove_one_allowed_name_is_not_let_in() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let (dispatcher, _reloader, _dir) = authority.open(DISPATCHER);
    let table: [(&str, &Authority, Name<'_>); 8] = [
        ("no name", &authority, Name::of(&[])),
        ("two names", &authority, Name::of(&[WORKER, DISPATCHER])),
        ("no SPIFFE id", &authority, Name::of(&["https://prod/backhaul/worker"])),
        ("a path that leads elsewhere", &authority, Name::of(&["spiffe://prod/../worker"])),
        ("another trust domain", &authority, Name::of(&["spiffe://elsewhere/backhaul/worker"])),
        ("another authority", &stranger, Name::of(&[WORKER])),
        ("over", &authority, Name { years: (2020, 2021), ..Name::of(&[WORKER]) }),
        ("not yet", &authority, Name { years: (2100, 2120), ..Name::of(&[WORKER]) }),
    ];
    for (what, signer, name) in table {
        let peer = raw_client(signer, &name, &authority);
        assert!(refused(&peer, &dispatcher).await, "{what}");
    }
    let servers_only = [ExtendedKeyUsagePurpose::ServerAuth];
    let name = Name { purposes: &servers_only, ..Name::of(&[WORKER]) };
    assert!(refused(&raw_client(&authority, &name, &authority), &dispatcher).await, "for servers only");
    assert!(
        !refused(&raw_client(&authority, &Name::of(&[WORKER]), &authority), &dispatcher).await,
        "the table tries what it says"
    );
}

/// A client that checks nothing of itself, as an attacker's would.
fn raw_client(signer: &Authority, name: &Name<'_>, trusted: &Authority) -> ClientConfig {
    client_of(&[&TLS13], signer, name, trusted)
}

fn client_of(
    versions: &[&'static SupportedProtocolVersion],
    signer: &Authority,
    name: &Name<'_>,
    trusted: &Authority,
) -> ClientConfig {
    let dir = tempfile::tempdir().unwrap();
    let settings = signer.program(dir.path(), name, trusted);
    let (chain, key) = pem_of(&settings);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.pem.as_bytes()).unwrap()).unwrap();
    let verifier = verify::ProgramNamed {
        roots: Arc::new(roots),
        revocations: Arc::default(),
        provider: Arc::clone(&provider),
        expected: id(DISPATCHER),
    };
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain, key)
        .unwrap();
    client.alpn_protocols = vec![b"h2".to_vec()];
    client
}

fn pem_of(settings: &TlsSettings) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(&settings.certificate).unwrap().map(Result::unwrap).collect();
    (chain, PrivateKeyDer::from_pem_file(&settings.key).unwrap())
}

/// True when the server does not take the client.
async fn refused(client: &ClientConfig, server: &Tls) -> bool {
    let (near, far) = tokio::io::duplex(1 << 16);
    let address = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    let calls = async {
        let mut stream = TlsConnector::from(Arc::new(client.clone())).connect(address, near).await?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await
    };
    let (_client, accepted) = tokio::join!(calls, async { server.accept(far).await.map(drop) });
    accepted.is_err()
}

#[tokio::test]
async fn older_versions_other_protocols_and_plaintext_are_refused() {
    let authority = Authority::new();
    let (dispatcher, _reloader, _dir) = authority.open(DISPATCHER);
    let good = raw_client(&authority, &Name::of(&[WORKER]), &authority);

    let mut http1 = good.clone();
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    assert!(refused(&http1, &dispatcher).await);
    http1.alpn_protocols.clear();
    assert!(refused(&http1, &dispatcher).await);

    let old = client_of(&[&TLS12], &authority, &Name::of(&[WORKER]), &authority);
    assert!(refused(&old, &dispatcher).await);

    let (mut near, far) = tokio::io::duplex(1 << 16);
    near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    assert!(dispatcher.accept(far).await.is_err());
}

#[tokio::test]
async fn new_files_are_used_for_new_connections_and_bad_ones_change_nothing() {
    let authority = Authority::new();
    let (dispatcher, mut reloader, dir) = authority.open(DISPATCHER);
    let (worker, _reloader, _dir) = authority.open(WORKER);
    assert!(!reloader.look(), "nothing has changed");
    let bad: [(&str, &[u8]); 5] = [
        ("cert.pem", b""),
        ("cert.pem", b"-----BEGIN CERTIFICATE-----\nAAAA"),
        ("key.pem", b"no key"),
        ("bundle.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("bundle.pem", b""),
    ];
    for (file, text) in bad {
        let before = fs::read(dir.path().join(file)).unwrap();
        fs::write(dir.path().join(file), text).unwrap();
        assert!(!reloader.look(), "{file}");
        handshake(&worker, &dispatcher, DISPATCHER).await.0.unwrap();
        fs::write(dir.path().join(file), before).unwrap();
        reloader.look();
    }
    fs::remove_file(dir.path().join("key.pem")).unwrap();
    assert!(!reloader.look());
    // A key that is not the certificate's: half of a replacement.
    fs::write(dir.path().join("key.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(!reloader.look());
    handshake(&worker, &dispatcher, DISPATCHER).await.0.unwrap();

    let trust = dispatcher.trust();
    authority.program(dir.path(), &Name::of(&["spiffe://prod/moved"]), &authority);
    assert!(reloader.look());
    assert_eq!(dispatcher.trust(), trust, "the same authorities are trusted");
    assert!(handshake(&worker, &dispatcher, DISPATCHER).await.0.is_err());
    handshake(&worker, &dispatcher, "spiffe://prod/moved").await.0.unwrap();

    fs::write(dir.path().join("bundle.pem"), &Authority::new().pem).unwrap();
    assert!(reloader.look());
    dispatcher.trust_changed(trust).await;
    assert!(handshake(&worker, &dispatcher, "spiffe://prod/moved").await.1.is_err());
}

#[tokio::test(start_paused = true)]
async fn files_are_looked_at_again_and_again() {
    let authority = Authority::new();
    let (dispatcher, reloader, dir) = authority.open(DISPATCHER);
    let stop = CancellationToken::new();
    let mut running = tokio::task::JoinSet::new();
    running.spawn(reloader.run(Duration::from_secs(10), stop.clone()));
    let trust = dispatcher.trust();
    fs::write(dir.path().join("bundle.pem"), &Authority::new().pem).unwrap();
    tokio::time::timeout(Duration::from_secs(11), dispatcher.trust_changed(trust)).await.unwrap();
    stop.cancel();
    running.join_next().await.unwrap().unwrap();
}

#[test]
fn files_that_do_not_hold_together_end_the_start_and_are_named() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let settings = authority.program(dir.path(), &Name::of(&[DISPATCHER]), &authority);
    for (file, text) in [("cert.pem", "x"), ("key.pem", "x"), ("bundle.pem", "x")] {
        let before = fs::read(dir.path().join(file)).unwrap();
        fs::write(dir.path().join(file), text).unwrap();
        let error = Tls::open(settings.clone()).unwrap_err();
        assert!(error.to_string().contains(file), "{error}");
        fs::write(dir.path().join(file), before).unwrap();
    }
    authority.program(dir.path(), &Name::of(&[]), &authority);
    let error = Tls::open(settings).unwrap_err();
    assert!(error.to_string().contains("0 URI names"), "{error}");
}

#[test]
fn keys_show_in_no_debug_output() {
    let authority = Authority::new();
    let (tls, reloader, dir) = authority.open(DISPATCHER);
    let shown = format!("{tls:?} {reloader:?}");
    let key = fs::read_to_string(dir.path().join("key.pem")).unwrap();
    for line in key.lines() {
        assert!(!shown.contains(line));
    }
}
