//! Who the subjects of an issuer are: rules in the order of the file, of which the first that fits counts. Whom no rule fits is nobody.
//!
//! Pure. A rule says what claims must be, and names a tenant and a role; it cannot make anybody a worker.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

use super::jwt::Claims;
use crate::grpc::identity::Caller;

/// The rules of an issuer.
#[derive(Debug)]
pub(super) struct Callers(Vec<Rule>);

/// Somebody, and who that is.
#[derive(Debug)]
struct Rule {
    /// All of them must hold; there is at least one.
    wants: Vec<Want>,
    tenant: Tenant,
    role: CallerRole,
}

/// What must hold of a token.
#[derive(Debug)]
enum Want {
    Subject(String),
    /// A service account of Kubernetes; `None` is any.
    ServiceAccount {
        namespace: Option<String>,
        name: Option<String>,
    },
    /// A claim is that text, or a list that holds it.
    Claim {
        name: String,
        is: String,
    },
}

/// Where the tenant comes from.
#[derive(Debug)]
enum Tenant {
    Named(Caller),
    /// The namespace of the service account.
    Namespace,
    /// What a claim says.
    Claim(String),
}

/// What a caller may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum CallerRole {
    Submitter,
    Reader,
    Operator,
}

/// A rule as the file has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    subject: Option<String>,
    service_account: Option<String>,
    #[serde(default)]
    claims: BTreeMap<String, String>,
    tenant: String,
    role: CallerRole,
}

/// What the subjects of service accounts begin with.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

impl Callers {
    /// Checks rules; `add` is told of each problem, with the setting that has it.
    pub(super) fn read(rules: Vec<RawRule>, add: &mut impl FnMut(String, &str)) -> Self {
        if rules.is_empty() {
            add("caller".to_owned(), "there is none, so no token of this issuer could be of use");
        }
        let numbered = rules.into_iter().enumerate();
        Self(
            numbered
                .filter_map(|(number, rule)| {
                    Rule::read(rule, &mut |setting: &str, what: &str| {
                        add(format!("caller[{number}].{setting}"), what)
                    })
                })
                .collect(),
        )
    }

    /// Whom these claims make their sender.
    pub(super) fn caller(&self, claims: &Claims<'_>) -> Option<Caller> {
        let rule = self.0.iter().find(|rule| rule.wants.iter().all(|want| want.holds(*claims)))?;
        let caller = match &rule.tenant {
            Tenant::Named(caller) => caller.clone(),
            Tenant::Namespace => Caller::new(service_account(*claims)?.0).ok()?,
            Tenant::Claim(name) => Caller::new(claims.get(name)?.as_str()?).ok()?,
        };
        Some(match rule.role {
            CallerRole::Submitter => caller,
            CallerRole::Reader => caller.reader(),
            CallerRole::Operator => caller.operator(),
        })
    }
}

impl Rule {
    fn read(raw: RawRule, add: &mut impl FnMut(&str, &str)) -> Option<Self> {
        let mut wants = Vec::new();
        if let Some(subject) = raw.subject {
            if subject.is_empty() {
                add("subject", "must not be empty");
            }
            wants.push(Want::Subject(subject));
        }
        let has_account = raw.service_account.is_some();
        if let Some(text) = raw.service_account {
            match account_pattern(&text) {
                Some(want) => wants.push(want),
                None => add("service_account", "must be NAMESPACE/NAME, either of them * for any, not both"),
            }
        }
        for (name, is) in raw.claims {
            if is.is_empty() {
                add("claims", "a claim must not be asked to be empty");
            }
            wants.push(Want::Claim { name, is });
        }
        if wants.is_empty() {
            add("subject", "or service_account or claims is needed: a rule for everybody is none");
        }
        let inner = raw.tenant.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let tenant = match inner {
            Some("namespace") if has_account => Some(Tenant::Namespace),
            Some("namespace") => {
                add("tenant", "{namespace} needs a service_account");
                None
            }
            Some("") => None,
            Some(claim) => Some(Tenant::Claim(claim.to_owned())),
            None => Caller::new(&raw.tenant).ok().map(Tenant::Named),
        };
        if tenant.is_none() && inner != Some("namespace") {
            add(
                "tenant",
                "must be a tenant (1 to 63 of a-z, 0-9, -, _ and .), {namespace}, or a claim in braces",
            );
        }
        Some(Self { wants, tenant: tenant?, role: raw.role })
    }
}

impl Want {
    fn holds(&self, claims: Claims<'_>) -> bool {
        match self {
            Self::Subject(is) => claims.subject() == Some(is),
            Self::ServiceAccount { namespace, name } => {
                let fits = |wanted: &Option<String>, found: &str| {
                    wanted.as_ref().is_none_or(|wanted| wanted == found)
                };
                service_account(claims).is_some_and(|found| fits(namespace, found.0) && fits(name, found.1))
            }
            Self::Claim { name, is } => match claims.get(name) {
                Some(Value::String(one)) => one == is,
                Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(is)),
                Some(_) | None => false,
            },
        }
    }
}

/// Namespace and name of the service account that a token is about.
fn service_account(claims: Claims<'_>) -> Option<(&str, &str)> {
    let (namespace, name) = claims.subject()?.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')?;
    (is_label(namespace) && is_label(name)).then_some((namespace, name))
}

/// What names of Kubernetes are made of: nothing that could be read as two names.
fn is_label(text: &str) -> bool {
    let is_plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    (1..=253).contains(&text.len()) && text.bytes().all(is_plain)
}

fn account_pattern(text: &str) -> Option<Want> {
    let (namespace, name) = text.split_once('/')?;
    let part = |text: &str| match text {
        "*" => Some(None),
        text => is_label(text).then(|| Some(text.to_owned())),
    };
    let (namespace, name) = (part(namespace)?, part(name)?);
    (namespace.is_some() || name.is_some()).then_some(Want::ServiceAccount { namespace, name })
}
