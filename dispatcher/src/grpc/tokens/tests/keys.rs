//! Keys that are read again, rotated, away, slow, huge; in virtual time but where a real server is asked.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        jwks::{Algorithm, Jwks},
        keys::{GOOD_FOR, KeyAddress, KeyFile, KeySource, Keys, NOT_BEFORE, Unavailable},
    },
    *,
};
use crate::https::{
    Https, HttpsOptions,
    testing::{HttpsServer, answer},
};

const EVERY: Duration = Duration::from_secs(300);

/// Answers as told, the last answer again and again; counts how often it was asked.
#[derive(Debug, Default, Clone)]
struct Scripted(Arc<Script>);

#[derive(Debug, Default)]
struct Script {
    answers: Mutex<VecDeque<Option<String>>>,
    asked: AtomicUsize,
    /// How long an answer takes.
    takes: Mutex<Duration>,
}

#[async_trait]
impl KeySource for Scripted {
    async fn read(&self) -> io::Result<Bytes> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        let takes = *self.0.takes.lock().unwrap();
        tokio::time::sleep(takes).await;
        let mut answers = self.0.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() };
        answer.map(Bytes::from).ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
    }

    fn every(&self) -> Duration {
        EVERY
    }
}

impl Scripted {
    fn with(answers: impl IntoIterator<Item = Option<String>>) -> Self {
        let scripted = Self::default();
        scripted.0.answers.lock().unwrap().extend(answers);
        scripted
    }

    fn asked(&self) -> usize {
        self.0.asked.load(Ordering::SeqCst)
    }

    /// Keys that are kept, and who keeps them.
    fn kept(&self) -> (Keys, JoinSet<()>) {
        let (keys, keeper) = Keys::new("test", Box::new(self.clone()));
        let mut running = JoinSet::new();
        running.spawn(keeper.run(CancellationToken::new()));
        (keys, running)
    }
}

/// Keys with these ids.
fn set(ids: &[&str]) -> Option<String> {
    let keys: Vec<_> = ids.iter().map(|id| ec_key(id, &KeyPair::generate().unwrap())).collect();
    Some(json!({ "keys": keys }).to_string())
}

async fn has(keys: &Keys, id: &str) -> Result<bool, Unavailable> {
    keys.find(Some(id), Algorithm::Es256).await.map(|key| key.is_some())
}

#[tokio::test(start_paused = true)]
async fn a_thousand_unknown_keys_are_one_question() {
    let source = Scripted::with([set(&["a"])]);
    *source.0.takes.lock().unwrap() = Duration::from_secs(1);
    let (keys, _running) = source.kept();
    let mut calls = JoinSet::new();
    for call in 0..1000 {
        let keys = keys.clone();
        calls.spawn(async move { has(&keys, &format!("unknown-{call}")).await });
    }
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer.unwrap(), Ok(false));
    }
    assert_eq!(source.asked(), 1, "all of them waited for the first answer");
    for call in 0..1000 {
        assert_eq!(has(&keys, &format!("other-{call}")).await, Ok(false));
    }
    assert_eq!(source.asked(), 1, "it was asked just now");
    tokio::time::sleep(NOT_BEFORE).await;
    for call in 0..1000 {
        assert_eq!(has(&keys, &format!("other-{call}")).await, Ok(false));
    }
    assert_eq!(source.asked(), 2, "now it may have new ones");
    assert_eq!(has(&keys, "a").await, Ok(true));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_takes_no_answer_from_others() {
    let source = Scripted::with([set(&["a"])]);
    *source.0.takes.lock().unwrap() = Duration::from_secs(2);
    let (keys, _running) = source.kept();
    assert!(tokio::time::timeout(Duration::from_secs(1), has(&keys, "a")).await.is_err());
    assert_eq!(has(&keys, "a").await, Ok(true));
    assert_eq!(source.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn keys_that_nobody_has_any_more_are_read_no_more() {
    let source = Scripted::with([set(&["a"])]);
    let (keys, mut running) = source.kept();
    let same = keys.clone();
    assert_eq!(has(&keys, "a").await, Ok(true));
    drop(keys);
    tokio::time::sleep(EVERY + Duration::from_secs(1)).await;
    assert!(running.try_join_next().is_none());
    drop(same);
    running.join_next().await.unwrap().unwrap();
    assert_eq!(source.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_found_when_a_token_names_it_and_an_old_one_is_forgotten() {
    let source = Scripted::with([set(&["old"]), set(&["old", "new"]), set(&["new"])]);
    let (keys, _running) = source.kept();
    assert_eq!(has(&keys, "old").await, Ok(true));
    tokio::time::sleep(NOT_BEFORE).await;
    assert_eq!(has(&keys, "new").await, Ok(true));
    assert_eq!(has(&keys, "old").await, Ok(true), "during a rotation both are good");
    assert_eq!(source.asked(), 2);
    tokio::time::sleep(EVERY).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(source.asked(), 3, "read again although nobody asked");
    assert_eq!(has(&keys, "old").await, Ok(false));
    assert_eq!(has(&keys, "new").await, Ok(true));
}

#[tokio::test(start_paused = true)]
async fn keys_that_cannot_be_read_again_are_used_for_a_bounded_while() {
    let source = Scripted::with([set(&["a"]), None]);
    let (keys, _running) = source.kept();
    assert_eq!(has(&keys, "a").await, Ok(true));
    let start = Instant::now();
    tokio::time::sleep(GOOD_FOR - Duration::from_secs(60)).await;
    assert_eq!(has(&keys, "a").await, Ok(true));
    assert_eq!(has(&keys, "b").await, Err(Unavailable), "nobody knows whether there is such a key by now");
    assert!(keys.age() >= GOOD_FOR - Duration::from_secs(60));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(has(&keys, "a").await, Err(Unavailable));
    let most = start.elapsed().as_secs() / NOT_BEFORE.as_secs() + 2;
    assert!(source.asked() as u64 <= most, "{}", source.asked());
    source.0.answers.lock().unwrap().push_back(set(&["a"]));
    tokio::time::sleep(NOT_BEFORE * 2).await;
    assert_eq!(has(&keys, "a").await, Ok(true), "and again as soon as they can be read");
}

#[tokio::test(start_paused = true)]
async fn keys_that_were_never_read_are_unavailable_and_not_a_no() {
    let source = Scripted::with([None]);
    let (keys, _running) = source.kept();
    assert_eq!(has(&keys, "a").await, Err(Unavailable));
    for nonsense in
        ["", "{}", "[]", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AAAA","kid":"a"}]}"#, "\u{0}"]
    {
        source.0.answers.lock().unwrap().push_back(Some(nonsense.into()));
        tokio::time::sleep(NOT_BEFORE * 2).await;
        assert_eq!(has(&keys, "a").await, Err(Unavailable), "{nonsense}");
    }
}

#[test]
fn keys_that_are_for_something_else_are_passed_over() {
    let key = KeyPair::generate().unwrap();
    let with = |changes: &[(&str, Value)]| {
        let mut key = ec_key("a", &key);
        for (name, value) in changes {
            key[*name] = value.clone();
        }
        key
    };
    let find = |keys: Vec<Value>, id: Option<&str>| {
        let set = Jwks::parse(json!({ "keys": keys }).to_string().as_bytes());
        set.ok().and_then(|set| set.find(id, Algorithm::Es256)).is_some()
    };
    assert!(find(vec![with(&[])], Some("a")));
    assert!(find(vec![with(&[("use", json!("sig")), ("alg", json!("ES256"))])], Some("a")));
    // One that nobody understands does not spoil the others.
    assert!(find(vec![json!(1), json!({ "kty": "new" }), json!({}), with(&[])], Some("a")));
    for (name, value) in [
        ("use", json!("enc")),
        ("alg", json!("ES384")),
        ("alg", json!("RSA-OAEP")),
        ("alg", json!("something")),
        ("crv", json!("P-384")),
        ("x", json!("!")),
        ("kid", json!("b")),
    ] {
        assert!(!find(vec![with(&[(name, value.clone())])], Some("a")), "{name} = {value}");
    }
    // Without a name there must be no choice.
    assert!(find(vec![with(&[])], None));
    assert!(!find(vec![with(&[]), with(&[("kid", json!("b"))])], None));
    // Whoever publishes thousands has some that are not used.
    let many = (0..1000).map(|n| with(&[("kid", json!(n.to_string()))])).collect::<Vec<_>>();
    assert!(find(many.clone(), Some("63")) && !find(many, Some("64")));
}

fn from(server: &HttpsServer) -> KeyAddress {
    let options = HttpsOptions { ca_file: Some(server.ca_file()), token_file: None };
    KeyAddress { url: server.url("/keys"), https: Https::new(options) }
}

#[tokio::test]
async fn keys_come_from_an_address_and_nothing_else_does() {
    let signer = Signer::new();
    let text = signer.jwks().to_string();
    let server = HttpsServer::start(move |_| answer(200, text.clone())).await;
    let (keys, keeper) = Keys::new("test", Box::new(from(&server)));
    let mut running = JoinSet::new();
    running.spawn(keeper.run(CancellationToken::new()));
    assert_eq!(has(&keys, "ec").await, Ok(true));
    assert_eq!(server.asked()[0].uri(), "/keys");

    for (status, body) in [(404, "{}".to_owned()), (500, String::new()), (200, "x".repeat(300 * 1024))] {
        server.answers(move |_| answer(status, body.clone()));
        assert!(from(&server).read().await.is_err(), "{status}");
    }
    server.answers(|_| None);
    let source = from(&server);
    // It is given up in its own time, which is real here.
    assert_eq!(source.read().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    let gone =
        KeyAddress { url: "https://127.0.0.1:1/keys".into(), https: Https::new(HttpsOptions::default()) };
    assert!(gone.read().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_file_is_read_again_and_a_broken_one_keeps_the_old() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    fs::write(&path, set(&["a"]).unwrap()).unwrap();
    let (keys, keeper) = Keys::new("test", Box::new(KeyFile(path.clone())));
    let mut running = JoinSet::new();
    running.spawn(keeper.run(CancellationToken::new()));
    assert_eq!(has(&keys, "a").await, Ok(true));
    fs::write(&path, "broken").unwrap();
    tokio::time::sleep(NOT_BEFORE * 2).await;
    assert_eq!(has(&keys, "a").await, Ok(true));
    fs::write(&path, "x".repeat(300 * 1024)).unwrap();
    tokio::time::sleep(NOT_BEFORE * 2).await;
    assert_eq!(has(&keys, "a").await, Ok(true));
    fs::write(&path, set(&["b"]).unwrap()).unwrap();
    tokio::time::sleep(NOT_BEFORE * 2).await;
    assert_eq!((has(&keys, "a").await, has(&keys, "b").await), (Ok(false), Ok(true)));
}
