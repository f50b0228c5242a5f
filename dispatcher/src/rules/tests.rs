//! What a rules file may say, how its mistakes are named, and which rule an object belongs to.

use std::{fs, path::Path, sync::Arc, time::Duration};

use backhaul_runtime::{locations::Locations, settings_file::FileError};

use super::{follow::Follower, *};
use crate::{
    grpc::backup_service::SubmitDefaults,
    queue::walk::{Versions, WalkFilter},
    schedule::calendar::instant,
};

pub(crate) const DEFAULTS: SubmitDefaults =
    SubmitDefaults { max_attempts: 5, processing_timeout: Duration::from_secs(600) };

/// `web` may read users/ in photos, everybody all of docs; copies are kept as the bucket has it, or `long`, or `short`.
pub(crate) fn locations() -> Locations {
    let text = r#"
        [location.uploads]
        endpoint = "http://127.0.0.1:1"
        [[location.uploads.read]]
        bucket = "photos"
        prefixes = ["users/"]
        tenants = ["web"]
        [[location.uploads.read]]
        bucket = "docs"
        tenants = ["*"]
        [location.uploads.backup]
        location = "vault"
        bucket = "backups"
        retention_class.long = { mode = "compliance", days = 3650 }
        retention_class.short = { mode = "governance", days = 7 }
        [location.vault]
        endpoint = "http://127.0.0.1:1"
    "#;
    Locations::parse(text, Path::new("locations.toml")).unwrap()
}

pub(crate) fn parse(text: &str) -> Result<Rules, FileError> {
    Rules::parse(text, Path::new("rules.toml"), &locations(), DEFAULTS)
}

fn problems(text: &str) -> Vec<String> {
    match parse(text) {
        Err(FileError::Invalid { problems, .. }) => problems.iter().map(ToString::to_string).collect(),
        other => panic!("{text}: {other:?}"),
    }
}

const SMALLEST: &str = "tenant = 'web'\nlocation = 'uploads'\nbucket = 'photos'\nprefix = 'users/'\n";

#[test]
fn a_rule_says_what_how_and_when() {
    let text = r#"
        [rule.users]
        tenant = "web"
        location = "uploads"
        bucket = "photos"
        prefix = "users/7/"
        suffix = ".jpg"
        min_size = "1KiB"
        max_size = "1GiB"
        modified_since = "2027-01-31T09:00:00Z"
        versions = "all"
        priority = "high"
        verify = "readback"
        retention_class = "long"
        max_attempts = 9
        processing_timeout = "1h"
        labels = { team = "a" }
        schedule = "30 2 * * *"
        time_zone = "Europe/Berlin"
    "#;
    let rules = parse(text).unwrap();
    let rule = rules.get("users").unwrap();
    let spec = rule.run("rule:users:x");
    assert_eq!(
        (spec.tenant.as_str(), spec.location.as_str(), spec.bucket.as_str()),
        ("web", "uploads", "photos")
    );
    assert_eq!((spec.prefix.as_str(), spec.request_id.as_str()), ("users/7/", "rule:users:x"));
    let filter = WalkFilter {
        suffix: ".jpg".into(),
        min_size_bytes: 1 << 10,
        max_size_bytes: Some(1 << 30),
        modified_since: instant("2027-01-31T09:00:00Z"),
    };
    assert_eq!((spec.filter, spec.versions), (filter, Versions::All));
    assert_eq!((spec.priority, rule.priority), (Priority::High, Some(Priority::High)));
    assert_eq!((spec.verify, spec.max_attempts), (Some(VerifyLevel::Readback), 9));
    assert_eq!(spec.processing_timeout, Duration::from_secs(3600));
    let labels = [("team".to_owned(), "a".to_owned()), (LABEL.to_owned(), "users".to_owned())];
    assert_eq!(spec.labels, labels.into());
    assert_eq!(rule.retention_class, "long");
    let next = rule.calendar.as_ref().unwrap().next_after(instant("2027-01-31T09:00:00Z").unwrap());
    assert_eq!(next, instant("2027-02-01T01:30:00Z"));
}

#[test]
fn the_example_that_is_shipped_can_be_used() {
    let stores = include_str!("../../../deploy/kubernetes/overlays/dev/locations.toml");
    let stores = Locations::parse(stores, Path::new("locations.toml")).unwrap();
    let example = include_str!("../../../deploy/kubernetes/components/rules/rules.toml");
    let rules = Rules::parse(example, Path::new("rules.toml"), &stores, DEFAULTS).unwrap();
    assert!(rules.iter().count() == 2 && rules.iter().all(|rule| rule.calendar.is_some()));
}

#[test]
fn what_a_rule_does_not_say_is_as_for_a_call() {
    let rules = parse(&format!("[rule.users]\n{SMALLEST}")).unwrap();
    let rule = rules.get("users").unwrap();
    // Bulk work gives way; what an event tells of does not.
    assert_eq!((rule.spec().priority, rule.priority), (Priority::Low, None));
    assert_eq!((rule.spec().max_attempts, rule.spec().verify), (5, None));
    assert_eq!((rule.retention_class.as_str(), rule.calendar.is_none()), ("", true));
    assert_eq!(parse("").unwrap().iter().count(), 0);
}

#[test]
fn each_mistake_is_named_by_rule_and_setting() {
    for (change, setting) in [
        ("tenant = 'web'|tenant = 'W'", "tenant"),
        ("tenant = 'web'|tenant = 'other'", "bucket"),
        ("location = 'uploads'|location = 'nowhere'", "location"),
        ("location = 'uploads'|location = 'vault'", "location"),
        ("location = 'uploads'|location = 'UP'", "location"),
        ("bucket = 'photos'|bucket = 'p'", "bucket"),
        ("bucket = 'photos'|bucket = 'others'", "bucket"),
        ("prefix = 'users/'|prefix = 'user'", "prefix"),
        ("prefix = 'users/'|prefix = ''", "prefix"),
        ("prefix = 'users/'|prefix = 'users/'\nmin_size = '1'", "min_size"),
        ("prefix = 'users/'|prefix = 'users/'\nmax_size = 'x'", "max_size"),
        ("prefix = 'users/'|prefix = 'users/'\nmin_size = '2KiB'\nmax_size = '1KiB'", "max_size"),
        ("prefix = 'users/'|prefix = 'users/'\nmodified_since = 'noon'", "modified_since"),
        ("prefix = 'users/'|prefix = 'users/'\nmax_attempts = 101", "max_attempts"),
        ("prefix = 'users/'|prefix = 'users/'\nprocessing_timeout = '10'", "processing_timeout"),
        ("prefix = 'users/'|prefix = 'users/'\nprocessing_timeout = '1ms'", "processing_timeout"),
        ("prefix = 'users/'|prefix = 'users/'\nlabels = { A = 'a' }", "labels[A]"),
        ("prefix = 'users/'|prefix = 'users/'\nlabels = { rule = 'a' }", "labels"),
        ("prefix = 'users/'|prefix = 'users/'\nlabels = { prefix-backup = 'a' }", "labels"),
        ("prefix = 'users/'|prefix = 'users/'\nretention_class = 'ever'", "retention_class"),
        ("prefix = 'users/'|prefix = 'users/'\nschedule = '0 3 * *'", "schedule"),
        ("prefix = 'users/'|prefix = 'users/'\nschedule = '0 0 30 2 *'", "schedule"),
        ("prefix = 'users/'|prefix = 'users/'\nschedule = '0 3 * * *'\ntime_zone = 'Mars'", "time_zone"),
        ("prefix = 'users/'|prefix = 'users/'\ntime_zone = 'UTC'", "time_zone"),
    ] {
        let (from, to) = change.split_once('|').unwrap();
        let said = problems(&format!("[rule.users]\n{}", SMALLEST.replace(from, to)));
        let named = format!("rule.users.{setting}: ");
        assert!(said.iter().all(|problem| problem.starts_with(&named)), "{change}: {said:?}");
    }
    assert!(problems(&format!("[rule.Users]\n{SMALLEST}"))[0].starts_with("rule.Users: "));
    // All at once.
    let said = problems("[rule.a]\ntenant = 'X'\nlocation = 'uploads'\nbucket = 'p'\nschedule = 'never'");
    assert_eq!(said.len(), 3, "{said:?}");
    for text in ["[rule.a]\ntenant = 'web'", "[rules]", "x = 1", "["] {
        assert!(matches!(parse(text), Err(FileError::Syntax { .. })), "{text}");
    }
}

#[test]
fn an_object_belongs_to_the_rule_that_says_most_about_its_name() {
    let rule = |name: &str, bucket: &str, more: &str| {
        format!("[rule.{name}]\ntenant = 'web'\nlocation = 'uploads'\nbucket = '{bucket}'\n{more}\n")
    };
    let text = [
        rule("a", "photos", "prefix = 'users/'\nretention_class = 'short'"),
        rule("b", "photos", "prefix = 'users/7/'\nretention_class = 'long'\nmin_size = '1GiB'"),
        rule("c", "photos", "prefix = 'users/7/'\nretention_class = 'long'\nversions = 'all'"),
        rule("d", "photos", "prefix = 'users/7/'\nsuffix = '.tmp'"),
        rule("e", "docs", "prefix = ''\nretention_class = 'short'"),
    ];
    let rules = parse(&text.concat()).unwrap();
    let of = |tenant: &str, bucket: &str, key: &str| {
        rules.of_object(tenant, "uploads", bucket, key).map(|rule| rule.name.clone())
    };
    assert_eq!(of("web", "photos", "users/8/x").as_deref(), Some("a"));
    // By its name alone: sizes only say what a listing submits.
    assert_eq!(of("web", "photos", "users/7/x").as_deref(), Some("b"), "the first by name");
    assert_eq!(of("web", "photos", "users/7/x.tmp").as_deref(), Some("d"));
    assert_eq!(of("web", "docs", "users/7/x").as_deref(), Some("e"));
    for (tenant, bucket, key) in
        [("web", "photos", "user"), ("app", "docs", "x"), ("web", "other", "users/7/x")]
    {
        assert_eq!(of(tenant, bucket, key), None, "{tenant} {bucket} {key}");
    }
    let object = |key: &str| ObjectRef {
        location: "uploads".into(),
        bucket: "photos".into(),
        key: key.into(),
        version: None,
    };
    let classes =
        ["users/8/x", "users/7/x", "users/7/x.tmp", "x"].map(|key| rules.class_of("web", &object(key)));
    assert_eq!(classes, ["short", "long", "", ""]);

    // Two that are about the same objects cannot keep them for different times.
    let both = [
        rule("one", "docs", "retention_class = 'short'"),
        rule("two", "docs", "retention_class = 'long'\nversions = 'all'"),
    ];
    assert_eq!(problems(&both.concat()).len(), 1);
}

#[test]
fn a_walk_s_task_has_the_class_of_its_object_and_not_of_the_rule_that_listed_it() {
    let text = format!(
        "[rule.all]\n{SMALLEST}retention_class = 'short'\n[rule.seven]\n{}retention_class = 'long'\n",
        SMALLEST.replace("users/", "users/7/")
    );
    let rules = parse(&text).unwrap();
    let spec = rules.get("all").unwrap().run("rule:all:x");
    let id = WalkId::derive("web", "rule:all:x");
    let task = |key: &str| {
        let found = FoundObject { key: key.into(), version: None, size_bytes: 1 };
        rules.task(&spec, &id, &found).spec
    };
    assert_eq!(task("users/1/a").retention_class, "short");
    assert_eq!(task("users/7/a").retention_class, "long");
    assert_eq!(task("users/7/a").labels[LABEL], "all", "it says who has listed it");
}

/// What one look found counts when the next finds it again.
fn look_twice(follower: &mut Follower) {
    follower.look();
    follower.look();
}

#[test]
fn replaced_rules_come_into_force_and_wrong_ones_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.toml");
    fs::write(&path, format!("[rule.one]\n{SMALLEST}")).unwrap();
    let (mut follower, live) = Follower::open(path.clone(), Arc::new(locations()), DEFAULTS).unwrap();
    let refused = follower.refused();
    let names = || live.now().iter().map(|rule| rule.name.clone()).collect::<Vec<_>>();
    let is_refused = || refused.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((names(), is_refused()), (vec!["one".to_owned()], false));

    for wrong in ["[rule.two", "[rule.two]\ntenant = 'web'\nlocation = 'x'\nbucket = 'photos'"] {
        fs::write(&path, wrong).unwrap();
        look_twice(&mut follower);
        assert_eq!((names(), is_refused()), (vec!["one".to_owned()], true), "{wrong}");
    }
    fs::remove_file(&path).unwrap();
    look_twice(&mut follower);
    assert_eq!((names(), is_refused()), (vec!["one".to_owned()], true));
    // Back to what it was: it is in force, and told so.
    fs::write(&path, format!("[rule.one]\n{SMALLEST}")).unwrap();
    look_twice(&mut follower);
    assert!(!is_refused());
    // A file that is being written is not taken: all of these are rules files, too.
    for half in ["", "[rule.one]\n", "[rule.two]\ntenant = 'web'\n"] {
        fs::write(&path, half).unwrap();
        follower.look();
        assert_eq!((names(), is_refused()), (vec!["one".to_owned()], false), "{half}");
    }
    fs::write(&path, format!("[rule.two]\n{SMALLEST}")).unwrap();
    look_twice(&mut follower);
    assert_eq!((names(), is_refused()), (vec!["two".to_owned()], false));
    assert!(Follower::open(folder.path().join("none"), Arc::new(locations()), DEFAULTS).is_err());
}
