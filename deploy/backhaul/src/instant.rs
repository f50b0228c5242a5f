//! Instants as people type them: absolute, or from now.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;

/// `+10m` or `-2h` from now, or an RFC 3339 instant. `flag` is named when it is none.
pub(crate) fn parse(flag: &str, text: &str) -> anyhow::Result<prost_types::Timestamp> {
    #[expect(clippy::disallowed_methods, reason = "the edge: what the caller means by `from now`")]
    let now = SystemTime::now();
    parse_at(flag, text, now)
}

fn parse_at(flag: &str, text: &str, now: SystemTime) -> anyhow::Result<prost_types::Timestamp> {
    let duration = |wait: &str| -> anyhow::Result<Duration> {
        humantime::parse_duration(wait)
            .with_context(|| format!("{flag} {text:?}: expected +DURATION or -DURATION"))
    };
    let too_far = || format!("{flag} {text:?} is too far away");
    let at = if let Some(wait) = text.strip_prefix('+') {
        now.checked_add(duration(wait)?).with_context(too_far)?
    } else if let Some(ago) = text.strip_prefix('-') {
        now.checked_sub(duration(ago)?).with_context(too_far)?
    } else {
        humantime::parse_rfc3339(text)
            .with_context(|| format!("{flag} {text:?}: expected an instant or +DURATION"))?
    };
    Ok(at.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_absolute_or_from_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let seconds = |text| parse_at("--at", text, now).unwrap().seconds;
        assert_eq!(seconds("+10m"), 1_600);
        assert_eq!(seconds("-10m"), 400);
        assert_eq!(seconds("1970-01-01T01:00:00Z"), 3_600);
        for bad in ["", "10m", "+", "+10", "-", "--1m", "tomorrow"] {
            assert!(parse_at("--at", bad, now).is_err(), "{bad:?}");
        }
    }
}
