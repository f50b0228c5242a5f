//! Settings of tokens: callers that prove who they are without a certificate.

use std::path::PathBuf;

use clap::Args;

use super::Problems;

/// Flags about tokens.
#[derive(Debug, Clone, Args)]
pub struct TokenFlags {
    /// Token issuers file: whose bearer tokens (JWT) are taken from callers that have no certificate, with which keys they are checked, and
    /// which tenant and role their subjects have. Service accounts of Kubernetes are one such issuer. Workers need certificates. The file is
    /// followed: a new one is used within seconds, one that cannot be used changes nothing.
    #[arg(long, env = "BACKHAUL_TOKEN_ISSUERS", value_name = "FILE")]
    pub token_issuers: Option<PathBuf>,
}

impl TokenFlags {
    pub(super) fn check(&self, insecure: bool, problems: &mut Problems) {
        problems.require(
            self.token_issuers.is_none() || !insecure,
            "--token-issuers",
            "contradicts --insecure: a token in plaintext is everybody's",
        );
    }
}
