//! Names of programs, in certificates and as texts: read in one way only.

use backhaul_runtime::tls::{SpiffeId, TrustDomain, fuzzing};

/// A certificate in DER, or a name.
pub(crate) fn certificate(bytes: &[u8]) {
    if let Some(names) = fuzzing::names_of_certificate(bytes) {
        assert!(names.iter().map(String::len).sum::<usize>() <= bytes.len());
        names.iter().for_each(|name| spiffe(name));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        spiffe(text);
    }
}

fn spiffe(text: &str) {
    let Ok(id) = text.parse::<SpiffeId>() else { return };
    assert_eq!(id.as_str(), text);
    assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
    assert!(id.path().len() > 1 && id.path().starts_with('/') && text.len() <= 2048);
    assert!(id.path()[1..].split('/').all(|segment| !matches!(segment, "" | "." | "..")));
    let domain: TrustDomain = id.trust_domain().parse().expect("it was read before");
    assert_eq!(domain.id(id.path()).expect("it was read before"), id);
}
