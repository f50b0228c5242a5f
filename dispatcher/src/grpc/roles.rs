//! What a program may do, by the path of its name: the one table of roles. Whoever is in no row may do nothing.
//!
//! Names are given by whoever signs certificates, so a path is to be trusted as far as its trust domain. Pure.

use backhaul_runtime::tls::SpiffeId;

use super::{
    identity::Caller,
    name_path::{CallerPath, ProgramPath},
};

/// Who has which role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    workers: ProgramPath,
    operators: CallerPath,
    callers: CallerPath,
}

/// What a program is here for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It copies: `WorkerService`, and nothing else.
    Worker,
    /// It asks for backups: `BackupService`, and nothing else.
    Caller(Caller),
}

impl Roles {
    /// Programs with a path of `workers` are workers; of the others, those with a path of `operators` or `callers` are callers.
    #[must_use]
    pub const fn new(workers: ProgramPath, operators: CallerPath, callers: CallerPath) -> Self {
        Self { workers, operators, callers }
    }

    /// The role of a program, which is one at most: a worker is no caller, also where both paths would take its name.
    #[must_use]
    pub fn of(&self, id: &SpiffeId) -> Option<Role> {
        if self.workers.matches(id.path()) {
            return Some(Role::Worker);
        }
        let operator = self.operators.caller(id.path()).map(Caller::operator);
        operator.or_else(|| self.callers.caller(id.path())).map(Role::Caller)
    }

    /// True when a program may open streams as a worker.
    #[must_use]
    pub fn is_worker(&self, id: &SpiffeId) -> bool {
        self.of(id) == Some(Role::Worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_role_or_none() {
        let role = |workers: &str, callers: &str, path: &str| {
            let operators = "/backhaul/operator/{tenant}".parse().unwrap();
            let roles = Roles::new(workers.parse().unwrap(), operators, callers.parse().unwrap());
            roles.of(&format!("spiffe://prod{path}").parse().unwrap())
        };
        let caller = |tenant| Some(Role::Caller(Caller::new(tenant).unwrap()));
        let (workers, callers) = ("/backhaul/worker", "/backhaul/tenant/{tenant}");
        assert_eq!(role(workers, callers, "/backhaul/worker"), Some(Role::Worker));
        assert_eq!(role(workers, callers, "/backhaul/tenant/web"), caller("web"));
        let operator = Caller::new("ops").unwrap().operator();
        assert_eq!(role(workers, callers, "/backhaul/operator/ops"), Some(Role::Caller(operator)));
        for nobody in
            ["/backhaul/dispatcher", "/backhaul/worker/1", "/backhaul/tenant", "/backhaul/tenant/Web", "/x"]
        {
            assert_eq!(role(workers, callers, nobody), None, "{nobody}");
        }
        let (workers, callers) = ("/ns/backhaul/sa/worker", "/ns/{tenant}/sa/*");
        assert_eq!(role(workers, callers, "/ns/backhaul/sa/worker"), Some(Role::Worker), "and no tenant");
        assert_eq!(role(workers, callers, "/ns/backhaul/sa/other"), caller("backhaul"));
    }
}
