//! What to do about a refusal of the engine: the column of `docs/errors.md` that says so.
//!
//! The engine's messages say what is wrong with this server; what helps is the same for everyone who meets the
//! code, and is written in one place.

/// The document, as it was when this was built.
const DOCUMENT: &str = include_str!("../../../docs/errors.md");

/// The help line for a code of the engine (`E2xx`), for the service `name`; `None` for a code without one.
#[must_use]
pub fn of(code: &str, name: &str) -> Option<String> {
    if !code.starts_with("E2") {
        return None;
    }
    let row = DOCUMENT
        .lines()
        .filter_map(|line| line.strip_prefix("| "))
        .find(|row| row.strip_prefix(code).is_some_and(|r| r.starts_with(" | ")))?;
    let advice = row.trim_end_matches('|').rsplit(" | ").next()?.trim();
    Some(advice.replace("NAME", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_of_the_engine_says_what_to_do() {
        let codes: Vec<&str> = DOCUMENT
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.split(' ').next())
            .filter(|code| code.len() == 4 && code.starts_with("E2"))
            .collect();
        assert!(codes.len() > 20, "{codes:?}");
        for code in codes {
            let advice = of(code, "cache").unwrap_or_default();
            assert!(
                advice.len() > 10 && !advice.contains("NAME"),
                "{code}: {advice:?}"
            );
        }
    }

    #[test]
    fn a_name_is_put_in() {
        let advice = of("E230", "cache").expect("is in the table");
        assert!(advice.contains("`mvedsua status cache`"), "{advice}");
        assert_eq!(of("E2", "cache"), None);
    }
}
