//! Rust text taken apart into code, comments and string literals.
//!
//! Invariant: the pieces come in order, and a rule about names never sees a word of a comment or
//! of a message.

/// What a piece of a source file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Everything that the compiler reads as tokens, literals of strings and characters left out.
    Code,
    /// The text of a comment, of whatever kind.
    Comment,
    /// The text between the quotes of a string literal.
    Text,
}

/// One piece of a source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// What it is.
    pub kind: Kind,
    /// The text, without quotes or comment signs' ends.
    pub text: &'a str,
    /// The line that it starts on, from 1.
    pub line: usize,
}

/// Takes a source file apart.
#[must_use]
pub fn pieces(source: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = source;
    let mut code_start = source;
    let mut line = 1;
    let mut code_line = 1;
    while !rest.is_empty() {
        let before_is_word = ends_in_word(source, rest);
        let Some((kind, skip, inner)) = special(rest, before_is_word) else {
            let step = rest.chars().next().map_or(1, char::len_utf8);
            line += usize::from(rest.starts_with('\n'));
            rest = &rest[step..];
            continue;
        };
        let code = &code_start[..code_start.len() - rest.len()];
        if !code.is_empty() {
            pieces.push(Piece { kind: Kind::Code, text: code, line: code_line });
        }
        if let Some(kind) = kind {
            pieces.push(Piece { kind, text: inner, line });
        }
        line += rest[..skip].matches('\n').count();
        rest = &rest[skip..];
        (code_start, code_line) = (rest, line);
    }
    if !code_start.is_empty() {
        pieces.push(Piece { kind: Kind::Code, text: code_start, line: code_line });
    }
    pieces
}

/// The comment or literal that `rest` begins with: its kind (`None` for a character, which no rule
/// wants), how many bytes it takes, and its inner text.
fn special(rest: &str, before_is_word: bool) -> Option<(Option<Kind>, usize, &str)> {
    if rest.starts_with("//") {
        let end = rest.find('\n').unwrap_or(rest.len());
        return Some((Some(Kind::Comment), end, &rest[..end]));
    }
    if rest.starts_with("/*") {
        let end = block_comment(rest);
        return Some((Some(Kind::Comment), end, &rest[..end]));
    }
    if rest.starts_with('"') {
        let end = quoted(rest, 1, '"');
        return Some((Some(Kind::Text), end, &rest[1..end.saturating_sub(1).max(1)]));
    }
    if rest.starts_with('r') && !before_is_word {
        let hashes = rest[1..].bytes().take_while(|b| *b == b'#').count();
        if rest[1 + hashes..].starts_with('"') {
            let open = hashes + 2;
            let close = format!("\"{}", "#".repeat(hashes));
            let inner = rest[open..].find(&close).unwrap_or(rest.len() - open);
            let end = (open + inner + close.len()).min(rest.len());
            return Some((Some(Kind::Text), end, &rest[open..open + inner]));
        }
    }
    if let Some(inner) = rest.strip_prefix('\'') {
        let mut inner = inner.chars();
        let first = inner.next()?;
        if first == '\\' {
            return Some((None, quoted(rest, 1, '\''), ""));
        }
        // `'a'` is a character, `'a` is a lifetime.
        if inner.next() == Some('\'') {
            return Some((None, 2 + first.len_utf8(), ""));
        }
    }
    None
}

/// Whether the character before `rest` belongs to a word (`br"` and `r"` begin literals, `for"`
/// does not exist, and the `r` of `bar` begins nothing).
fn ends_in_word(source: &str, rest: &str) -> bool {
    let before = source[..source.len() - rest.len()].chars().next_back();
    before.is_some_and(|c| c.is_alphanumeric() && c != 'b' || c == '_')
}

/// The length of a literal that opens before `from` and ends at the first unescaped `quote`.
fn quoted(rest: &str, from: usize, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest[from..].char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return from + at + 1;
        }
    }
    rest.len()
}

/// The length of a block comment; they nest.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The identifiers and keywords of a piece of code, in order.
pub fn identifiers(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with(|c: char| c.is_alphabetic() || c == '_'))
}

/// A name's words, in lower case: `SendQueue` and `send_queue` are both `send`, `queue`.
#[must_use]
pub fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut lower_before = false;
    for c in name.chars() {
        let starts_word = c == '_' || (c.is_uppercase() && lower_before);
        if starts_word {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut()
            && c != '_'
        {
            word.extend(c.to_lowercase());
        }
        lower_before = c.is_lowercase() || c.is_numeric();
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: Kind, source: &str) -> Vec<(usize, &str)> {
        pieces(source).into_iter().filter(|p| p.kind == kind).map(|p| (p.line, p.text)).collect()
    }

    #[test]
    fn tells_text_from_comment_from_code() {
        let source = "let a = \"x // y\"; // \"z\"\nlet b = r#\"q\"q\"#; /* m /* n */ o */ let c;";
        assert_eq!(of(Kind::Text, source), [(1, "x // y"), (2, "q\"q")]);
        assert_eq!(of(Kind::Comment, source), [(1, "// \"z\""), (2, "/* m /* n */ o */")]);
    }

    #[test]
    fn is_not_misled_by_characters_and_lifetimes() {
        let source =
            "fn f<'a>(x: &'a str) { let q = '\"'; let e = '\\''; let s = \"end\"; bar\"x\" }";
        assert_eq!(of(Kind::Text, source), [(1, "end"), (1, "x")]);
    }

    #[test]
    fn counts_lines_through_literals() {
        assert_eq!(of(Kind::Comment, "\"a\nb\"\n// here"), [(3, "// here")]);
    }

    #[test]
    fn splits_names_into_words() {
        assert_eq!(words("SendQueue2Bytes"), ["send", "queue2", "bytes"]);
        assert_eq!(words("__send_queue"), ["send", "queue"]);
    }
}
