//! The facts that no verifier tells: the URI names of a certificate and when it ends, and when a revocation list should be replaced.
//!
//! Reads DER that a verifier has taken; whatever is odd is refused, never guessed. Verifies nothing itself.

use std::time::{Duration, SystemTime};

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// All URI names, as they are written.
    pub(super) uris: Vec<String>,
    /// When it ends.
    pub(super) not_after: SystemTime,
}

/// Not a certificate, or no revocation list, as RFC 5280 has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the certificate is malformed")]
pub(super) struct Malformed;

const INTEGER: u8 = 0x02;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const ISSUER_UNIQUE_ID: u8 = 0x81;
const SUBJECT_UNIQUE_ID: u8 = 0x82;
const EXTENSIONS: u8 = 0xa3;
const URI: u8 = 0x86;
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// Reads the facts of one certificate.
pub(super) fn read(der: &[u8]) -> Result<Facts, Malformed> {
    let mut outer = Reader(der);
    let mut certificate = Reader(outer.take(SEQUENCE)?);
    outer.end()?;
    let mut tbs = Reader(certificate.take(SEQUENCE)?);
    tbs.skip(VERSION)?;
    tbs.take(INTEGER)?;
    tbs.take(SEQUENCE)?; // signature algorithm
    tbs.take(SEQUENCE)?; // issuer
    let mut validity = Reader(tbs.take(SEQUENCE)?);
    validity.any()?;
    let (tag, text) = validity.any()?;
    let not_after = time(tag, text)?;
    tbs.take(SEQUENCE)?; // subject
    tbs.take(SEQUENCE)?; // key
    tbs.skip(ISSUER_UNIQUE_ID)?;
    tbs.skip(SUBJECT_UNIQUE_ID)?;
    let mut uris = Vec::new();
    if let Some(extensions) = tbs.skip(EXTENSIONS)? {
        let mut wrapper = Reader(extensions);
        let mut extensions = Reader(wrapper.take(SEQUENCE)?);
        wrapper.end()?;
        let mut is_named = false;
        while !extensions.0.is_empty() {
            let mut extension = Reader(extensions.take(SEQUENCE)?);
            let id = extension.take(OID)?;
            extension.skip(BOOLEAN)?;
            let value = extension.take(OCTET_STRING)?;
            if id == SUBJECT_ALT_NAME {
                // Two of them could be read by two programs in two ways.
                if std::mem::replace(&mut is_named, true) {
                    return Err(Malformed);
                }
                uris = uri_names(value)?;
            }
        }
    }
    tbs.end()?;
    Ok(Facts { uris, not_after })
}

/// When the list should have been replaced by a newer one.
pub(super) fn next_update(crl: &[u8]) -> Result<SystemTime, Malformed> {
    let mut outer = Reader(crl);
    let mut list = Reader(outer.take(SEQUENCE)?);
    outer.end()?;
    let mut tbs = Reader(list.take(SEQUENCE)?);
    tbs.skip(INTEGER)?; // version
    tbs.take(SEQUENCE)?; // signature algorithm
    tbs.take(SEQUENCE)?; // issuer
    tbs.any()?; // this update
    let (tag, text) = tbs.any()?;
    time(tag, text)
}

fn uri_names(value: &[u8]) -> Result<Vec<String>, Malformed> {
    let mut wrapper = Reader(value);
    let mut names = Reader(wrapper.take(SEQUENCE)?);
    wrapper.end()?;
    let mut uris = Vec::new();
    while !names.0.is_empty() {
        let (tag, name) = names.any()?;
        if tag == URI {
            uris.push(std::str::from_utf8(name).map_err(|_| Malformed)?.to_owned());
        }
    }
    Ok(uris)
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn time(tag: u8, text: &[u8]) -> Result<SystemTime, Malformed> {
    let digits = text.strip_suffix(b"Z").ok_or(Malformed)?;
    let number = |at: usize, length: usize| -> Result<u64, Malformed> {
        let part = digits.get(at..at + length).ok_or(Malformed)?;
        if !part.iter().all(u8::is_ascii_digit) {
            return Err(Malformed);
        }
        Ok(part.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
    };
    let (year, at) = match (tag, digits.len()) {
        (UTC_TIME, 12) => (number(0, 2)?, 2),
        (GENERALIZED_TIME, 14) => (number(0, 4)?, 4),
        _ => return Err(Malformed),
    };
    let year = match (tag, year) {
        (UTC_TIME, 50..) => 1900 + year,
        (UTC_TIME, _) => 2000 + year,
        _ => year,
    };
    let (month, day) = (number(at, 2)?, number(at + 2, 2)?);
    let (hour, minute, second) = (number(at + 4, 2)?, number(at + 6, 2)?, number(at + 8, 2)?);
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !in_range {
        return Err(Malformed);
    }
    // Days since 1970 in the proleptic Gregorian calendar, with years that begin in March so that the leap day is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468).ok_or(Malformed)?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
}

/// What is left of a piece of DER.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next value, whatever it is.
    fn any(&mut self) -> Result<(u8, &'a [u8]), Malformed> {
        let (&tag, rest) = self.0.split_first().ok_or(Malformed)?;
        let (&first, rest) = rest.split_first().ok_or(Malformed)?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // Larger files are not read.
            0x81..=0x83 => {
                let count = usize::from(first - 0x80);
                let bytes = rest.get(..count).ok_or(Malformed)?;
                let length = bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                (length, &rest[count..])
            }
            _ => return Err(Malformed),
        };
        let value = rest.get(..length).ok_or(Malformed)?;
        self.0 = &rest[length..];
        Ok((tag, value))
    }

    /// The next value, which must be of that kind.
    fn take(&mut self, tag: u8) -> Result<&'a [u8], Malformed> {
        match self.any()? {
            (found, value) if found == tag => Ok(value),
            _ => Err(Malformed),
        }
    }

    /// The next value, if it is of that kind.
    fn skip(&mut self, tag: u8) -> Result<Option<&'a [u8]>, Malformed> {
        if self.0.first() == Some(&tag) { self.take(tag).map(Some) } else { Ok(None) }
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType, date_time_ymd};

    use super::*;

    fn certificate(names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.not_after = date_time_ymd(2031, 3, 1);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    #[test]
    fn all_uri_names_are_found_and_no_other() {
        let names = vec![uri("spiffe://a/b"), SanType::DnsName("dns".try_into().unwrap()), uri("https://c")];
        let facts = read(&certificate(names)).unwrap();
        assert_eq!(facts.uris, ["spiffe://a/b", "https://c"]);
        assert_eq!(facts.not_after, SystemTime::UNIX_EPOCH + Duration::from_secs(1_930_089_600));
        assert_eq!(read(&certificate(Vec::new())).unwrap().uris, [""; 0]);
    }

    #[test]
    fn a_certificate_that_is_cut_or_changed_anywhere_never_panics() {
        let good = certificate(vec![uri("spiffe://a/b")]);
        for length in 0..good.len() {
            assert_eq!(read(&good[..length]), Err(Malformed), "cut at {length}");
        }
        for at in 0..good.len() {
            for value in [0x00, 0x7f, 0x80, 0x82, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                drop(read(&bad));
            }
        }
        let mut longer = good;
        longer.push(0);
        assert_eq!(read(&longer), Err(Malformed));
    }

    #[test]
    fn times_of_both_kinds_are_read_to_the_second() {
        let seconds = |tag, text: &str| {
            time(tag, text.as_bytes()).map(|at| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
        };
        for (tag, text, expected) in [
            (UTC_TIME, "700101000000Z", 0),
            (UTC_TIME, "991231235959Z", 946_684_799),
            (UTC_TIME, "000229120000Z", 951_825_600),
            (UTC_TIME, "491231235959Z", 2_524_607_999),
            (GENERALIZED_TIME, "20500101000000Z", 2_524_608_000),
            (GENERALIZED_TIME, "99991231235959Z", 253_402_300_799),
        ] {
            assert_eq!(seconds(tag, text), Ok(expected), "{text}");
        }
        for (tag, text) in [
            (UTC_TIME, "20500101000000Z"),
            (GENERALIZED_TIME, "500101000000Z"),
            (UTC_TIME, "701301000000Z"),
            (UTC_TIME, "700100000000Z"),
            (UTC_TIME, "700101240000Z"),
            (UTC_TIME, "7001010000+0Z"),
            (UTC_TIME, "700101000000"),
            (OID, "700101000000Z"),
        ] {
            assert_eq!(seconds(tag, text), Err(Malformed), "{text}");
        }
    }
}
