//! The file of issuers: what is taken, what is refused and how that is told, and whom rules name.

use super::*;
use crate::grpc::{access::Role, identity::Caller};

/// A file with one issuer of this text, whose keys are there.
fn parse(text: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    fs::write(&keys, json!({ "keys": [ec_key("ec", &KeyPair::generate().unwrap())] }).to_string()).unwrap();
    let text = text.replace("KEYS", keys.to_str().unwrap());
    match Issuers::parse(&text, Path::new("issuers.toml")) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

const HEAD: &str = "[[issuer]]\nname = 'a'\nissuer = 'https://a'\naudience = 'backhaul'\n";
const KEYS: &str = "keys_file = 'KEYS'\n";
const CALLER: &str = "[[issuer.caller]]\nsubject = 'x'\ntenant = 'web'\nrole = 'reader'\n";

#[test]
fn a_whole_file_is_taken() {
    let second = CALLER.replace("subject = 'x'", "service_account = 'shop/*'\nclaims = { team = 'media' }");
    parse(&format!("{HEAD}{KEYS}algorithms = ['ES256']\nmax_lifetime = '10m'\n{CALLER}{second}")).unwrap();
    let from_address =
        "keys_url = 'https://a/keys'\n[issuer.review]\nurl = 'https://api'\ntoken_file = '/t'\n";
    parse(&format!("{HEAD}{from_address}{CALLER}")).unwrap();
    parse("issuer = []").unwrap();
}

#[test]
fn each_mistake_is_named_by_its_setting() {
    let issuer = |lines: &str| format!("{HEAD}{KEYS}{lines}{CALLER}");
    let caller = |lines: &str| format!("{HEAD}{KEYS}[[issuer.caller]]\nrole = 'reader'\n{lines}");
    let twice = format!("{HEAD}{KEYS}{CALLER}{HEAD}{KEYS}{CALLER}");
    for (text, problem) in [
        (String::new(), "names none"),
        ("issuer = 1".into(), "expected"),
        (issuer("colour = 'red'\n"), "unknown field `colour`"),
        (issuer("algorithms = []\n"), "issuer[0].algorithms: must name"),
        (issuer("algorithms = ['HS256']\n"), "issuer[0].algorithms: must name"),
        (issuer("algorithms = ['none']\n"), "issuer[0].algorithms: must name"),
        (issuer("max_lifetime = '2h'\n"), "issuer[0].max_lifetime: must be 1m to 1h"),
        (issuer("max_lifetime = '3600'\n"), "issuer[0].max_lifetime: must be 1m to 1h"),
        (issuer("keys_url = 'https://a'\n"), "issuer[0].keys_file: or keys_url is needed, and not both"),
        (issuer("keys_ca_file = '/ca'\n"), "issuer[0].keys_file: is read without"),
        (format!("{HEAD}{CALLER}"), "issuer[0].keys_file: or keys_url is needed"),
        (format!("{HEAD}keys_url = 'http://a'\n{CALLER}"), "issuer[0].keys_url: must be https"),
        (format!("{HEAD}keys_file = '/none'\n{CALLER}"), "issuer[0].keys_file: /none"),
        (format!("{HEAD}keys_file = '/dev/null'\n{CALLER}"), "not a JSON Web Key Set"),
        (
            format!("{HEAD}keys_url = 'https://a'\nkeys_ca_file = '/none'\n{CALLER}"),
            "issuer[0].keys_ca_file: /none",
        ),
        (issuer("review = { url = 'http://a', token_file = '/t' }\n"), "issuer[0].review.url: must be https"),
        (format!("{HEAD}{KEYS}"), "issuer[0].caller: there is none"),
        (twice, "issuer[1].name: is there twice"),
        (issuer("").replace("name = 'a'", "name = 'A b'"), "issuer[0].name: must be 1 to 63"),
        (issuer("").replace("'backhaul'", "''"), "issuer[0].audience: must not be empty"),
        (issuer("").replace("'reader'", "'worker'"), "unknown variant `worker`"),
        (caller("tenant = 'web'\n"), "caller[0].subject: or service_account or claims is needed"),
        (caller("tenant = '*'\nsubject = 'x'\n"), "caller[0].tenant: must be a tenant"),
        (caller("tenant = '{}'\nsubject = 'x'\n"), "caller[0].tenant: must be a tenant"),
        (
            caller("tenant = '{namespace}'\nsubject = 'x'\n"),
            "caller[0].tenant: {namespace} needs a service_account",
        ),
        (
            caller("tenant = 'web'\nservice_account = 'x'\n"),
            "caller[0].service_account: must be NAMESPACE/NAME",
        ),
        (
            caller("tenant = 'web'\nservice_account = '*/*'\n"),
            "caller[0].service_account: must be NAMESPACE/NAME",
        ),
        (
            caller("tenant = 'web'\nservice_account = 'a/b/c'\n"),
            "caller[0].service_account: must be NAMESPACE/NAME",
        ),
        (
            caller("tenant = 'web'\nclaims = { a = '' }\n"),
            "caller[0].claims: a claim must not be asked to be empty",
        ),
    ] {
        let told = parse(&text).expect_err(problem);
        assert!(told.contains(problem), "{problem}: {told}");
        assert!(told.contains("issuers.toml"), "{told}");
    }
}

#[test]
fn the_file_for_kubernetes_is_a_good_one() {
    let folder = tempfile::tempdir().unwrap();
    let authority = rcgen::generate_simple_self_signed(Vec::new()).unwrap().cert;
    fs::write(folder.path().join("ca.crt"), authority.pem()).unwrap();
    let shipped =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/components/tokens/issuers.toml");
    let text = fs::read_to_string(&shipped).unwrap();
    let text = text.replace("/var/run/secrets/backhaul/cluster", folder.path().to_str().unwrap());
    Issuers::parse(&text, &shipped).unwrap();
}

/// Who somebody with these claims is, by rules of that text.
async fn who(signer: &Signer, rules: &str, changes: Value) -> Option<Caller> {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    fs::write(&keys, signer.jwks().to_string()).unwrap();
    let text = format!(
        "[[issuer]]\nname = 'a'\nissuer = '{ISSUER}'\naudience = '{AUDIENCE}'\nkeys_file = {keys:?}\n{rules}"
    );
    let (issuers, _keepers) = Issuers::parse(&text, Path::new("issuers.toml")).unwrap();
    issuers.prove(&signer.token(&claims_with(changes)), at(NOW)).await.unwrap().caller
}

fn is(found: Option<Caller>, tenant: &str, role: Role) -> bool {
    found.is_some_and(|caller| (caller.tenant(), caller.role()) == (tenant, role))
}

#[tokio::test]
async fn service_accounts_are_named_by_namespace_and_name() {
    let signer = Signer::new();
    let rules = "[[issuer.caller]]\nservice_account = 'shop/uploader'\ntenant = 'web'\nrole = 'submitter'\n\
                 [[issuer.caller]]\nservice_account = 'ops/*'\ntenant = 'ops'\nrole = 'operator'\n\
                 [[issuer.caller]]\nservice_account = '*/viewer'\ntenant = '{namespace}'\nrole = 'reader'\n";
    let account = |text: &str| json!({ "sub": format!("system:serviceaccount:{text}") });
    assert!(is(who(&signer, rules, account("shop:uploader")).await, "web", Role::Submitter));
    assert!(is(who(&signer, rules, account("ops:anybody")).await, "ops", Role::Operator));
    assert!(is(who(&signer, rules, account("media:viewer")).await, "media", Role::Reader));
    // The first rule that fits counts.
    assert!(is(who(&signer, rules, account("ops:viewer")).await, "ops", Role::Operator));
    for nobody in
        ["shop:other", "shop:uploader:x", "shop2:uploader", "Shop:uploader", ":viewer", "a/b:viewer", "shop"]
    {
        assert_eq!(who(&signer, rules, account(nobody)).await, None, "{nobody}");
    }
    for nobody in
        ["system:serviceaccounts:shop:uploader", "shop/uploader", "shop:uploader", "system:node:shop"]
    {
        assert_eq!(who(&signer, rules, json!({ "sub": nobody })).await, None, "{nobody}");
    }
    // A namespace may be longer than a tenant.
    assert_eq!(who(&signer, rules, account(&format!("{}:viewer", "a".repeat(64)))).await, None);
}

#[tokio::test]
async fn claims_must_all_be_as_a_rule_says() {
    let signer = Signer::new();
    let rules = "[[issuer.caller]]\nclaims = { team = 'media', groups = 'backup' }\ntenant = '{org}'\nrole = 'submitter'\n";
    let good = json!({ "team": "media", "groups": ["x", "backup"], "org": "web" });
    assert!(is(who(&signer, rules, good.clone()).await, "web", Role::Submitter));
    for (name, value) in [
        ("team", json!("Media")),
        ("team", json!(null)),
        ("team", json!({ "media": true })),
        ("groups", json!(["backup2"])),
        ("groups", json!([])),
        ("groups", json!([["backup"]])),
        ("org", json!("*")),
        ("org", json!("We b")),
        ("org", json!(["web"])),
        ("org", json!(null)),
    ] {
        let mut bad = good.clone();
        bad[name] = value.clone();
        assert_eq!(who(&signer, rules, bad).await, None, "{name} = {value}");
    }
}
