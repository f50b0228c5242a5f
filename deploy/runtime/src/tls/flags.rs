//! The settings of TLS, the same for every program.

use std::{fmt, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, builder::BoolishValueParser};

use super::{SpiffeError, SpiffeId, TlsSettings, TrustDomain, TrustSettings};
use crate::units::parse_duration;

/// How programs prove who they are.
#[derive(Debug, Clone, Args)]
pub struct TlsFlags {
    /// Own certificate and its chain, PEM. Its one URI name, a SPIFFE id, says who this program is. Read again when it changes.
    #[arg(long, env = "BACKHAUL_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of `--tls-cert`, PEM. Read again when it changes.
    #[arg(long, env = "BACKHAUL_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Certificates of the authorities that are trusted to name programs, PEM. Read again when it changes.
    #[arg(long, env = "BACKHAUL_TLS_BUNDLE", value_name = "FILE")]
    pub tls_bundle: Option<PathBuf>,
    /// Lists of what these authorities have revoked (CRLs), PEM. Read again when it changes. An authority without a list has revoked
    /// nothing; a list that is overdue is used all the same, and complained of.
    #[arg(long, env = "BACKHAUL_TLS_CRL", value_name = "FILE")]
    pub tls_crl: Option<PathBuf>,
    /// Trust domains whose programs may be spoken with. May be given several times, or list several with commas.
    #[arg(long, env = "BACKHAUL_TRUST_DOMAIN", value_name = "NAME", value_delimiter = ',')]
    pub trust_domain: Vec<String>,
    /// How often to look whether these files have changed.
    #[arg(long, env = "BACKHAUL_TLS_RELOAD_EVERY", default_value = "10s", value_name = "TIME", value_parser = parse_duration)]
    pub tls_reload_every: Duration,
    /// Speak plaintext and let in everybody who reaches the port. For development, or where a mesh does all this.
    #[arg(
        long,
        env = "BACKHAUL_INSECURE",
        value_name = "BOOL",
        value_parser = BoolishValueParser::new(),
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value_t = false
    )]
    pub insecure: bool,
}

/// What is wrong with the settings of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsProblem {
    /// Neither secured nor declared insecure.
    Missing(&'static str),
    /// Both.
    Contradiction(&'static str),
    /// A flag that does not go with another.
    Contradicts(&'static str, &'static str),
    /// Not a trust domain.
    TrustDomain(String, SpiffeError),
    /// A time that makes no sense.
    ReloadEvery,
}

impl TlsProblem {
    /// The flag to change.
    #[must_use]
    pub const fn setting(&self) -> &'static str {
        match self {
            Self::Missing(flag) => flag,
            Self::Contradiction(_) => "--insecure",
            Self::Contradicts(flag, _) => flag,
            Self::TrustDomain(..) => "--trust-domain",
            Self::ReloadEvery => "--tls-reload-every",
        }
    }

    /// What is wrong with it.
    #[must_use]
    pub fn what(&self) -> String {
        match self {
            Self::Missing(_) => "is needed, unless --insecure says that plaintext is wanted".to_owned(),
            Self::Contradiction(flag) | Self::Contradicts(_, flag) => format!("contradicts {flag}"),
            Self::TrustDomain(name, problem) => format!("`{name}`: {problem}"),
            Self::ReloadEvery => "must be 10ms to 1h".to_owned(),
        }
    }
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting(), self.what())
    }
}

impl std::error::Error for TlsProblem {}

impl TlsFlags {
    /// The settings; `None` for plaintext, which must have been asked for.
    ///
    /// # Errors
    /// The first [`TlsProblem`].
    pub fn settings(&self) -> Result<Option<TlsSettings>, TlsProblem> {
        let given = [
            ("--tls-cert", self.tls_cert.is_some()),
            ("--tls-key", self.tls_key.is_some()),
            ("--tls-bundle", self.tls_bundle.is_some()),
            ("--tls-crl", self.tls_crl.is_some()),
            ("--trust-domain", !self.trust_domain.is_empty()),
        ];
        if self.insecure {
            return match given.iter().find(|(_, is_given)| *is_given) {
                Some((flag, _)) => Err(TlsProblem::Contradiction(flag)),
                None => Ok(None),
            };
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(3600)).contains(&self.tls_reload_every) {
            return Err(TlsProblem::ReloadEvery);
        }
        let missing = |flag| move || TlsProblem::Missing(flag);
        let certificate = self.tls_cert.clone().ok_or_else(missing("--tls-cert"))?;
        let key = self.tls_key.clone().ok_or_else(missing("--tls-key"))?;
        let TrustSettings { bundle, crl, trust_domains } = self.trusted()?;
        Ok(Some(TlsSettings { certificate, key, bundle, crl, trust_domains, anonymous_peers: false }))
    }

    /// The settings of a caller that has no certificate but what `instead` names, such as `--token-file`.
    ///
    /// # Errors
    /// The first [`TlsProblem`]: a certificate would be a second name, and a token in plaintext is everybody's.
    pub fn without_certificate(&self, instead: &'static str) -> Result<TrustSettings, TlsProblem> {
        let given = [
            ("--insecure", self.insecure),
            ("--tls-cert", self.tls_cert.is_some()),
            ("--tls-key", self.tls_key.is_some()),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((flag, _)) => Err(TlsProblem::Contradicts(flag, instead)),
            None => self.trusted(),
        }
    }

    fn trusted(&self) -> Result<TrustSettings, TlsProblem> {
        let bundle = self.tls_bundle.clone().ok_or(TlsProblem::Missing("--tls-bundle"))?;
        if self.trust_domain.is_empty() {
            return Err(TlsProblem::Missing("--trust-domain"));
        }
        let trust_domains = self
            .trust_domain
            .iter()
            .map(|name| name.parse().map_err(|error| TlsProblem::TrustDomain(name.clone(), error)))
            .collect::<Result<Vec<TrustDomain>, _>>()?;
        Ok(TrustSettings { bundle, crl: self.tls_crl.clone(), trust_domains })
    }
}

impl TlsSettings {
    /// The dispatcher to speak with: `given`, or the one of the first trust domain.
    ///
    /// # Errors
    /// [`SpiffeError`], which cannot happen with settings that came from flags.
    pub fn dispatcher(&self, given: Option<&SpiffeId>) -> Result<SpiffeId, SpiffeError> {
        dispatcher(&self.trust_domains, given)
    }
}

/// The dispatcher to speak with.
pub(super) fn dispatcher(
    trust_domains: &[TrustDomain],
    given: Option<&SpiffeId>,
) -> Result<SpiffeId, SpiffeError> {
    /// The name that dispatchers have where none is given.
    const PATH: &str = "/backhaul/dispatcher";
    match (given, trust_domains.first()) {
        (Some(id), _) => Ok(id.clone()),
        (None, Some(domain)) => domain.id(PATH),
        (None, None) => Err(SpiffeError::TrustDomain),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        tls: TlsFlags,
    }

    fn settings(args: &str) -> Result<Option<TlsSettings>, TlsProblem> {
        Program::try_parse_from(format!("program {args}").split_whitespace()).unwrap().tls.settings()
    }

    #[test]
    fn plaintext_must_be_asked_for() {
        assert_eq!(settings("--insecure"), Ok(None));
        assert_eq!(settings("--insecure=false"), Err(TlsProblem::Missing("--tls-cert")));
        assert_eq!(settings(""), Err(TlsProblem::Missing("--tls-cert")));
        assert_eq!(settings("--tls-cert c --tls-key k"), Err(TlsProblem::Missing("--tls-bundle")));
        let files = "--tls-cert c --tls-key k --tls-bundle b";
        assert_eq!(settings(files), Err(TlsProblem::Missing("--trust-domain")));
        assert_eq!(settings("--insecure --tls-key k"), Err(TlsProblem::Contradiction("--tls-key")));
        let bad = settings(&format!("{files} --trust-domain prod,B"));
        assert!(matches!(bad, Err(TlsProblem::TrustDomain(name, _)) if name == "B"));
        assert_eq!(settings("--insecure --tls-crl c"), Err(TlsProblem::Contradiction("--tls-crl")));
        let never = settings(&format!("{files} --trust-domain prod --tls-reload-every 0s"));
        assert_eq!(never, Err(TlsProblem::ReloadEvery));
    }

    #[test]
    fn a_caller_with_a_token_has_no_certificate_and_no_plaintext() {
        let without = |args: &str| {
            let program = Program::try_parse_from(format!("program {args}").split_whitespace()).unwrap();
            program.tls.without_certificate("--token-file")
        };
        let trust = without("--tls-bundle b --trust-domain prod --tls-crl c").unwrap();
        assert_eq!(trust.dispatcher(None).unwrap().as_str(), "spiffe://prod/backhaul/dispatcher");
        assert_eq!(trust.crl, Some("c".into()));
        assert_eq!(without("--tls-bundle b"), Err(TlsProblem::Missing("--trust-domain")));
        for flag in ["--insecure", "--tls-cert", "--tls-key"] {
            let value = if flag == "--insecure" { "" } else { "x" };
            let problem = without(&format!("{flag} {value} --tls-bundle b --trust-domain prod")).unwrap_err();
            assert_eq!(problem.to_string(), format!("{flag}: contradicts --token-file"));
        }
    }

    #[test]
    fn the_dispatcher_has_a_name_unless_another_is_given() {
        let files = "--tls-cert c --tls-key k --tls-bundle b --trust-domain prod,other";
        let settings = settings(files).unwrap().unwrap();
        assert_eq!(settings.trust_domains.len(), 2);
        assert_eq!(settings.dispatcher(None).unwrap().as_str(), "spiffe://prod/backhaul/dispatcher");
        let given: SpiffeId = "spiffe://prod/elsewhere".parse().unwrap();
        assert_eq!(settings.dispatcher(Some(&given)), Ok(given));
    }
}
