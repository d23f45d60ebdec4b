//! How a byte stream divides into messages.

use super::ast::Framing;

/// Longest message, in bytes; a stream with a longer one is not divided any further.
pub const MAX_MESSAGE: usize = 1 << 20;

/// What stands at the start of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message of so many bytes.
    Complete(usize),
    /// The start of a message.
    Partial,
    /// Nothing that this framing knows.
    Broken,
}

/// Most bytes that are looked at to find the end of one message, and what a value within it counts. A
/// message that comes byte by byte is looked at as often: this bounds what a client can make that cost.
pub const MAX_WORK: usize = 64 * MAX_MESSAGE;
const VALUE_WORK: usize = 64;

/// The message at the start of `text`.
#[must_use]
pub fn next(framing: &Framing, text: &[u8]) -> Frame {
    continued(framing, text, 0, &mut 0)
}

/// The message at the start of `text`, whose first `known` bytes are known to be no whole one. Adds to
/// `work` what it cost; beyond [`MAX_WORK`] the stream is given up.
#[must_use]
pub fn continued(framing: &Framing, text: &[u8], known: usize, work: &mut usize) -> Frame {
    let frame = match framing {
        Framing::Delimited(end) => {
            // The delimiter may have begun in what is known.
            let from = known
                .saturating_sub(end.len().saturating_sub(1))
                .min(text.len());
            *work += text.len() - from;
            find(&text[from..], end)
                .map_or(Frame::Partial, |at| Frame::Complete(from + at + end.len()))
        }
        Framing::Fixed(bytes) => {
            let bytes = *bytes as usize;
            if text.len() >= bytes {
                Frame::Complete(bytes)
            } else {
                Frame::Partial
            }
        }
        Framing::Resp => resp(text, work),
    };
    match frame {
        Frame::Partial if *work > MAX_WORK => Frame::Broken,
        Frame::Partial if text.len() > MAX_MESSAGE => Frame::Broken,
        Frame::Complete(len) if len > MAX_MESSAGE => Frame::Broken,
        frame => frame,
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    match what {
        [] => None,
        [byte] => memchr::memchr(*byte, text),
        _ => memchr::memmem::find(text, what),
    }
}

/// One RESP value (any type of RESP2 and RESP3), or an inline command.
fn resp(text: &[u8], work: &mut usize) -> Frame {
    let mut at = 0;
    // Values still to be read; aggregates add to it, so that there is no recursion.
    let mut left: usize = 1;
    while left > 0 {
        let Some(&kind) = text.get(at) else {
            return Frame::Partial;
        };
        *work += VALUE_WORK;
        let Some(line) = find(&text[at..], b"\r\n") else {
            *work += text.len() - at;
            // An inline command may end in a bare newline.
            return match (at, find(text, b"\n")) {
                (0, Some(end)) if !is_resp(kind) => Frame::Complete(end + 1),
                _ => Frame::Partial,
            };
        };
        let number = || -> Option<i64> {
            std::str::from_utf8(&text[at + 1..at + line])
                .ok()?
                .parse()
                .ok()
        };
        let body = at + line + 2;
        left -= 1;
        match kind {
            b'$' | b'=' | b'!' => match number() {
                Some(-1) => at = body,
                Some(len) if len >= 0 => {
                    let Some(len) = usize::try_from(len).ok().filter(|l| *l <= MAX_MESSAGE) else {
                        return Frame::Broken;
                    };
                    at = body + len + 2;
                    if at > text.len() {
                        return Frame::Partial;
                    }
                }
                _ => return Frame::Broken,
            },
            b'*' | b'~' | b'>' | b'%' | b'|' => match number() {
                Some(-1) => at = body,
                Some(count) if (0..=MAX_MESSAGE as i64).contains(&count) => {
                    let count = usize::try_from(count).unwrap_or(0);
                    left += if matches!(kind, b'%' | b'|') {
                        2 * count
                    } else {
                        count
                    };
                    // An attribute stands before the value that it belongs to.
                    left += usize::from(kind == b'|');
                    at = body;
                }
                _ => return Frame::Broken,
            },
            kind if is_resp(kind) => at = body,
            _ if at == 0 => return Frame::Complete(body),
            _ => return Frame::Broken,
        }
    }
    Frame::Complete(at)
}

fn is_resp(kind: u8) -> bool {
    b"+-:$*_#,(!=%~>|".contains(&kind)
}

/// Byte ranges of the elements of a flat RESP array, or of the words of an inline command.
#[must_use]
pub fn resp_elements(text: &[u8]) -> Vec<(usize, usize)> {
    const MOST: usize = 256;
    let mut out = Vec::new();
    if text.first() != Some(&b'*') {
        let mut at = 0;
        for word in text.split(u8::is_ascii_whitespace).take(MOST) {
            if !word.is_empty() {
                out.push((at, at + word.len()));
            }
            at += word.len() + 1;
        }
        return out;
    }
    let Some(head) = find(text, b"\r\n") else {
        return out;
    };
    let mut at = head + 2;
    while at < text.len() && out.len() < MOST {
        let Some(line) = find(&text[at..], b"\r\n") else {
            break;
        };
        let body = at + line + 2;
        if text[at] != b'$' {
            out.push((at + 1, at + line));
            at = body;
            continue;
        }
        let len = std::str::from_utf8(&text[at + 1..at + line])
            .ok()
            .and_then(|s| s.parse::<usize>().ok());
        let Some(end) = len
            .and_then(|l| body.checked_add(l))
            .filter(|e| *e <= text.len())
        else {
            break;
        };
        out.push((body, end));
        at = (end + 2).min(text.len());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Brings a text byte by byte; how many bytes were looked at, and what it was in the end.
    fn drip(framing: &Framing, text: &[u8]) -> (usize, Frame) {
        let mut work = 0;
        for end in 1..=text.len() {
            match continued(framing, &text[..end], end - 1, &mut work) {
                Frame::Partial => {}
                frame => return (work, frame),
            }
        }
        (work, Frame::Partial)
    }

    #[test]
    fn a_message_that_comes_byte_by_byte_costs_no_more_than_a_bound() {
        let mut line = vec![b'x'; 100_000];
        line.extend_from_slice(b"\r\n");
        let delimited = Framing::Delimited(b"\r\n".to_vec());
        let (work, frame) = drip(&delimited, &line);
        assert_eq!(frame, Frame::Complete(line.len()));
        assert!(work <= 2 * line.len(), "{work}");
        let (work, frame) = drip(&Framing::Resp, &line);
        assert_eq!(frame, Frame::Broken);
        assert!(work <= MAX_WORK + line.len() + VALUE_WORK, "{work}");
    }

    #[test]
    fn resp_messages_end_where_redis_ends_them() {
        let set = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n";
        assert_eq!(next(&Framing::Resp, set), Frame::Complete(set.len()));
        for cut in 0..set.len() {
            assert_eq!(next(&Framing::Resp, &set[..cut]), Frame::Partial, "{cut}");
        }
        assert_eq!(
            next(&Framing::Resp, b"PING\r\nPING\r\n"),
            Frame::Complete(6)
        );
        assert_eq!(
            next(&Framing::Resp, b"*1\r\n$9999999999999\r\n"),
            Frame::Broken
        );
        assert_eq!(
            next(&Framing::Resp, b"%1\r\n+a\r\n:1\r\n+next\r\n"),
            Frame::Complete(12)
        );
        let words: Vec<&[u8]> = resp_elements(set)
            .into_iter()
            .map(|(a, b)| &set[a..b])
            .collect();
        assert_eq!(words, [b"SET".as_slice(), b"k", b"\r\n"]);
    }

    #[test]
    fn lines_and_fixed() {
        let line = Framing::Delimited(b"\r\n".to_vec());
        assert_eq!(next(&line, b"a\nb\r\nc"), Frame::Complete(5));
        assert_eq!(next(&line, b"abc\r"), Frame::Partial);
        assert_eq!(next(&Framing::Fixed(4), b"abcde"), Frame::Complete(4));
    }
}
