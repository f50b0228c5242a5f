//! Reading the rules file: TOML into [`Rules`], with every problem named by rule and setting.
//!
//! A rule comes under the very checks that a call to back up its prefix would, and under the grants of its tenant. Must not ask a store
//! or the queue anything.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use backhaul_proto::v1 as pb;
use backhaul_runtime::{
    locations::{Locations, Refusal, is_location_name, is_tenant_name},
    settings_file::{self, FileError, Problems},
    units::{parse_duration, parse_size},
};
use serde::Deserialize;

use super::{LABEL, MARK, Rule, Rules};
use crate::{
    grpc::{backup_service::SubmitDefaults, present, status::ApiError, validate::prefix},
    schedule::calendar::{Calendar, InvalidCalendar, instant},
};

/// Largest rules file, in bytes.
pub(super) const MAX_FILE_BYTES: u64 = 256 * 1024;
/// Most rules: each is compared with every object.
const MAX_RULES: usize = 500;
/// As long as the name of a run can be.
const LONGEST_TIME: &str = "2027-01-31T09:00:00.000Z";

impl Rules {
    /// Checks the text of a file; `path` is only for errors.
    ///
    /// # Errors
    /// [`FileError`], naming each rule and setting that is wrong.
    pub fn parse(
        text: &str,
        path: &Path,
        locations: &Locations,
        defaults: SubmitDefaults,
    ) -> Result<Self, FileError> {
        let file: RawFile = settings_file::parse(text, path)?;
        let mut problems = Problems::default();
        if file.rule.len() > MAX_RULES {
            problems.add("rule", format!("must be at most {MAX_RULES} rules"));
        }
        let mut rules: Vec<Arc<Rule>> = Vec::new();
        for (name, raw) in file.rule {
            let mut add = |setting: &str, what: &str| problems.add(format!("rule.{name}{setting}"), what);
            rules.extend(rule(&name, raw, locations, defaults, &mut add).map(Arc::new));
        }
        for (at, one) in rules.iter().enumerate() {
            let differs = |other: &&Arc<Rule>| {
                let (one, other) = (one.as_ref(), other.as_ref());
                let names = |rule: &Rule| {
                    let spec = &rule.spec;
                    [&spec.tenant, &spec.location, &spec.bucket, &spec.prefix, &spec.filter.suffix]
                        .map(Clone::clone)
                };
                names(one) == names(other) && one.retention_class != other.retention_class
            };
            if let Some(other) = rules[..at].iter().find(differs) {
                let (name, other) = (&one.name, &other.name);
                problems.add(
                    format!("rule.{name}.retention_class"),
                    format!("rule.{other} is about the same objects, so it must be the same"),
                );
            }
        }
        problems.unless_any(path, Self::new(rules))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    rule: BTreeMap<String, RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    tenant: String,
    location: String,
    bucket: String,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    suffix: String,
    min_size: Option<String>,
    max_size: Option<String>,
    modified_since: Option<String>,
    #[serde(default)]
    versions: RawVersions,
    priority: Option<RawPriority>,
    verify: Option<RawVerify>,
    #[serde(default)]
    retention_class: String,
    #[serde(default)]
    max_attempts: u32,
    processing_timeout: Option<String>,
    #[serde(default)]
    labels: HashMap<String, String>,
    schedule: Option<String>,
    time_zone: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawVersions {
    #[default]
    Current,
    All,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawPriority {
    Low,
    Normal,
    High,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawVerify {
    Receipt,
    Head,
    Readback,
}

fn rule(
    name: &str,
    raw: RawRule,
    locations: &Locations,
    defaults: SubmitDefaults,
    add: &mut dyn FnMut(&str, &str),
) -> Option<Rule> {
    if !is_location_name(name) {
        add("", "a name is 1 to 63 characters of a-z, 0-9 and -, and starts with a letter");
    }
    if !is_tenant_name(&raw.tenant) {
        add(".tenant", "a tenant is 1 to 63 characters of a-z, 0-9, -, _ and .");
    }
    if raw.labels.contains_key(LABEL) {
        add(".labels", "must not have `rule`, which says the rule's name");
    }
    let calendar = calendar(&raw, add);
    let classes = locations.get(&raw.location).and_then(|location| location.backup.as_ref());
    let knows = classes.is_some_and(|backup| backup.classes.contains_key(&raw.retention_class));
    if !raw.retention_class.is_empty() && !knows {
        let what = format!("the backups of location `{}` have no such retention class", raw.location);
        add(".retention_class", &what);
    }
    let (retention_class, tenant) = (raw.retention_class.clone(), raw.tenant.clone());
    let (schedule, time_zone) = (raw.schedule.clone().unwrap_or_default(), raw.time_zone.clone());
    let priority = raw.priority.map(|priority| match priority {
        RawPriority::Low => crate::queue::Priority::Low,
        RawPriority::Normal => crate::queue::Priority::Normal,
        RawPriority::High => crate::queue::Priority::High,
    });
    let request = request(name, raw, add);
    let spec = match prefix::spec(&tenant, locations, defaults, request) {
        Ok(spec) => Some(spec),
        Err(error) => {
            told(error, &tenant, add);
            None
        }
    };
    Some(Rule {
        name: name.to_owned(),
        spec: spec?,
        priority,
        retention_class,
        calendar,
        schedule,
        time_zone: time_zone.unwrap_or_else(|| UTC.to_owned()),
    })
}

const UTC: &str = "UTC";

fn calendar(raw: &RawRule, add: &mut dyn FnMut(&str, &str)) -> Option<Calendar> {
    let Some(schedule) = &raw.schedule else {
        if raw.time_zone.is_some() {
            add(".time_zone", "is of no use without a schedule");
        }
        return None;
    };
    match Calendar::parse(schedule, raw.time_zone.as_deref().unwrap_or(UTC)) {
        Ok(calendar) => Some(calendar),
        Err(problem) => {
            let setting = match problem {
                InvalidCalendar::Expression(_) | InvalidCalendar::Never => ".schedule",
                InvalidCalendar::Zone => ".time_zone",
            };
            add(setting, &problem.to_string());
            None
        }
    }
}

/// What a caller would have sent, so that both come under the same checks.
fn request(name: &str, raw: RawRule, add: &mut dyn FnMut(&str, &str)) -> pb::SubmitPrefixBackupRequest {
    let mut size = |setting: &str, text: Option<String>| {
        let size = text.map(|text| parse_size(&text)).transpose();
        size.unwrap_or_else(|error| {
            add(setting, &error.to_string());
            None
        })
    };
    let (min_size, max_size) = (size(".min_size", raw.min_size), size(".max_size", raw.max_size));
    let modified_since = raw.modified_since.and_then(|text| {
        let at = instant(&text);
        if at.is_none() {
            add(".modified_since", "must be an instant such as 2027-01-31T09:00:00Z");
        }
        at.map(present::timestamp)
    });
    let processing_timeout = raw.processing_timeout.and_then(|text| {
        let time = parse_duration(&text).map_err(|error| add(".processing_timeout", &error.to_string())).ok();
        time.and_then(|time| prost_types::Duration::try_from(time).ok())
    });
    let mut labels = raw.labels;
    labels.insert(LABEL.to_owned(), name.to_owned());
    pb::SubmitPrefixBackupRequest {
        request_id: format!("{MARK}{name}:{LONGEST_TIME}"),
        prefix: Some(pb::PrefixRef { location: raw.location, bucket: raw.bucket, prefix: raw.prefix }),
        filter: Some(pb::ObjectFilter {
            suffix: raw.suffix,
            min_size_bytes: min_size.unwrap_or_default(),
            max_size_bytes: max_size,
            modified_since,
        }),
        versions: match raw.versions {
            RawVersions::Current => pb::ObjectVersions::Current,
            RawVersions::All => pb::ObjectVersions::All,
        }
        .into(),
        options: Some(pb::PrefixBackupOptions {
            priority: match raw.priority {
                None => pb::Priority::Unspecified,
                Some(RawPriority::Low) => pb::Priority::Low,
                Some(RawPriority::Normal) => pb::Priority::Normal,
                Some(RawPriority::High) => pb::Priority::High,
            }
            .into(),
            max_attempts: raw.max_attempts,
            labels,
            verify: match raw.verify {
                None => pb::VerifyLevel::Unspecified,
                Some(RawVerify::Receipt) => pb::VerifyLevel::Receipt,
                Some(RawVerify::Head) => pb::VerifyLevel::Head,
                Some(RawVerify::Readback) => pb::VerifyLevel::Readback,
            }
            .into(),
            processing_timeout,
        }),
    }
}

/// A refusal of the request in the words of the file.
fn told(error: ApiError, tenant: &str, add: &mut dyn FnMut(&str, &str)) {
    if let ApiError::Invalid(violations) = error {
        for violation in violations {
            // What is too long for a request's name is too long for the rule's, which is told already.
            let setting = match violation.field.as_str() {
                "request_id" => continue,
                "filter.max_size_bytes" => ".max_size".to_owned(),
                field => format!(".{}", field.split_once('.').map_or(field, |(_, setting)| setting)),
            };
            add(&setting, &violation.description);
        }
    } else if let ApiError::Refused { refusal, .. } = error {
        let setting = match refusal {
            Refusal::Location => ".location",
            Refusal::Bucket => ".bucket",
            Refusal::Key => ".prefix",
        };
        // Of a tenant that cannot be, which is told already, nobody knows the grants.
        if is_tenant_name(tenant) {
            add(setting, &format!("not granted to tenant `{tenant}`: {refusal}"));
        }
    } else {
        add("", &error.to_string());
    }
}
