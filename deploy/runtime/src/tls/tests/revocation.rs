//! What was revoked is refused, on both sides, also by whoever was let in before; and who shows no certificate at all.

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams};
use rustls::HandshakeKind;

use super::*;

const DISPATCHER_SERIAL: u64 = 1001;
const WORKER_SERIAL: u64 = 1002;

impl Authority {
    /// A list that names these certificates, and should be replaced at the begin of that year.
    fn revokes(&self, serials: &[u64], until: i32) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// A program with that serial number and that text for its list.
    fn with_list(&self, uri: &str, serial: u64, list: &str) -> (Tls, Reloader, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let uris = [uri];
        let name = Name { serial: Some(serial), ..Name::of(&uris) };
        let settings = self.program(dir.path(), &name, self);
        let crl = dir.path().join("crl.pem");
        fs::write(&crl, list).unwrap();
        let (tls, reloader) = Tls::open(TlsSettings { crl: Some(crl), ..settings }).unwrap();
        (tls, reloader, dir)
    }
}

#[tokio::test]
async fn whoever_was_revoked_is_neither_let_in_nor_spoken_with() {
    let authority = Authority::new();
    let others = authority.revokes(&[1, 2, 3], 2100);
    let (dispatcher, _r1, _d1) = authority.with_list(DISPATCHER, DISPATCHER_SERIAL, &others);
    let (worker, _r2, _d2) = authority.with_list(WORKER, WORKER_SERIAL, &others);
    let (called, answered) = handshake(&worker, &dispatcher, DISPATCHER).await;
    called.unwrap();
    answered.unwrap();

    let both = authority.revokes(&[1, WORKER_SERIAL, DISPATCHER_SERIAL], 2100);
    let (strict, _r3, _d3) = authority.with_list(DISPATCHER, 7, &both);
    let (_, answered) = handshake(&worker, &strict, DISPATCHER).await;
    assert!(answered.unwrap_err().to_string().contains("Revoked"));
    let (strict, _r4, _d4) = authority.with_list(WORKER, 8, &both);
    let (called, _) = handshake(&strict, &dispatcher, DISPATCHER).await;
    assert!(called.unwrap_err().to_string().contains("Revoked"));
}

#[tokio::test]
async fn a_list_speaks_for_its_own_authority_only() {
    let authority = Authority::new();
    let (worker, _r, _d) = authority.with_list(WORKER, WORKER_SERIAL, &authority.revokes(&[1], 2100));
    let list = Authority::named("other").revokes(&[WORKER_SERIAL], 2100);
    let (dispatcher, _r1, _d1) = authority.with_list(DISPATCHER, DISPATCHER_SERIAL, &list);
    handshake(&worker, &dispatcher, DISPATCHER).await.1.unwrap();
    // Of the same name, and signed with another key: somebody pretends, and nothing can be known.
    let forged = Authority::new().revokes(&[], 2100);
    let (dispatcher, _r2, _d2) = authority.with_list(DISPATCHER, DISPATCHER_SERIAL, &forged);
    assert!(handshake(&worker, &dispatcher, DISPATCHER).await.1.is_err());
}

#[tokio::test]
async fn an_overdue_list_still_revokes_what_it_names_and_nothing_else() {
    let authority = Authority::new();
    let overdue = authority.revokes(&[WORKER_SERIAL], 2025);
    let (dispatcher, _r1, _d1) = authority.with_list(DISPATCHER, DISPATCHER_SERIAL, &overdue);
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(1_735_689_600);
    assert_eq!(dispatcher.files(), FilesState { are_current: true, crl_until: Some(until) });
    let (revoked, _r2, _d2) = authority.with_list(WORKER, WORKER_SERIAL, &overdue);
    assert!(handshake(&revoked, &dispatcher, DISPATCHER).await.1.is_err());
    let (other, _r3, _d3) = authority.with_list(WORKER, 9, &overdue);
    handshake(&other, &dispatcher, DISPATCHER).await.1.unwrap();
}

#[tokio::test]
async fn a_new_list_is_used_and_a_broken_one_keeps_the_old() {
    let authority = Authority::new();
    let (dispatcher, mut reloader, dir) =
        authority.with_list(DISPATCHER, DISPATCHER_SERIAL, &authority.revokes(&[1], 2100));
    let (worker, _r, _d) = authority.with_list(WORKER, WORKER_SERIAL, &authority.revokes(&[1], 2100));
    handshake(&worker, &dispatcher, DISPATCHER).await.1.unwrap();

    let list = dir.path().join("crl.pem");
    let trust = dispatcher.trust();
    fs::write(&list, authority.revokes(&[WORKER_SERIAL], 2100)).unwrap();
    assert!(reloader.look());
    dispatcher.trust_changed(trust).await;
    assert!(handshake(&worker, &dispatcher, DISPATCHER).await.1.is_err());

    let good = fs::read(&list).unwrap();
    let cut = &good[..good.len() / 2];
    let nonsense = b"-----BEGIN X509 CRL-----\nMAMCAQE=\n-----END X509 CRL-----\n";
    for broken in [&b""[..], b"no list", cut, nonsense] {
        fs::write(&list, broken).unwrap();
        assert!(!reloader.look());
        assert!(!dispatcher.files().are_current, "an operator is told");
        assert!(handshake(&worker, &dispatcher, DISPATCHER).await.1.is_err(), "the old one still holds");
        // Looked at once more, it is as bad as before.
        assert!(!reloader.look());
        assert!(!dispatcher.files().are_current);
    }
    fs::remove_file(&list).unwrap();
    assert!(!reloader.look());
    assert!(!dispatcher.files().are_current);
    assert!(handshake(&worker, &dispatcher, DISPATCHER).await.1.is_err());
    fs::write(&list, authority.revokes(&[], 2101)).unwrap();
    assert!(reloader.look());
    assert!(dispatcher.files().are_current);
    handshake(&worker, &dispatcher, DISPATCHER).await.1.unwrap();
}

#[test]
fn a_list_that_cannot_be_used_ends_the_start() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let settings = authority.program(dir.path(), &Name::of(&[DISPATCHER]), &authority);
    let crl = dir.path().join("crl.pem");
    fs::write(&crl, "x").unwrap();
    let error = Tls::open(TlsSettings { crl: Some(crl), ..settings }).unwrap_err();
    assert!(error.to_string().ends_with("crl.pem: no revocation list"), "{error}");
}

/// A client that would take up an earlier session if it could.
#[tokio::test]
async fn a_session_that_was_let_in_once_is_looked_at_again() {
    let authority = Authority::new();
    let (dispatcher, mut reloader, dir) =
        authority.with_list(DISPATCHER, DISPATCHER_SERIAL, &authority.revokes(&[1], 2100));
    let name = Name { serial: Some(WORKER_SERIAL), ..Name::of(&[WORKER]) };
    let mut client = raw_client(&authority, &name, &authority);
    client.resumption = rustls::client::Resumption::in_memory_sessions(16);
    let client = Arc::new(client);
    let connect = async || {
        let (near, far) = tokio::io::duplex(1 << 16);
        let calls = async {
            let address = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
            let mut stream = TlsConnector::from(Arc::clone(&client)).connect(address, near).await?;
            // Whatever the server has to give for the next time comes with the first bytes.
            stream.read_u8().await?;
            Ok::<_, io::Error>(stream.get_ref().1.handshake_kind())
        };
        let answers = async {
            let (mut stream, _peer) = dispatcher.accept(far).await?;
            stream.write_all(b"!").await?;
            stream.flush().await?;
            Ok::<_, io::Error>(stream.get_ref().1.handshake_kind())
        };
        tokio::join!(calls, answers)
    };
    for _ in 0..3 {
        let (called, answered) = connect().await;
        assert_eq!(called.unwrap(), Some(HandshakeKind::Full));
        assert_eq!(answered.unwrap(), Some(HandshakeKind::Full));
    }
    fs::write(dir.path().join("crl.pem"), authority.revokes(&[WORKER_SERIAL], 2100)).unwrap();
    assert!(reloader.look());
    assert!(connect().await.1.is_err());
}

#[tokio::test]
async fn who_has_no_certificate_is_let_in_only_where_that_is_asked_for() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().unwrap();
    let settings = authority.program(dir.path(), &Name::of(&[DISPATCHER]), &authority);
    let (closed, _r1) = Tls::open(settings.clone()).unwrap();
    let (open, _r2) = Tls::open(TlsSettings { anonymous_peers: true, ..settings.clone() }).unwrap();
    let trust = TrustSettings {
        bundle: settings.bundle.clone(),
        crl: None,
        trust_domains: settings.trust_domains.clone(),
    };
    let connect = async |server: &Tls, expected: &str| {
        let (near, far) = tokio::io::duplex(1 << 16);
        let caller = Anonymous::open(&trust, &id(expected)).unwrap();
        let calls = async {
            let mut stream = caller.connect(near).await?;
            stream.read_u8().await
        };
        let answers = async {
            let (mut stream, peer) = server.accept(far).await?;
            stream.write_all(b"!").await?;
            stream.flush().await?;
            Ok::<_, io::Error>(peer)
        };
        tokio::join!(calls, answers)
    };
    let (called, answered) = connect(&open, DISPATCHER).await;
    called.unwrap();
    assert_eq!(answered.unwrap(), None);
    assert!(connect(&closed, DISPATCHER).await.1.is_err());
    // It is as careful about the other side as anybody.
    assert!(
        connect(&open, "spiffe://prod/other")
            .await
            .0
            .unwrap_err()
            .to_string()
            .contains("names another program")
    );

    // A certificate that is shown must be good: nobody is let in as nobody because their name does not count.
    for (what, signer, name) in [
        ("another authority", &stranger, Name::of(&[WORKER])),
        ("another trust domain", &authority, Name::of(&["spiffe://elsewhere/backhaul/worker"])),
        ("over", &authority, Name { years: (2020, 2021), ..Name::of(&[WORKER]) }),
    ] {
        assert!(refused(&raw_client(signer, &name, &authority), &open).await, "{what}");
    }
    let (worker, _r3, _d3) = authority.open(WORKER);
    assert_eq!(handshake(&worker, &open, DISPATCHER).await.1.unwrap().id, id(WORKER));
}
