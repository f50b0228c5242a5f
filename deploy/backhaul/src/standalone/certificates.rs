//! Certificates of a standalone Backhaul: an authority of its own and one name for each program, made anew at each start.
//!
//! So that development speaks what production speaks. The authority's key is forgotten at once: nobody else can be named by it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use backhaul_runtime::tls::{SpiffeId, TlsSettings, TrustDomain};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

/// The trust domain of all that is made here.
const TRUST_DOMAIN: &str = "standalone";

/// Files with certificates.
#[derive(Debug)]
pub(crate) struct Certificates {
    folder: PathBuf,
    trust_domain: TrustDomain,
}

/// A program that has a name.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Program {
    /// The dispatcher.
    Dispatcher,
    /// The worker.
    Worker,
    /// Whoever asks for backups, as the tenant `default` and an operator.
    Caller,
}

impl Program {
    const ALL: [Self; 3] = [Self::Dispatcher, Self::Worker, Self::Caller];

    const fn file(self) -> &'static str {
        match self {
            Self::Dispatcher => "dispatcher",
            Self::Worker => "worker",
            Self::Caller => "caller",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Dispatcher => "/backhaul/dispatcher",
            Self::Worker => "/backhaul/worker",
            Self::Caller => "/backhaul/operator/default",
        }
    }
}

impl Certificates {
    /// Makes all files anew in `folder`, which must be private.
    pub(crate) fn make(folder: PathBuf) -> anyhow::Result<Self> {
        let trust_domain: TrustDomain = TRUST_DOMAIN.parse()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        fs::write(folder.join("bundle.pem"), params.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(params, key);
        for program in Program::ALL {
            let mut params = CertificateParams::default();
            let name = trust_domain.id(program.path())?;
            params.subject_alt_names = vec![
                SanType::URI(name.as_str().try_into()?),
                // For tools that know servers by their address.
                SanType::DnsName("localhost".try_into()?),
                SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            ];
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &issuer)?;
            fs::write(folder.join(format!("{}.pem", program.file())), certificate.pem())?;
            write_private(&folder.join(format!("{}.key", program.file())), &key.serialize_pem())?;
        }
        Ok(Self { folder, trust_domain })
    }

    /// The files of a program.
    pub(crate) fn of(&self, program: Program) -> TlsSettings {
        TlsSettings {
            certificate: self.folder.join(format!("{}.pem", program.file())),
            key: self.folder.join(format!("{}.key", program.file())),
            bundle: self.folder.join("bundle.pem"),
            crl: None,
            trust_domains: vec![self.trust_domain.clone()],
            anonymous_peers: false,
        }
    }

    /// The same as flags. They leave nothing to the environment.
    pub(crate) fn flags(&self, program: Program) -> Vec<String> {
        let TlsSettings { certificate, key, bundle, .. } = self.of(program);
        vec![
            format!("--tls-cert={}", certificate.display()),
            format!("--tls-key={}", key.display()),
            format!("--tls-bundle={}", bundle.display()),
            format!("--trust-domain={}", self.trust_domain.as_str()),
            "--insecure=false".to_owned(),
        ]
    }

    /// The name of the dispatcher.
    pub(crate) fn dispatcher(&self) -> anyhow::Result<SpiffeId> {
        Ok(self.trust_domain.id(Program::Dispatcher.path())?)
    }
}

/// Writes a file that only its owner reads, also when there was one before.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use backhaul_runtime::tls::Tls;

    use super::*;

    #[tokio::test]
    async fn the_programs_of_one_start_know_each_other_and_those_of_another_do_not() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ours = Certificates::make(first.path().to_owned()).unwrap();
        let theirs = Certificates::make(second.path().to_owned()).unwrap();
        let open = |certificates: &Certificates, program| Tls::open(certificates.of(program)).unwrap();
        let (dispatcher, _dispatcher) = open(&ours, Program::Dispatcher);
        let (caller, _caller) = open(&ours, Program::Caller);
        let (stranger, _stranger) = open(&theirs, Program::Caller);
        let name = ours.dispatcher().unwrap();
        for (caller, knows) in [(caller, true), (stranger, false)] {
            let (near, far) = tokio::io::duplex(1 << 16);
            let (called, accepted) = tokio::join!(caller.connect(near, &name), dispatcher.accept(far));
            assert_eq!((called.is_ok(), accepted.is_ok()), (knows, knows));
        }
    }

    #[test]
    fn keys_are_for_their_owner_only_and_new_at_each_start() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let key = Certificates::make(folder.path().to_owned()).unwrap().of(Program::Worker).key;
        let before = fs::read_to_string(&key).unwrap();
        Certificates::make(folder.path().to_owned()).unwrap();
        assert_ne!(fs::read_to_string(&key).unwrap(), before);
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
