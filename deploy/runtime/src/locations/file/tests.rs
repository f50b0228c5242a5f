//! Tests of the locations file: what is taken, and which setting each mistake is blamed on.

use super::*;
use crate::locations::Refusal;

const GOOD: &str = r#"
    [location.uploads]
    endpoint = "http://127.0.0.1:8333"
    path_style = true
    credentials = { file = "/etc/backhaul/uploads" }
    verify = "head"

    [[location.uploads.read]]
    bucket = "photos"
    prefixes = ["users/", "teams/"]
    tenants = ["web"]

    [[location.uploads.read]]
    bucket = "reports"
    tenants = ["*"]

    [location.uploads.backup]
    location = "vault"
    bucket = "backups"
    prefix = "copies"

    [location.vault]
    endpoint = "https://s3.example.com"
    region = "eu-west-1"
    credentials = { env = "VAULT" }
"#;

fn parse(text: &str) -> Result<Locations, FileError> {
    Locations::parse(text, Path::new("locations.toml"))
}

/// The settings that are blamed when `from` is replaced by `to` in a good file.
fn blamed(from: &str, to: &str) -> Vec<String> {
    assert!(GOOD.contains(from), "the good file has no {from:?}");
    match parse(&GOOD.replacen(from, to, 1)) {
        Err(FileError::Invalid { problems, .. }) => problems.into_iter().map(|p| p.setting).collect(),
        other => panic!("expected problems, got {other:?}"),
    }
}

#[test]
fn what_is_asked_of_stores_is_read_whole() {
    let text = GOOD.replacen("verify = \"head\"", "verify = \"head\"\nacls = true\nwithout = [\"tagging\", \"server-side-copy\"]\nlimits = { requests_per_second = 5, bytes_per_second = \"1MiB\" }", 1);
    let text = text.replacen(
        "prefix = \"copies\"",
        "prefix = \"copies\"\nstorage_class = \"STANDARD_IA\"\nretain = { mode = \"governance\", days = 30 }",
        1,
    );
    let locations = parse(&text).unwrap();
    let uploads = locations.get("uploads").unwrap();
    assert!(uploads.acls);
    assert_eq!(uploads.without, [Feature::Tagging, Feature::ServerSideCopy].into());
    assert_eq!(uploads.limits.requests_per_second, Some(5));
    assert_eq!(uploads.limits.bytes_per_second, Some(1 << 20));
    let backup = uploads.backup.as_ref().unwrap();
    assert_eq!(backup.storage_class.as_deref(), Some("STANDARD_IA"));
    assert_eq!(backup.retain, Some(Retain { compliance: false, days: 30 }));
    assert!(backup.classes.is_empty() && locations.retention_classes().next().is_none());
    let plain = locations.get("vault").unwrap();
    assert!(!plain.acls && plain.without.is_empty() && plain.limits == RateLimits::default());
}

#[test]
fn retention_classes_are_read_by_name() {
    let prefix = "prefix = \"copies\"";
    let classes = "retention_class.long = { mode = \"compliance\", days = 3650 }\n\
                   retention_class.short = { mode = \"governance\", days = 7 }";
    let locations = parse(&GOOD.replacen(prefix, &format!("{prefix}\n{classes}"), 1)).unwrap();
    let backup = locations.get("uploads").unwrap().backup.as_ref().unwrap();
    assert_eq!(backup.retain, None);
    assert_eq!(backup.classes["long"], Retain { compliance: true, days: 3650 });
    assert_eq!(backup.classes["short"], Retain { compliance: false, days: 7 });
    let known: Vec<_> = locations.retention_classes().collect();
    assert_eq!(known, ["uploads/long", "uploads/short"]);
}

#[test]
fn what_cannot_be_asked_of_stores_is_blamed_on_its_setting() {
    let prefix = "prefix = \"copies\"";
    let path_style = "path_style = true";
    for (at, more, setting) in [
        (prefix, "storage_class = \"\"", "location.uploads.backup.storage_class"),
        (prefix, "storage_class = \"a b\"", "location.uploads.backup.storage_class"),
        (prefix, "retain = { mode = \"compliance\", days = 0 }", "location.uploads.backup.retain.days"),
        (prefix, "retain = { mode = \"compliance\", days = 40000 }", "location.uploads.backup.retain.days"),
        (
            prefix,
            "retention_class.long = { mode = \"compliance\", days = 0 }",
            "location.uploads.backup.retention_class.long.days",
        ),
        (
            prefix,
            "retention_class.Long = { mode = \"compliance\", days = 1 }",
            "location.uploads.backup.retention_class.Long",
        ),
        (path_style, "limits = { requests_per_second = 0 }", "location.uploads.limits.requests_per_second"),
        (path_style, "limits = { bytes_per_second = \"1KiB\" }", "location.uploads.limits.bytes_per_second"),
        (path_style, "limits = { bytes_per_second = \"fast\" }", "location.uploads.limits.bytes_per_second"),
    ] {
        assert_eq!(blamed(at, &format!("{at}\n{more}")), [setting], "{more}");
    }
    for more in ["without = [\"everything\"]", "retain = 3", "limits = { requests = 3 }"] {
        let text = GOOD.replacen(path_style, &format!("{path_style}\n{more}"), 1);
        assert!(matches!(parse(&text), Err(FileError::Syntax { .. })), "{more}");
    }
}

#[test]
fn a_good_file_is_read_whole() {
    let locations = parse(GOOD).unwrap();
    let uploads = locations.get("uploads").unwrap();
    assert_eq!(uploads.endpoint.as_deref(), Some("http://127.0.0.1:8333"));
    assert_eq!(uploads.region, "us-east-1");
    assert!(uploads.path_style);
    assert_eq!(uploads.verify, VerifyLevel::Head);
    assert_eq!(uploads.credentials, Credentials::File("/etc/backhaul/uploads".into()));
    assert_eq!(uploads.read[1].prefixes, [""]);
    assert_eq!(uploads.backup.as_ref().unwrap().prefix, "copies");
    let vault = locations.get("vault").unwrap();
    assert_eq!(vault.credentials, Credentials::Environment { prefix: "VAULT".into() });
    assert_eq!(locations.origins().collect::<Vec<_>>(), ["uploads"]);
}

#[test]
fn a_tenant_may_name_only_what_a_rule_grants_it() {
    let locations = parse(GOOD).unwrap();
    let ask = |tenant, location, bucket, key| locations.authorize(tenant, location, bucket, key).err();
    assert_eq!(ask("web", "uploads", "photos", "users/1.jpg"), None);
    assert_eq!(ask("other", "uploads", "reports", "any"), None);
    assert_eq!(ask("web", "uploads", "photos", "Users/1.jpg"), Some(Refusal::Key));
    assert_eq!(ask("web", "uploads", "photos", "users"), Some(Refusal::Key));
    assert_eq!(ask("other", "uploads", "photos", "users/1.jpg"), Some(Refusal::Bucket));
    assert_eq!(ask("web", "vault", "backups", "x"), Some(Refusal::Location));
    assert_eq!(ask("web", "nowhere", "photos", "users/1.jpg"), Some(Refusal::Location));
}

#[test]
fn a_location_that_grants_a_tenant_nothing_looks_like_one_that_does_not_exist() {
    let locations = parse(&GOOD.replace(r#"tenants = ["*"]"#, r#"tenants = ["web"]"#)).unwrap();
    assert_eq!(locations.authorize("other", "uploads", "photos", "users/1").err(), Some(Refusal::Location));
}

#[test]
fn each_mistake_is_blamed_on_its_setting() {
    for (from, to, setting) in [
        ("http://127.0.0.1:8333", "127.0.0.1:8333", "location.uploads.endpoint"),
        ("http://127.0.0.1:8333", "ftp://host", "location.uploads.endpoint"),
        ("http://127.0.0.1:8333", "http://user:pw@host", "location.uploads.endpoint"),
        ("http://127.0.0.1:8333", "http://host/path", "location.uploads.endpoint"),
        ("http://127.0.0.1:8333", "http://169.254.169.254", "location.uploads.endpoint"),
        ("http://127.0.0.1:8333", "http://[fd00:ec2::254]:80", "location.uploads.endpoint"),
        (r#"region = "eu-west-1""#, r#"region = " ""#, "location.vault.region"),
        ("/etc/backhaul/uploads", "uploads", "location.uploads.credentials.file"),
        (r#"env = "VAULT""#, r#"env = "va ult""#, "location.vault.credentials.env"),
        (r#"bucket = "photos""#, r#"bucket = "Photos""#, "location.uploads.read[0].bucket"),
        (r#"tenants = ["web"]"#, "tenants = []", "location.uploads.read[0].tenants"),
        (r#"tenants = ["web"]"#, r#"tenants = ["We b"]"#, "location.uploads.read[0].tenants"),
        (r#"["users/", "teams/"]"#, "[]", "location.uploads.read[0].prefixes"),
        (r#"location = "vault""#, r#"location = "vaults""#, "location.uploads.backup.location"),
        (r#"bucket = "backups""#, r#"bucket = "b""#, "location.uploads.backup.bucket"),
        (r#"prefix = "copies""#, r#"prefix = "/copies""#, "location.uploads.backup.prefix"),
    ] {
        assert_eq!(blamed(from, to), [setting], "{to}");
    }
}

#[test]
fn a_link_local_endpoint_is_refused_with_the_way_to_allow_it() {
    let text = GOOD.replace("http://127.0.0.1:8333", "http://169.254.1.2:8333");
    let shown = parse(&text).unwrap_err().to_string();
    assert!(shown.contains("169.254.1.2 is a link-local address"), "{shown}");
    assert!(shown.contains("allow_link_local = true"), "{shown}");
    let text = text.replace("path_style = true", "path_style = true\nallow_link_local = true");
    assert!(parse(&text).unwrap().get("uploads").unwrap().addresses.allow_link_local);
    assert!(parse(&text.replace("169.254.1.2", "0.0.0.0")).is_err(), "which no setting allows");
}

#[test]
fn owners_are_those_of_the_bucket_before_those_of_the_location() {
    let text = GOOD
        .replacen("path_style = true", "path_style = true\nowner = \"111111111111\"", 1)
        .replacen("bucket = \"photos\"", "bucket = \"photos\"\nowner = \"222222222222\"", 1)
        .replacen("bucket = \"backups\"", "bucket = \"backups\"\nowner = \"333333333333\"", 1);
    let locations = parse(&text).unwrap();
    let owner =
        |location: &str, bucket| locations.get(location).unwrap().owners.of(bucket).map(str::to_owned);
    assert_eq!(owner("uploads", "photos").as_deref(), Some("222222222222"));
    assert_eq!(owner("uploads", "reports").as_deref(), Some("111111111111"));
    assert_eq!(owner("vault", "backups").as_deref(), Some("333333333333"));
    assert_eq!(owner("vault", "photos"), None, "another store");
    assert_eq!(parse(GOOD).unwrap().get("uploads").unwrap().owners.of("photos"), None);
}

#[test]
fn locations_in_one_store_know_the_same_owners() {
    let text = GOOD
        .replacen("http://127.0.0.1:8333", "https://s3.example.com\"\nregion = \"eu-west-1", 1)
        .replacen("path_style = true", "path_style = true\nowner = \"111111111111\"", 1)
        .replacen("bucket = \"backups\"", "bucket = \"backups\"\nowner = \"333333333333\"", 1);
    let locations = parse(&text).unwrap();
    let owner =
        |location: &str, bucket| locations.get(location).unwrap().owners.of(bucket).map(str::to_owned);
    assert_eq!(
        owner("vault", "photos").as_deref(),
        Some("111111111111"),
        "it may be asked to copy from there"
    );
    assert_eq!(owner("vault", "others"), None);
    assert_eq!(owner("uploads", "backups").as_deref(), Some("333333333333"));
    assert_eq!(owner("uploads", "others").as_deref(), Some("111111111111"));
}

#[test]
fn an_owner_that_is_no_account_or_not_the_only_one_is_blamed_on_its_setting() {
    for (at, owner, setting) in [
        ("path_style = true", "12345678901", "location.uploads.owner"),
        ("path_style = true", "arn:aws:iam", "location.uploads.owner"),
        ("bucket = \"photos\"", "1234567890123", "location.uploads.read[0].owner"),
        ("bucket = \"backups\"", "", "location.uploads.backup.owner"),
    ] {
        assert_eq!(blamed(at, &format!("{at}\nowner = \"{owner}\"")), [setting], "{owner}");
    }
    let twice = GOOD.replace("bucket = \"reports\"", "bucket = \"photos\"\nowner = \"222222222222\"");
    let twice = twice.replacen("bucket = \"photos\"", "bucket = \"photos\"\nowner = \"111111111111\"", 1);
    let shown = parse(&twice).unwrap_err().to_string();
    assert!(shown.contains("location.uploads.read[1].owner: another setting says"), "{shown}");
    // Of one store under two names, too, since it may be asked to copy from the one to the other.
    let of_two = |name: &str, owner: &str| {
        format!(
            "[location.{name}]\nendpoint = 'http://s3:1'\ncredentials = 'anonymous'\n\
             [[location.{name}.read]]\nbucket = 'shared'\ntenants = ['*']\nowner = '{owner}'\n\
             [location.{name}.backup]\nlocation = '{name}'\nbucket = 'backups'\n"
        )
    };
    let shown = parse(&(of_two("a", "111111111111") + &of_two("b", "222222222222"))).unwrap_err().to_string();
    assert!(shown.contains("location.b.read[0].owner: another setting says"), "{shown}");
    parse(&(of_two("a", "111111111111") + &of_two("b", "111111111111"))).unwrap();
    assert!(shown.contains("belongs to 111111111111"), "{shown}");
}

#[test]
fn all_mistakes_are_named_at_once_and_shown_one_a_line() {
    let text =
        GOOD.replace("[location.vault]", "[location.Vault]").replace("http://127.0.0.1:8333", "nonsense");
    let shown = parse(&text).unwrap_err().to_string();
    assert_eq!(shown.lines().count(), 4, "{shown}");
    assert!(shown.contains("\n  location.Vault: a name is"), "{shown}");
    assert!(shown.contains(r#"location.uploads.backup.location: there is no location "vault""#), "{shown}");
}

#[test]
fn backups_that_would_be_backed_up_again_are_refused() {
    let text = GOOD
        .replace(r#"location = "vault""#, r#"location = "uploads""#)
        .replace(r#"bucket = "backups""#, r#"bucket = "reports""#);
    match parse(&text) {
        Err(FileError::Invalid { problems, .. }) => {
            assert_eq!(problems[0].setting, "location.uploads.backup.bucket");
        }
        other => panic!("expected a problem, got {other:?}"),
    }
}

#[test]
fn an_unknown_setting_and_a_wrong_type_are_errors_that_name_the_line() {
    for (from, to, named) in [
        ("path_style = true", "path_stile = true", "path_stile"),
        ("path_style = true", r#"path_style = "yes""#, "line 4"),
        ("verify = \"head\"", "verify = \"all\"", "all"),
        (r#"{ env = "VAULT" }"#, r#"{ key = "secret" }"#, "key"),
    ] {
        let error = parse(&GOOD.replacen(from, to, 1)).unwrap_err();
        assert!(matches!(error, FileError::Syntax { .. }), "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[test]
fn an_empty_file_and_a_missing_one_say_so() {
    assert!(parse("").unwrap_err().to_string().contains("names no location"));
    let missing = Locations::load(Path::new("/nonexistent/locations.toml")).unwrap_err();
    assert!(missing.to_string().contains("/nonexistent/locations.toml"));
}
