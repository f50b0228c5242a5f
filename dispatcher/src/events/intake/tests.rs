//! What becomes of a body, whatever brought it.

use super::*;
use crate::{
    events::{
        parse::Form,
        testing::{Kit, body, record, source},
    },
    grpc::testing::ScriptedQueue,
    queue::{Priority, TaskState, VerifyLevel},
};

#[tokio::test]
async fn an_upload_becomes_a_task_of_the_sources_tenant() {
    let kit = Kit::new();
    let taken =
        kit.intake.take(&source(Form::S3), &body(&[record("ObjectCreated:Put", "users/a+b")])).await.unwrap();
    assert_eq!(taken, Taken { uploads: 1, ..Taken::default() });
    let task = kit.tasks().await.remove(0);
    let object = ObjectRef {
        location: "uploads".into(),
        bucket: "photos".into(),
        key: "users/a b".into(),
        version: Some("v1".into()),
    };
    assert_eq!(
        (task.spec.tenant.as_str(), task.spec.object, task.state),
        ("web", object, TaskState::Pending)
    );
    assert_eq!(task.spec.size_hint_bytes, 1024);
    assert_eq!(task.spec.labels["event-source"], "s3");
}

#[tokio::test]
async fn a_rule_says_how_its_uploads_are_backed_up_and_others_are_as_before() {
    let rules = "
        [rule.seven]
        tenant = 'web'
        location = 'uploads'
        bucket = 'photos'
        prefix = 'users/7/'
        priority = 'high'
        verify = 'readback'
        retention_class = 'long'
    ";
    let rules = LiveRules::fixed(crate::rules::tests::parse(rules).unwrap());
    let queue = Arc::clone(&Kit::new().queue);
    let kit = Kit::ruled(queue, rules);
    let records = ["users/7/a", "users/8/a"].map(|key| record("ObjectCreated:Put", key));
    kit.intake.take(&source(Form::S3), &body(&records)).await.unwrap();
    for task in kit.tasks().await {
        let spec = task.spec;
        let said = (spec.priority, spec.verify, spec.retention_class.as_str(), spec.labels.get(LABEL));
        if spec.object.key == "users/7/a" {
            let seven = "seven".to_owned();
            assert_eq!(said, (Priority::High, Some(VerifyLevel::Readback), "long", Some(&seven)));
        } else {
            assert_eq!(said, (Priority::Normal, None, "", None));
        }
        assert_eq!(spec.labels["event-source"], "s3");
    }
}

#[tokio::test]
async fn ten_thousand_records_a_hundred_repeats_and_any_order_give_one_task_for_each_version() {
    let kit = Kit::new();
    let mut records: Vec<String> =
        (0..9_900).map(|n| record("ObjectCreated:Put", &format!("users/{n}"))).collect();
    records.extend(std::iter::repeat_n(records[7].clone(), 100));
    let expected = Taken { uploads: 9_900, repeated: 100, ..Taken::default() };
    assert_eq!(kit.intake.take(&source(Form::S3), &body(&records)).await.unwrap(), expected);
    records.reverse();
    assert_eq!(kit.intake.take(&source(Form::S3), &body(&records)).await.unwrap(), expected);
    assert_eq!(kit.tasks().await.len(), 9_900);
}

#[tokio::test]
async fn a_removal_before_its_upload_and_a_day_late_removes_nothing() {
    let kit = Kit::new();
    let late = record("ObjectRemoved:Delete", "users/a").replace("2026-01-01", "1999-12-31");
    let taken = kit.intake.take(&source(Form::S3), &body(std::slice::from_ref(&late))).await.unwrap();
    assert_eq!(taken, Taken { removals: 1, ..Taken::default() });
    let upload = record("ObjectCreated:Put", "users/a").replace("2026-01-01", "1999-12-31");
    kit.intake.take(&source(Form::S3), &body(&[upload, late])).await.unwrap();
    assert_eq!(kit.tasks().await.len(), 1);
    let noted = kit.removals.list(0, 10).await.unwrap();
    assert_eq!(noted.len(), 1, "once, however often it is told");
    assert_eq!((noted[0].0.key.as_str(), noted[0].0.version.as_deref()), ("users/a", Some("v1")));
}

#[tokio::test]
async fn a_removal_of_a_name_that_cannot_be_is_set_aside() {
    let kit = Kit::new();
    let long = record("ObjectRemoved:Delete", &format!("users/{}", "a".repeat(1025)));
    let taken = kit.intake.take(&source(Form::S3), &body(&[long])).await.unwrap();
    assert_eq!(taken, Taken { unknown: 1, ..Taken::default() });
    assert!(kit.removals.list(0, 10).await.unwrap().is_empty());
    assert_eq!(kit.quarantine.kept().len(), 1);
}

#[tokio::test]
async fn a_bucket_of_somebody_else_refuses_the_whole_body() {
    let kit = Kit::new();
    for event in ["ObjectCreated:Put", "ObjectRemoved:Delete"] {
        let foreign = record(event, "users/a").replace("\"photos\"", "\"payroll\"");
        let body = body(&[record("ObjectCreated:Put", "users/b"), foreign]);
        let refused = kit.intake.take(&source(Form::S3), &body).await;
        assert!(matches!(refused, Err(NotTaken::ForeignBucket)), "{refused:?}");
    }
    assert!(kit.tasks().await.is_empty() && kit.quarantine.kept().is_empty());
}

#[tokio::test]
async fn a_key_outside_of_the_tenants_prefixes_is_passed_over() {
    let kit = Kit::new();
    let records = [record("ObjectCreated:Put", "private/a"), record("ObjectCreated:Put", "users/a")];
    let taken = kit.intake.take(&source(Form::S3), &body(&records)).await.unwrap();
    assert_eq!(taken, Taken { uploads: 1, out_of_scope: 1, ..Taken::default() });
    assert_eq!(kit.tasks().await.len(), 1);
}

#[tokio::test]
async fn what_is_not_understood_is_kept_once_with_its_body_and_does_not_hold_up_the_rest() {
    let kit = Kit::new();
    let long = format!("users/{}", "x".repeat(1100));
    let odd = body(&[
        record("ObjectCreated:Put", "users/%zz"),
        record("ObjectCreated:Put", &long),
        record("ObjectCreated:Put", "users/a"),
    ]);
    for _ in 0..3 {
        let taken = kit.intake.take(&source(Form::S3), &odd).await.unwrap();
        assert_eq!(taken, Taken { uploads: 1, unknown: 2, ..Taken::default() });
        let taken = kit.intake.take(&source(Form::S3), b"not \xff JSON").await.unwrap();
        assert_eq!(taken, Taken { unknown: 1, ..Taken::default() });
    }
    assert_eq!(kit.tasks().await.len(), 1);
    let kept = kit.quarantine.kept();
    assert_eq!(kept.len(), 2);
    assert_eq!((&kept[0].body[..], &kept[1].body[..]), (odd.as_slice(), b"not \xff JSON".as_slice()));
}

#[tokio::test]
async fn nothing_is_told_as_taken_while_one_task_is_not_durable() {
    let queue = Arc::new(ScriptedQueue::default());
    let kit = Kit::over(Arc::clone(&queue) as Arc<dyn TaskQueue>);
    queue.submits.lock().unwrap().extend([
        Err(QueueError::NotDurable { reached: 0, wanted: 1 }),
        Err(QueueError::Full),
        Err(QueueError::Unavailable("gone".into())),
        Err(QueueError::Unfit(Arc::new(std::io::Error::other("no AOF")))),
    ]);
    let body = body(&[record("ObjectCreated:Put", "users/a"), record("ObjectCreated:Put", "users/%zz")]);
    for _ in 0..4 {
        let refused = kit.intake.take(&source(Form::S3), &body).await;
        assert!(matches!(refused, Err(NotTaken::Unavailable(_))), "{refused:?}");
    }
    assert!(kit.quarantine.kept().is_empty(), "it is only kept when the rest is");
    assert_eq!(kit.intake.take(&source(Form::S3), &body).await.unwrap().uploads, 1);
}

#[tokio::test]
async fn a_damaged_record_sets_the_event_aside_and_holds_up_nothing() {
    let queue = Arc::new(ScriptedQueue::default());
    let kit = Kit::over(Arc::clone(&queue) as Arc<dyn TaskQueue>);
    let damaged = QueueError::Corrupt { task: "t".into(), what: "no spec" };
    queue.submits.lock().unwrap().push_back(Err(damaged));
    let body = body(&[record("ObjectCreated:Put", "users/a"), record("ObjectCreated:Put", "users/b")]);
    let taken = kit.intake.take(&source(Form::S3), &body).await.unwrap();
    assert_eq!((taken.uploads, taken.unknown), (1, 1));
    let kept = kit.quarantine.kept();
    assert!(kept.len() == 1 && kept[0].about.reason.contains("damaged"), "{kept:?}");
}
