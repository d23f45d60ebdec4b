//! Names of services: what is allowed, how one is made from a process, which one was meant.

/// Longest name in bytes.
pub const NAME_LIMIT: usize = 64;

/// Whether `name` can be the name of a service: 1 to 64 letters, digits, `.`, `_`, `-`; the
/// first one a letter or digit. (It goes into file names and command lines unquoted.)
#[must_use]
pub fn is_valid(name: &str) -> bool {
    name.len() <= NAME_LIMIT
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// A valid name close to what the kernel calls the process (`/proc/PID/comm`).
#[must_use]
pub fn from_comm(comm: &str) -> String {
    let clean: String = comm
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '-'
            }
        })
        .collect();
    let clean = clean.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let clean = &clean[..clean.len().min(NAME_LIMIT - 8)]; // room for what `unique` appends
    if clean.is_empty() {
        "service".into()
    } else {
        clean.into()
    }
}

/// `wanted`, or the first of `wanted-2`, `wanted-3`, ... that is not `taken`.
#[must_use]
pub fn unique(wanted: &str, taken: impl Fn(&str) -> bool) -> String {
    if !taken(wanted) {
        return wanted.into();
    }
    (2_u32..)
        .map(|n| format!("{wanted}-{n}"))
        .find(|name| !taken(name))
        .expect("there are more numbers than services")
}

/// The name among `known` that was probably meant by `typed`.
#[must_use]
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let close_enough = (typed.chars().count() / 3).max(2);
    let starts_with = |name: &str| !typed.is_empty() && name.starts_with(typed);
    known
        .into_iter()
        .map(|name| {
            // The beginning of a name is a better hint than any distance.
            let distance = if starts_with(name) {
                0
            } else {
                strsim::osa_distance(typed, name)
            };
            (distance, name)
        })
        .filter(|(distance, _)| *distance <= close_enough)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_into_file_names_unquoted() {
        for good in [
            "redis",
            "redis-server",
            "a",
            "0",
            "r.6379",
            "R_1",
            &"x".repeat(64),
        ] {
            assert!(is_valid(good), "{good}");
        }
        for bad in [
            "",
            "-r",
            ".",
            "..",
            ".r",
            "a/b",
            "a b",
            "a\n",
            "é",
            "a;b",
            &"x".repeat(65),
        ] {
            assert!(!is_valid(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_name_made_from_a_process_is_always_valid() {
        for comm in [
            "redis-server",
            "(sd-pam)",
            "kworker/0:1",
            "",
            "///",
            "a b",
            "ü",
            "1.2-",
        ] {
            assert!(
                is_valid(&from_comm(comm)),
                "{comm:?} -> {:?}",
                from_comm(comm)
            );
        }
        assert_eq!(from_comm("redis-server"), "redis-server");
        assert_eq!(from_comm("a b"), "a-b");
    }

    #[test]
    fn a_taken_name_gets_a_number() {
        let taken = ["redis", "redis-2"];
        assert_eq!(unique("redis", |n| taken.contains(&n)), "redis-3");
        assert_eq!(unique("vsftpd", |n| taken.contains(&n)), "vsftpd");
        let longest = from_comm(&"x".repeat(200));
        assert!(is_valid(&unique(&longest, |n| n == longest)));
    }

    #[test]
    fn a_near_name_is_suggested_and_a_far_one_is_not() {
        let known = ["redis", "memcached", "vsftpd"];
        assert_eq!(nearest("redsi", known), Some("redis"));
        assert_eq!(nearest("mem", known), Some("memcached"));
        assert_eq!(nearest("memcache", known), Some("memcached"));
        assert_eq!(nearest("postgres", known), None);
        assert_eq!(nearest("redis", []), None);
    }
}
