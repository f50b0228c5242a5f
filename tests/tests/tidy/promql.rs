//! As much of PromQL as the alerts and the dashboard use, read strictly: what a typo would break must not parse.
//!
//! Exists because an expression that Prometheus cannot read, or that asks for a metric nobody has, is an alert that never fires. Knows no
//! metric; gives what an expression selects to whoever does.

use std::iter::Peekable;

/// One thing that an expression selects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Selector {
    /// The metric.
    pub(crate) metric: String,
    /// Labels that are matched.
    pub(crate) labels: Vec<String>,
    /// Over a range of time, which is for counters.
    pub(crate) ranged: bool,
}

/// What an expression is about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    /// Everything it selects.
    pub(crate) selectors: Vec<Selector>,
    /// Labels that it groups or joins by.
    pub(crate) groups: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Number(String),
    Text(String),
    Sign(String),
}

const AGGREGATIONS: [&str; 5] = ["sum", "min", "max", "count", "avg"];
/// Functions with the number of their arguments, and whether the last is a range.
const FUNCTIONS: [(&str, usize, bool); 4] =
    [("rate", 1, true), ("increase", 1, true), ("histogram_quantile", 2, false), ("absent", 1, false)];
const OPERATORS: [&str; 12] = ["+", "-", "*", "/", "==", "!=", ">", "<", ">=", "<=", "and", "or"];

/// Reads an expression.
pub(crate) fn parse(text: &str) -> Result<Query, String> {
    let mut reader = Reader { tokens: tokens(text)?.into_iter().peekable(), query: Query::default() };
    reader.expression()?;
    match reader.tokens.next() {
        None => Ok(reader.query),
        Some(rest) => Err(format!("{rest:?} is one too many in {text}")),
    }
}

struct Reader<I: Iterator<Item = Token>> {
    tokens: Peekable<I>,
    query: Query,
}

impl<I: Iterator<Item = Token>> Reader<I> {
    fn expression(&mut self) -> Result<(), String> {
        self.operand()?;
        while let Some(Token::Sign(operator) | Token::Word(operator)) = self.tokens.peek() {
            if !OPERATORS.contains(&operator.as_str()) {
                return Ok(());
            }
            self.tokens.next();
            if self.takes_word("on") || self.takes_word("ignoring") {
                let labels = self.labels()?;
                self.query.groups.extend(labels);
            }
            self.operand()?;
        }
        Ok(())
    }

    fn operand(&mut self) -> Result<(), String> {
        match self.tokens.next().ok_or("it ends too early")? {
            Token::Number(_) => Ok(()),
            Token::Sign(sign) if sign == "(" => {
                self.expression()?;
                self.sign(")")
            }
            Token::Word(word) if AGGREGATIONS.contains(&word.as_str()) => self.aggregation(),
            Token::Word(word) => match FUNCTIONS.iter().find(|(name, ..)| *name == word) {
                Some(&(_, arguments, ranged)) => self.call(arguments, ranged),
                None => self.selector(word),
            },
            other @ (Token::Text(_) | Token::Sign(_)) => Err(format!("{other:?} cannot begin anything")),
        }
    }

    fn aggregation(&mut self) -> Result<(), String> {
        if self.takes_word("by") || self.takes_word("without") {
            let labels = self.labels()?;
            self.query.groups.extend(labels);
        }
        self.call(1, false)
    }

    fn call(&mut self, arguments: usize, ranged: bool) -> Result<(), String> {
        self.sign("(")?;
        let before = self.query.selectors.len();
        for argument in 0..arguments {
            if argument > 0 {
                self.sign(",")?;
            }
            self.expression()?;
        }
        let is_ranged = self.query.selectors[before..].last().is_some_and(|selector| selector.ranged);
        if ranged && !is_ranged {
            return Err("a rate needs a range".to_owned());
        }
        self.sign(")")
    }

    fn selector(&mut self, metric: String) -> Result<(), String> {
        let mut selector = Selector { metric, ..Selector::default() };
        if self.takes_sign("{") {
            while !self.takes_sign("}") {
                let Some(Token::Word(label)) = self.tokens.next() else {
                    return Err("a label is missing".into());
                };
                let matcher = self.tokens.next();
                let is_matcher =
                    matches!(&matcher, Some(Token::Sign(s)) if ["=", "!=", "=~", "!~"].contains(&s.as_str()));
                let is_text = matches!(self.tokens.next(), Some(Token::Text(_)));
                if !is_matcher || !is_text {
                    return Err(format!("{label} is not matched with a text"));
                }
                selector.labels.push(label);
                if !self.takes_sign(",") && self.tokens.peek() != Some(&Token::Sign("}".into())) {
                    return Err("labels are not separated".into());
                }
            }
        }
        if self.takes_sign("[") {
            let duration = self.tokens.next();
            if !matches!(&duration, Some(Token::Number(d)) if d.ends_with(['s', 'm', 'h', 'd'])) {
                return Err(format!("{duration:?} is no range"));
            }
            self.sign("]")?;
            selector.ranged = true;
        }
        self.query.selectors.push(selector);
        Ok(())
    }

    fn labels(&mut self) -> Result<Vec<String>, String> {
        self.sign("(")?;
        let mut labels = Vec::new();
        while !self.takes_sign(")") {
            if !labels.is_empty() {
                self.sign(",")?;
            }
            let Some(Token::Word(label)) = self.tokens.next() else {
                return Err("a label is missing".into());
            };
            labels.push(label);
        }
        Ok(labels)
    }

    fn sign(&mut self, sign: &str) -> Result<(), String> {
        if self.takes_sign(sign) {
            Ok(())
        } else {
            Err(format!("{sign} is missing before {:?}", self.tokens.peek()))
        }
    }

    fn takes_sign(&mut self, sign: &str) -> bool {
        self.tokens.next_if(|token| matches!(token, Token::Sign(found) if found == sign)).is_some()
    }

    fn takes_word(&mut self, word: &str) -> bool {
        self.tokens.next_if(|token| matches!(token, Token::Word(found) if found == word)).is_some()
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = |is_part: fn(char) -> bool| rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (token, taken) = match first {
            'a'..='z' | 'A'..='Z' | '_' | ':' => {
                let taken = length(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
                (Token::Word(rest[..taken].to_owned()), taken)
            }
            '0'..='9' => {
                let taken = length(|c| c.is_ascii_alphanumeric() || c == '.');
                (Token::Number(rest[..taken].to_owned()), taken)
            }
            '"' => {
                let end = rest[1..].find('"').ok_or("a text does not end")?;
                (Token::Text(rest[1..=end].to_owned()), end + 2)
            }
            _ => {
                let two = rest.get(..2).filter(|s| ["==", "!=", ">=", "<=", "=~", "!~"].contains(s));
                let one = &rest[..first.len_utf8()];
                if !"(){}[],=<>+-*/".contains(one) {
                    return Err(format!("{one} means nothing"));
                }
                let sign = two.unwrap_or(one);
                (Token::Sign(sign.to_owned()), sign.len())
            }
        };
        tokens.push(token);
        rest = rest[taken..].trim_start();
    }
    Ok(tokens)
}

mod tests {
    use super::*;

    #[test]
    fn what_an_expression_selects_is_found() {
        let query =
            parse(r#"sum by (le, rpc) (rate(a_bucket{x="1",y=~"2|3"}[5m])) > 0.5 and on(z) b == 1"#).unwrap();
        assert_eq!(query.groups, ["le", "rpc", "z"]);
        let found: Vec<_> =
            query.selectors.iter().map(|s| (s.metric.as_str(), s.labels.join(","), s.ranged)).collect();
        assert_eq!(found, [("a_bucket", "x,y".to_owned(), true), ("b", String::new(), false)]);
    }

    #[test]
    fn a_typo_does_not_parse() {
        for bad in [
            "",
            "sum(",
            "sum(a))",
            "sum by le (a)",
            "rate(a)",
            "rate(a[5])",
            "rate(a[5m]",
            "a{x=1}",
            "a{x~\"1\"}",
            "a{x=\"1\" y=\"2\"}",
            "a{x=\"1}",
            "a >",
            "a b",
            "a ~ b",
            "histogram_quantile(0.9)",
            "unknown(a)",
        ] {
            assert!(parse(bad).is_err(), "{bad} is taken");
        }
    }
}
