//! Paths of SPIFFE ids as settings describe them: segments, `*` for any one segment, and for callers `{tenant}`.
//!
//! Pure. What a program with such a path may do is decided in [`super::roles`].

use std::str::FromStr;

use super::identity::Caller;

/// Paths of callers: literal segments, `*` for any one segment, and once `{tenant}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerPath(Vec<Segment>);

/// Paths of programs that act for no tenant: literal segments, and `*` for any one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramPath(Vec<Segment>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Any,
    Tenant,
}

/// A text that does not describe a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNamePath {
    /// Not a path.
    #[error("must be a path such as /backhaul/worker")]
    Path,
    /// No tenant, or more than one.
    #[error("must hold {{tenant}} once")]
    Tenant,
    /// A tenant where there is none.
    #[error("must not hold {{tenant}}")]
    NoTenant,
}

impl CallerPath {
    /// The caller with that path; `None` when it is none, or its tenant is no name for one.
    #[must_use]
    pub fn caller(&self, path: &str) -> Option<Caller> {
        Caller::new(found(&self.0, path)??).ok()
    }
}

impl ProgramPath {
    /// True when that path is one of these.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        found(&self.0, path).is_some()
    }
}

/// The tenant in `path`, if there is to be one; `None` when the path is another.
fn found<'p>(pattern: &[Segment], path: &'p str) -> Option<Option<&'p str>> {
    let mut segments = path.strip_prefix('/')?.split('/');
    let mut tenant = None;
    for expected in pattern {
        let segment = segments.next()?;
        match expected {
            Segment::Literal(literal) if literal == segment => {}
            Segment::Literal(_) => return None,
            Segment::Any => {}
            Segment::Tenant => tenant = Some(segment),
        }
    }
    if segments.next().is_some() { None } else { Some(tenant) }
}

fn parse(text: &str) -> Result<Vec<Segment>, InvalidNamePath> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let segment = |segment| match segment {
        "{tenant}" => Ok(Segment::Tenant),
        "*" => Ok(Segment::Any),
        literal if !literal.is_empty() && literal.bytes().all(is_plain) => {
            Ok(Segment::Literal(literal.to_owned()))
        }
        _ => Err(InvalidNamePath::Path),
    };
    text.strip_prefix('/').ok_or(InvalidNamePath::Path)?.split('/').map(segment).collect()
}

fn tenants(segments: &[Segment]) -> usize {
    segments.iter().filter(|segment| **segment == Segment::Tenant).count()
}

impl FromStr for CallerPath {
    type Err = InvalidNamePath;

    fn from_str(text: &str) -> Result<Self, InvalidNamePath> {
        let segments = parse(text)?;
        if tenants(&segments) == 1 { Ok(Self(segments)) } else { Err(InvalidNamePath::Tenant) }
    }
}

impl FromStr for ProgramPath {
    type Err = InvalidNamePath;

    fn from_str(text: &str) -> Result<Self, InvalidNamePath> {
        let segments = parse(text)?;
        if tenants(&segments) == 0 { Ok(Self(segments)) } else { Err(InvalidNamePath::NoTenant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(pattern: &str, path: &str) -> Option<String> {
        let pattern: CallerPath = pattern.parse().unwrap();
        pattern.caller(path).map(|caller| caller.tenant().to_owned())
    }

    #[test]
    fn the_tenant_is_one_segment_of_a_path_that_matches_to_its_end() {
        let ours = "/backhaul/tenant/{tenant}";
        assert_eq!(tenant(ours, "/backhaul/tenant/web"), Some("web".into()));
        assert_eq!(tenant("/ns/{tenant}/sa/*", "/ns/web/sa/uploader"), Some("web".into()));
        for path in [
            "/backhaul/tenant",
            "/backhaul/tenant/web/more",
            "/backhaul/worker",
            "/other/tenant/web",
            "/Backhaul/tenant/web",
            "/backhaul/tenant/Web",
            "/backhaul/tenant/",
            "backhaul/tenant/web",
        ] {
            assert_eq!(tenant(ours, path), None, "{path}");
        }
        assert_eq!(tenant("/{tenant}", "/*"), None, "the wildcard of the locations file is never a tenant");
    }

    #[test]
    fn a_program_has_the_whole_path_and_no_other() {
        let workers: ProgramPath = "/ns/backhaul/sa/*".parse().unwrap();
        assert!(workers.matches("/ns/backhaul/sa/worker-2"));
        for path in ["/ns/backhaul/sa", "/ns/backhaul/sa/a/b", "/ns/other/sa/worker", "/ns/backhaul/pod/a"] {
            assert!(!workers.matches(path), "{path}");
        }
    }

    #[test]
    fn patterns_that_name_no_tenant_or_no_path_are_refused() {
        for (text, problem) in [
            ("", InvalidNamePath::Path),
            ("{tenant}", InvalidNamePath::Path),
            ("/", InvalidNamePath::Path),
            ("/a//{tenant}", InvalidNamePath::Path),
            ("/a/{tenant}/", InvalidNamePath::Path),
            ("/a/x{tenant}", InvalidNamePath::Path),
            ("/a/b", InvalidNamePath::Tenant),
            ("/{tenant}/{tenant}", InvalidNamePath::Tenant),
        ] {
            assert_eq!(text.parse::<CallerPath>(), Err(problem), "{text}");
        }
        assert_eq!("/a/{tenant}".parse::<ProgramPath>(), Err(InvalidNamePath::NoTenant));
        assert_eq!("".parse::<ProgramPath>(), Err(InvalidNamePath::Path));
    }
}
