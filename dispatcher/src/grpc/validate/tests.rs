//! Tests of the shared checks.

use super::*;

#[test]
fn an_answer_names_a_bounded_number_of_violations_and_counts_the_rest() {
    let mut violations = Violations::default();
    for at in 0..100 {
        violations.add(format!("f{at}"), "is wrong");
    }
    assert_eq!(violations.summary(), "invalid request: f0 is wrong (and 99 more)");
    assert_eq!(violations.into_iter().count(), MAX_VIOLATIONS);
}

#[test]
fn hostile_label_names_are_escaped_and_cut_before_they_are_told() {
    let hostile = format!("\u{1b}[31m\r\n{}", "é".repeat(10_000));
    let mut violations = Violations::default();
    labels("labels", HashMap::from([(hostile, String::new())]), &mut violations);
    let told: Vec<_> = violations.into_iter().collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].field.len() <= 80 && told[0].field.is_ascii());
    assert!(told[0].field.bytes().all(|b| !b.is_ascii_control()));
}

#[test]
fn label_names_and_values_are_bounded_in_bytes() {
    let check = |name: String, value: String| {
        let mut violations = Violations::default();
        labels("labels", HashMap::from([(name, value)]), &mut violations);
        violations.finish(()).is_ok()
    };
    assert!(check("a".into(), String::new()));
    assert!(check("a.b_c-9".repeat(9), "v".repeat(255)));
    assert!(!check(String::new(), String::new()));
    assert!(!check("a".repeat(64), String::new()));
    assert!(!check("A".into(), String::new()));
    assert!(!check("ä".into(), String::new()));
    assert!(!check("a".into(), "v".repeat(256)));
    assert!(!check("a".into(), "ä".repeat(128)), "128 characters, but 256 bytes");
}
