//! Sizes on the command line. Binary units, as in `--ring 64M`: a ring is a power of two.

use crate::recorder::RING_SIZES;

/// Bytes of a size such as `64M`, `1G`, `512K`, `1MiB` or `1048576`.
///
/// # Errors
/// What is wrong with it, for the user.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("'{text}' is no size; write e.g. 64M or 1G"))?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(format!("'{unit}' is no unit; write K, M or G, e.g. 64M")),
    };
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("'{text}' is too large"))
}

/// Bytes of a ring: a power of two, from 1 MiB to 2 GiB.
///
/// # Errors
/// What is wrong with it, and which sizes near it are right.
pub fn parse_ring(text: &str) -> Result<u64, String> {
    let bytes = parse(text)?;
    if !RING_SIZES.contains(&bytes) {
        return Err("a ring has 1M to 2G, e.g. 64M or 1G".into());
    }
    if !bytes.is_power_of_two() {
        let above = bytes.next_power_of_two() >> 20;
        return Err(format!(
            "a ring is a power of two: {}M or {above}M",
            above / 2
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(parse("64M"), Ok(64 << 20));
        assert_eq!(parse("1G"), Ok(1 << 30));
        assert_eq!(parse("512K"), Ok(512 << 10));
        assert_eq!(parse("1MiB"), Ok(1 << 20));
        assert_eq!(parse("1048576"), Ok(1 << 20));
        for bad in [
            "",
            "M",
            "-1M",
            "1.5M",
            "1T2",
            "64 M",
            "99999999999999999999",
            "99999999999999G",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_ring_is_a_power_of_two() {
        assert_eq!(parse_ring("64M"), Ok(64 << 20));
        assert_eq!(
            parse_ring("100M").unwrap_err(),
            "a ring is a power of two: 64M or 128M"
        );
        assert!(parse_ring("512K").is_err());
        assert!(parse_ring("0").is_err());
        assert_eq!(parse_ring("2G"), Ok(2 << 30));
        assert!(parse_ring("4G").is_err());
    }
}
