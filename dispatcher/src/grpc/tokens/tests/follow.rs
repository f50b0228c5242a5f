//! The file of issuers while it is replaced: who is believed from when on, what ends, and what is kept.

use std::path::PathBuf;

use futures_util::FutureExt as _;
use tokio::{
    task::JoinSet,
    time::{advance, sleep},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    grpc::{identity::Caller, tokens::follow::Follower},
    https::testing::{HttpsServer, answer},
};

const OTHER: &str = "https://other.test";
const EVERY: Duration = Duration::from_secs(2);
/// Two looks, and some.
const SEEN: Duration = Duration::from_secs(5);

/// A file of issuers, and the keys that are named there.
struct Scene {
    folder: TempDir,
    signer: Signer,
}

impl Scene {
    fn new() -> Self {
        let (folder, signer) = (tempfile::tempdir().unwrap(), Signer::new());
        let scene = Self { folder, signer };
        for name in ["test", "other"] {
            scene.write_keys(name);
        }
        scene.write(&[scene.issuer("test", ISSUER, "submitter"), scene.issuer("other", OTHER, "submitter")]);
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_keys(&self, name: &str) {
        fs::write(self.path(name), self.signer.jwks().to_string()).unwrap();
    }

    fn issuer(&self, name: &str, issuer: &str, role: &str) -> String {
        let keys = self.path(name);
        format!(
            "[[issuer]]\nname = '{name}'\nissuer = '{issuer}'\naudience = '{AUDIENCE}'\nkeys_file = {keys:?}\n\
             [[issuer.caller]]\nsubject = 'web-app'\ntenant = 'web'\nrole = '{role}'\n"
        )
    }

    fn write(&self, issuers: &[String]) {
        fs::write(self.path("issuers.toml"), issuers.concat()).unwrap();
    }

    fn open(&self) -> (Follower, LiveIssuers) {
        Follower::open(self.path("issuers.toml")).unwrap()
    }

    fn token(&self, issuer: &str) -> String {
        self.signer.token(&claims_with(json!({ "iss": issuer })))
    }
}

async fn prove(live: &LiveIssuers, token: &str) -> Result<Principal, Denied> {
    live.now().prove(token, at(NOW)).await
}

/// Whether streams of theirs have to end.
fn is_over(principal: &Principal) -> bool {
    principal.ends.when.as_ref().is_some_and(CancellationToken::is_cancelled)
}

/// A follower at work, for as long as this lives.
fn running(follower: Follower) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { follower.run(EVERY, CancellationToken::new()).await.unwrap() });
    tasks
}

#[tokio::test(start_paused = true)]
async fn whoever_is_removed_is_believed_no_more_and_the_others_notice_nothing() {
    let scene = Scene::new();
    let (follower, live) = scene.open();
    let _running = running(follower);
    let (one, other) = (scene.token(ISSUER), scene.token(OTHER));
    let (kept, removed) = (prove(&live, &one).await.unwrap(), prove(&live, &other).await.unwrap());
    scene.write(&[scene.issuer("test", ISSUER, "submitter")]);
    // What is the same is not read anew: these could not be.
    fs::remove_file(scene.path("test")).unwrap();
    sleep(SEEN).await;
    assert!(is_over(&removed) && !is_over(&kept));
    assert!(matches!(prove(&live, &other).await, Err(Denied::Unidentified(_))));
    assert!(prove(&live, &one).await.is_ok());
    assert_eq!(live.now().key_ages().map(|(name, _)| name.to_owned()).collect::<Vec<_>>(), ["test"]);
    // And added again.
    scene.write(&[scene.issuer("other", OTHER, "reader"), scene.issuer("test", ISSUER, "submitter")]);
    sleep(SEEN).await;
    assert!(prove(&live, &other).await.is_ok() && prove(&live, &one).await.is_ok());
    assert!(is_over(&removed) && !is_over(&kept));
}

#[tokio::test(start_paused = true)]
async fn what_else_is_said_of_an_issuer_needs_no_keys_anew_and_ends_what_was_let_in_by_it() {
    let scene = Scene::new();
    let (follower, live) = scene.open();
    let _running = running(follower);
    let token = scene.token(ISSUER);
    let before = prove(&live, &token).await.unwrap();
    fs::remove_file(scene.path("test")).unwrap();
    scene.write(&[scene.issuer("test", ISSUER, "reader")]);
    sleep(SEEN).await;
    let after = prove(&live, &token).await.unwrap();
    assert_eq!(after.caller, before.caller.clone().map(Caller::reader));
    assert!(is_over(&before) && !is_over(&after));
    // Whoever kept them goes on.
    scene.write_keys("test");
    advance(Duration::from_secs(3600)).await;
    sleep(SEEN).await;
    assert!(prove(&live, &token).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_used_changes_nothing_until_it_can() {
    let scene = Scene::new();
    let (follower, live) = scene.open();
    let (refused, token) = (follower.refused(), scene.token(ISSUER));
    let is_refused = || refused.load(std::sync::atomic::Ordering::Relaxed);
    let _running = running(follower);
    let kept = prove(&live, &token).await.unwrap();
    let good = scene.issuer("test", ISSUER, "submitter");
    let early = good.clone() + &scene.issuer("new", "https://new.test", "reader");
    for bad in ["", "[[issuer]]\nname = 1", &good.replace("'submitter'", "'worker'"), &early] {
        scene.write(&[bad.to_owned()]);
        sleep(SEEN).await;
        assert!(is_refused() && !is_over(&kept), "{bad}");
        assert!(
            prove(&live, &token).await.is_ok() && prove(&live, &scene.token(OTHER)).await.is_ok(),
            "{bad}"
        );
    }
    // What was missing comes later than the file that names it.
    scene.write_keys("new");
    sleep(SEEN).await;
    assert!(!is_refused() && !is_over(&kept));
    assert!(prove(&live, &scene.token("https://new.test")).await.is_ok());
    assert!(prove(&live, &scene.token(OTHER)).await.is_err());
    fs::remove_file(scene.path("issuers.toml")).unwrap();
    sleep(SEEN).await;
    assert!(is_refused() && prove(&live, &token).await.is_ok());
    scene.write(&[early]);
    sleep(SEEN).await;
    assert!(!is_refused() && !is_over(&kept));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_being_written_is_not_taken_by_halves() {
    let scene = Scene::new();
    let (mut follower, live) = scene.open();
    let kept = prove(&live, &scene.token(OTHER)).await.unwrap();
    let (test, other) = (scene.issuer("test", ISSUER, "reader"), scene.issuer("other", OTHER, "submitter"));
    // One issuer is a whole file, too.
    scene.write(std::slice::from_ref(&test));
    assert!(follower.look().is_none());
    scene.write(&[test, other]);
    assert!(follower.look().is_none());
    let issuers = follower.look().unwrap();
    follower.put_in_force(issuers);
    assert!(!is_over(&kept));
}

/// Whose keys cannot be had holds up nobody else, and is believed no sooner than its keys are there.
#[tokio::test]
async fn new_keys_are_read_before_they_are_needed() {
    let scene = Scene::new();
    let text = scene.signer.jwks().to_string();
    let server = HttpsServer::start(move |_| answer(200, text.clone())).await;
    let (follower, live) = scene.open();
    let mut tasks = JoinSet::new();
    tasks.spawn(follower.run(Duration::from_millis(10), CancellationToken::new()));
    let (here, gone) = (server.url("/keys"), "https://127.0.0.1:1/keys".to_owned());
    let test = scene.issuer("test", ISSUER, "submitter");
    let other = scene.issuer("other", OTHER, "submitter");
    let file = format!("keys_file = {:?}", scene.path("other"));
    for (url, is_there) in [(here, true), (gone, false)] {
        let address = format!("keys_url = '{url}'\nkeys_ca_file = {:?}", server.ca_file());
        let moved = other.replace(&file, &address);
        assert_ne!(moved, other);
        let before = live.now();
        scene.write(&[test.clone(), moved]);
        while live.are(&before) {
            sleep(Duration::from_millis(1)).await;
        }
        let (one, two) = (scene.token(ISSUER), scene.token(OTHER));
        assert!(prove(&live, &one).now_or_never().unwrap().is_ok());
        if is_there {
            assert!(prove(&live, &two).now_or_never().unwrap().is_ok(), "they are known by now");
        } else {
            assert_eq!(prove(&live, &two).now_or_never().unwrap().unwrap_err(), NO_KEYS);
        }
    }
}
