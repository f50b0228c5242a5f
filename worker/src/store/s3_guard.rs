//! No request leaves for an address that no store may have, whichever way it is sent.
//!
//! A name is checked with every look-up, because it may lead elsewhere tomorrow than it did when the program started; a host that is an address is
//! checked with every request, because connections to it are made without a look-up; the locations file has refused such a host before, so
//! that is a second line. What asks a cloud for credentials does not come by here:
//! it goes to such addresses on purpose, and to no others than its own settings name.

use aws_smithy_runtime_api::client::{
    dns::{DnsFuture, ResolveDns, ResolveDnsError},
    http::{HttpConnector, HttpConnectorFuture},
    orchestrator::HttpRequest,
    result::ConnectorError,
};
use backhaul_runtime::address::{AddressRule, look_up};
use http::Uri;

/// The system's resolver.
#[derive(Debug, Clone, Copy)]
pub(super) struct SystemNames;

/// A resolver that gives no address that may not be used.
#[derive(Debug, Clone)]
pub(super) struct CheckedNames<R> {
    names: R,
    rule: AddressRule,
}

/// A connector whose requests to hosts that are addresses are checked.
#[derive(Debug)]
pub(super) struct CheckedConnector<C> {
    connector: C,
    rule: AddressRule,
}

impl<R> CheckedNames<R> {
    pub(super) const fn new(names: R, rule: AddressRule) -> Self {
        Self { names, rule }
    }
}

impl<C> CheckedConnector<C> {
    pub(super) const fn new(connector: C, rule: AddressRule) -> Self {
        Self { connector, rule }
    }
}

impl ResolveDns for SystemNames {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move { look_up(name).await.map_err(ResolveDnsError::new) })
    }
}

impl<R: ResolveDns> ResolveDns for CheckedNames<R> {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            let found = self.names.resolve_dns(name).await?;
            self.rule.allowed(found).map_err(ResolveDnsError::new)
        })
    }
}

impl<C: HttpConnector> HttpConnector for CheckedConnector<C> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let uri = request.uri().parse::<Uri>();
        let checked = uri.map(|uri| uri.host().map_or(Ok(()), |host| self.rule.check_host(host)));
        match checked {
            Ok(Ok(())) => self.connector.call(request),
            Ok(Err(forbidden)) => HttpConnectorFuture::ready(Err(ConnectorError::user(forbidden.into()))),
            Err(malformed) => HttpConnectorFuture::ready(Err(ConnectorError::user(malformed.into()))),
        }
    }
}
