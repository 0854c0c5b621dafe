//! When a step is done: an expression over facts.
//!
//! ```text
//!   or      = and ("or" and)*            operand = fact | "text" | 'text' | number | true | false
//!   and     = not ("and" not)*           A fact by itself must be true or false.
//!   not     = "not" not | compare
//!   compare = "(" or ")" | operand [("==" | "!=") operand | "in" "[" operand ("," operand)* "]"]
//! ```
//!
//! Invariant: a condition that was parsed can be decided: every fact in it is declared, and what is
//! compared is of one kind.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Longer ones are no conditions that anybody reads.
const TEXT_BYTES_MAX: usize = 1024;
/// Brackets and `not` in each other; what a person writes has three.
const DEPTH_MAX: usize = 32;

/// What is known when a run begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Fact {
    /// Yes or no.
    Bool(bool),
    /// A number.
    Number(i64),
    /// A word.
    Text(String),
}

impl Fact {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
        }
    }

    /// Reads a value of the same kind as this one.
    ///
    /// # Errors
    /// What it should be.
    pub fn read_like(&self, text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} should be {}", self.kind());
        match self {
            Self::Bool(_) => text.parse().map(Self::Bool).map_err(|_e| wrong()),
            Self::Number(_) => text.parse().map(Self::Number).map_err(|_e| wrong()),
            Self::Text(_) => Ok(Self::Text(text.to_owned())),
        }
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(value) => write!(f, "{value}"),
        }
    }
}

/// The facts of a plan or a run, by name.
pub type Facts = BTreeMap<String, Fact>;

/// What is wrong with a condition, and where: the first character is number 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {what}")]
pub struct ConditionError {
    /// Where.
    pub at: usize,
    /// What.
    pub what: String,
}

/// When a step is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    text: String,
    root: Expression,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expression {
    Or(Vec<Self>),
    And(Vec<Self>),
    Not(Box<Self>),
    Is(Operand),
    Compare { left: Operand, right: Operand, equal: bool },
    In { left: Operand, list: Vec<Operand> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operand {
    Fact(String),
    Value(Fact),
}

impl Condition {
    /// Reads one over these facts.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str, facts: &Facts) -> Result<Self, ConditionError> {
        if text.len() > TEXT_BYTES_MAX {
            let what = format!("it is longer than {TEXT_BYTES_MAX} bytes");
            return Err(ConditionError { at: TEXT_BYTES_MAX, what });
        }
        let tokens = tokens(text)?;
        let end = text.chars().count() + 1;
        let mut parser = Parser { tokens: &tokens, next: 0, end, depth: 0, facts };
        let root = parser.or()?;
        match parser.peek() {
            None => Ok(Self { text: text.to_owned(), root }),
            Some((at, token)) => Err(error(*at, format!("{token} is not expected here"))),
        }
    }

    /// Whether it is so. A fact that is not there is false, or empty.
    #[must_use]
    pub fn holds(&self, facts: &Facts) -> bool {
        self.root.holds(facts)
    }

    /// Why it is not so, for a timeline: the condition, and the facts in it.
    #[must_use]
    pub fn why_not(&self, facts: &Facts) -> String {
        let mut names = Vec::new();
        self.root.names(&mut names);
        names.sort_unstable();
        names.dedup();
        let said = names.iter().map(|name| {
            let value = facts.get(*name).map_or_else(|| "unknown".to_owned(), Fact::to_string);
            format!("{name} is {value}")
        });
        format!("when {}: {}", self.text, said.collect::<Vec<_>>().join(", "))
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Operand {
    fn value<'a>(&'a self, facts: &'a Facts) -> Option<&'a Fact> {
        match self {
            Self::Fact(name) => facts.get(name),
            Self::Value(value) => Some(value),
        }
    }
}

impl Expression {
    fn holds(&self, facts: &Facts) -> bool {
        match self {
            Self::Or(of) => of.iter().any(|one| one.holds(facts)),
            Self::And(of) => of.iter().all(|one| one.holds(facts)),
            Self::Not(of) => !of.holds(facts),
            Self::Is(operand) => operand.value(facts) == Some(&Fact::Bool(true)),
            Self::Compare { left, right, equal } => {
                (left.value(facts) == right.value(facts)) == *equal
            }
            Self::In { left, list } => list.iter().any(|one| one.value(facts) == left.value(facts)),
        }
    }

    fn names<'a>(&'a self, into: &mut Vec<&'a str>) {
        let mut operand = |of: &'a Operand| {
            if let Operand::Fact(name) = of {
                into.push(name);
            }
        };
        match self {
            Self::Or(of) | Self::And(of) => of.iter().for_each(|one| one.names(into)),
            Self::Not(of) => of.names(into),
            Self::Is(one) => operand(one),
            Self::Compare { left, right, .. } => [left, right].into_iter().for_each(operand),
            Self::In { left, list } => {
                operand(left);
                list.iter().for_each(operand);
            }
        }
    }
}

// --- reading ---

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Number(i64),
    Mark(&'static str),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(f, "{word:?}"),
            Self::Text(text) => write!(f, "the text {text:?}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Mark(mark) => write!(f, "{mark:?}"),
        }
    }
}

fn error(at: usize, what: impl Into<String>) -> ConditionError {
    ConditionError { at, what: what.into() }
}

const MARKS: [&str; 7] = ["==", "!=", "(", ")", "[", "]", ","];

fn is_in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, ConditionError> {
    let mut found = Vec::new();
    let mut rest = text;
    let mut at = 1;
    while let Some(first) = rest.chars().next() {
        let here = at;
        let length = if first.is_whitespace() {
            first.len_utf8()
        } else if let Some(mark) = MARKS.iter().find(|mark| rest.starts_with(**mark)) {
            found.push((here, Token::Mark(mark)));
            mark.len()
        } else if first == '"' || first == '\'' {
            let inner = rest.get(1..).unwrap_or_default();
            let end = inner.find(first).ok_or_else(|| error(here, "the text has no end"))?;
            let (inner, _) = inner.split_at(end);
            found.push((here, Token::Text(inner.to_owned())));
            end + 2
        } else if is_in_word(first) {
            let end = rest.find(|c| !is_in_word(c)).unwrap_or(rest.len());
            let (word, _) = rest.split_at(end);
            found.push((here, word_token(word, here)?));
            end
        } else {
            return Err(error(here, format!("{first:?} means nothing here")));
        };
        let (taken, left) = rest.split_at(length);
        at += taken.chars().count();
        rest = left;
    }
    Ok(found)
}

fn word_token(word: &str, at: usize) -> Result<Token, ConditionError> {
    if word.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
        let number = word.parse().map_err(|_e| error(at, format!("{word:?} is no number")))?;
        return Ok(Token::Number(number));
    }
    Ok(Token::Word(word.to_owned()))
}

struct Parser<'a> {
    tokens: &'a [(usize, Token)],
    next: usize,
    end: usize,
    depth: usize,
    facts: &'a Facts,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a (usize, Token)> {
        self.tokens.get(self.next)
    }

    fn at(&self) -> usize {
        self.peek().map_or(self.end, |(at, _)| *at)
    }

    fn takes_word(&mut self, word: &str) -> bool {
        let is_it = matches!(self.peek(), Some((_, Token::Word(found))) if found == word);
        self.next += usize::from(is_it);
        is_it
    }

    fn takes_mark(&mut self, mark: &str) -> bool {
        let is_it = matches!(self.peek(), Some((_, Token::Mark(found))) if *found == mark);
        self.next += usize::from(is_it);
        is_it
    }

    fn or(&mut self) -> Result<Expression, ConditionError> {
        let mut all = vec![self.and()?];
        while self.takes_word("or") {
            all.push(self.and()?);
        }
        Ok(one_or(all, Expression::Or))
    }

    fn and(&mut self) -> Result<Expression, ConditionError> {
        let mut all = vec![self.not()?];
        while self.takes_word("and") {
            all.push(self.not()?);
        }
        Ok(one_or(all, Expression::And))
    }

    fn not(&mut self) -> Result<Expression, ConditionError> {
        let at = self.at();
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(error(at, "it is nested too deeply"));
        }
        let found = if self.takes_word("not") {
            self.not().map(|inner| Expression::Not(Box::new(inner)))
        } else if self.takes_mark("(") {
            let inner = self.or()?;
            self.needs_mark(")")?;
            Ok(inner)
        } else {
            self.compare()
        };
        self.depth -= 1;
        found
    }

    fn needs_mark(&mut self, mark: &'static str) -> Result<(), ConditionError> {
        let at = self.at();
        if self.takes_mark(mark) { Ok(()) } else { Err(error(at, format!("{mark:?} is missing"))) }
    }

    fn compare(&mut self) -> Result<Expression, ConditionError> {
        let at = self.at();
        let left = self.operand()?;
        let kind = self.kind(&left);
        for (mark, equal) in [("==", true), ("!=", false)] {
            if self.takes_mark(mark) {
                let right = self.operand_of(kind)?;
                return Ok(Expression::Compare { left, right, equal });
            }
        }
        if self.takes_word("in") {
            self.needs_mark("[")?;
            let mut list = vec![self.operand_of(kind)?];
            while self.takes_mark(",") {
                list.push(self.operand_of(kind)?);
            }
            self.needs_mark("]")?;
            return Ok(Expression::In { left, list });
        }
        if kind == Fact::Bool(true).kind() {
            return Ok(Expression::Is(left));
        }
        Err(error(at, format!("this is {kind}: compare it, as with == or in [..]")))
    }

    fn kind(&self, operand: &Operand) -> &'static str {
        operand.value(self.facts).map_or("", Fact::kind)
    }

    fn operand_of(&mut self, kind: &'static str) -> Result<Operand, ConditionError> {
        let at = self.at();
        let operand = self.operand()?;
        let found = self.kind(&operand);
        if found == kind {
            return Ok(operand);
        }
        Err(error(at, format!("this is {found}, and what it is compared with is {kind}")))
    }

    fn operand(&mut self) -> Result<Operand, ConditionError> {
        let Some((at, token)) = self.peek() else {
            return Err(error(self.end, "a fact or a value is missing"));
        };
        self.next += 1;
        Ok(match token {
            Token::Text(text) => Operand::Value(Fact::Text(text.clone())),
            Token::Number(number) => Operand::Value(Fact::Number(*number)),
            Token::Mark(_) => {
                return Err(error(*at, format!("{token}: a fact or a value is missing")));
            }
            Token::Word(word) => match word.as_str() {
                "true" => Operand::Value(Fact::Bool(true)),
                "false" => Operand::Value(Fact::Bool(false)),
                _ if self.facts.contains_key(word) => Operand::Fact(word.clone()),
                _ => {
                    let known: Vec<&str> = self.facts.keys().map(String::as_str).collect();
                    let what = format!("no fact {word:?} is declared, but: {}", known.join(", "));
                    return Err(error(*at, what));
                }
            },
        })
    }
}

fn one_or(mut all: Vec<Expression>, of: fn(Vec<Expression>) -> Expression) -> Expression {
    match all.len() {
        1 => all.remove(0),
        _ => of(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts::from([
            ("source-alive".to_owned(), Fact::Bool(false)),
            ("level".to_owned(), Fact::Text("tenant".to_owned())),
            ("hosts".to_owned(), Fact::Number(3)),
        ])
    }

    fn holds(text: &str) -> bool {
        Condition::parse(text, &facts()).unwrap().holds(&facts())
    }

    #[test]
    fn conditions_are_decided() {
        for (text, expected) in [
            ("source-alive", false),
            ("not source-alive", true),
            ("not not source-alive", false),
            ("level == \"tenant\" and not source-alive", true),
            ("source-alive or level in ['site', 'tenant'] and hosts == 3", true),
            ("(source-alive or level == 'tenant') and hosts != 3", false),
            ("hosts in [1, -2]", false),
            ("true", true),
        ] {
            assert_eq!(holds(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, at, what) in [
            ("", 1, "missing"),
            ("source-dead", 1, "no fact"),
            ("source-alive and", 17, "missing"),
            ("source-alive source-alive", 14, "not expected"),
            ("level", 1, "compare it"),
            ("level == 3", 10, "this is a number"),
            ("level in ['a', 2]", 16, "this is a number"),
            ("(source-alive", 14, "\")\" is missing"),
            ("level == 'tenant", 10, "no end"),
            ("hosts == 1x", 10, "no number"),
            ("hosts > 1", 7, "means nothing"),
            ("level == 'ä' and ü", 18, "means nothing"),
        ] {
            let found = Condition::parse(text, &facts()).unwrap_err();
            assert_eq!(found.at, at, "{text}: {found}");
            assert!(found.what.contains(what), "{text}: {found}");
        }
    }

    #[test]
    fn deep_and_long_ones_are_refused() {
        let deep = format!("{}source-alive{}", "(".repeat(400), ")".repeat(400));
        assert!(Condition::parse(&deep, &facts()).unwrap_err().what.contains("nested"));
        let long = format!("source-alive{}", " or source-alive".repeat(100));
        assert!(Condition::parse(&long, &facts()).unwrap_err().what.contains("longer"));
    }

    #[test]
    fn why_a_step_is_skipped_names_its_facts() {
        let condition = Condition::parse("source-alive and level == 'site'", &facts()).unwrap();
        let why = condition.why_not(&facts());
        assert!(why.contains("source-alive is false") && why.contains("level is tenant"), "{why}");
    }
}
