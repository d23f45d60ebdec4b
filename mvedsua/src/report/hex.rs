//! Two buffers side by side around their first difference, as hex and ASCII.

use std::fmt::Write as _;

/// Bytes per row.
const ROW: usize = 16;
/// Rows shown before and after the one with the difference.
const AROUND: usize = 1;
/// Column at which the hex bytes of a row begin: label, offset, gaps.
const HEX_AT: usize = 20;
/// Column at which the ASCII part of a row begins, after its bar.
const ASCII_AT: usize = HEX_AT + ROW * 3 + 2;

/// Offset of the first byte in which `left` and `right` differ; the shorter one's length when it
/// is a prefix of the other, `None` when they are equal.
#[must_use]
pub fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    let shared = left.iter().zip(right).position(|(l, r)| l != r);
    shared.or_else(|| (left.len() != right.len()).then(|| left.len().min(right.len())))
}

/// The rows of `left` (the leader's bytes) and `right` (the follower's) around the byte at offset
/// `first_difference`, one below the other, with a caret under that byte in both columns.
///
/// A side that has no byte there shows a gap above the caret.
#[must_use]
pub fn context(left: &[u8], right: &[u8], first_difference: usize) -> String {
    let at = first_difference / ROW;
    let last = left.len().max(right.len()).saturating_sub(1) / ROW;
    let mut text = String::new();
    for row in at.saturating_sub(AROUND)..=(at + AROUND).min(last.max(at)) {
        line(&mut text, "leader", left, row);
        line(&mut text, "follower", right, row);
        if row == at {
            let column = first_difference % ROW;
            let hex = HEX_AT + column * 3;
            let ascii = ASCII_AT + column;
            let _ = writeln!(text, "{:hex$}^^{:gap$}^", "", "", gap = ascii - hex - 2);
        }
    }
    text
}

/// One row of one side, without trailing blanks.
fn line(text: &mut String, label: &str, bytes: &[u8], row: usize) {
    let start = (row * ROW).min(bytes.len());
    let bytes = &bytes[start..bytes.len().min(start + ROW)];
    let mut hex = String::new();
    let mut ascii = String::new();
    for &byte in bytes {
        let _ = write!(hex, "{byte:02x} ");
        let printable = byte.is_ascii_graphic() || byte == b' ';
        ascii.push(if printable { char::from(byte) } else { '.' });
    }
    let _ = writeln!(
        text,
        "{label:<8}  {:08x}  {hex:<width$} |{ascii}|",
        row * ROW,
        width = ROW * 3
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found_also_at_the_end_of_the_shorter() {
        assert_eq!(first_difference(b"abc", b"abc"), None);
        assert_eq!(first_difference(b"abc", b"aXc"), Some(1));
        assert_eq!(first_difference(b"abc", b"abcd"), Some(3));
        assert_eq!(first_difference(b"", b"x"), Some(0));
    }

    #[test]
    fn a_short_reply_is_one_row() {
        let expected = "\
leader    00000000  2b 4f 4b 0d 0a                                   |+OK..|
follower  00000000  2b 4f 4a 0d 0a                                   |+OJ..|
                          ^^                                            ^
";
        assert_eq!(context(b"+OK\r\n", b"+OJ\r\n", 2), expected);
    }

    #[test]
    fn one_row_before_and_after_are_shown() {
        let left: Vec<u8> = (0..80).collect();
        let mut right = left.clone();
        right[35] = b'!';
        let expected = "\
leader    00000010  10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d 1e 1f  |................|
follower  00000010  10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d 1e 1f  |................|
leader    00000020  20 21 22 23 24 25 26 27 28 29 2a 2b 2c 2d 2e 2f  | !\"#$%&'()*+,-./|
follower  00000020  20 21 22 21 24 25 26 27 28 29 2a 2b 2c 2d 2e 2f  | !\"!$%&'()*+,-./|
                             ^^                                          ^
leader    00000030  30 31 32 33 34 35 36 37 38 39 3a 3b 3c 3d 3e 3f  |0123456789:;<=>?|
follower  00000030  30 31 32 33 34 35 36 37 38 39 3a 3b 3c 3d 3e 3f  |0123456789:;<=>?|
";
        assert_eq!(context(&left, &right, 35), expected);
    }

    #[test]
    fn a_missing_byte_is_a_gap() {
        let expected = "\
leader    00000000  61 62 63                                         |abc|
follower  00000000  61 62                                            |ab|
                          ^^                                            ^
";
        assert_eq!(context(b"abc", b"ab", 2), expected);
        let nothing = "\
leader    00000000                                                   ||
follower  00000000  78                                               |x|
                    ^^                                                ^
";
        assert_eq!(context(b"", b"x", 0), nothing);
    }
}
