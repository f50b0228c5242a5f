//! What the page of a worker holds: all of the list, nothing else, and nothing that came with a task.

use std::{collections::BTreeSet, path::Path, time::Duration};

use backhaul_runtime::{
    locations::Locations,
    metrics::{Page, Source as _},
};
use bytes::Bytes;

use super::*;
use crate::{
    store::{
        Attributes, ObjectStore, Operation, StoreErrorKind,
        faulty::{Fault as Trouble, FaultyStore, Rule},
        memory::{MemoryOptions, MemoryStore},
    },
    transfer::{Copier as _, CopyRequest, EngineSettings, Stop},
};

const LOCATIONS: &str = r#"
    [location.photos]
    endpoint = "http://127.0.0.1:1"
    credentials = "anonymous"

    [[location.photos.read]]
    bucket = "uploads"
    tenants = ["*"]

    [location.photos.backup]
    location = "vault"
    bucket = "backups"

    [location.vault]
    endpoint = "http://127.0.0.1:2"
    credentials = "anonymous"
"#;

struct Rig {
    origin: Arc<MemoryStore>,
    faults: Arc<FaultyStore>,
    copier: MeteredCopier,
    exposed: Exposed,
}

impl Rig {
    fn new() -> Self {
        let locations =
            Locations::parse(LOCATIONS, Path::new("locations.toml")).expect("they are well formed");
        let metrics = Arc::new(Metrics::new(locations.iter().map(|location| location.name.as_str())));
        let origin = Arc::new(MemoryStore::new(MemoryOptions::default(), &["uploads"]));
        let vault = Arc::new(MemoryStore::new(MemoryOptions::default(), &["backups"]));
        let faults = Arc::new(FaultyStore::new(Arc::clone(&origin) as Arc<dyn ObjectStore>));
        let engine = Engine::with_stores(&locations, EngineSettings::default(), |location| {
            let store = if location.name == "photos" {
                Arc::clone(&faults) as Arc<dyn ObjectStore>
            } else {
                Arc::clone(&vault) as Arc<dyn ObjectStore>
            };
            Some(Arc::new(MeteredStore::new(store, &location.name, &metrics)))
        });
        let engine = Arc::new(engine.expect("the settings hold together"));
        let copier = MeteredCopier::new(Arc::clone(&engine) as _, Arc::clone(&metrics));
        let credit = CreditLimit { tasks: 4, bytes: 1 << 20 };
        let exposed = Exposed { metrics, link: Arc::default(), credit, engine };
        Self { origin, faults, copier, exposed }
    }

    async fn copy(&self, location: &str, key: &str) -> bool {
        let request = CopyRequest {
            task_id: format!("task-{key}"),
            tenant: format!("tenant-{key}"),
            location: location.to_owned(),
            bucket: "uploads".to_owned(),
            key: key.to_owned(),
            version: None,
            verify: None,
            resume_upload_id: String::new(),
            retention_class: None,
        };
        self.copier.copy(&request, Arc::default(), Stop::default()).await.is_ok()
    }

    async fn page(&self) -> String {
        let mut page = Page::default();
        self.exposed.write(&mut page).await;
        page.into_text()
    }
}

fn value(page: &str, sample: &str) -> f64 {
    let found = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {sample} in\n{page}")).parse().expect("a number")
}

#[tokio::test]
async fn every_metric_of_the_list_is_on_the_page_once_and_no_other() {
    let page = Rig::new().page().await;
    let shown: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_whitespace().next()).collect();
    let listed: BTreeSet<&str> = names::FAMILIES.iter().map(|family| family.name).collect();
    assert_eq!(shown.len(), names::FAMILIES.len());
    assert_eq!(shown.into_iter().collect::<BTreeSet<_>>(), listed);
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_counted_where_it_was_made_with_its_requests_and_bytes() {
    let rig = Rig::new();
    rig.origin.seed("uploads", "cat", Bytes::from_static(b"purr"), Attributes::default(), &[]);
    assert!(rig.copy("photos", "cat").await);
    assert!(rig.copy("photos", "cat").await, "an equal copy is there");
    assert!(!rig.copy("photos", "gone").await);
    let page = rig.page().await;
    for (sample, expected) in [
        ("backhaul_worker_copies_total{location=\"photos\",outcome=\"done\"}", 1.0),
        ("backhaul_worker_copies_total{location=\"photos\",outcome=\"present\"}", 1.0),
        ("backhaul_worker_copies_total{location=\"photos\",outcome=\"source_gone\"}", 1.0),
        ("backhaul_worker_copied_bytes_total{location=\"photos\"}", 8.0),
        ("backhaul_worker_read_bytes_total{location=\"photos\"}", 8.0),
        ("backhaul_worker_copy_duration_seconds_count{location=\"photos\"}", 2.0),
        ("backhaul_worker_request_errors_total{location=\"photos\",error=\"not_found\"}", 1.0),
        ("backhaul_worker_copies", 0.0),
    ] {
        assert!((value(&page, sample) - expected).abs() < 1e-9, "{sample}\n{page}");
    }
    assert!(value(&page, "backhaul_worker_written_bytes_total{location=\"vault\"}") >= 4.0);
    assert!(value(&page, "backhaul_worker_read_duration_seconds_count{location=\"photos\"}") >= 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_asks_for_less_load_shows_in_errors_retries_and_limiter() {
    let rig = Rig::new();
    rig.origin.seed("uploads", "cat", Bytes::from_static(b"purr"), Attributes::default(), &[]);
    let allowed = value(&rig.page().await, "backhaul_worker_requests_allowed{location=\"photos\"}");
    let throttled = StoreErrorKind::Throttled { retry_after: Duration::ZERO };
    rig.faults.add(Rule::new(Operation::Get, Trouble::Fail(throttled)));
    assert!(rig.copy("photos", "cat").await);
    let page = rig.page().await;
    let throttled = "backhaul_worker_request_errors_total{location=\"photos\",error=\"throttled\"}";
    assert!(value(&page, throttled) >= 1.0);
    assert!(value(&page, "backhaul_worker_request_retries_total{location=\"photos\"}") >= 1.0);
    assert!(value(&page, "backhaul_worker_requests_allowed{location=\"photos\"}") < allowed);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_shows_until_it_answers_again() {
    let rig = Rig::new();
    rig.origin.seed("uploads", "cat", Bytes::from_static(b"purr"), Attributes::default(), &[]);
    let is = |page: &str, state: &str| {
        value(page, &format!("backhaul_worker_store_state{{location=\"photos\",state=\"{state}\"}}")) > 0.5
    };
    let page = rig.page().await;
    assert!(is(&page, "answers") && !is(&page, "away") && !is(&page, "rests"), "{page}");
    rig.faults.add(Rule::new(Operation::Get, Trouble::Fail(StoreErrorKind::Connection)).times(10));
    while rig.faults.calls(Operation::Get) < 10 {
        rig.copy("photos", "cat").await;
    }
    let page = rig.page().await;
    assert!(!is(&page, "answers") && is(&page, "away"), "{page}");
    assert!(value(&page, "backhaul_worker_store_state{location=\"vault\",state=\"answers\"}") > 0.5);
    assert!(rig.copy("photos", "cat").await);
    assert!(is(&rig.page().await, "answers"));
    let retry_after = Duration::from_secs(60);
    rig.faults.add(Rule::new(Operation::Get, Trouble::Fail(StoreErrorKind::Throttled { retry_after })));
    assert!(!rig.copy("photos", "cat").await);
    assert!(is(&rig.page().await, "rests"));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_keys_and_unknown_locations_make_no_further_sample_and_appear_nowhere() {
    let rig = Rig::new();
    let few = {
        rig.copy("photos", "secret-0").await;
        rig.page().await
    };
    for n in 1..10_000 {
        let location = if n % 10 == 0 { format!("secret-location-{n}") } else { "photos".to_owned() };
        assert!(!rig.copy(&location, &format!("secret-{n}")).await);
    }
    let many = rig.page().await;
    assert_eq!(many.lines().count(), few.lines().count());
    assert!(!many.contains("secret"), "{many}");
    assert!(
        (value(&many, "backhaul_worker_copies_total{location=\"_other\",outcome=\"unsupported\"}") - 999.0)
            .abs()
            < 1e-9
    );
}
