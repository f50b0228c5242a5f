//! Rust source as text without what is not code: comments, literals, and the tests inside a file. Not a parser: rules about names
//! need no more.

/// `text` with comments and the contents of string and character literals blanked; lines and columns stay where they are.
pub(crate) fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = end_of_non_code(bytes, at);
        if end > at {
            out.extend(bytes[at..end].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
            at = end;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).expect("literals and comments end at character boundaries")
}

/// `code` (of [`code_only`]) with everything inside `#[cfg(test)] mod .. { .. }` blanked.
pub(crate) fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    let mut from = 0;
    while let Some(found) = out[from..].find("#[cfg(test)]") {
        let start = from + found;
        from = start + 1;
        let after = &out[start..];
        let Some(open) = after.find(['{', ';']) else { break };
        if after.as_bytes()[open] == b';' {
            continue;
        }
        let end = start + open + closing_brace(&after[open..]);
        let blank: String = out[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(start..end, &blank);
    }
    out
}

/// Lines, counted from 0, in which `code` uses the crate `name` as the root of a path or imports it.
pub(crate) fn uses_of_crate(code: &str, name: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    for (at, _) in code.match_indices(name) {
        let before = &code[..at];
        let after = &code[at + name.len()..];
        if before.ends_with(is_word) || after.starts_with(is_word) {
            continue;
        }
        let before = before.trim_end();
        // `crate::queue::redis::Queue` names a module of ours; `::redis::Client` the crate.
        let inside_path = before.strip_suffix("::").is_some_and(|b| b.trim_end().ends_with(is_word));
        let imported = ["use", "crate"].iter().any(|word| {
            before.strip_suffix(word).is_some_and(|b| !b.ends_with(is_word)) && after.starts_with([';', ' '])
        });
        if !inside_path && (after.trim_start().starts_with("::") || imported) {
            lines.push(before.matches('\n').count() + code[before.len()..at].matches('\n').count());
        }
    }
    lines
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where the comment or literal that starts at `at` ends; `at` itself when none starts there.
fn end_of_non_code(text: &[u8], at: usize) -> usize {
    let rest = &text[at..];
    let inside_word = at > 0 && (text[at - 1].is_ascii_alphanumeric() || text[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return at + end_of_block_comment(rest);
    }
    if !inside_word && let Some(length) = raw_string(rest) {
        return at + length;
    }
    match rest[0] {
        b'"' => at + quoted(rest, b'"'),
        b'\'' if is_char_literal(rest) => at + quoted(rest, b'\''),
        _ => at,
    }
}

fn end_of_block_comment(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// Length of the raw string, such as `br#"..."#`, at the start.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let prefix = if rest.starts_with(b"br") || rest.starts_with(b"cr") { 2 } else { 1 };
    if rest.get(prefix - 1) != Some(&b'r') {
        return None;
    }
    let hashes = rest[prefix..].iter().take_while(|b| **b == b'#').count();
    let open = prefix + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    let length = rest[open + 1..].windows(close.len()).position(|w| w == close);
    Some(length.map_or(rest.len(), |l| open + 1 + l + close.len()))
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `'a'` and `'\n'`, but not the lifetime `'a`.
fn is_char_literal(rest: &[u8]) -> bool {
    if rest.get(1) == Some(&b'\\') {
        return true;
    }
    let Ok(text) = std::str::from_utf8(&rest[1..]) else { return false };
    text.chars().nth(1) == Some('\'')
}

/// Offset just after the brace that closes the one at the start.
fn closing_brace(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = "a /* b /* c */ d */ \"e\\\"f\" r#\"g\"h\"# 'i' '\\'' &'j k // l\nm é \"é\" n";
        let words: Vec<String> = code_only(text).split_whitespace().map(str::to_owned).collect();
        assert_eq!(words, ["a", "&'j", "k", "m", "é", "n"]);
        assert_eq!(code_only(text).lines().count(), 2);
    }

    #[test]
    fn tests_inside_a_file_are_taken_out() {
        let code = "use a::b;\n#[cfg(test)]\nmod tests {\n  fn f() { redis::g() }\n}\n#[cfg(test)] mod other;\nfn h() {}";
        let left = without_tests(code);
        assert!(!left.contains("redis") && left.contains("mod other") && left.contains("fn h"));
    }

    #[test]
    fn a_crate_is_found_at_the_root_of_paths_only() {
        for used in [
            "use redis::Client;",
            "use redis;",
            "let x = redis::cmd();",
            "use {redis::A, b};",
            "::redis::A",
            "use redis as r;",
        ] {
            assert_eq!(uses_of_crate(used, "redis"), [0], "{used}");
        }
        for free in [
            "mod redis;",
            "use super::redis::A;",
            "let redis = 1;",
            "my_redis::x()",
            "redis_tools::x()",
            "self.redis.get()",
        ] {
            assert!(uses_of_crate(free, "redis").is_empty(), "{free}");
        }
        assert_eq!(uses_of_crate("a\nb\nuse redis::c;", "redis"), [2]);
    }
}
