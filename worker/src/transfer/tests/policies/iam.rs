//! The part of AWS's policy language that the shipped policies use, evaluated as AWS defines it: a denial beats all, and what nobody allows
//! is denied. A condition that it does not know is an error and not a match.

use std::collections::BTreeMap;

use serde_json::Value;

/// A document.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    statements: Vec<Statement>,
}

#[derive(Debug, Clone)]
struct Statement {
    allows: bool,
    /// `None` in a policy of an identity.
    principal: Option<Value>,
    actions: Vec<String>,
    resources: Vec<String>,
    /// All but these.
    other_resources: Vec<String>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone)]
struct Condition {
    operator: String,
    key: String,
    values: Vec<String>,
}

/// What is asked for, by whom.
#[derive(Debug, Clone)]
pub(super) struct Question<'a> {
    pub(super) action: &'a str,
    pub(super) resource: &'a str,
    /// A service that asks; none for an identity.
    pub(super) service: Option<&'a str>,
    /// What is known besides.
    pub(super) context: BTreeMap<&'a str, String>,
}

/// What documents say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Says {
    Nothing,
    Allowed,
    Denied,
}

impl Policy {
    /// Reads a document, with values in the place of the words in capitals.
    pub(super) fn read(text: &str, values: &[(&str, &str)]) -> Self {
        let text = values.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value));
        let document: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(document["Version"], "2012-10-17");
        let statements = document["Statement"].as_array().expect("statements");
        Self { statements: statements.iter().map(Statement::read).collect() }
    }

    /// The same without one action.
    pub(super) fn without(&self, action: &str) -> Self {
        let mut policy = self.clone();
        for statement in &mut policy.statements {
            statement.actions.retain(|a| a != action);
        }
        policy
    }

    /// All actions that it allows.
    pub(super) fn allowed_actions(&self) -> Vec<String> {
        let allowing = self.statements.iter().filter(|s| s.allows);
        allowing.flat_map(|s| s.actions.clone()).collect()
    }

    pub(super) fn says(&self, question: &Question<'_>) -> Says {
        let concerned = self.statements.iter().filter(|s| s.concerns(question));
        concerned.map(|s| if s.allows { Says::Allowed } else { Says::Denied }).max().unwrap_or(Says::Nothing)
    }
}

impl Statement {
    fn read(value: &Value) -> Self {
        let texts = |value: &Value| {
            let all = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
            let given = all.iter().filter(|v| !v.is_null());
            given.map(|v| v.as_str().expect("text").to_owned()).collect::<Vec<_>>()
        };
        let conditions = value["Condition"].as_object().into_iter().flatten();
        let conditions = conditions.flat_map(|(operator, keys)| {
            keys.as_object().expect("keys").iter().map(move |(key, values)| Condition {
                operator: operator.clone(),
                key: key.clone(),
                values: texts(values),
            })
        });
        Self {
            allows: match value["Effect"].as_str() {
                Some("Allow") => true,
                Some("Deny") => false,
                other => panic!("{other:?}"),
            },
            principal: value.get("Principal").cloned(),
            actions: texts(&value["Action"]),
            resources: texts(&value["Resource"]),
            other_resources: texts(&value["NotResource"]),
            conditions: conditions.collect(),
        }
    }

    fn concerns(&self, question: &Question<'_>) -> bool {
        let is_in = |patterns: &[String], text: &str| patterns.iter().any(|p| matches(p, text));
        let principal = match (&self.principal, question.service) {
            (None, service) => service.is_none(),
            (Some(all), _) if all == "*" => true,
            (Some(principal), Some(service)) => principal["Service"] == service,
            (Some(_), None) => false,
        };
        let resource = if self.other_resources.is_empty() {
            is_in(&self.resources, question.resource)
        } else {
            !is_in(&self.other_resources, question.resource)
        };
        principal
            && resource
            && is_in(&self.actions, question.action)
            && self.conditions.iter().all(|condition| condition.holds(question))
    }
}

impl Condition {
    fn holds(&self, question: &Question<'_>) -> bool {
        let value = question.context.get(self.key.as_str());
        let is_one_of = |value: &String| self.values.contains(value);
        match self.operator.as_str() {
            "StringEquals" | "Bool" | "ArnEquals" => value.is_some_and(is_one_of),
            "ArnNotEquals" => !value.is_some_and(is_one_of),
            "Null" => is_one_of(&value.is_none().to_string()),
            other => panic!("the condition {other} is not known here"),
        }
    }
}

/// Whether a text is as a pattern with `*` and `?` says.
fn matches(pattern: &str, text: &str) -> bool {
    match (pattern.chars().next(), text.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => {
            let rest = &pattern[1..];
            text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| matches(rest, &text[at..]))
        }
        (Some('?'), Some(c)) => matches(&pattern[1..], &text[c.len_utf8()..]),
        (Some(p), Some(c)) if p == c => matches(&pattern[p.len_utf8()..], &text[c.len_utf8()..]),
        _ => false,
    }
}

#[test]
fn patterns_and_conditions_mean_what_they_mean_at_aws() {
    assert!(matches("s3:*", "s3:GetObject") && matches("a/*/c?", "a/b/b/cd") && !matches("a/*", "a"));
    let policy = Policy::read(
        r#"{"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:BUCKET/*"},
            {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "arn:BUCKET/*",
             "Condition": {"Null": {"s3:if-none-match": "true"}, "Bool": {"creates": "true"}}},
            {"Effect": "Deny", "Principal": "*", "Action": "s3:Delete*", "NotResource": "arn:BUCKET/scratch/*",
             "Condition": {"ArnNotEquals": {"who": "admin"}}}]}"#,
        &[("BUCKET", "backups")],
    );
    let says = |action: &str, resource: &str, context: &[(&'static str, &str)]| {
        let context = context.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        policy.says(&Question { action, resource, service: None, context })
    };
    let put = "s3:PutObject";
    assert_eq!(says(put, "arn:backups/k", &[("creates", "false")]), Says::Allowed);
    assert_eq!(says(put, "arn:backups/k", &[("creates", "true")]), Says::Denied);
    assert_eq!(says(put, "arn:backups/k", &[("creates", "true"), ("s3:if-none-match", "*")]), Says::Allowed);
    assert_eq!(says(put, "arn:others/k", &[]), Says::Nothing);
    assert_eq!(says("s3:DeleteObject", "arn:backups/k", &[]), Says::Denied);
    assert_eq!(says("s3:DeleteObject", "arn:backups/k", &[("who", "admin")]), Says::Nothing);
    assert_eq!(says("s3:DeleteObject", "arn:backups/scratch/k", &[]), Says::Nothing);
}
