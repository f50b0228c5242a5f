//! Who calls: the one seam between a request and the tenant it acts for.
//!
//! Everything behind it, from authorisation to task ids, trusts the [`Caller`] alone. A tenant must never be taken from a
//! message body: a caller could name any. Certificates and tokens plug in here as further implementations of [`Identify`].

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use backhaul_runtime::locations::is_tenant_name;
use http::{Extensions, HeaderMap};

/// Finds out who makes a call.
#[async_trait]
pub trait Identify: fmt::Debug + Send + Sync + 'static {
    /// The caller, from the headers of the call and from what the transport knows about its peer (`extensions`, where a
    /// verified certificate would be). Bounded by the deadline of the call.
    ///
    /// # Errors
    /// [`Unidentified`]: the call is refused before anything of its message is looked at.
    async fn identify(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Caller, Unidentified>;
}

/// An identified caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    tenant: Arc<str>,
    is_operator: bool,
}

/// The caller is nobody known. The text is for the caller and must not help to guess a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unidentified(pub &'static str);

/// A text that is not the name of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tenant is 1 to 63 characters of a-z, 0-9, -, _ and .")]
pub struct InvalidTenant;

/// Every caller is the same tenant, named in the configuration: for deployments where the network decides who may call.
#[derive(Debug, Clone)]
pub struct ConfiguredTenant(Caller);

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
    async fn identify(&self, _: &HeaderMap, _: &Extensions) -> Result<Caller, Unidentified> {
        Ok(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wildcard_of_the_locations_file_is_never_a_tenant() {
        for bad in ["*", "", "Web", "we b", "ü", &"a".repeat(64)] {
            assert_eq!(Caller::new(bad), Err(InvalidTenant), "{bad:?}");
        }
        assert_eq!(Caller::new("team-a.web_1").unwrap().tenant(), "team-a.web_1");
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
