//! Every mistake in a file of sources is named, and tokens open only what they are for.

use std::fs;

use super::*;
use crate::events::testing::{TOKEN, TOPIC, locations};

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

fn parse(text: &str) -> Result<Sources, FileError> {
    Sources::parse(text, Path::new("sources.toml"), &locations())
}

fn one(settings: &str) -> String {
    format!("[[event_source]]\nname = 'a'\nform = 's3'\nlocation = 'uploads'\ntenant = 'web'\n{settings}\n")
}

fn keys(files: &Files) -> String {
    format!("{{ file = '{}' }}", files.with("keys", "id\nsecret\n"))
}

fn queue(more: &str, credentials: &str) -> String {
    format!(
        "sqs = {{ {more}url = 'https://sqs.eu-west-1.amazonaws.com/1/uploads', region = 'eu-west-1', credentials = {credentials} }}"
    )
}

#[test]
fn every_way_of_delivery_can_be_configured() {
    let files = Files::new();
    let (token, url) = (files.with("token", TOKEN), files.with("url", "redis://:secret@localhost/1\n"));
    let text = format!(
        "{}[[event_source]]\nname = 'b'\nform = 'sns'\nlocation = 'uploads'\ntenant = 'web'\nsns_topic = '{TOPIC}'\n\
         [[event_source]]\nname = 'c'\nform = 'minio'\nlocation = 'uploads'\ntenant = 'web'\nredis_stream = {{ url_file = '{url}', stream = 'uploads' }}\n",
        one(&format!("buckets = ['photos']\ntoken_file = '{token}'"))
    );
    let sources = parse(&text).unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| sources.iter().find(|s| s.name == name).unwrap());
    assert!(a.may_name("photos") && !a.may_name("other") && b.may_name("other"));
    assert!(matches!(&b.delivery, Delivery::Topic(topic) if topic == TOPIC));
    assert!(
        matches!(&c.delivery, Delivery::RedisStream(options) if options.group == "backhaul" && options.field == "event")
    );
    assert!(sources.posting("a").is_some() && sources.posting("c").is_none(), "nobody posts for a stream");
    let wrapped = one(&format!("{}\nsns_topic = '{TOPIC}'", queue("", "'default'"))).replace("'s3'", "'sns'");
    let queues = format!("{}{}", one(&queue("readers = 4, ", &keys(&files))).replace("'a'", "'d'"), wrapped);
    let queues = parse(&queues).unwrap();
    let Delivery::Sqs { queue, topic: None } = &queues.iter().next().unwrap().delivery else {
        panic!("{queues:?}")
    };
    assert_eq!((queue.endpoint.as_str(), queue.readers), ("https://sqs.eu-west-1.amazonaws.com", 4));
    let last = queues.iter().last().unwrap();
    assert!(matches!(&last.delivery, Delivery::Sqs { topic: Some(topic), .. } if topic == TOPIC));
    assert!(queues.posting("a").is_none() && queues.posting("d").is_none(), "nobody posts for a queue");
    let shown = format!("{sources:?}{queues:?}");
    assert!(!shown.contains("secret") && !shown.contains(TOKEN), "{shown}");
}

#[test]
fn every_mistake_is_named() {
    let files = Files::new();
    let token = format!("token_file = '{}'", files.with("token", TOKEN));
    let short = format!("token_file = '{}'", files.with("short", "secret"));
    let many = format!("token_file = '{}'", files.with("many", &format!("{TOKEN}\n{TOKEN}\n{TOKEN}")));
    let empty = format!("token_file = '{}'", files.with("empty", "\n\n"));
    let spaces = format!("token_file = '{}'", files.with("spaces", "0123456789abcdef 0123456789abcdef"));
    let url = format!("redis_stream = {{ url_file = '{}', stream = 's' }}", files.with("url", "http://x"));
    let keys = keys(&files);
    for (text, named) in [
        (one(&short), ".token_file: a token has at least"),
        (one(&many), ".token_file: the file holds more than two"),
        (one(&empty), ".token_file: the file holds no token"),
        (one(&spaces), ".token_file: a token has only visible"),
        (one("token_file = 'relative'"), ".token_file: must be an absolute path"),
        (one("token_file = '/nowhere/at/all'"), ".token_file: cannot read"),
        (one(&url), ".redis_stream.url_file: the file holds no URL"),
        (one(""), "exactly one of"),
        (one(&format!("{token}\nsns_topic = '{TOPIC}'")), "exactly one of"),
        (one(&token).replace("'s3'", "'sns'"), "the form sns needs sns_topic"),
        (one(&format!("{token}\n{}", queue("", &keys))), "exactly one of"),
        (
            one(&format!("{}\n{token}", queue("", &keys))).replace("'s3'", "'sns'"),
            "the form sns needs sns_topic",
        ),
        (one(&queue("", "{ file = '/nowhere/at/all' }")), ".sqs.credentials.file: cannot read"),
        (one(&queue("", "{ file = 'relative' }")), ".sqs.credentials.file: must be an absolute"),
        (one(&queue("readers = 0, ", &keys)), ".sqs.readers: must be 1 to 16"),
        (one(&queue("", &keys)).replace("'eu-west-1'", "'EU'"), ".sqs.region: must be"),
        (one(&queue("", &keys)).replace("https:", "ftp:"), ".sqs.url: must be the URL"),
        (one(&queue("", &keys)).replace("https://", "https://me@"), ".sqs.url: must be the URL"),
        (one(&queue("", &keys)).replace("/1/uploads", ""), ".sqs.url: must be the URL"),
        (
            one(&queue("", &keys)).replace("sqs.eu-west-1.amazonaws.com", "169.254.169.254"),
            ".sqs.url: 169.254.169.254 is a link-local address",
        ),
        (one("sns_topic = 'uploads'").replace("'s3'", "'sns'"), ".sns_topic: must be the ARN"),
        (one(&token).replace("'uploads'", "'elsewhere'"), ".location: there is no such"),
        (one(&token).replace("'uploads'", "'vault'"), ".location: there is no such"),
        (one(&token).replace("'web'", "'other'"), ".location: there is no such"),
        (one(&token).replace("'web'", "'*'"), ".tenant: a tenant is"),
        (one(&token).replace("'a'", "'A/b'"), ".name: a name is"),
        (one(&format!("{token}\nbuckets = ['private']")), ".buckets: the location does not allow"),
        (one(&format!("{token}\nbuckets = ['P']")), ".buckets: is not a bucket name"),
        (format!("{0}{0}", one(&token)), "event_source[1].name: another source has it"),
    ] {
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains(named), "{text}\n{error}");
        assert!(!error.contains(TOKEN), "{error}");
    }
    assert!(matches!(parse(&one("token = 'inline'")), Err(FileError::Syntax { .. })), "no secret inline");
}

#[test]
fn a_token_is_accepted_whole_or_not_at_all_and_two_while_one_is_changed() {
    let tokens = Tokens::new([TOKEN, "another-token-of-the-source"]);
    assert!(tokens.accept(TOKEN.as_bytes()) && tokens.accept(b"another-token-of-the-source"));
    for wrong in ["", &TOKEN[1..], &TOKEN[..31], &TOKEN.to_uppercase(), &format!("{TOKEN} ")] {
        assert!(!tokens.accept(wrong.as_bytes()), "{wrong:?}");
    }
}
