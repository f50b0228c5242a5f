//! Page tokens of `ListBackups` and `RetryBackups`: a place in a listing, bound to the listing it belongs to.
//!
//! A token is hex text of a digest and the queue's cursor. The digest covers tenant, filter and cursor, so a token that was
//! changed, or is used with another filter, is refused instead of giving a page of something else. It is no secret and no
//! permission: whoever forges a token still lists only their own tenant, because the tenant comes from the caller each time.

use sha2::{Digest as _, Sha256};

use crate::queue::{ListCursor, ListQuery};

/// Longest token in bytes: digest and the longest cursor, in hex.
pub(crate) const MAX_TOKEN_BYTES: usize = 2 * (DIGEST_BYTES + MAX_CURSOR_BYTES);
const DIGEST_BYTES: usize = 16;
/// As [`ListCursor`] bounds it.
const MAX_CURSOR_BYTES: usize = 256;

/// The token for the page of `query` that starts at `cursor`.
pub(crate) fn encode(query: &ListQuery, cursor: &ListCursor) -> String {
    let mut bytes = digest(query, &cursor.0).to_vec();
    bytes.extend_from_slice(cursor.0.as_bytes());
    hex::encode(bytes)
}

/// The place that `token` stands for; `None` unless it was made for the same tenant and filter.
pub(crate) fn decode(query: &ListQuery, token: &str) -> Option<ListCursor> {
    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let bytes = hex::decode(token).ok()?;
    let (stamp, cursor) = bytes.split_at_checked(DIGEST_BYTES)?;
    let cursor = std::str::from_utf8(cursor).ok()?;
    let printable = cursor.bytes().all(|b| (b' '..=b'~').contains(&b));
    (printable && stamp == digest(query, cursor)).then(|| ListCursor(cursor.to_owned()))
}

/// Each field goes in with its length, so that no two listings share an encoding. The page size is left out: it may change.
fn digest(query: &ListQuery, cursor: &str) -> [u8; DIGEST_BYTES] {
    let mut hash = Sha256::new();
    let mut field = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    field("list/2");
    field(&query.tenant);
    field(query.location.as_deref().unwrap_or_default());
    field(query.bucket.as_deref().unwrap_or_default());
    field(&query.key_prefix);
    field(cursor);
    field(&query.states.len().to_string());
    for state in &query.states {
        field(super::present::state(*state).as_str_name());
    }
    field(&query.reasons.len().to_string());
    for reason in &query.reasons {
        field(super::present::reason(*reason).as_str_name());
    }
    for bound in [query.finished_from, query.finished_until] {
        field(&bound.map(|at| at.to_string()).unwrap_or_default());
    }
    for (name, value) in &query.labels {
        field(name);
        field(value);
    }
    let full: [u8; 32] = hash.finalize().into();
    let mut short = [0; DIGEST_BYTES];
    short.copy_from_slice(&full[..DIGEST_BYTES]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{TaskReason, TaskState, UnixMs};

    fn query() -> ListQuery {
        ListQuery {
            tenant: "web".into(),
            states: vec![TaskState::Done, TaskState::Dead],
            reasons: vec![TaskReason::SourceGone],
            location: Some("uploads".into()),
            bucket: Some("photos".into()),
            key_prefix: "users/".into(),
            labels: [("team".to_owned(), "a".to_owned())].into(),
            finished_from: Some(UnixMs(5)),
            finished_until: Some(UnixMs(9)),
            limit: 10,
            cursor: None,
        }
    }

    fn cursor() -> ListCursor {
        ListCursor("5:1700000000000:00f-0123".into())
    }

    #[test]
    fn a_token_gives_back_the_cursor_whatever_the_page_size() {
        let token = encode(&query(), &cursor());
        assert_eq!(decode(&query(), &token), Some(cursor()));
        assert_eq!(decode(&ListQuery { limit: 999, ..query() }, &token), Some(cursor()));
        let longest = ListCursor("x".repeat(256));
        assert_eq!(decode(&query(), &encode(&query(), &longest)), Some(longest));
    }

    #[test]
    fn a_token_is_good_only_for_its_own_filter_and_tenant() {
        let token = encode(&query(), &cursor());
        let others = [
            ListQuery { tenant: "app".into(), ..query() },
            ListQuery { states: vec![TaskState::Done], ..query() },
            ListQuery { states: vec![], ..query() },
            ListQuery { location: None, ..query() },
            ListQuery { bucket: None, ..query() },
            ListQuery { reasons: vec![], ..query() },
            ListQuery { finished_from: None, finished_until: Some(UnixMs(5)), ..query() },
            ListQuery { finished_until: None, ..query() },
            ListQuery { key_prefix: "users".into(), ..query() },
            ListQuery { labels: [("team".to_owned(), "b".to_owned())].into(), ..query() },
            ListQuery { labels: [].into(), ..query() },
        ];
        for other in others {
            assert_eq!(decode(&other, &token), None, "{other:?}");
        }
    }

    #[test]
    fn a_changed_token_is_refused_at_every_byte() {
        let token = encode(&query(), &cursor());
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(decode(&query(), std::str::from_utf8(&changed).unwrap()), None, "byte {at}");
        }
        for cut in 0..token.len() {
            assert_eq!(decode(&query(), &token[..cut]), None, "cut at {cut}");
        }
        for bad in ["", "zz", "é", &"0".repeat(MAX_TOKEN_BYTES + 2)] {
            assert_eq!(decode(&query(), bad), None, "{bad}");
        }
    }

    #[test]
    fn a_forged_cursor_that_is_not_printable_never_reaches_the_queue() {
        let forged = ListCursor("\u{1b}[31m\n".into());
        assert_eq!(decode(&query(), &encode(&query(), &forged)), None);
    }
}
