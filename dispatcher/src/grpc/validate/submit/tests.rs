//! Tests of submit requests: each bound of the contract, just inside and just outside.

use std::path::Path;

use backhaul_runtime::locations::Refusal;

use super::*;

const DAY_MS: u64 = 24 * 3600 * 1000;
const NOW: UnixMs = UnixMs(1_800_000_000_000);
const DEFAULTS: SubmitDefaults =
    SubmitDefaults { max_attempts: 5, processing_timeout: Duration::from_secs(600) };

fn locations() -> Locations {
    Locations::parse(crate::grpc::testing::LOCATIONS, Path::new("locations.toml")).unwrap()
}

fn request() -> pb::SubmitBackupRequest {
    pb::SubmitBackupRequest {
        object: Some(pb::ObjectRef {
            location: "uploads".into(),
            bucket: "photos".into(),
            key: "users/1.jpg".into(),
            version: String::new(),
        }),
        options: None,
    }
}

fn check_as(tenant: &str, request: pb::SubmitBackupRequest) -> Result<NewTask, ApiError> {
    let locations = locations();
    let rules = Rules::default();
    let (defaults, now) = (DEFAULTS, NOW);
    SubmitRules { tenant, locations: &locations, defaults, now, traceparent: None, rules: &rules }
        .check(request)
}

fn check(request: pb::SubmitBackupRequest) -> Result<NewTask, ApiError> {
    check_as("web", request)
}

fn with_object(change: impl FnOnce(&mut pb::ObjectRef)) -> pb::SubmitBackupRequest {
    let mut request = request();
    change(request.object.as_mut().unwrap());
    request
}

fn with_options(change: impl FnOnce(&mut pb::SubmitOptions)) -> pb::SubmitBackupRequest {
    let mut options = pb::SubmitOptions::default();
    change(&mut options);
    pb::SubmitBackupRequest { options: Some(options), ..request() }
}

fn fields(request: pb::SubmitBackupRequest) -> Vec<String> {
    match check(request) {
        Err(ApiError::Invalid(violations)) => violations.into_iter().map(|v| v.field).collect(),
        other => panic!("expected violations, got {other:?}"),
    }
}

fn at(seconds: i64, nanos: i32) -> pb::SubmitBackupRequest {
    with_options(|o| o.process_at = Some(Timestamp { seconds, nanos }))
}

fn processing(seconds: i64, nanos: i32) -> pb::SubmitBackupRequest {
    with_options(|o| o.processing_timeout = Some(prost_types::Duration { seconds, nanos }))
}

#[test]
fn a_request_with_nothing_but_an_object_gets_the_defaults() {
    let task = check(request()).unwrap();
    assert_eq!(task.process_at, None);
    assert_eq!(task.spec.tenant, "web");
    assert_eq!(task.spec.object.version, None);
    assert_eq!(task.spec.priority, Priority::Normal);
    assert_eq!(task.spec.max_attempts, 5);
    assert_eq!(task.spec.verify, None);
    assert_eq!(task.spec.processing_timeout, DEFAULTS.processing_timeout);
}

#[test]
fn every_option_reaches_the_queue() {
    let request = with_options(|o| {
        o.set_priority(pb::Priority::High);
        o.set_verify(pb::VerifyLevel::Readback);
        o.max_attempts = 100;
        o.size_hint_bytes = 1 << 50;
        o.labels.insert("team".into(), "a".into());
        o.processing_timeout = Some(prost_types::Duration { seconds: 2, nanos: 500_000_000 });
    });
    let spec = check(request).unwrap().spec;
    assert_eq!(spec.priority, Priority::High);
    assert_eq!(spec.verify, Some(VerifyLevel::Readback));
    assert_eq!(spec.max_attempts, 100);
    assert_eq!(spec.size_hint_bytes, 1 << 50);
    assert_eq!(spec.labels["team"], "a");
    assert_eq!(spec.processing_timeout, Duration::from_millis(2500));
}

#[test]
fn each_field_out_of_bounds_is_named() {
    for (bad, field) in [
        (pb::SubmitBackupRequest { object: None, ..request() }, "object"),
        (with_object(|o| o.location.clear()), "object.location"),
        (with_object(|o| o.location = "Uploads".into()), "object.location"),
        (with_object(|o| o.location = "1up".into()), "object.location"),
        (with_object(|o| o.location = "http://evil/".into()), "object.location"),
        (with_object(|o| o.location = "a".repeat(64)), "object.location"),
        (with_object(|o| o.bucket = "ab".into()), "object.bucket"),
        (with_object(|o| o.bucket = "b".repeat(64)), "object.bucket"),
        (with_object(|o| o.key.clear()), "object.key"),
        (with_object(|o| o.key = "k".repeat(1025)), "object.key"),
        (with_object(|o| o.key = "ä".repeat(513)), "object.key"),
        (with_object(|o| o.version = "v".repeat(1025)), "object.version"),
        (with_options(|o| o.priority = 4), "options.priority"),
        (with_options(|o| o.priority = -1), "options.priority"),
        (with_options(|o| o.verify = 4), "options.verify"),
        (with_options(|o| o.verify = i32::MAX), "options.verify"),
        (with_options(|o| o.max_attempts = 101), "options.max_attempts"),
        (with_options(|o| o.max_attempts = u32::MAX), "options.max_attempts"),
        (with_options(|o| o.size_hint_bytes = (1 << 50) + 1), "options.size_hint_bytes"),
        (with_options(|o| o.size_hint_bytes = u64::MAX), "options.size_hint_bytes"),
        (
            with_options(|o| o.labels = (0..17).map(|i| (format!("l{i}"), String::new())).collect()),
            "options.labels",
        ),
        (with_options(|o| o.labels = [("T".into(), String::new())].into()), "options.labels[T]"),
        (with_options(|o| o.labels = [("t".into(), "v".repeat(256))].into()), "options.labels[t]"),
        (processing(0, 999_999_999), "options.processing_timeout"),
        (processing(86_400, 1), "options.processing_timeout"),
        (processing(-5, 0), "options.processing_timeout"),
        (processing(5, -1), "options.processing_timeout"),
        (processing(5, 1_000_000_000), "options.processing_timeout"),
        (processing(i64::MAX, i32::MAX), "options.processing_timeout"),
        (at(1_800_000_000, -1), "options.process_at"),
        (at(1_800_000_000, 1_000_000_000), "options.process_at"),
        (at(i64::MAX, 0), "options.process_at"),
        (at(i64::MIN, 0), "options.process_at"),
        (at(1_800_000_000 + 366 * 86_400, 1), "options.process_at"),
    ] {
        assert_eq!(fields(bad), [field]);
    }
}

#[test]
fn what_is_just_inside_the_bounds_is_taken() {
    for good in [
        with_object(|o| o.version = "v".repeat(1024)),
        with_object(|o| o.key = format!("users/{}", "k".repeat(1018))),
        with_options(|o| o.max_attempts = 1),
        with_options(|o| o.labels = (0..16).map(|i| (format!("l{i}"), "v".repeat(255))).collect()),
        processing(1, 0),
        processing(86_400, 0),
        at(1_800_000_000 + 366 * 86_400, 0),
        at(-62_135_596_800, 0),
    ] {
        assert!(check(good.clone()).is_ok(), "{good:?}");
    }
}

proptest::proptest! {
    /// No number makes the checks panic or overflow, and what they let through is within every bound.
    #[test]
    fn whatever_numbers_arrive_only_bounded_tasks_pass(
        at in proptest::option::of(proptest::arbitrary::any::<(i64, i32)>()),
        near in -40_000_000i64..40_000_000,
        timeout in proptest::option::of((-10i64..100_000, -5i32..1_000_000_005)),
        edges in proptest::arbitrary::any::<(i64, i32)>(),
        (priority, verify) in (-2i32..6, -2i32..6),
        max_attempts in 0u32..200,
        size_hint_bytes in proptest::arbitrary::any::<u64>(),
    ) {
        for (at, timeout) in [
            (at, timeout),
            (Some((1_800_000_000 + near, 7)), timeout),
            (Some(edges), Some(edges)),
        ] {
            let request = with_options(|o| {
                o.process_at = at.map(|(seconds, nanos)| Timestamp { seconds, nanos });
                o.processing_timeout = timeout.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos });
                (o.priority, o.verify) = (priority, verify);
                (o.max_attempts, o.size_hint_bytes) = (max_attempts, size_hint_bytes);
            });
            let Ok(task) = check(request) else { continue };
            assert!((1..=100).contains(&task.spec.max_attempts));
            assert!(task.spec.size_hint_bytes <= 1 << 50);
            assert!((0..=3).contains(&priority) && (0..=3).contains(&verify));
            assert!(
                (Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&task.spec.processing_timeout)
            );
            assert!(task.process_at.is_none_or(|at| at > NOW && at.0 <= NOW.0 + 366 * DAY_MS));
        }
    }
}

#[test]
fn all_violations_of_a_request_are_told_at_once() {
    let mut request = with_object(|o| {
        o.bucket = "b".into();
        o.key.clear();
    });
    request.options = Some(pb::SubmitOptions { priority: 9, max_attempts: 999, ..Default::default() });
    assert_eq!(fields(request), ["object.bucket", "object.key", "options.priority", "options.max_attempts"]);
}

#[test]
fn a_processing_time_in_the_past_is_now_and_one_between_two_milliseconds_is_the_later() {
    for past in [at(0, 0), at(-1, 999_999_999), at(1_800_000_000, 0), at(1_799_999_999, 999_999_999)] {
        assert_eq!(check(past).unwrap().process_at, None);
    }
    let at_ms = |request| check(request).unwrap().process_at;
    assert_eq!(at_ms(at(1_800_000_000, 1)), Some(UnixMs(NOW.0 + 1)));
    assert_eq!(at_ms(at(1_800_000_000, 1_000_001)), Some(UnixMs(NOW.0 + 2)));
    assert_eq!(at_ms(at(1_800_000_000 + 366 * 86_400, 0)), Some(UnixMs(NOW.0 + 366 * DAY_MS)));
}

#[test]
fn keys_are_bytes_to_us_and_are_never_read_as_paths_or_urls() {
    let key_of = |key: &str| check(with_object(|o| o.key = key.into())).map(|t| t.spec.object.key);
    for key in ["users/../x", "users/%2e%2e/x", "users//", "users/ ", "users/\u{0}\n", "users/ä\u{308}"] {
        assert_eq!(key_of(key).unwrap(), key, "kept as it came");
    }
    for key in ["users%2f1", "Users/1", "./users/1", "/users/1", "users"] {
        let refused = key_of(key).unwrap_err();
        assert!(matches!(refused, ApiError::Refused { refusal: Refusal::Key, .. }), "{key}: {refused:?}");
    }
}

#[test]
fn a_tenant_names_only_what_it_was_granted_and_cannot_tell_a_foreign_location_from_none() {
    let refusal = |tenant: &str, request| match check_as(tenant, request) {
        Err(ApiError::Refused { refusal, .. }) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    };
    assert_eq!(refusal("web", with_object(|o| o.location = "nowhere".into())), Refusal::Location);
    assert_eq!(refusal("other", request()), Refusal::Location);
    assert_eq!(refusal("web", with_object(|o| o.location = "vault".into())), Refusal::Location);
    assert_eq!(refusal("web", with_object(|o| o.bucket = "secrets".into())), Refusal::Bucket);
    assert_eq!(refusal("web", with_object(|o| o.key = "admin/1".into())), Refusal::Key);
}

#[test]
fn only_a_well_formed_traceparent_is_kept() {
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert!(is_traceparent(good));
    for bad in
        ["", "00", &good.to_uppercase(), &good[1..], &format!("{good}0"), &good.replacen("00-", "01-", 1)]
    {
        assert!(!is_traceparent(bad), "{bad}");
    }
}
