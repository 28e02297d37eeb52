//! Patterns of KEYS and SCAN: `*`, `?`, `[a-z]`, `[^a]`, `\x`.
//!
//! The meaning is that of Redis's `stringmatchlen`, corner cases included (an unclosed class ends with the pattern, a range
//! may be given backwards, no star matches the empty text). The algorithm is not: after a mismatch only the last `*` is tried
//! again one byte further, which suffices because the shortest match of what stood before it leaves the most for what follows.
//! So the work is bounded by pattern times text, where a recursive matcher is exponential in the stars.

/// Whether the whole of `text` matches `pattern`.
#[must_use]
pub fn glob_matches(pattern: &[u8], text: &[u8]) -> bool {
    if text.is_empty() {
        return pattern.is_empty();
    }
    let (mut p, mut t) = (0, 0);
    // Where to resume after a mismatch: behind the last star, and one byte further in the text each time.
    let mut resume = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            if p == pattern.len() {
                return true;
            }
            resume = Some((p, t));
            continue;
        }
        match text.get(t) {
            None if p == pattern.len() => return true,
            // The text is used up: trying a star further leaves even less of it.
            None => return false,
            Some(&byte) => {
                if let Some(after) = match_one(pattern, p, byte) {
                    (p, t) = (after, t + 1);
                    continue;
                }
            }
        }
        let Some((star, from)) = resume else { return false };
        resume = Some((star, from + 1));
        (p, t) = (star, from + 1);
    }
}

/// Matches one byte against the element at `p`, which is no star; the position after that element if it fits.
fn match_one(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    let fits = |fits: bool, after: usize| if fits { Some(after) } else { None };
    match (pattern.get(p)?, pattern.get(p + 1)) {
        (b'?', _) => Some(p + 1),
        (b'[', _) => {
            let (found, after) = match_class(pattern, p + 1, byte);
            fits(found, after)
        }
        (b'\\', Some(&escaped)) => fits(escaped == byte, p + 2),
        (&literal, _) => fits(literal == byte, p + 1),
    }
}

/// The class whose inside starts at `p`: whether it holds the byte, and the position after its end.
fn match_class(pattern: &[u8], mut p: usize, byte: u8) -> (bool, usize) {
    let negated = pattern.get(p) == Some(&b'^');
    p += usize::from(negated);
    let mut found = false;
    loop {
        match pattern.get(p..).unwrap_or_default() {
            [] => return (found != negated, p),
            [b'\\', escaped, ..] => {
                found |= *escaped == byte;
                p += 2;
            }
            [b']', ..] => return (found != negated, p + 1),
            [one, b'-', other, ..] => {
                found |= (*one.min(other)..=*one.max(other)).contains(&byte);
                p += 3;
            }
            [literal, ..] => {
                found |= *literal == byte;
                p += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_redis_means() {
        let yes = [
            ("", ""),
            ("*", "abc"),
            ("a*c", "abbbc"),
            ("a*c", "ac"),
            ("**", "x"),
            ("h?llo", "hallo"),
            ("h[ae]llo", "hello"),
            ("h[^e]llo", "hallo"),
            ("h[a-b]llo", "hbllo"),
            ("h[b-a]llo", "hallo"),
            ("a\\*b", "a*b"),
            ("[\\]]", "]"),
            ("[abc", "c"),
            ("[^", "x"),
            ("\\", "\\"),
            ("*a*b", "xaxab"),
            ("[a-]x", "]"),
            ("*\\?", "what?"),
            ("[^]", "q"),
            ("a*", "a"),
            ("*[0-9]", "key:7"),
            ("?*", "x"),
        ];
        for (pattern, text) in yes {
            assert!(glob_matches(pattern.as_bytes(), text.as_bytes()), "{pattern:?} must match {text:?}");
        }
        let no = [
            ("", "a"),
            ("a", ""),
            ("*", ""),
            ("**", ""),
            ("?", ""),
            ("a*c", "abd"),
            ("h[^e]llo", "hello"),
            ("a\\*b", "axb"),
            ("[]", "a"),
            ("[]a]", "a"),
            ("A", "a"),
            ("*a", "ab"),
            ("[abc]", ""),
            ("a?", "a"),
            ("?*", ""),
            ("[", ""),
        ];
        for (pattern, text) in no {
            assert!(!glob_matches(pattern.as_bytes(), text.as_bytes()), "{pattern:?} must not match {text:?}");
        }
    }

    #[test]
    fn many_stars_cost_pattern_times_text() {
        // A matcher that recurses per star needs about 2^30 steps here, this one a million.
        let pattern = "a*".repeat(30) + "b";
        assert!(!glob_matches(pattern.as_bytes(), "a".repeat(10_000).as_bytes()));
    }
}
