//! Kernel release strings.

/// Major and minor number of a release string such as `6.1.0-18-amd64`.
pub fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn releases_of_distributions_are_understood() {
        assert_eq!(parse("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(parse("5.19-rc1"), Some((5, 19)));
        assert_eq!(parse("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(parse("7"), None);
        assert_eq!(parse("linux"), None);
        assert!(parse("5.9.1") < Some((5, 19)), "numbers, not text");
    }
}
