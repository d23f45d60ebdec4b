//! Reads a rule file with what it includes.

use std::path::{Path, PathBuf};

use super::ast::{File, ItemKind};
use super::check::check;
use super::diagnostic::{Code, Diagnostic, has_errors};
use super::parser::parse;
use super::program::RuleSet;
use super::source::SourceMap;

/// Most files that one rule file may consist of.
const MAX_FILES: usize = 64;

/// What became of a rule file.
#[derive(Debug)]
pub struct Loaded {
    /// The checked rules; `None` when there is an error among the diagnostics.
    pub rules: Option<RuleSet>,
    /// Errors and lints, in the order of the files.
    pub diagnostics: Vec<Diagnostic>,
    /// The files, to render diagnostics with.
    pub sources: SourceMap,
    /// The syntax trees, the named file last.
    pub trees: Vec<File>,
}

impl Loaded {
    /// All diagnostics as text.
    #[must_use]
    pub fn render(&self) -> String {
        self.diagnostics
            .iter()
            .map(|d| d.render(&self.sources))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// Loads `path`; `read` gives the text of a file. Includes are looked up beside the file that
/// names them, and stand before what it says itself.
///
/// # Errors
/// When `path` itself cannot be read. An include that cannot be read is a diagnostic.
pub fn load(
    path: &Path,
    read: &dyn Fn(&Path) -> std::io::Result<String>,
) -> std::io::Result<Loaded> {
    let text = read(path)?;
    let mut loader = Loader {
        read,
        sources: SourceMap::new(),
        trees: Vec::new(),
        diagnostics: Vec::new(),
        open: Vec::new(),
    };
    loader.file(path, text);
    let Loader {
        sources,
        trees,
        mut diagnostics,
        ..
    } = loader;
    if has_errors(&diagnostics) {
        return Ok(Loaded {
            rules: None,
            diagnostics,
            sources,
            trees,
        });
    }
    let (rules, found) = check(&trees, sources.clone());
    diagnostics.extend(found);
    Ok(Loaded {
        rules,
        diagnostics,
        sources,
        trees,
    })
}

/// Loads rules from one text.
#[must_use]
pub fn load_text(name: &str, text: &str) -> Loaded {
    let mut sources = SourceMap::new();
    let id = sources.add(name, text);
    let (tree, mut diagnostics) = parse(id, text);
    let trees = vec![tree];
    if has_errors(&diagnostics) {
        return Loaded {
            rules: None,
            diagnostics,
            sources,
            trees,
        };
    }
    for item in &trees[0].items {
        if let ItemKind::Include(path) = &item.kind {
            diagnostics.push(Diagnostic::error(
                Code::INCLUDE,
                item.span,
                format!("cannot read {path}: a text has no place beside which to look"),
            ));
            return Loaded {
                rules: None,
                diagnostics,
                sources,
                trees,
            };
        }
    }
    let (rules, found) = check(&trees, sources.clone());
    diagnostics.extend(found);
    Loaded {
        rules,
        diagnostics,
        sources,
        trees,
    }
}

struct Loader<'a> {
    read: &'a dyn Fn(&Path) -> std::io::Result<String>,
    sources: SourceMap,
    trees: Vec<File>,
    diagnostics: Vec<Diagnostic>,
    /// Files whose includes are being read.
    open: Vec<PathBuf>,
}

impl Loader<'_> {
    fn file(&mut self, path: &Path, text: String) {
        let id = self.sources.add(path.display().to_string(), text.as_str());
        let (tree, diagnostics) = parse(id, &text);
        self.diagnostics.extend(diagnostics);
        self.open.push(path.to_owned());
        for item in &tree.items {
            let ItemKind::Include(name) = &item.kind else {
                continue;
            };
            let wanted = path.parent().unwrap_or(Path::new("")).join(name);
            let refuse = |why: String| Diagnostic::error(Code::INCLUDE, item.span, why);
            if self.open.contains(&wanted) {
                self.diagnostics
                    .push(refuse(format!("{} includes itself", wanted.display())));
            } else if self.sources.find(&wanted.display().to_string()).is_some() {
                // Included by another file already: once is enough.
            } else if self.trees.len() + self.open.len() >= MAX_FILES {
                self.diagnostics
                    .push(refuse(format!("more than {MAX_FILES} files")));
            } else {
                match (self.read)(&wanted) {
                    Ok(text) => self.file(&wanted, text),
                    Err(error) => {
                        self.diagnostics
                            .push(refuse(format!("cannot read {}: {error}", wanted.display())));
                    }
                }
            }
        }
        self.open.pop();
        self.trees.push(tree);
    }
}
