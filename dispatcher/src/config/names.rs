//! Who is what by name: the flags that say which SPIFFE ids are callers' and which are workers'.

use clap::Args;

use crate::grpc::{
    name_path::{CallerPath, ProgramPath},
    roles::Roles,
};

/// Paths of names by role.
#[derive(Debug, Clone, Args)]
pub struct NameFlags {
    /// Paths of the SPIFFE ids of callers: segments, `*` for any one segment, and `{tenant}` for the one that names the tenant they
    /// act for. For Kubernetes service accounts: `/ns/{tenant}/sa/*`.
    #[arg(
        long,
        env = "BACKHAUL_CALLER_PATH",
        default_value = "/backhaul/tenant/{tenant}",
        value_name = "PATH"
    )]
    pub caller_path: CallerPath,
    /// The same for callers that are operators too. Who has such a name needs no other.
    #[arg(
        long,
        env = "BACKHAUL_OPERATOR_PATH",
        default_value = "/backhaul/operator/{tenant}",
        value_name = "PATH"
    )]
    pub operator_path: CallerPath,
    /// The same for callers that may only look.
    #[arg(
        long,
        env = "BACKHAUL_READER_PATH",
        default_value = "/backhaul/reader/{tenant}",
        value_name = "PATH"
    )]
    pub reader_path: CallerPath,
    /// Paths of the SPIFFE ids of workers: segments, and `*` for any one segment. Who has such a name is no caller.
    #[arg(long, env = "BACKHAUL_WORKER_PATH", default_value = "/backhaul/worker", value_name = "PATH")]
    pub worker_path: ProgramPath,
}

impl NameFlags {
    /// The roles that names have.
    pub(super) fn roles(self) -> Roles {
        Roles {
            workers: self.worker_path,
            operators: self.operator_path,
            readers: self.reader_path,
            submitters: self.caller_path,
        }
    }
}
