//! Which words the code may not use.
//!
//! Invariant: a rule looks only where a word is ours: at names that we declare, at our comments.
//! Another project's word in a message, or a method of the standard library, is no finding.

use crate::source::{Kind, identifiers, pieces, words};
use crate::{Findings, Tree};

/// Synonyms that the glossary does not have, and the word that it has.
const SYNONYMS: [(&str, &str); 6] = [
    ("replica", "mirror or copy"),
    ("replicas", "mirrors or copies"),
    ("child", "leg, copy, or what it is"),
    ("children", "legs, copies, or what they are"),
    ("backend", "store"),
    ("backends", "stores"),
];

/// After these a name is declared.
const DECLARES: [&str; 9] =
    ["fn", "struct", "enum", "trait", "mod", "const", "static", "type", "union"];

/// What a comment may not say: work that is left over is done, refused with an error, or listed
/// in the README.
const LEFTOVERS: [&str; 4] = ["TODO", "FIXME", "XXX", "HACK"];

/// Declared names use the glossary's nouns. A local variable for a process that was started may
/// be called `child`, as the standard library does.
#[must_use]
pub fn synonyms(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for (path, text) in tree.below("gateway", ".rs") {
        let stem = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs");
        let code = pieces(text).into_iter().filter(|piece| piece.kind == Kind::Code);
        let mut declared = vec![stem];
        let mut before = "";
        for word in code.flat_map(|piece| identifiers(piece.text)) {
            if DECLARES.contains(&before) {
                declared.push(word);
            }
            before = word;
        }
        for name in declared {
            let said = words(name);
            for (synonym, noun) in SYNONYMS {
                if said.iter().any(|word| word == synonym) {
                    findings.push(format!("{path}: `{name}` says {synonym}; the noun is {noun}"));
                }
            }
        }
    }
    findings
}

/// No comment leaves work for later.
#[must_use]
pub fn leftovers(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for (path, text) in tree.rust() {
        for comment in pieces(text).iter().filter(|piece| piece.kind == Kind::Comment) {
            find_leftover(path, comment.line, comment.text, &mut findings);
        }
    }
    let is_setting =
        |path: &str| [".toml", ".yml", ".wit", ".sh"].iter().any(|e| path.ends_with(e));
    for (path, text) in tree.files().filter(|(path, _)| is_setting(path)) {
        for (at, line) in text.lines().enumerate().filter(|(_, line)| line.contains(['#', '/'])) {
            find_leftover(path, at + 1, line, &mut findings);
        }
    }
    findings
}

fn find_leftover(path: &str, line: usize, text: &str, findings: &mut Findings) {
    let said = |leftover: &&&str| identifiers(text).any(|word| word == **leftover);
    if let Some(leftover) = LEFTOVERS.iter().find(said) {
        findings.push(format!("{path}:{line}: leaves work behind ({leftover})"));
    }
}

/// The namespace of the contract's package, which the tools make a module of.
const CONTRACT: &str = "twinspan";

/// Whether a file is of the plugins or of their host.
fn speaks_the_contract(path: &str) -> bool {
    ["plugins/", "gateway/plugin/"].iter().any(|folder| path.starts_with(folder))
}

/// No identifier carries the product's name, but for the names of crates in paths, and that of the
/// contract where it is spoken.
#[must_use]
pub fn product_name(tree: &Tree) -> Findings {
    let crates: Vec<String> = crate::crates::CRATES
        .iter()
        .map(|krate| format!("twinspan_{}", krate.folder.rsplit('/').next().unwrap_or_default()))
        .collect();
    let mut findings = Findings::new();
    for (path, text) in tree.rust() {
        for code in pieces(text).iter().filter(|piece| piece.kind == Kind::Code) {
            let named = identifiers(code.text)
                .filter(|word| word.to_lowercase().contains("twinspan"))
                .filter(|word| !crates.iter().any(|krate| krate == word))
                .filter(|word| !(*word == CONTRACT && speaks_the_contract(path)));
            findings.extend(named.map(|w| format!("{path}: `{w}` carries the product's name")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declared_synonym_is_found_and_a_word_of_others_is_not() {
        let tree = Tree::of(&[
            ("gateway/a.rs", "// the peer calls it a replica\nlet child = spawn(\"backend\");"),
            ("gateway/b.rs", "struct ReplicaSet; fn open_backend() {} mod children {}"),
            ("gateway/backend.rs", "fn replication() {}"),
        ]);
        assert_eq!(synonyms(&tree).len(), 4, "{:?}", synonyms(&tree));
    }

    #[test]
    fn a_leftover_is_found_in_comments_only() {
        let tree = Tree::of(&[
            ("a.rs", "let x = \"TODO\"; // To do it well.\n// TODO: later\n"),
            ("b.toml", "key = \"FIXME\"\n# FIXME\n"),
        ]);
        assert_eq!(
            leftovers(&tree),
            ["a.rs:2: leaves work behind (TODO)", "b.toml:2: leaves work behind (FIXME)",]
        );
    }

    #[test]
    fn the_products_name_is_found_in_identifiers_only() {
        let tree = Tree::of(&[
            ("a.rs", "use twinspan_server::run; const X: &str = \"twinspan\"; // twinspan\n"),
            ("b.rs", "struct TwinspanError; let twinspan_dir = 1;"),
        ]);
        assert_eq!(product_name(&tree).len(), 2);
    }
}
