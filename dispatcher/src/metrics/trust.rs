//! What is shown of who is trusted: token issuers' keys, revocation lists, and whether the files of TLS are the ones in use.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use backhaul_runtime::{
    metrics::Page,
    tls::{FilesState, Tls},
};

use super::names;
use crate::grpc::tokens::follow::LiveIssuers;

/// Who is trusted, to be looked at; nobody by default.
#[derive(Debug, Default)]
pub struct Trust {
    /// Certificates.
    pub tls: Option<Tls>,
    /// Tokens.
    pub issuers: Option<LiveIssuers>,
    /// Whether the newest file of token issuers is not in force.
    pub issuers_refused: Arc<AtomicBool>,
}

impl Trust {
    /// Writes how it stands at `now`.
    pub(super) fn write(&self, page: &mut Page, now: SystemTime) {
        let files = self.tls.as_ref().map(Tls::files);
        let mut current = page.family(&names::TLS_FILES);
        if let Some(FilesState { are_current, .. }) = files {
            current.value(&[], u8::from(are_current));
        }
        let mut left = page.family(&names::CRL_LEFT);
        if let Some(until) = files.and_then(|files| files.crl_until) {
            left.value(&[], seconds_until(until, now));
        }
        page.value(&names::ISSUERS_REFUSED, u8::from(self.issuers_refused.load(Ordering::Relaxed)));
        let mut ages = page.family(&names::ISSUER_KEYS);
        let issuers = self.issuers.as_ref().map(LiveIssuers::now).unwrap_or_default();
        for (issuer, age) in issuers.key_ages() {
            ages.value(&[issuer], age.as_secs_f64());
        }
    }
}

/// Negative when it is over.
fn seconds_until(until: SystemTime, now: SystemTime) -> f64 {
    match until.duration_since(now) {
        Ok(left) => left.as_secs_f64(),
        Err(over) => -Duration::as_secs_f64(&over.duration()),
    }
}
