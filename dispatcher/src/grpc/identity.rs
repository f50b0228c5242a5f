//! Who calls: the one seam between a request and the tenant it acts for.
//!
//! Everything behind it, from authorisation to task ids, trusts the [`Caller`] alone. A tenant must never be taken from a
//! message body: a caller could name any. Certificates and tokens plug in here as further implementations of [`Identify`].

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use backhaul_runtime::locations::is_tenant_name;
use http::{Extensions, HeaderMap};

use super::roles::{Role, Roles};
use crate::transport::Peer;

/// Finds out who makes a call.
#[async_trait]
pub trait Identify: fmt::Debug + Send + Sync + 'static {
    /// The caller, from the headers of the call and from what the transport knows about its peer (`extensions`, where a
    /// verified certificate would be). Bounded by the deadline of the call.
    ///
    /// # Errors
    /// [`Denied`]: the call is refused before anything of its message is looked at.
    async fn identify(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Caller, Denied>;
}

/// An identified caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    tenant: Arc<str>,
    is_operator: bool,
}

/// Why a call is not let in. The text is for the caller and must not help to guess a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The caller is nobody known.
    #[error("{0}")]
    Unidentified(&'static str),
    /// It is known, and here for something else.
    #[error("{0}")]
    Role(&'static str),
}

/// A text that is not the name of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tenant is 1 to 63 characters of a-z, 0-9, -, _ and .")]
pub struct InvalidTenant;

/// Every caller is the same tenant, named in the configuration: for deployments where the network decides who may call.
#[derive(Debug, Clone)]
pub struct ConfiguredTenant(Caller);

/// Callers are the programs that their certificates name; the tenant is a part of the name.
#[derive(Debug, Clone)]
pub struct CertifiedTenant(Arc<Roles>);

impl Caller {
    /// A caller of that tenant.
    ///
    /// # Errors
    /// [`InvalidTenant`]: also for `*`, which means "every tenant" in the locations file and must never be one.
    pub fn new(tenant: &str) -> Result<Self, InvalidTenant> {
        if is_tenant_name(tenant) {
            Ok(Self { tenant: tenant.into(), is_operator: false })
        } else {
            Err(InvalidTenant)
        }
    }

    /// The same caller, who may also see what all tenants together have in the queues: counts and names, never tasks.
    #[must_use]
    pub fn operator(self) -> Self {
        Self { is_operator: true, ..self }
    }

    /// Whether the caller may see what all tenants together have.
    #[must_use]
    pub const fn is_operator(&self) -> bool {
        self.is_operator
    }

    /// The tenant that the call acts for.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }
}

impl ConfiguredTenant {
    /// Takes every caller for `caller`.
    #[must_use]
    pub const fn new(caller: Caller) -> Self {
        Self(caller)
    }
}

#[async_trait]
impl Identify for ConfiguredTenant {
    async fn identify(&self, _: &HeaderMap, _: &Extensions) -> Result<Caller, Denied> {
        Ok(self.0.clone())
    }
}

impl CertifiedTenant {
    /// Takes for callers who has that role.
    #[must_use]
    pub const fn new(roles: Arc<Roles>) -> Self {
        Self(roles)
    }
}

#[async_trait]
impl Identify for CertifiedTenant {
    async fn identify(&self, _: &HeaderMap, extensions: &Extensions) -> Result<Caller, Denied> {
        let identity = extensions.get::<Peer>().and_then(|peer| peer.identity.as_ref());
        let id = &identity.ok_or(Denied::Unidentified("a certificate is needed"))?.id;
        match self.0.of(id) {
            Some(Role::Caller(caller)) => Ok(caller),
            Some(Role::Worker) | None => {
                Err(Denied::Role("the certificate names a program that is no caller"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::SystemTime};

    use backhaul_runtime::tls::PeerIdentity;

    use super::*;

    #[test]
    fn the_wildcard_of_the_locations_file_is_never_a_tenant() {
        for bad in ["*", "", "Web", "we b", "ü", &"a".repeat(64)] {
            assert_eq!(Caller::new(bad), Err(InvalidTenant), "{bad:?}");
        }
        assert_eq!(Caller::new("team-a.web_1").unwrap().tenant(), "team-a.web_1");
    }

    #[tokio::test]
    async fn a_certified_caller_is_who_its_certificate_says_and_nothing_else() {
        let callers = |kind| format!("/backhaul/{kind}/{{tenant}}").parse().unwrap();
        let roles = Roles::new("/backhaul/worker".parse().unwrap(), callers("operator"), callers("tenant"));
        let identify = CertifiedTenant::new(Arc::new(roles));
        let mut headers = HeaderMap::new();
        headers.insert("x-backhaul-tenant", "other".parse().unwrap());
        let called = async |id: Option<&str>| {
            let mut peer = Peer::at(SocketAddr::from(([127, 0, 0, 1], 1)));
            peer.identity = id.map(|id| PeerIdentity {
                id: id.parse().unwrap(),
                not_after: SystemTime::UNIX_EPOCH,
                trust: 0,
            });
            let mut extensions = Extensions::new();
            extensions.insert(peer);
            identify.identify(&headers, &extensions).await.map(|caller| caller.tenant().to_owned())
        };
        assert_eq!(called(Some("spiffe://prod/backhaul/tenant/web")).await, Ok("web".to_owned()));
        for other in ["worker", "dispatcher", "tenant/Web", "tenant/web/x"] {
            let denied = called(Some(&format!("spiffe://prod/backhaul/{other}"))).await.unwrap_err();
            assert!(matches!(denied, Denied::Role(_)), "{other}");
        }
        assert!(matches!(called(None).await, Err(Denied::Unidentified(_))));
        assert!(identify.identify(&headers, &Extensions::new()).await.is_err());
    }

    #[tokio::test]
    async fn headers_cannot_change_the_configured_tenant() {
        let identify = ConfiguredTenant::new(Caller::new("web").unwrap());
        let mut headers = HeaderMap::new();
        headers.insert("tenant", "other".parse().unwrap());
        headers.insert("x-backhaul-tenant", "other".parse().unwrap());
        assert_eq!(identify.identify(&headers, &Extensions::new()).await.unwrap().tenant(), "web");
    }
}
