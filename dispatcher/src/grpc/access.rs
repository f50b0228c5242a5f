//! Who may do what: the one table of calls and messages by role. What is in no row, nobody may do.
//!
//! Tests walk it cell by cell against a served dispatcher, and compare it with the contract: a call or message that is added there
//! fails them until it has a row. Whose tasks and objects a role may touch is decided elsewhere, by tenant. Pure.

use backhaul_proto::v1::from_worker;

use super::identity::Principal;

/// What a principal is here for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Has a tenant's objects backed up, and sees and manages its tasks.
    Submitter,
    /// Sees a tenant's tasks.
    Reader,
    /// A submitter who also sees how much all tenants have in the queues, what events of all sources left, and the rules with their runs.
    Operator,
    /// Copies.
    Worker,
    /// Tells of uploads, at a port of its own.
    EventSource,
}

/// Who may do the thing of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Whoever has been let in at all.
    Everybody,
    /// Whoever has one of these roles.
    Roles(&'static [Role]),
}

const CALLERS: Who = Who::Roles(&[Role::Submitter, Role::Reader, Role::Operator]);
const MANAGERS: Who = Who::Roles(&[Role::Submitter, Role::Operator]);
const OPERATORS: Who = Who::Roles(&[Role::Operator]);
const WORKERS: Who = Who::Roles(&[Role::Worker]);

/// To see how much all tenants have.
pub const STATS_OF_ALL: &str = "/backhaul.v1.BackupService/GetQueueStats#all_tenants";
/// To open a worker's stream.
pub const CONNECT: &str = "/backhaul.v1.WorkerService/Connect";

/// All that somebody may do: calls by path, and after a `#` what not everybody who may make the call may do with it.
pub static TABLE: &[(&str, Who)] = &[
    ("/backhaul.v1.BackupService/SubmitBackup", MANAGERS),
    ("/backhaul.v1.BackupService/SubmitBackups", MANAGERS),
    ("/backhaul.v1.BackupService/GetBackup", CALLERS),
    ("/backhaul.v1.BackupService/ListBackups", CALLERS),
    ("/backhaul.v1.BackupService/CancelBackup", MANAGERS),
    ("/backhaul.v1.BackupService/RetryBackups", MANAGERS),
    ("/backhaul.v1.BackupService/GetQueueStats", CALLERS),
    (STATS_OF_ALL, OPERATORS),
    ("/backhaul.v1.BackupService/WatchBackups", CALLERS),
    ("/backhaul.v1.PrefixService/SubmitPrefixBackup", MANAGERS),
    ("/backhaul.v1.PrefixService/GetPrefixBackup", CALLERS),
    ("/backhaul.v1.PrefixService/ListPrefixBackups", CALLERS),
    ("/backhaul.v1.PrefixService/PausePrefixBackup", MANAGERS),
    ("/backhaul.v1.PrefixService/ResumePrefixBackup", MANAGERS),
    ("/backhaul.v1.PrefixService/CancelPrefixBackup", MANAGERS),
    ("/backhaul.v1.PrefixService/ListPrefixBackupFailures", CALLERS),
    ("/backhaul.v1.EventService/ListRemovals", OPERATORS),
    ("/backhaul.v1.EventService/ListQuarantinedEvents", OPERATORS),
    ("/backhaul.v1.EventService/GetQuarantinedEvent", OPERATORS),
    ("/backhaul.v1.EventService/RetryQuarantinedEvent", OPERATORS),
    ("/backhaul.v1.EventService/DiscardQuarantinedEvent", OPERATORS),
    ("/backhaul.v1.RuleService/ListRules", OPERATORS),
    ("/backhaul.v1.RuleService/RunRule", OPERATORS),
    ("/backhaul.v1.RuleService/PauseRule", OPERATORS),
    ("/backhaul.v1.RuleService/ResumeRule", OPERATORS),
    (CONNECT, WORKERS),
    ("/backhaul.v1.WorkerService/Connect#hello", WORKERS),
    ("/backhaul.v1.WorkerService/Connect#credit", WORKERS),
    ("/backhaul.v1.WorkerService/Connect#accepts", WORKERS),
    ("/backhaul.v1.WorkerService/Connect#heartbeat", WORKERS),
    ("/backhaul.v1.WorkerService/Connect#results", WORKERS),
    ("/backhaul.v1.WorkerService/Connect#draining", WORKERS),
    ("/backhaul.v1.WorkerService/Connect#paused", WORKERS),
    ("/backhaul.v1.WorkerService/Connect#listed", WORKERS),
    // Tells of nobody.
    ("/grpc.health.v1.Health/Check", Who::Everybody),
    ("/grpc.health.v1.Health/Watch", Who::Everybody),
    // The contract, which is public, for tools of people.
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", CALLERS),
];

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Submitter, Self::Reader, Self::Operator, Self::Worker, Self::EventSource];
}

impl Who {
    /// Whether whoever has `role` is one of them.
    #[must_use]
    pub fn includes_role(self, role: Role) -> bool {
        match self {
            Self::Everybody => true,
            Self::Roles(roles) => roles.contains(&role),
        }
    }

    /// Whether `principal` is one of them.
    #[must_use]
    pub fn includes(self, principal: &Principal) -> bool {
        match self {
            Self::Everybody => true,
            Self::Roles(roles) => roles.iter().any(|role| principal.has(*role)),
        }
    }
}

/// Who may do that; `None` when it is in no row, and so nobody.
#[must_use]
pub fn who_may(what: &str) -> Option<Who> {
    TABLE.iter().find(|(row, _)| *row == what).map(|(_, who)| *who)
}

/// Whether `principal` may do that.
#[must_use]
pub fn may(principal: &Principal, what: &str) -> bool {
    who_may(what).is_some_and(|who| who.includes(principal))
}

/// What it is to send that message on a worker's stream.
#[must_use]
pub const fn sending(message: &from_worker::Message) -> &'static str {
    use from_worker::Message;
    match message {
        Message::Hello(_) => "/backhaul.v1.WorkerService/Connect#hello",
        Message::Credit(_) => "/backhaul.v1.WorkerService/Connect#credit",
        Message::Accepts(_) => "/backhaul.v1.WorkerService/Connect#accepts",
        Message::Heartbeat(_) => "/backhaul.v1.WorkerService/Connect#heartbeat",
        Message::Results(_) => "/backhaul.v1.WorkerService/Connect#results",
        Message::Draining(_) => "/backhaul.v1.WorkerService/Connect#draining",
        Message::Paused(_) => "/backhaul.v1.WorkerService/Connect#paused",
        Message::Listed(_) => "/backhaul.v1.WorkerService/Connect#listed",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_call_and_message_of_the_contract_and_no_other() {
        let contract = FileDescriptorSet::decode(backhaul_proto::FILE_DESCRIPTOR_SET).unwrap();
        let ours: Vec<_> = contract.file.iter().filter(|file| file.package() == "backhaul.v1").collect();
        let mut expected = BTreeSet::from([STATS_OF_ALL.to_owned()]);
        for service in ours.iter().flat_map(|file| &file.service) {
            let paths =
                service.method.iter().map(|m| format!("/backhaul.v1.{}/{}", service.name(), m.name()));
            expected.extend(paths);
        }
        let from_worker = ours.iter().flat_map(|file| &file.message_type).find(|m| m.name() == "FromWorker");
        expected.extend(from_worker.unwrap().field.iter().map(|arm| format!("{CONNECT}#{}", arm.name())));
        let rows: Vec<_> = TABLE.iter().map(|(what, _)| (*what).to_owned()).collect();
        let distinct: BTreeSet<_> = rows.iter().cloned().collect();
        assert_eq!(distinct.len(), rows.len(), "a row is there twice");
        let of_contract = distinct.into_iter().filter(|what| what.starts_with("/backhaul."));
        assert_eq!(of_contract.collect::<BTreeSet<_>>(), expected);
    }

    /// Spelt out once more, as `deploy/README.md` has it: the tests over the served dispatcher take the table itself for granted.
    #[test]
    fn each_role_may_do_exactly_this() {
        const EVERYBODY: [&str; 2] = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];
        const LOOKS: [&str; 8] = [
            "/backhaul.v1.BackupService/GetBackup",
            "/backhaul.v1.BackupService/ListBackups",
            "/backhaul.v1.BackupService/WatchBackups",
            "/backhaul.v1.BackupService/GetQueueStats",
            "/backhaul.v1.PrefixService/GetPrefixBackup",
            "/backhaul.v1.PrefixService/ListPrefixBackups",
            "/backhaul.v1.PrefixService/ListPrefixBackupFailures",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ];
        const CHANGES: [&str; 8] = [
            "/backhaul.v1.BackupService/SubmitBackup",
            "/backhaul.v1.BackupService/SubmitBackups",
            "/backhaul.v1.BackupService/CancelBackup",
            "/backhaul.v1.BackupService/RetryBackups",
            "/backhaul.v1.PrefixService/SubmitPrefixBackup",
            "/backhaul.v1.PrefixService/PausePrefixBackup",
            "/backhaul.v1.PrefixService/ResumePrefixBackup",
            "/backhaul.v1.PrefixService/CancelPrefixBackup",
        ];
        const OF_ALL_TENANTS: [&str; 10] = [
            "/backhaul.v1.BackupService/GetQueueStats#all_tenants",
            "/backhaul.v1.EventService/ListRemovals",
            "/backhaul.v1.EventService/ListQuarantinedEvents",
            "/backhaul.v1.EventService/GetQuarantinedEvent",
            "/backhaul.v1.EventService/RetryQuarantinedEvent",
            "/backhaul.v1.EventService/DiscardQuarantinedEvent",
            "/backhaul.v1.RuleService/ListRules",
            "/backhaul.v1.RuleService/RunRule",
            "/backhaul.v1.RuleService/PauseRule",
            "/backhaul.v1.RuleService/ResumeRule",
        ];
        for role in Role::ALL {
            let expected: Vec<&[&str]> = match role {
                Role::Reader => vec![&LOOKS],
                Role::Submitter => vec![&LOOKS, &CHANGES],
                Role::Operator => vec![&LOOKS, &CHANGES, &OF_ALL_TENANTS],
                Role::Worker | Role::EventSource => vec![],
            };
            let expected: BTreeSet<&str> = expected.concat().into_iter().chain(EVERYBODY).collect();
            let allowed = TABLE.iter().filter(|(_, who)| who.includes_role(role)).map(|(what, _)| *what);
            let (stream, calls): (BTreeSet<_>, BTreeSet<_>) =
                allowed.partition(|what| what.starts_with(CONNECT));
            assert_eq!(calls, expected, "{role:?}");
            // The stream's messages are a worker's, all of them, and nobody else's.
            assert_eq!(!stream.is_empty(), role == Role::Worker, "{role:?}: {stream:?}");
        }
        let of_stream = TABLE.iter().filter(|(what, _)| what.starts_with(CONNECT));
        assert!(of_stream.clone().count() > 1 && of_stream.clone().all(|(_, who)| *who == WORKERS));
    }

    /// Who may name an address, a credential or a destination can have somebody else's rights used for it.
    #[test]
    fn no_request_names_where_to_go_or_as_whom() {
        const FORBIDDEN: [&str; 14] = [
            "url",
            "uri",
            "endpoint",
            "host",
            "address",
            "region",
            "credential",
            "secret",
            "password",
            "role",
            "arn",
            "destination",
            "target",
            "tenant",
        ];
        let contract = FileDescriptorSet::decode(backhaul_proto::FILE_DESCRIPTOR_SET).unwrap();
        let ours: Vec<_> = contract.file.iter().filter(|file| file.package() == "backhaul.v1").collect();
        let messages: Vec<_> = ours.iter().flat_map(|file| &file.message_type).collect();
        let methods = ours.iter().flat_map(|file| &file.service).flat_map(|service| &service.method);
        let mut open: Vec<String> = methods.map(|method| method.input_type().to_owned()).collect();
        let mut seen = BTreeSet::new();
        while let Some(name) = open.pop() {
            let is_named = |m: &&&prost_types::DescriptorProto| name == format!(".backhaul.v1.{}", m.name());
            let Some(message) = messages.iter().find(is_named).filter(|_| seen.insert(name.clone())) else {
                continue;
            };
            for field in &message.field {
                let is_bad = field.name().split('_').any(|word| FORBIDDEN.contains(&word));
                assert!(!is_bad, "{name} has a field {}", field.name());
                open.push(field.type_name().to_owned());
            }
        }
        assert!(seen.contains(".backhaul.v1.ObjectRef") && seen.contains(".backhaul.v1.Hello"), "{seen:?}");
    }

    #[test]
    fn what_is_in_no_row_nobody_may_do() {
        for what in
            ["", "/", "/backhaul.v1.BackupService/DeleteBackup", "/backhaul.v1.BackupService/GetBackup/"]
        {
            assert_eq!(who_may(what), None, "{what}");
        }
    }
}
