//! Names of programs: SPIFFE ids, read strictly, because two readings of one name are two identities.

use std::{fmt, str::FromStr, sync::Arc};

/// `spiffe://trust-domain/path`, with a path.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    path_at: usize,
}

/// A trust domain: who has signed for a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TrustDomain(Arc<str>);

/// What is wrong with a text that should be a SPIFFE id or a trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// Too long.
    #[error("is longer than 2048 bytes")]
    Length,
    /// Another scheme.
    #[error("must start with spiffe://")]
    Scheme,
    /// The trust domain is missing or has other characters.
    #[error("a trust domain is 1 to 255 of a-z, 0-9, -, _ and .")]
    TrustDomain,
    /// No path: the name of a trust domain, not of a program.
    #[error("has no path")]
    NoPath,
    /// A path with empty or relative segments, or other characters.
    #[error("the path must be segments of a-z, A-Z, 0-9, -, _ and ., none of them empty, . or ..")]
    Path,
}

const SCHEME: &str = "spiffe://";
const MOST_BYTES: usize = 2048;

impl SpiffeId {
    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.path_at]
    }

    /// The path, with the slash that it begins with.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[self.path_at..]
    }

    /// The whole id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl TrustDomain {
    /// The id of a program in this trust domain.
    ///
    /// # Errors
    /// [`SpiffeError`] of the path.
    pub fn id(&self, path: &str) -> Result<SpiffeId, SpiffeError> {
        format!("{SCHEME}{}{path}", self.0).parse()
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > MOST_BYTES {
            return Err(SpiffeError::Length);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeError::Scheme)?;
        let (domain, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let TrustDomain(_) = domain.parse()?;
        let segments = path.strip_prefix('/').ok_or(SpiffeError::NoPath)?;
        let is_segment = |segment: &str| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            !matches!(segment, "" | "." | "..") && segment.bytes().all(is_plain)
        };
        if !segments.split('/').all(is_segment) {
            return Err(SpiffeError::Path);
        }
        Ok(Self { text: text.into(), path_at: SCHEME.len() + domain.len() })
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        let is_plain = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
        };
        if (1..=255).contains(&text.len()) && text.bytes().all(is_plain) {
            Ok(Self(text.into()))
        } else {
            Err(SpiffeError::TrustDomain)
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_a_trust_domain_and_a_path() {
        let id: SpiffeId = "spiffe://prod.example_1-a/ns/web/sa/Uploads".parse().unwrap();
        assert_eq!((id.trust_domain(), id.path()), ("prod.example_1-a", "/ns/web/sa/Uploads"));
        assert_eq!("prod".parse::<TrustDomain>().unwrap().id("/a").unwrap().as_str(), "spiffe://prod/a");
    }

    #[test]
    fn whatever_could_be_read_in_two_ways_is_refused() {
        let long = format!("spiffe://prod/{}", "a".repeat(MOST_BYTES));
        for (text, problem) in [
            ("", SpiffeError::Scheme),
            ("https://prod/a", SpiffeError::Scheme),
            ("SPIFFE://prod/a", SpiffeError::Scheme),
            ("spiffe:///a", SpiffeError::TrustDomain),
            ("spiffe://Prod/a", SpiffeError::TrustDomain),
            ("spiffe://prod:443/a", SpiffeError::TrustDomain),
            ("spiffe://user@prod/a", SpiffeError::TrustDomain),
            ("spiffe://prod?x/a", SpiffeError::TrustDomain),
            ("spiffe://prod", SpiffeError::NoPath),
            ("spiffe://prod/", SpiffeError::Path),
            ("spiffe://prod/a/", SpiffeError::Path),
            ("spiffe://prod//a", SpiffeError::Path),
            ("spiffe://prod/./a", SpiffeError::Path),
            ("spiffe://prod/a/../b", SpiffeError::Path),
            ("spiffe://prod/a%2fb", SpiffeError::Path),
            ("spiffe://prod/a?b", SpiffeError::Path),
            ("spiffe://prod/a#b", SpiffeError::Path),
            ("spiffe://prod/a b", SpiffeError::Path),
            ("spiffe://prod/\u{e4}", SpiffeError::Path),
            ("spiffe://prod/a\0", SpiffeError::Path),
            (&long, SpiffeError::Length),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(problem), "{text}");
        }
    }
}
