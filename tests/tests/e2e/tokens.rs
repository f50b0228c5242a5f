//! Callers with tokens: the command line against a dispatcher that checks them, and what neither of them ever writes down.

use std::{
    fs,
    path::Path,
    process::Output,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use backhaul_tests::{
    TestEnv,
    certificates::Certificates,
    env::{EnvOptions, TENANT},
    eventually,
    locations::ORIGIN_BUCKET,
    programs::program,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{KeyPair, SigningKey as _};
use serde_json::{Value, json};

const ISSUER: &str = "https://issuer.scenario";

/// An issuer of tokens that the dispatcher trusts.
struct Issuer {
    key: KeyPair,
    name: String,
}

impl Issuer {
    fn new(name: &str) -> anyhow::Result<Self> {
        Ok(Self { key: KeyPair::generate()?, name: name.to_owned() })
    }

    /// The public key, as issuers publish theirs.
    fn publish(&self, file: &Path) -> anyhow::Result<()> {
        let point = self.key.public_key_raw();
        let (x, y) = (base64(&point[1..33]), base64(&point[33..]));
        let key = json!({ "kty": "EC", "crv": "P-256", "kid": self.name, "alg": "ES256", "use": "sig", "x": x, "y": y });
        Ok(fs::write(file, json!({ "keys": [key] }).to_string())?)
    }

    /// A token of ten minutes.
    fn token(&self, subject: &str) -> anyhow::Result<String> {
        #[expect(clippy::disallowed_methods, reason = "tokens end by the calendar")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let claims = json!({ "iss": ISSUER, "aud": "backhaul", "sub": subject, "exp": now + 600 });
        let part = |value: Value| base64(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(json!({ "alg": "ES256", "kid": self.name })), part(claims));
        let signature = fixed(&self.key.sign(signed.as_bytes())?).context("a signature on P-256")?;
        Ok(format!("{signed}.{}", base64(&signature)))
    }
}

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// `SEQUENCE { INTEGER r, INTEGER s }` as two numbers of 32 bytes each, which is how tokens have it.
fn fixed(der: &[u8]) -> Option<[u8; 64]> {
    let mut rest = der.get(2..)?;
    let mut numbers = [0; 64];
    for number in numbers.chunks_mut(32) {
        let length = usize::from(*rest.get(1)?);
        let digits = rest.get(2..2 + length)?;
        let digits = &digits[digits.iter().take_while(|byte| **byte == 0).count()..];
        number.get_mut(32 - digits.len()..)?.copy_from_slice(digits);
        rest = &rest[2 + length..];
    }
    Some(numbers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_shows_a_token_that_is_replaced_and_written_down_nowhere() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let (old, new) = (Issuer::new("old")?, Issuer::new("new")?);
    old.publish(&path("keys.json"))?;
    let issuers = format!(
        "[[issuer]]\nname = 'scenario'\nissuer = '{ISSUER}'\naudience = 'backhaul'\nkeys_file = {:?}\n\
         [[issuer.caller]]\nsubject = 'uploader'\ntenant = '{TENANT}'\nrole = 'submitter'\n",
        path("keys.json")
    );
    fs::write(path("issuers.toml"), issuers)?;
    let certificates = Arc::new(Certificates::new()?);
    let issuers = path("issuers.toml");
    let issuers = issuers.to_str().context("a path that is text")?;
    let options = EnvOptions::default().secured(&certificates).dispatcher_flag("token-issuers", issuers);
    let mut env = TestEnv::start(options).await?;
    env.uploads().put_random(ORIGIN_BUCKET, "photo", 1000).await?;
    let at = format!("--dispatcher=https://{}", env.dispatcher_address());
    let object = format!("uploads:{ORIGIN_BUCKET}/photo");
    let run = async |arguments: &[&str]| -> anyhow::Result<Output> {
        let mut command = program("backhaul")?;
        command.args(arguments).arg(&at).arg("--token-file").arg(path("token"));
        certificates.tell_trust(&mut command);
        Ok(tokio::task::spawn_blocking(move || command.output()).await??)
    };

    let first = old.token("uploader")?;
    fs::write(path("token"), &first)?;
    let output = run(&["submit", "--json", "--watch", &object]).await?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(String::from_utf8_lossy(&output.stdout).contains("\"done\""), "{output:?}");

    // Another key signs from now on. The dispatcher finds out by itself, and then the old tokens are none.
    new.publish(&path("keys.json"))?;
    let second = new.token("uploader")?;
    fs::write(path("token"), &second)?;
    eventually("the new key is known", async || {
        let output = run(&["list", "--json"]).await?;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    })
    .await?;
    let stranger = new.token("somebody-else")?;
    let mut said = String::new();
    for (token, code) in [(&first, "valid"), (&stranger, "not allowed")] {
        fs::write(path("token"), token)?;
        let output = run(&["list", "--json"]).await?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2) && text.contains(code), "{output:?}");
        said += &text;
    }
    // A good one, until its issuer is taken out of the file.
    fs::write(path("token"), &second)?;
    let output = run(&["list", "--json"]).await?;
    ensure!(output.status.success(), "{output:?}");
    fs::write(path("issuers.toml"), "issuer = []")?;
    eventually("nobody's tokens are taken any more", async || {
        let output = run(&["list", "--json"]).await?;
        ensure!(output.status.code() == Some(2), "{output:?}");
        Ok(())
    })
    .await?;
    said += &env.dispatcher().log()?;
    for token in [&first, &second, &stranger] {
        let parts: Vec<_> = token.split('.').collect();
        ensure!(!said.contains(parts[1]) && !said.contains(parts[2]), "a token was written down: {said}");
    }
    env.finish().await
}
