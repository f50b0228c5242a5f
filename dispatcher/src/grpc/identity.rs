//! Who calls: the one seam between a request and the principal that makes it.
//!
//! Everything behind it, from authorisation to task ids, trusts the [`Caller`] alone. A tenant must never be taken from a
//! message body: a caller could name any. Certificates and tokens plug in here as further implementations of [`Identify`].

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use backhaul_runtime::locations::is_tenant_name;
use http::{Extensions, HeaderMap};

use super::{access::Role, ending::Ends, roles::Roles};
use crate::transport::Peer;

/// Finds out who makes a call.
#[async_trait]
pub trait Identify: fmt::Debug + Send + Sync + 'static {
    /// The principal, from the headers of the call and from what the transport knows about its peer (`extensions`, where a
    /// verified certificate would be). Bounded in time by whoever asks.
    ///
    /// # Errors
    /// [`Denied`]: the call is refused before anything of its message is looked at.
    async fn identify(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Principal, Denied>;
}

/// Somebody who has proved who they are, and what that makes them. Whoever is neither worker nor caller may do nothing.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The name that was proved.
    pub name: Arc<str>,
    /// What tenant it acts for, if it asks for backups.
    pub caller: Option<Caller>,
    /// Which worker it is, if it copies.
    pub worker: Option<WorkerName>,
    /// When streams that it opens must have ended, if its proof is this call's alone. A certificate is its connection's, which ends in
    /// time by itself.
    pub ends: Ends,
}

/// What is known of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerName {
    /// Nobody has proved anything: it may have the tasks of every location.
    Unproved,
    /// The path of its SPIFFE id.
    Path(Arc<str>),
}

/// An identified caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    tenant: Arc<str>,
    role: Role,
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
    /// It asks for what is no call.
    #[error("there is no such call")]
    NoSuchCall,
    /// Who it is could not be found out now.
    #[error("{0}")]
    NotNow(&'static str),
    /// Nothing is done that cannot be recorded.
    #[error("the audit log cannot be written")]
    NotRecorded,
}

/// A text that is not the name of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tenant is 1 to 63 characters of a-z, 0-9, -, _ and .")]
pub struct InvalidTenant;

/// Everybody is a worker, and a caller of the same tenant, named in the configuration: for deployments where the network decides who
/// may call.
#[derive(Debug, Clone)]
pub struct ConfiguredTenant(Principal);

/// Principals are the programs that their certificates name; the tenant is a part of the name.
#[derive(Debug, Clone)]
pub struct Certified(Arc<Roles>);

impl Principal {
    /// Whether it has that role.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        match role {
            Role::Worker => self.worker.is_some(),
            // Event sources have a port of their own, and no way to prove themselves here.
            Role::EventSource => false,
            Role::Submitter | Role::Reader | Role::Operator => {
                self.caller.as_ref().is_some_and(|caller| caller.role == role)
            }
        }
    }
}

impl Caller {
    /// A caller that submits for that tenant.
    ///
    /// # Errors
    /// [`InvalidTenant`]: also for `*`, which means "every tenant" in the locations file and must never be one.
    pub fn new(tenant: &str) -> Result<Self, InvalidTenant> {
        if is_tenant_name(tenant) {
            Ok(Self { tenant: tenant.into(), role: Role::Submitter })
        } else {
            Err(InvalidTenant)
        }
    }

    /// The same caller, who may also see what all tenants together have in the queues (counts and names, never tasks), and what
    /// events of all sources left.
    #[must_use]
    pub fn operator(self) -> Self {
        Self { role: Role::Operator, ..self }
    }

    /// The same caller, who may only look at what its tenant has.
    #[must_use]
    pub fn reader(self) -> Self {
        Self { role: Role::Reader, ..self }
    }

    /// Its role.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The tenant that the call acts for.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }
}

impl ConfiguredTenant {
    /// Takes everybody for `caller`.
    #[must_use]
    pub fn new(caller: Caller) -> Self {
        let (caller, worker) = (Some(caller), Some(WorkerName::Unproved));
        Self(Principal { name: "anybody".into(), caller, worker, ends: Ends::default() })
    }
}

#[async_trait]
impl Identify for ConfiguredTenant {
    async fn identify(&self, _: &HeaderMap, _: &Extensions) -> Result<Principal, Denied> {
        Ok(self.0.clone())
    }
}

impl Certified {
    /// Takes everybody for what their name makes them.
    #[must_use]
    pub const fn new(roles: Arc<Roles>) -> Self {
        Self(roles)
    }
}

#[async_trait]
impl Identify for Certified {
    async fn identify(&self, _: &HeaderMap, extensions: &Extensions) -> Result<Principal, Denied> {
        let identity = extensions.get::<Peer>().and_then(|peer| peer.identity.as_ref());
        let id = &identity.ok_or(Denied::Unidentified("a certificate is needed"))?.id;
        Ok(self.0.principal(id.as_str(), id.path()))
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
        let roles = Roles {
            workers: "/backhaul/worker".parse().unwrap(),
            operators: callers("operator"),
            readers: callers("reader"),
            submitters: callers("tenant"),
        };
        let identify = Certified::new(Arc::new(roles));
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
            let principal = identify.identify(&headers, &extensions).await?;
            Ok::<_, Denied>(principal.caller.map(|caller| caller.tenant().to_owned()))
        };
        assert_eq!(called(Some("spiffe://prod/backhaul/tenant/web")).await, Ok(Some("web".to_owned())));
        for other in ["worker", "dispatcher", "tenant/Web", "tenant/web/x"] {
            assert_eq!(called(Some(&format!("spiffe://prod/backhaul/{other}"))).await, Ok(None), "{other}");
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
        let principal = identify.identify(&headers, &Extensions::new()).await.unwrap();
        assert_eq!(principal.caller.unwrap().tenant(), "web");
    }
}
