//! From the files to what the server is given: shared parts in front, comments gone, constants written out.
//!
//! A script is run from its first line at each call, and a function in it pays for every local that it uses at the moment it is
//! made. With the constants as locals that alone took longer than a small call's work. So a line `local NAME, OTHER = 1, 'x'`,
//! names in capitals and values plain numbers or texts, is a constant: the line goes, and the values take the place of the names.

use std::collections::HashMap;

/// The script of these parts. The first line of the first part, which names the flags, stays the first.
pub(super) fn assemble(flags: &str, parts: &[&str]) -> String {
    let mut constants = HashMap::new();
    let mut text = String::from(flags);
    for line in parts.iter().flat_map(|part| part.lines()) {
        if line.trim_start().starts_with("--") || line.trim().is_empty() {
            continue;
        }
        if let Some(defined) = definition(line) {
            constants.extend(defined);
            continue;
        }
        text.push('\n');
        write_out(line, &constants, &mut text);
    }
    text
}

/// The constants that a line defines; `None` when it is another line.
fn definition(line: &str) -> Option<Vec<(&str, &str)>> {
    let (names, values) = line.strip_prefix("local ")?.split_once(" = ")?;
    let names: Vec<&str> = names.split(", ").collect();
    let values: Vec<&str> = values.split(", ").collect();
    let all = names.len() == values.len()
        && names.iter().all(|name| is_constant_name(name))
        && values.iter().all(|value| is_literal(value));
    all.then(|| names.into_iter().zip(values).collect())
}

fn is_constant_name(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_uppercase())
        && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

fn is_literal(value: &str) -> bool {
    let text = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    text.is_some_and(|text| !text.contains('\'')) || value.parse::<i64>().is_ok()
}

/// Appends a line with the constants in place of their names. Texts in quotes stay as they are.
fn write_out(line: &str, constants: &HashMap<&str, &str>, out: &mut String) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let length = if first == '\'' {
            rest[1..].find('\'').map_or(rest.len(), |end| end + 2)
        } else if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else {
            rest.find(|c| is_word(c) || c == '\'').unwrap_or(rest.len())
        };
        let (piece, after) = rest.split_at(length);
        out.push_str(constants.get(piece).unwrap_or(&piece));
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_take_the_place_of_their_names_but_not_in_texts_or_other_words() {
        let parts = [
            "-- A comment.\nlocal ONE, TEXT = 1, 'x y'\n\nlocal one = {ONE}",
            "  return ONE, 'ONE', ONE_MORE, -ONE, TEXT",
        ];
        assert_eq!(
            assemble("#!lua", &parts),
            "#!lua\nlocal one = {1}\n  return 1, 'ONE', ONE_MORE, -1, 'x y'"
        );
    }

    #[test]
    fn only_plain_numbers_and_texts_are_constants() {
        for line in [
            "local now = 1",
            "local A = f(1)",
            "local A, B = 1",
            "local A = '>' .. B",
            "A = 1",
            "local A = {1}",
        ] {
            assert_eq!(definition(line), None, "{line}");
        }
        assert_eq!(definition("local A, B_2 = -3, 'a'"), Some(vec![("A", "-3"), ("B_2", "'a'")]));
    }
}
