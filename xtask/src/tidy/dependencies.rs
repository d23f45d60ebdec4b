//! Every dependency has its reason, in one line of `ARCHITECTURE.md`.

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::{File, Finding};

const DOCUMENT: &str = "ARCHITECTURE.md";

/// Looks for a line of `ARCHITECTURE.md` that names each dependency in back quotes and says more.
///
/// # Errors
/// When a `Cargo.toml` is not TOML.
pub fn check(files: &[File]) -> Result<Vec<Finding>> {
    let document = files
        .iter()
        .find(|file| file.path == DOCUMENT)
        .map_or("", |file| file.text.as_str());
    let mut seen = std::collections::BTreeSet::new();
    let mut findings = Vec::new();
    let manifests = files
        .iter()
        .filter(|file| file.path.rsplit('/').next() == Some("Cargo.toml"));
    for manifest in manifests {
        let table: Table = manifest
            .text
            .parse()
            .with_context(|| format!("reading {}", manifest.path))?;
        for name in external_dependencies(&table) {
            if has_reason(document, &name) || !seen.insert(name.clone()) {
                continue;
            }
            let line = manifest
                .text
                .lines()
                .position(|line| line.trim_start().starts_with(&name))
                .unwrap_or(0)
                + 1;
            findings.push(Finding {
                file: manifest.path.clone(),
                line,
                what: format!("the dependency {name} has no reason in {DOCUMENT}"),
                remedy: "add a line there, `name`: why we need it, or drop it",
            });
        }
    }
    Ok(findings)
}

fn has_reason(document: &str, name: &str) -> bool {
    let quoted = format!("`{name}`");
    document
        .lines()
        .any(|line| line.contains(&quoted) && line.trim().len() > quoted.len() + 12)
}

/// Names in all tables of dependencies, at any depth (`workspace`, `target.*`); our own crates, which
/// have a path, are not among them.
fn external_dependencies(table: &Table) -> Vec<String> {
    let mut names = Vec::new();
    for (key, value) in table {
        let Value::Table(inner) = value else { continue };
        if matches!(
            key.as_str(),
            "dependencies" | "dev-dependencies" | "build-dependencies"
        ) {
            let external = inner
                .iter()
                .filter(|(name, spec)| !name.starts_with("mvedsua") && spec.get("path").is_none());
            names.extend(external.map(|(name, _)| name.clone()));
        } else if key != "profile" {
            names.extend(external_dependencies(inner));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File {
            path: path.into(),
            text: text.into(),
        }
    }

    #[test]
    fn a_dependency_without_a_reason_is_found_once_wherever_it_stands() {
        let files = [
            file(
                "Cargo.toml",
                "[workspace.dependencies]\nmvedsua = { path = \"mvedsua\" }\naya = \"0.14\"\nbytes = \"1\"\n",
            ),
            file(
                "a/Cargo.toml",
                "[dependencies]\nbytes.workspace = true\n[target.'cfg(unix)'.dev-dependencies]\nnix = \"1\"\n",
            ),
            file(
                DOCUMENT,
                "- `aya`: loads the recorder programs into the kernel\n- `nix`\n",
            ),
        ];
        let found: Vec<_> = check(&files)
            .expect("valid")
            .into_iter()
            .map(|f| (f.file, f.line))
            .collect();
        assert_eq!(
            found,
            [("Cargo.toml".to_owned(), 4), ("a/Cargo.toml".to_owned(), 4)]
        );
    }
}
