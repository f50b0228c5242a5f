//! What makes one token good, and the headers of a call that carry it.

use std::net::SocketAddr;

use backhaul_runtime::{metrics::Label as _, tls::PeerIdentity};

use super::*;
use crate::grpc::access::Role;

async fn prove(issuers: &Issuers, token: &str) -> Result<Principal, Denied> {
    issuers.prove(token, at(NOW)).await
}

#[tokio::test]
async fn a_good_token_makes_its_sender_the_caller_that_the_file_names() {
    let signer = Signer::new();
    let (issuers, _folder) = issuers(&signer);
    let audiences = claims_with(json!({ "aud": ["other", AUDIENCE] }));
    for token in [
        signer.token(&claims()),
        signer.token_with(&json!({ "alg": "RS256", "kid": "rsa" }), &claims()),
        // There is one key of each kind, so it need not be named.
        signer.token_with(&json!({ "alg": "RS256" }), &claims()),
        signer.token(&audiences),
        signer.token(&claims_with(json!({ "exp": NOW as f64 + 600.5, "nbf": null, "iat": null }))),
    ] {
        let principal = prove(&issuers, &token).await.unwrap();
        assert_eq!(&*principal.name, "token:test:web-app");
        let caller = principal.caller.unwrap();
        assert_eq!((caller.tenant(), caller.role()), ("web", Role::Submitter));
        assert_eq!(principal.worker, None);
    }
}

#[tokio::test]
async fn a_token_that_is_not_good_makes_nobody_a_caller() {
    let signer = Signer::new();
    let (issuers, _folder) = issuers(&signer);
    let refused = async |what: &str, token: String| {
        let denied = prove(&issuers, &token).await.expect_err(what);
        assert!(matches!(denied, Denied::Unidentified(_)), "{what}: {denied:?}");
        assert!(!denied.to_string().contains("web-app"), "{what}");
    };
    for (what, changes) in [
        ("another audience", json!({ "aud": "https://kubernetes.default.svc" })),
        ("other audiences", json!({ "aud": ["a", "backhaul2", "Backhaul"] })),
        ("no audience", json!({ "aud": null })),
        ("an audience that is no text", json!({ "aud": { "backhaul": true } })),
        ("another issuer", json!({ "iss": "https://issuer.test/" })),
        ("no issuer", json!({ "iss": null })),
        ("issuers", json!({ "iss": [ISSUER] })),
        ("no end", json!({ "exp": null })),
        ("an end that is no number", json!({ "exp": "1800000600" })),
        ("over", json!({ "exp": NOW - 31 })),
        ("an end that is too far", json!({ "exp": NOW + 3600 + 31 })),
        ("an end that never comes", json!({ "exp": 1e300 })),
        ("a negative end", json!({ "exp": -1 })),
        ("not begun", json!({ "nbf": NOW + 31 })),
        ("a begin that is no number", json!({ "nbf": "0" })),
        ("issued in the future", json!({ "iat": NOW + 31 })),
        ("no subject", json!({ "sub": null })),
        ("an empty subject", json!({ "sub": "" })),
        ("a subject that would be two lines", json!({ "sub": "web-app\nx" })),
        ("a long subject", json!({ "sub": "x".repeat(256) })),
    ] {
        refused(what, signer.token(&claims_with(changes))).await;
    }
    for (what, changes) in [
        ("within the leeway of the end", json!({ "exp": NOW - 29 })),
        ("within the leeway of the begin", json!({ "nbf": NOW + 30, "iat": NOW + 30 })),
        ("as far as it may be", json!({ "exp": NOW + 3600 })),
    ] {
        assert!(prove(&issuers, &signer.token(&claims_with(changes))).await.is_ok(), "{what}");
    }
    refused("of another signer", Signer::new().token(&claims())).await;
    let good = signer.token(&claims());
    refused("with other claims", {
        let (_, signature) = good.rsplit_once('.').unwrap();
        let other = claims_with(json!({ "sub": "web-app", "exp": NOW + 601 }));
        format!("{}.{signature}", signed_part(&json!({ "alg": "ES256", "kid": "ec" }), &other))
    })
    .await;
    for (what, token) in [
        ("nothing", ""),
        ("dots", ".."),
        ("no signature", good.rsplit_once('.').unwrap().0),
        ("an empty signature", &format!("{}.", good.rsplit_once('.').unwrap().0)),
        ("five parts", &format!("{good}.a.b")),
        ("not base64", &format!("!{good}")),
        ("padded", &format!("{good}=")),
    ] {
        refused(what, token.to_owned()).await;
    }
}

#[tokio::test]
async fn a_token_does_not_say_how_it_is_to_be_checked() {
    let signer = Signer::new();
    let (issuers, _folder) = issuers(&signer);
    let refused = async |issuers: &Issuers, what: &str, token: String| {
        assert!(matches!(prove(issuers, &token).await, Err(Denied::Unidentified(_))), "{what}");
    };
    // Unsigned, in all ways to write that.
    for alg in ["none", "None", "NONE", ""] {
        let signed = signed_part(&json!({ "alg": alg, "kid": "ec" }), &claims());
        refused(&issuers, alg, format!("{signed}.")).await;
        refused(&issuers, alg, format!("{signed}.AA")).await;
    }
    // Signed with what everybody knows: the public key as a shared secret.
    let signed = signed_part(&json!({ "alg": "HS256", "kid": "rsa" }), &claims());
    let (modulus, _) = rsa_parts(&signer.rs256);
    for secret in
        [signer.rs256.public_key_raw(), modulus, base64(modulus).as_bytes(), signer.es256.public_key_raw()]
    {
        let key = EncodingKey::from_secret(secret);
        let algorithm = jsonwebtoken::Algorithm::HS256;
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, algorithm).unwrap();
        refused(&issuers, "HS256", format!("{signed}.{signature}")).await;
    }
    // The algorithm of one key with another, and algorithms beside those that are taken.
    for header in [
        json!({ "alg": "ES256", "kid": "rsa" }),
        json!({ "alg": "RS256", "kid": "ec" }),
        json!({ "alg": "es256", "kid": "ec" }),
        json!({ "alg": "PS256", "kid": "rsa" }),
        json!({ "alg": "RS512", "kid": "rsa" }),
        json!({ "kid": "ec" }),
        json!({ "alg": "ES256", "kid": ["ec"], "crit": [] }),
        json!({ "alg": "ES256", "kid": "ec", "crit": ["exp"] }),
        json!({ "alg": "ES256", "kid": "ec", "jku": "https://elsewhere/keys" }),
        json!({ "alg": "ES256", "kid": "ec", "jwk": ec_key("ec", &signer.es256) }),
        json!({ "alg": "ES256", "kid": "ec", "x5u": "https://elsewhere" }),
        json!({ "alg": "ES256", "kid": "../../etc/passwd" }),
    ] {
        refused(&issuers, &header.to_string(), signer.token_with(&header, &claims())).await;
    }
    // A file that allows one algorithm allows no other that there is a key for.
    let (pinned, _folder) = issuers_with(&signer, "algorithms = ['RS256']");
    refused(&pinned, "ES256", signer.token(&claims())).await;
    let token = signer.token_with(&json!({ "alg": "RS256", "kid": "rsa" }), &claims());
    assert!(prove(&pinned, &token).await.is_ok());
}

#[tokio::test]
async fn lifetimes_can_be_bounded_closer() {
    let signer = Signer::new();
    let (issuers, _folder) = issuers_with(&signer, "max_lifetime = '5m'");
    assert!(prove(&issuers, &signer.token(&claims())).await.is_err());
    let short = claims_with(json!({ "exp": NOW + 300 }));
    assert!(prove(&issuers, &signer.token(&short)).await.is_ok());
}

#[tokio::test]
async fn a_good_token_of_somebody_whom_no_rule_names_may_do_nothing() {
    let signer = Signer::new();
    let (issuers, _folder) = issuers(&signer);
    for subject in ["web-app2", "Web-app", "web", "spiffe://prod/backhaul/worker", "/backhaul/worker"] {
        let token = signer.token(&claims_with(json!({ "sub": subject })));
        let principal = prove(&issuers, &token).await.unwrap();
        assert!(Role::ALL.into_iter().all(|role| !principal.has(role)), "{subject}");
    }
}

#[tokio::test(start_paused = true)]
async fn streams_of_a_token_end_before_it_does() {
    let signer = Signer::new();
    let (issuers, _folder) = issuers(&signer);
    let start = Instant::now();
    for (left, stream) in [(3600, 3570), (600, 570), (100, 90), (0, 1)] {
        let token = signer.token(&claims_with(json!({ "exp": NOW + left })));
        let until = prove(&issuers, &token).await.unwrap().ends.at.unwrap();
        assert_eq!(until - start, Duration::from_secs(stream));
    }
}

fn certified() -> Certified {
    let callers = |kind| format!("/backhaul/{kind}/{{tenant}}").parse().unwrap();
    Certified::new(Arc::new(crate::grpc::roles::Roles {
        workers: "/backhaul/worker".parse().unwrap(),
        operators: callers("operator"),
        readers: callers("reader"),
        submitters: callers("tenant"),
    }))
}

/// One proof for each call: no more, no less, and no other than it claims to be.
#[tokio::test]
async fn a_call_has_one_certificate_or_one_token() {
    let signer = Signer::new();
    let (issuers, _folder) = issuers(&signer);
    let metrics = Arc::<Metrics>::default();
    let door = CertificateOrToken::new(certified(), LiveIssuers::fixed(issuers), Arc::clone(&metrics));
    #[expect(clippy::disallowed_methods, reason = "the edge: tokens end by the calendar")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let good = signer.token(&json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "web-app", "exp": now + 600 }));
    let knock = async |certificate: Option<&str>, authorizations: &[String]| {
        let mut peer = Peer::at(SocketAddr::from(([127, 0, 0, 1], 1)));
        peer.identity = certificate.map(|id| PeerIdentity {
            id: id.parse().unwrap(),
            not_after: SystemTime::UNIX_EPOCH,
            trust: 0,
        });
        let mut extensions = Extensions::new();
        extensions.insert(peer);
        let mut headers = HeaderMap::new();
        for value in authorizations {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        let principal = door.identify(&headers, &extensions).await?;
        Ok::<_, Denied>(principal.caller.map(|caller| caller.tenant().to_owned()))
    };
    let bearer = |token: &str| format!("Bearer {token}");
    let certificate = Some("spiffe://prod/backhaul/tenant/shop");
    assert_eq!(knock(certificate, &[]).await, Ok(Some("shop".into())));
    assert_eq!(knock(None, &[bearer(&good)]).await, Ok(Some("web".into())));
    assert_eq!(knock(None, &[format!("bEARER {good}")]).await, Ok(Some("web".into())));
    assert_eq!(knock(None, &[]).await, Err(NOBODY));
    assert_eq!(knock(certificate, &[bearer(&good)]).await, Err(BOTH));
    assert_eq!(knock(certificate, &["Basic x".into()]).await, Err(BOTH));
    let twice = [bearer(&good), bearer(&good)];
    assert_eq!(knock(None, &twice).await, Err(TWICE));
    for malformed in
        [good.clone(), format!("Basic {good}"), "Bearer".into(), "Bearer ".into(), format!("Bearer  {good}")]
    {
        assert!(matches!(knock(None, &[malformed]).await, Err(Denied::Unidentified(_))));
    }
    assert_eq!(knock(None, &[bearer(&"x".repeat(MOST_BYTES + 1))]).await, Err(MALFORMED));
    assert_eq!(knock(None, &[format!("{}, {}", bearer(&good), bearer(&good))]).await, Err(MALFORMED));
    assert!(!format!("{door:?}").contains(&good));
    // Each token once, and what is no token not at all.
    let counted = TokenOutcome::ALL.iter().map(|outcome| (*outcome, metrics.tokens.of(*outcome).get()));
    let expected = [
        (TokenOutcome::Accepted, 2),
        (TokenOutcome::NoCaller, 0),
        (TokenOutcome::Refused, 7),
        (TokenOutcome::Ambiguous, 3),
        (TokenOutcome::Unavailable, 0),
    ];
    assert_eq!(counted.collect::<Vec<_>>(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_nobody_can_check_in_time_is_counted_too() {
    let signer = Signer::new();
    let text = format!(
        "[[issuer]]\nname = 'test'\nissuer = '{ISSUER}'\naudience = '{AUDIENCE}'\nkeys_url = 'https://127.0.0.1:1/keys'\n\
         [[issuer.caller]]\nsubject = 'web-app'\ntenant = 'web'\nrole = 'submitter'\n"
    );
    // Nobody runs the keepers, so no key ever comes.
    let (issuers, _keepers) = Issuers::parse(&text, Path::new("issuers.toml")).unwrap();
    let metrics = Arc::<Metrics>::default();
    let door = CertificateOrToken::new(certified(), LiveIssuers::fixed(issuers), Arc::clone(&metrics));
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {}", signer.token(&claims())).parse().unwrap());
    let extensions = Extensions::new();
    let identified = door.identify(&headers, &extensions);
    assert!(tokio::time::timeout(Duration::from_secs(5), identified).await.is_err());
    let counted = TokenOutcome::ALL.iter().map(|outcome| metrics.tokens.of(*outcome).get());
    assert_eq!((metrics.tokens.of(TokenOutcome::Unavailable).get(), counted.sum::<u64>()), (1, 1));
}
