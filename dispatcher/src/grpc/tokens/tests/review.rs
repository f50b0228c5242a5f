//! Reviews, asked of a small server that speaks the API as Kubernetes documents it.

use tokio::task::JoinSet;

use super::{
    super::review::{Reviews, Verdict},
    *,
};
use crate::https::{
    Https, HttpsOptions,
    testing::{HttpsServer, answer},
};

const SUBJECT: &str = "system:serviceaccount:shop:uploader";

/// What an API server answers about a good token.
fn good() -> Value {
    json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "metadata": { "creationTimestamp": null },
        "spec": { "token": "x", "audiences": [AUDIENCE] },
        "status": {
            "authenticated": true,
            "audiences": [AUDIENCE],
            "user": {
                "username": SUBJECT,
                "uid": "4f8c",
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "extra": { "authentication.kubernetes.io/pod-name": ["uploader-7d"] }
            }
        }
    })
}

fn with_status(status: Value) -> String {
    let mut review = good();
    review["status"] = status;
    review.to_string()
}

struct Api {
    server: HttpsServer,
    folder: TempDir,
}

impl Api {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), "own-credential").unwrap();
        Self { server: HttpsServer::start(|_| answer(201, good().to_string())).await, folder }
    }

    fn reviews(&self) -> Reviews {
        let options = HttpsOptions {
            ca_file: Some(self.server.ca_file()),
            token_file: Some(self.folder.path().join("token")),
        };
        Reviews::new("cluster", &self.server.url("/"), AUDIENCE, Https::new(options))
    }
}

#[tokio::test]
async fn the_api_server_is_asked_as_it_wants_to_be() {
    let api = Api::start().await;
    assert_eq!(api.reviews().review("the-token", SUBJECT).await, Verdict::Good);
    let asked = api.server.asked();
    let [question] = asked.as_slice() else { panic!("{}", asked.len()) };
    assert_eq!(question.method(), "POST");
    assert_eq!(question.uri(), "/apis/authentication.k8s.io/v1/tokenreviews");
    assert_eq!(question.headers()[AUTHORIZATION], "Bearer own-credential");
    let said: Value = serde_json::from_slice(question.body()).unwrap();
    assert_eq!(said["kind"], "TokenReview");
    assert_eq!(said["spec"], json!({ "token": "the-token", "audiences": [AUDIENCE] }));
}

#[tokio::test]
async fn only_a_whole_yes_is_a_yes() {
    let api = Api::start().await;
    let user = json!({ "username": SUBJECT });
    let yes = |changes: Value| {
        let mut status = json!({ "authenticated": true, "audiences": [AUDIENCE], "user": user });
        status.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        with_status(status)
    };
    for (what, status, body, expected) in [
        ("yes", 201, yes(json!({})), Verdict::Good),
        ("yes with another status", 200, yes(json!({})), Verdict::Good),
        (
            "a pod that was deleted",
            201,
            yes(json!({ "authenticated": false, "error": "pod not found" })),
            Verdict::Refused,
        ),
        ("nothing of authentication", 201, with_status(json!({})), Verdict::Refused),
        (
            "a token of the default audience",
            201,
            yes(json!({ "audiences": ["https://kubernetes.default.svc"] })),
            Verdict::Refused,
        ),
        ("a server that knows no audiences", 201, yes(json!({ "audiences": [] })), Verdict::Refused),
        ("somebody else", 201, yes(json!({ "user": { "username": "system:admin" } })), Verdict::Refused),
        ("nobody", 201, yes(json!({ "user": {} })), Verdict::Refused),
        ("no status", 201, json!({ "kind": "TokenReview" }).to_string(), Verdict::Unknown),
        (
            "another kind of answer",
            200,
            json!({ "kind": "Status", "status": "Success" }).to_string(),
            Verdict::Unknown,
        ),
        ("a yes in a text", 201, yes(json!({ "authenticated": "true" })), Verdict::Unknown),
        ("no right to ask", 403, yes(json!({})), Verdict::Unknown),
        ("an own credential that ended", 401, yes(json!({})), Verdict::Unknown),
        ("a server in trouble", 500, String::new(), Verdict::Unknown),
        ("busy", 429, String::new(), Verdict::Unknown),
        ("nonsense", 201, "<html>".into(), Verdict::Unknown),
        ("nothing", 201, String::new(), Verdict::Unknown),
        ("far too much", 201, format!("{}{}", " ".repeat(100 * 1024), good()), Verdict::Unknown),
        ("far too deep", 201, format!("{{\"status\":{}", "[".repeat(10_000)), Verdict::Unknown),
    ] {
        api.server.answers(move |_| answer(status, body.clone()));
        assert_eq!(api.reviews().review("t", SUBJECT).await, expected, "{what}");
    }
    drop(api.folder);
    let api = Api::start().await;
    fs::remove_file(api.folder.path().join("token")).unwrap();
    assert_eq!(
        api.reviews().review("t", SUBJECT).await,
        Verdict::Unknown,
        "without a credential nobody is asked"
    );
    assert!(api.server.asked().is_empty());
}

#[tokio::test]
async fn who_asks_for_what_is_being_asked_waits_for_that() {
    let api = Api::start().await;
    let reviews = Arc::new(api.reviews());
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let reviews = Arc::clone(&reviews);
        calls.spawn(async move { reviews.review("one", SUBJECT).await });
    }
    while let Some(verdict) = calls.join_next().await {
        assert_eq!(verdict.unwrap(), Verdict::Good);
    }
    assert_eq!(api.server.asked().len(), 1);
    assert_eq!(reviews.review("other", SUBJECT).await, Verdict::Good);
    assert_eq!(api.server.asked().len(), 2, "the answer to one token is none to another");
    assert!(!format!("{reviews:?}").contains("one"));
}

/// Real sockets and a clock that is put forward: what counts is that an answer is too old, not how long anything took.
#[tokio::test]
async fn an_answer_counts_for_a_minute_and_no_answer_for_a_moment() {
    let api = Api::start().await;
    let reviews = api.reviews();
    let forward = async |time| {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    };
    assert_eq!(reviews.review("t", SUBJECT).await, Verdict::Good);
    api.server.answers(|_| answer(201, with_status(json!({ "authenticated": false }))));
    assert_eq!(reviews.review("t", SUBJECT).await, Verdict::Good, "nobody was asked");
    assert_eq!(api.server.asked().len(), 1);
    forward(Duration::from_secs(60)).await;
    assert_eq!(reviews.review("t", SUBJECT).await, Verdict::Refused);
    forward(Duration::from_secs(60)).await;
    api.server.answers(|_| answer(503, ""));
    assert_eq!(reviews.review("t", SUBJECT).await, Verdict::Unknown, "an old answer is none");
    api.server.answers(|_| answer(201, good().to_string()));
    forward(Duration::from_secs(1)).await;
    assert_eq!(reviews.review("t", SUBJECT).await, Verdict::Good);
}

#[tokio::test]
async fn what_is_remembered_is_bounded() {
    let api = Api::start().await;
    fs::remove_file(api.folder.path().join("token")).unwrap();
    let reviews = api.reviews();
    for n in 0..5000 {
        reviews.review(&n.to_string(), SUBJECT).await;
    }
    assert!(reviews.remembered() <= 4096, "{}", reviews.remembered());
}

/// The whole of it: the token of a pod, checked here first and then by the API server.
#[tokio::test]
async fn a_service_accounts_token_is_taken_as_long_as_its_pod_is_there() {
    let (api, signer) = (Api::start().await, Signer::new());
    let keys = api.folder.path().join("keys.json");
    fs::write(&keys, signer.jwks().to_string()).unwrap();
    let text = format!(
        "[[issuer]]\nname = 'cluster'\nissuer = '{ISSUER}'\naudience = '{AUDIENCE}'\nkeys_file = {keys:?}\n\
         review = {{ url = '{}', ca_file = {:?}, token_file = {:?} }}\n\
         [[issuer.caller]]\nservice_account = 'shop/uploader'\ntenant = 'web'\nrole = 'submitter'\n",
        api.server.url(""),
        api.server.ca_file(),
        api.folder.path().join("token"),
    );
    let load = || Issuers::parse(&text, Path::new("issuers.toml")).unwrap().0;
    let of_pod =
        json!({ "sub": SUBJECT, "kubernetes.io": { "namespace": "shop", "pod": { "name": "uploader-7d" } } });
    let token = signer.token(&claims_with(of_pod.clone()));
    let principal = load().prove(&token, at(NOW)).await.unwrap();
    assert_eq!(principal.caller.unwrap().tenant(), "web");
    assert!(principal.ends.at.unwrap() <= Instant::now() + REVIEWED_STREAM);
    assert_eq!(api.server.asked().len(), 1);

    // What is refused here is not asked about: strangers cannot make anybody ask.
    let default_audience = json!({ "sub": SUBJECT, "aud": "https://kubernetes.default.svc.cluster.local" });
    for bad in [
        signer.token(&claims_with(default_audience)),
        Signer::new().token(&claims_with(of_pod.clone())),
        signer.token(&claims_with(json!({ "sub": SUBJECT, "exp": NOW - 60 }))),
    ] {
        assert_eq!(load().prove(&bad, at(NOW)).await.unwrap_err(), REFUSED);
    }
    assert_eq!(api.server.asked().len(), 1);

    api.server.answers(|_| answer(201, with_status(json!({ "authenticated": false }))));
    assert_eq!(
        load().prove(&token, at(NOW)).await.unwrap_err(),
        REFUSED,
        "the pod is gone, and its token is as good as before"
    );
    api.server.answers(|_| answer(500, ""));
    assert_eq!(load().prove(&token, at(NOW)).await.unwrap_err(), NO_REVIEW);
}
