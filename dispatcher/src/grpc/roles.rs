//! What a program is, by the path of its name: whoever is in no row is nobody, and may do nothing.
//!
//! Names are given by whoever signs certificates or tokens, so a path is to be trusted as far as its signer. What a role may do is in
//! [`super::access`]. Pure.

use super::{
    ending::Ends,
    identity::{Caller, Principal, WorkerName},
    name_path::{CallerPath, ProgramPath},
};

/// Who has which role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    /// Paths of workers.
    pub workers: ProgramPath,
    /// Of the others, those of operators.
    pub operators: CallerPath,
    /// Of the rest, those of callers that only look.
    pub readers: CallerPath,
    /// Of what is left then, those of callers that submit.
    pub submitters: CallerPath,
}

impl Roles {
    /// Whoever proved the name with that path. It has one role at most: a worker is no caller, also where both paths would take its name.
    #[must_use]
    pub fn principal(&self, name: &str, path: &str) -> Principal {
        let is_worker = self.workers.matches(path);
        Principal {
            name: name.into(),
            caller: if is_worker { None } else { self.caller(path) },
            worker: is_worker.then(|| WorkerName::Path(path.into())),
            ends: Ends::default(),
        }
    }

    fn caller(&self, path: &str) -> Option<Caller> {
        let operator = self.operators.caller(path).map(Caller::operator);
        let reader = || self.readers.caller(path).map(Caller::reader);
        operator.or_else(reader).or_else(|| self.submitters.caller(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::access::Role;

    #[test]
    fn a_name_has_one_role_or_none() {
        let role = |workers: &str, submitters: &str, path: &str| {
            let callers = |kind: &str| format!("/backhaul/{kind}/{{tenant}}").parse().unwrap();
            let roles = Roles {
                workers: workers.parse().unwrap(),
                operators: callers("operator"),
                readers: callers("reader"),
                submitters: submitters.parse().unwrap(),
            };
            let principal = roles.principal("", path);
            let had: Vec<Role> = Role::ALL.into_iter().filter(|role| principal.has(*role)).collect();
            assert!(had.len() < 2, "{path}: {had:?}");
            (had.first().copied(), principal.caller.map(|caller| caller.tenant().to_owned()))
        };
        let (workers, submitters) = ("/backhaul/worker", "/backhaul/tenant/{tenant}");
        let is = |role, tenant: &str| (Some(role), Some(tenant.to_owned()));
        assert_eq!(role(workers, submitters, "/backhaul/worker"), (Some(Role::Worker), None));
        assert_eq!(role(workers, submitters, "/backhaul/tenant/web"), is(Role::Submitter, "web"));
        assert_eq!(role(workers, submitters, "/backhaul/reader/web"), is(Role::Reader, "web"));
        assert_eq!(role(workers, submitters, "/backhaul/operator/ops"), is(Role::Operator, "ops"));
        for nobody in
            ["/backhaul/dispatcher", "/backhaul/worker/1", "/backhaul/tenant", "/backhaul/tenant/Web", "/x"]
        {
            assert_eq!(role(workers, submitters, nobody), (None, None), "{nobody}");
        }
        let (workers, submitters) = ("/ns/backhaul/sa/worker", "/ns/{tenant}/sa/*");
        let worker = role(workers, submitters, "/ns/backhaul/sa/worker");
        assert_eq!(worker, (Some(Role::Worker), None), "and no tenant");
        assert_eq!(role(workers, submitters, "/ns/backhaul/sa/other"), is(Role::Submitter, "backhaul"));
    }
}
