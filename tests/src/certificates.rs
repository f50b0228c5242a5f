//! Certificates of a scenario: authorities that sign for the programs, and the files that these read, replaced as a cluster does it.
//!
//! All files change in one step, by moving a link to the folder that holds them. The clients here speak TLS as any caller's gRPC
//! library does, without a line of what the programs use for it.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::env::TENANT;

const TRUST_DOMAIN: &str = "scenario";

/// Files with certificates, for all programs of a scenario.
#[derive(Debug)]
pub struct Certificates {
    folder: TempDir,
    made: Mutex<Made>,
}

/// Who has a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// The dispatcher, whom callers know as `localhost` too.
    Dispatcher,
    /// A worker.
    Worker,
    /// A caller that acts for [`TENANT`].
    Caller,
    /// A program of the trust domain that is here for nothing.
    Stranger,
}

#[derive(Debug)]
struct Made {
    versions: u32,
    issuer: Issuer<'static, KeyPair>,
    /// Certificates of all authorities that are trusted, the issuer's last.
    trusted: Vec<String>,
}

impl Holder {
    const ALL: [Self; 4] = [Self::Dispatcher, Self::Worker, Self::Caller, Self::Stranger];

    const fn file(self) -> &'static str {
        match self {
            Self::Dispatcher => "dispatcher",
            Self::Worker => "worker",
            Self::Caller => "caller",
            Self::Stranger => "stranger",
        }
    }

    fn id(self) -> String {
        let path = match self {
            Self::Dispatcher | Self::Worker | Self::Stranger => self.file().to_owned(),
            Self::Caller => format!("tenant/{TENANT}"),
        };
        format!("spiffe://{TRUST_DOMAIN}/backhaul/{path}")
    }
}

impl Certificates {
    /// An authority, and a certificate for everybody.
    ///
    /// # Errors
    /// When they cannot be made or written.
    pub fn new() -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("backhaul-certificates-")?;
        let (issuer, certificate) = authority()?;
        let made = Made { versions: 0, issuer, trusted: vec![certificate] };
        let certificates = Self { folder, made: Mutex::new(made) };
        certificates.renew()?;
        Ok(certificates)
    }

    /// Gives everybody a new certificate with a new key.
    ///
    /// # Errors
    /// When they cannot be made or written.
    pub fn renew(&self) -> anyhow::Result<()> {
        self.replace(|made, folder| {
            for holder in Holder::ALL {
                issue(&made.issuer, holder, folder)?;
            }
            Ok(())
        })
    }

    /// Has a new authority trusted beside those that are. It signs from now on.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn introduce_authority(&self) -> anyhow::Result<()> {
        let before = self.current();
        self.replace(|made, folder| {
            let (issuer, certificate) = authority()?;
            made.issuer = issuer;
            made.trusted.push(certificate);
            copy_all(&before, folder)
        })
    }

    /// Has only the authority trusted that signs now.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn forget_other_authorities(&self) -> anyhow::Result<()> {
        let before = self.current();
        self.replace(|made, folder| {
            made.trusted.drain(..made.trusted.len() - 1);
            copy_all(&before, folder)
        })
    }

    /// Tells a program where its files are.
    pub fn tell(&self, command: &mut Command, holder: Holder) {
        let path = |name: &str| self.link().join(name);
        command.env("BACKHAUL_INSECURE", "false");
        command.arg("--tls-cert").arg(path(&format!("{}.pem", holder.file())));
        command.arg("--tls-key").arg(path(&format!("{}.key", holder.file())));
        command.arg("--tls-bundle").arg(path("bundle.pem"));
        command.args(["--trust-domain", TRUST_DOMAIN, "--tls-reload-every", "50ms"]);
    }

    /// Tells a caller that has no certificate whom to trust.
    pub fn tell_trust(&self, command: &mut Command) {
        command.env("BACKHAUL_INSECURE", "false");
        command
            .arg("--tls-bundle")
            .arg(self.link().join("bundle.pem"))
            .args(["--trust-domain", TRUST_DOMAIN]);
    }

    /// A channel of `holder` to a dispatcher, with the files as they are now.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn channel(&self, address: &str, holder: Holder) -> anyhow::Result<Channel> {
        self.channel_to(address, self, holder)
    }

    /// The same to a dispatcher whose certificates are `others`.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn channel_to(&self, address: &str, others: &Self, holder: Holder) -> anyhow::Result<Channel> {
        let read = |name: String| fs::read_to_string(self.link().join(&name)).context(name);
        let identity = Identity::from_pem(
            read(format!("{}.pem", holder.file()))?,
            read(format!("{}.key", holder.file()))?,
        );
        let tls = ClientTlsConfig::new()
            .domain_name("localhost")
            .ca_certificate(Certificate::from_pem(fs::read_to_string(others.link().join("bundle.pem"))?))
            .identity(identity);
        Ok(Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?.connect_lazy())
    }

    /// The private keys of all programs, in PEM.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn private_keys(&self) -> io::Result<Vec<String>> {
        let path = |holder: Holder| self.link().join(format!("{}.key", holder.file()));
        Holder::ALL.into_iter().map(|holder| fs::read_to_string(path(holder))).collect()
    }

    fn link(&self) -> PathBuf {
        self.folder.path().join("current")
    }

    /// The folder that the link leads to.
    fn current(&self) -> PathBuf {
        fs::read_link(self.link()).unwrap_or_default()
    }

    /// Makes the next version of all files, and has everybody see it at once.
    fn replace(&self, make: impl FnOnce(&mut Made, &Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.versions += 1;
        let folder = self.folder.path().join(format!("version-{}", made.versions));
        fs::create_dir(&folder)?;
        make(&mut made, &folder)?;
        fs::write(folder.join("bundle.pem"), made.trusted.concat())?;
        let next = self.folder.path().join("next");
        symlink(&folder, &next)?;
        Ok(fs::rename(next, self.link())?)
    }
}

fn authority() -> anyhow::Result<(Issuer<'static, KeyPair>, String)> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.pem();
    Ok((Issuer::new(params, key), certificate))
}

fn issue(issuer: &Issuer<'static, KeyPair>, holder: Holder, folder: &Path) -> anyhow::Result<()> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(holder.id().as_str().try_into()?)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if holder == Holder::Dispatcher {
        params.subject_alt_names.push(SanType::DnsName("localhost".try_into()?));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    }
    let key = KeyPair::generate()?;
    fs::write(folder.join(format!("{}.pem", holder.file())), params.signed_by(&key, issuer)?.pem())?;
    Ok(fs::write(folder.join(format!("{}.key", holder.file())), key.serialize_pem())?)
}

fn copy_all(from: &Path, to: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(from)?.collect::<io::Result<Vec<_>>>()? {
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
