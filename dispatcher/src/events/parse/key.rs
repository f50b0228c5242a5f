//! Keys as notifications write them. Decoded exactly once, or not at all: a check that reads a name differently than the store does is
//! a hole.

/// Why a key is not understood.
pub(super) const NOT_ENCODED: &str = "the key is not URL-encoded UTF-8";

/// The key of a URL-encoded text: `%XX` is a byte, `+` is a space, everything else is itself.
///
/// # Errors
/// An escape that is none, which nobody who encodes would write, and bytes that are not UTF-8.
pub(super) fn decode(text: String) -> Result<String, &'static str> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Ok(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => match rest {
                [high, low, after @ ..] => {
                    rest = after;
                    digit(*high)? << 4 | digit(*low)?
                }
                _ => return Err(NOT_ENCODED),
            },
            byte => *byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| NOT_ENCODED)
}

/// The key of a text that is not encoded.
///
/// # Errors
/// None; the signature is that of [`decode`].
pub(super) fn plain(text: String) -> Result<String, &'static str> {
    Ok(text)
}

fn digit(byte: u8) -> Result<u8, &'static str> {
    match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        b'A'..=b'F' => Ok(byte - b'A' + 10),
        _ => Err(NOT_ENCODED),
    }
}
