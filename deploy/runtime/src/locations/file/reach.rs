//! How a store is reached, and whose its buckets are: what the file says of that, checked.

use std::collections::BTreeMap;

use super::Problems;
use crate::{address::AddressRule, locations::Location};

/// What a setting says about the owner of a bucket.
pub(super) struct Claim {
    setting: String,
    location: String,
    bucket: String,
    account: String,
}

/// The account that a setting names, where it names one.
pub(super) fn account(problems: &mut Problems, at: &str, account: Option<String>) -> Option<String> {
    let is_account = |text: &String| text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit());
    problems.require(
        account.as_ref().is_none_or(is_account),
        &format!("{at}.owner"),
        "is not the id of an account, which has 12 digits",
    );
    account
}

/// Notes that a setting names the owner of a bucket of a location.
pub(super) fn claim(
    problems: &mut Problems,
    at: &str,
    (location, bucket): (&str, &str),
    owner: Option<String>,
) {
    if let Some(account) = account(problems, at, owner) {
        problems.claims.push(Claim {
            setting: format!("{at}.owner"),
            location: location.to_owned(),
            bucket: bucket.to_owned(),
            account,
        });
    }
}

/// Brings together what is said about owners. Two locations in one store know the same about its buckets, because it may be asked to copy
/// from the one to the other.
pub(super) fn settle_owners(problems: &mut Problems, by_name: &mut BTreeMap<String, Location>) {
    // What was said first of a bucket of a store, whichever location it was said for.
    let mut said = BTreeMap::new();
    for Claim { setting, location, bucket, account } in std::mem::take(&mut problems.claims) {
        let Some(location) = by_name.get_mut(&location) else { continue };
        let store = (location.endpoint.clone(), location.region.clone(), bucket.clone());
        let known = said.entry(store).or_insert_with(|| account.clone());
        if *known != account {
            let what = format!("another setting says that the bucket belongs to {known}");
            problems.add(setting, what);
        }
        location.owners.by_bucket.insert(bucket, account);
    }
    let stores = by_name.values().map(|l| ((l.endpoint.clone(), l.region.clone()), said_by(l)));
    let stores: Vec<_> = stores.collect();
    for location in by_name.values_mut() {
        let same = stores.iter().filter(|((e, r), _)| (e, r) == (&location.endpoint, &location.region));
        for (bucket, account) in same.flat_map(|(_, said)| said) {
            // What a location says itself comes first, and all that it says of its own buckets is said already.
            if !location.owners.by_bucket.contains_key(bucket) && !location.reads(bucket) {
                location.owners.by_bucket.insert(bucket.clone(), account.clone());
            }
        }
    }
}

/// The owners of the buckets that a location names.
fn said_by(location: &Location) -> Vec<(String, String)> {
    let named = location.read.iter().map(|rule| &rule.bucket).chain(location.owners.by_bucket.keys());
    let owner = |bucket: &String| Some((bucket.clone(), location.owners.of(bucket)?.to_owned()));
    named.filter_map(owner).collect()
}

pub(super) fn check_endpoint(endpoint: &str, rule: AddressRule) -> Result<(), String> {
    let uri: http::Uri = endpoint.parse().map_err(|e| format!("is not a URL: {e}"))?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        Some(_) | None => return Err("must start with http:// or https://".into()),
    }
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let host = uri.host().unwrap_or_default();
    if authority.is_empty() || host.is_empty() {
        return Err("names no host".into());
    }
    if authority.contains('@') {
        return Err("must not hold credentials".into());
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err("must have neither path nor query".into());
    }
    rule.check_host(host).map_err(|why| format!("{why}; if the store is there: allow_link_local = true"))
}
