//! Where a reply ends, in RESP2 and RESP3, and what is in the simple ones.

/// Bytes of the first reply, if it is whole.
///
/// # Panics
/// If it is no reply at all.
#[must_use]
pub fn reply_len(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let number = || {
        let text = std::str::from_utf8(&bytes[1..line - 2]).ok().and_then(|text| text.parse::<i64>().ok());
        text.unwrap_or_else(|| panic!("a length was expected: {}", bytes[..line].escape_ascii()))
    };
    let whole = match bytes[0] {
        b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => line,
        b'$' | b'=' => match usize::try_from(number()) {
            Ok(len) => line + len + 2,
            Err(_) => line,
        },
        kind @ (b'*' | b'~' | b'>' | b'%') => {
            let parts = usize::try_from(number()).unwrap_or(0) * if kind == b'%' { 2 } else { 1 };
            let mut at = line;
            for _ in 0..parts {
                at += reply_len(bytes.get(at..)?)?;
            }
            at
        }
        _ => panic!("no reply: {}", bytes[..line].escape_ascii()),
    };
    (whole <= bytes.len()).then_some(whole)
}

/// Whether it is an error.
#[must_use]
pub fn is_error(reply: &[u8]) -> bool {
    reply[0] == b'-'
}

/// The number, if it is one.
#[must_use]
pub fn integer(reply: &[u8]) -> Option<i64> {
    std::str::from_utf8(reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?).ok()?.parse().ok()
}

/// The string, if it is one and not absent.
#[must_use]
pub fn bulk(reply: &[u8]) -> Option<&[u8]> {
    let line = reply.windows(2).position(|pair| pair == b"\r\n")? + 2;
    (reply[0] == b'$' && reply[1] != b'-').then(|| &reply[line..reply.len() - 2])
}

/// The parts of an array.
#[must_use]
pub fn array(reply: &[u8]) -> Option<Vec<&[u8]>> {
    let mut at = reply.windows(2).position(|pair| pair == b"\r\n")? + 2;
    if reply[0] != b'*' {
        return None;
    }
    let mut parts = Vec::new();
    while at < reply.len() {
        let len = reply_len(&reply[at..])?;
        parts.push(&reply[at..at + len]);
        at += len;
    }
    Some(parts)
}

#[test]
fn replies_end_where_they_do() {
    let whole: &[&[u8]] = &[
        b"+OK\r\n",
        b"-ERR no\r\n",
        b":-1\r\n",
        b"$3\r\na\r\n\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*2\r\n:1\r\n$1\r\nx\r\n",
        b"%1\r\n+k\r\n*1\r\n_\r\n",
        b"~1\r\n#t\r\n",
    ];
    for reply in whole {
        let longer = [reply, &b"+OK\r\n"[..]].concat();
        assert_eq!(reply_len(&longer), Some(reply.len()), "{}", reply.escape_ascii());
        for cut in 0..reply.len() {
            assert_eq!(reply_len(&reply[..cut]), None, "{} cut at {cut}", reply.escape_ascii());
        }
    }
    assert_eq!(array(b"*2\r\n:1\r\n$1\r\nx\r\n"), Some(vec![&b":1\r\n"[..], b"$1\r\nx\r\n"]));
    assert_eq!((bulk(b"$1\r\nx\r\n"), bulk(b"$-1\r\n"), integer(b":-7\r\n")), (Some(&b"x"[..]), None, Some(-7)));
}
