//! Reading a key's name: which part of which shard it is. The inverse of `keys`.

use super::super::keys;
use crate::queue::TaskId;

/// The line of a tenant in one band at one location.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    pub(super) band: u8,
    pub(super) location: Vec<u8>,
    pub(super) tenant: Vec<u8>,
}

/// What a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    Record(TaskId),
    Line(Line),
    Ring(u8, Vec<u8>),
    /// The last lease request of a session, which the server forgets by itself.
    Memo,
    /// Any other key of the queue.
    Other(&'static str),
}

/// The shard and the part that a key below the queue's prefix names; `None` when it is none of ours.
pub(super) fn parse(key: &[u8], shards: u16) -> Option<(u16, Name)> {
    let (digits, rest) = key.strip_prefix(b"{bh:")?.split_at_checked(3)?;
    let digits = std::str::from_utf8(digits).ok()?;
    let shard = u16::from_str_radix(digits, 16).ok().filter(|shard| *shard < shards)?;
    if format!("{shard:03x}") != digits {
        return None;
    }
    Some((shard, part(shard, shards, rest.strip_prefix(b"}:")?)?))
}

/// The type that the server must give for such a key.
pub(super) fn type_of(name: &Name) -> &'static str {
    match name {
        Name::Record(_) | Name::Memo => "string",
        Name::Line(_) | Name::Ring(..) => "zset",
        Name::Other(kind) => kind,
    }
}

/// The name of a line's key without the shard's prefix.
pub(super) fn of_line(line: &Line) -> Vec<u8> {
    [format!("pending:{}:", line.band).as_bytes(), &line.location, b":", &line.tenant].concat()
}

/// A key of a shard whose name need not be text.
pub(super) fn of_shard(shard: u16, name: &[u8]) -> Vec<u8> {
    [keys::of_shard(shard, "").as_bytes(), name].concat()
}

fn part(shard: u16, shards: u16, name: &[u8]) -> Option<Name> {
    if let Some(hash) = name.strip_prefix(b"t:") {
        return keys::id(hash).filter(|id| id.shard(shards) == shard).map(Name::Record);
    }
    if name.starts_with(b"memo:") {
        return Some(Name::Memo);
    }
    if let Some(waiting) = name.strip_prefix(b"pending:") {
        return pending(waiting);
    }
    if let Some(walk) = name.strip_prefix(b"walk:") {
        return of_walk(shard, shards, walk);
    }
    let kind = match name {
        b"working" | b"working:scheduled" | b"delay" | b"done" | b"dead" | b"cancelled" | b"damaged"
        | b"walks" | b"walks:active" => "zset",
        b"locations" => "set",
        b"tenants" | b"sweep" | b"stats" => "hash",
        b"meta" => "string",
        b"events" => "stream",
        _ => return None,
    };
    Some(Name::Other(kind))
}

/// What is kept of the backup of a prefix. Only the type is looked at: what is in it moves while it is read.
fn of_walk(shard: u16, shards: u16, name: &[u8]) -> Option<Name> {
    let (hash, kind) = match (name.strip_prefix(b"open:"), name.strip_prefix(b"failed:")) {
        (Some(hash), _) => (hash, "zset"),
        (None, Some(hash)) => (hash, "list"),
        (None, None) => (name, "string"),
    };
    keys::id(hash).filter(|id| id.shard(shards) == shard).map(|_| Name::Other(kind))
}

fn pending(name: &[u8]) -> Option<Name> {
    if let Some(ring) = name.strip_prefix(b"ring:") {
        let (band, location) = band(ring)?;
        return Some(Name::Ring(band, location.to_vec()));
    }
    if name.starts_with(b"parked:") {
        return Some(Name::Other("set"));
    }
    if matches!(name, b"turns:0" | b"turns:1" | b"turns:2" | b"rested:0" | b"rested:1" | b"rested:2") {
        return Some(Name::Other("zset"));
    }
    let (band, rest) = band(name)?;
    let colon = rest.iter().position(|byte| *byte == b':')?;
    Some(Name::Line(Line { band, location: rest[..colon].to_vec(), tenant: rest[colon + 1..].to_vec() }))
}

fn band(text: &[u8]) -> Option<(u8, &[u8])> {
    match text {
        [digit @ b'0'..=b'2', b':', rest @ ..] => Some((digit - b'0', rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_its_name_and_no_other_is() {
        let line = Line { band: 1, location: b"uploads".to_vec(), tenant: b"a:b".to_vec() };
        let name = of_shard(15, &of_line(&line));
        assert_eq!(parse(&name, 16), Some((15, Name::Line(line))));
        assert_eq!(parse(&name, 15), None, "a shard that does not exist");
        let ring = Name::Ring(2, b"uploads".to_vec());
        assert_eq!(parse(b"{bh:000}:pending:ring:2:uploads", 1), Some((0, ring)));
        for (name, kind) in [("walk:", "string"), ("walk:open:", "zset"), ("walk:failed:", "list")] {
            let key = format!("{{bh:000}}:{name}0123456789abcdef0123456789abcdef");
            assert_eq!(parse(key.as_bytes(), 1), Some((0, Name::Other(kind))));
        }
        for unknown in [
            b"{bh:000}:walk:0123".as_slice(),
            b"{bh:000}:t:short",
            b"{bh:000}:worked",
            b"{bh:000}:pending:3:uploads:t",
            b"{bh:000}:pending:1:uploads",
            b"{bh:00A}:meta",
            b"{bh:0",
            b"bh:config",
        ] {
            assert_eq!(parse(unknown, 1024), None, "{unknown:?}");
        }
    }
}
