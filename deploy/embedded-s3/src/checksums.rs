//! The five additional checksums of S3 and MD5: computed while bytes pass, combined over parts, compared with
//! what the client sent.
//!
//! Pure computation; what a mismatch means for a request is decided by the caller.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::CrcAlgorithm;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use serde::{Deserialize, Serialize};

/// A checksum algorithm that S3 knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

/// What a checksum covers: the object's bytes, or the checksums of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ChecksumKind {
    FullObject,
    Composite,
}

/// A checksum as S3 shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checksum {
    pub(crate) algorithm: Algorithm,
    pub(crate) kind: ChecksumKind,
    /// Base64 of the big-endian digest, with `-<parts>` behind it for a composite one.
    pub(crate) value: String,
}

/// Computes MD5, CRC64NVME and, when asked, one more checksum in one pass.
pub(crate) struct Digester {
    md5: Md5,
    crc64: Crc64Nvme,
    extra: Option<(Algorithm, Hasher)>,
}

/// What a [`Digester`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digests {
    pub(crate) md5: [u8; 16],
    pub(crate) crc64: Checksum,
    /// The checksum that was asked for; equal to `crc64` if that is the one.
    pub(crate) extra: Option<Checksum>,
}

enum Hasher {
    Crc32(Crc32),
    Crc32c(Crc32c),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Algorithm {
    pub(crate) const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// The name in `x-amz-checksum-algorithm` and in XML.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The header, or trailer, that carries a value.
    pub(crate) fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    pub(crate) fn digest_len(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// The kind that S3 gives an upload that names only the algorithm.
    pub(crate) fn default_kind(self) -> ChecksumKind {
        match self {
            Self::Crc64Nvme => ChecksumKind::FullObject,
            Self::Crc32 | Self::Crc32c | Self::Sha1 | Self::Sha256 => ChecksumKind::Composite,
        }
    }

    /// Whether S3 offers this algorithm for that kind: only CRCs combine, and CRC64NVME does nothing else.
    pub(crate) fn allows(self, kind: ChecksumKind) -> bool {
        match (self, kind) {
            (Self::Crc32 | Self::Crc32c, _) => true,
            (Self::Crc64Nvme, kind) => kind == ChecksumKind::FullObject,
            (Self::Sha1 | Self::Sha256, kind) => kind == ChecksumKind::Composite,
        }
    }

    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Self::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Crc32 => Crc32::checksum(bytes).to_vec(),
            Self::Crc32c => Crc32c::checksum(bytes).to_vec(),
            Self::Crc64Nvme => Crc64Nvme::checksum(bytes).to_vec(),
            Self::Sha1 => Sha1::checksum(bytes).to_vec(),
            Self::Sha256 => Sha256::checksum(bytes).to_vec(),
        }
    }
}

impl ChecksumKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FullObject => "FULL_OBJECT",
            Self::Composite => "COMPOSITE",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::FullObject, Self::Composite].into_iter().find(|kind| kind.name() == name)
    }
}

impl Checksum {
    fn full(algorithm: Algorithm, digest: &[u8]) -> Self {
        Self { algorithm, kind: ChecksumKind::FullObject, value: BASE64.encode(digest) }
    }

    /// The digest, without the part count of a composite value.
    fn digest(&self) -> Option<Vec<u8>> {
        let value = self.value.split_once('-').map_or(self.value.as_str(), |(digest, _)| digest);
        decode(self.algorithm, value)
    }

    /// The checksum of a whole object from those of its parts, with their sizes. `None` only if the algorithm does
    /// not combine, or a part's value is not one.
    pub(crate) fn combine(algorithm: Algorithm, parts: &[(&Self, u64)]) -> Option<Self> {
        let crc = algorithm.crc()?;
        let mut total = 0;
        for (index, (part, size)) in parts.iter().enumerate() {
            let value = part.digest()?.iter().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
            total = if index == 0 { value } else { crc_fast::checksum_combine(crc, total, value, *size) };
        }
        let bytes = total.to_be_bytes();
        Some(Self::full(algorithm, &bytes[bytes.len() - algorithm.digest_len()..]))
    }

    /// The checksum of the parts' checksums. `None` only if a part's value is not one.
    pub(crate) fn composite<'a>(algorithm: Algorithm, parts: impl Iterator<Item = &'a Self>) -> Option<Self> {
        let mut digests = Vec::new();
        let mut count = 0;
        for part in parts {
            digests.extend(part.digest()?);
            count += 1;
        }
        let value = format!("{}-{count}", BASE64.encode(algorithm.digest(&digests)));
        Some(Self { algorithm, kind: ChecksumKind::Composite, value })
    }
}

impl Digester {
    pub(crate) fn new(extra: Option<Algorithm>) -> Self {
        let hasher = extra.and_then(|algorithm| {
            let hasher = match algorithm {
                Algorithm::Crc32 => Hasher::Crc32(Crc32::new()),
                Algorithm::Crc32c => Hasher::Crc32c(Crc32c::new()),
                Algorithm::Crc64Nvme => return None,
                Algorithm::Sha1 => Hasher::Sha1(Sha1::new()),
                Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            };
            Some((algorithm, hasher))
        });
        Self { md5: Md5::new(), crc64: Crc64Nvme::new(), extra: hasher }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.crc64.update(bytes);
        match &mut self.extra {
            None => {}
            Some((_, Hasher::Crc32(hasher))) => hasher.update(bytes),
            Some((_, Hasher::Crc32c(hasher))) => hasher.update(bytes),
            Some((_, Hasher::Sha1(hasher))) => hasher.update(bytes),
            Some((_, Hasher::Sha256(hasher))) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digests {
        let extra = self.extra.map(|(algorithm, hasher)| {
            let digest = match hasher {
                Hasher::Crc32(hasher) => hasher.finalize().to_vec(),
                Hasher::Crc32c(hasher) => hasher.finalize().to_vec(),
                Hasher::Sha1(hasher) => hasher.finalize().to_vec(),
                Hasher::Sha256(hasher) => hasher.finalize().to_vec(),
            };
            Checksum::full(algorithm, &digest)
        });
        let crc64 = Checksum::full(Algorithm::Crc64Nvme, &self.crc64.finalize());
        Digests { md5: self.md5.finalize(), crc64, extra }
    }
}

impl Digests {
    /// The value for `algorithm`, if it was computed.
    pub(crate) fn get(&self, algorithm: Algorithm) -> Option<&Checksum> {
        if algorithm == Algorithm::Crc64Nvme {
            return Some(&self.crc64);
        }
        self.extra.as_ref().filter(|extra| extra.algorithm == algorithm)
    }
}

/// The digest in a header value, if it is one of the right length.
pub(crate) fn decode(algorithm: Algorithm, value: &str) -> Option<Vec<u8>> {
    BASE64.decode(value).ok().filter(|digest| digest.len() == algorithm.digest_len())
}

/// The digest in a `Content-MD5` header, if it is one.
pub(crate) fn decode_md5(value: &str) -> Option<[u8; 16]> {
    BASE64.decode(value).ok()?.try_into().ok()
}

/// The ETag of an object completed from parts with these MD5s.
pub(crate) fn multipart_etag<'a>(parts: impl ExactSizeIterator<Item = &'a [u8; 16]>) -> String {
    let count = parts.len();
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    format!("{}-{count}", hex::encode(md5.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(bytes: &[u8], algorithm: Algorithm) -> Checksum {
        let mut digester = Digester::new(Some(algorithm));
        digester.update(bytes);
        digester.finish().get(algorithm).expect("it was asked for").clone()
    }

    #[test]
    fn known_answers_are_reproduced() {
        let expected = [
            (Algorithm::Crc32, "y/Q5Jg=="),
            (Algorithm::Crc32c, "4waSgw=="),
            (Algorithm::Crc64Nvme, "rosUhgp5mIg="),
            (Algorithm::Sha1, "98O8HYCOBHMq32eZZczDTKeuNEE="),
            (Algorithm::Sha256, "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
        ];
        for (algorithm, value) in expected {
            assert_eq!(digests(b"123456789", algorithm).value, value, "{}", algorithm.name());
        }
    }

    #[test]
    fn combined_parts_equal_the_checksum_of_the_whole() {
        let whole = b"the quick brown fox jumps over the lazy dog";
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            let (a, b, c) = (
                digests(&whole[..7], algorithm),
                digests(&whole[7..8], algorithm),
                digests(&whole[8..], algorithm),
            );
            let parts = [(&a, 7), (&b, 1), (&c, whole.len() as u64 - 8)];

            let combined = Checksum::combine(algorithm, &parts).expect("CRCs combine");

            assert_eq!(combined, digests(whole, algorithm));
        }
        let part = digests(whole, Algorithm::Sha1);
        assert_eq!(Checksum::combine(Algorithm::Sha1, &[(&part, 43)]), None);
    }

    #[test]
    fn a_composite_value_counts_its_parts() {
        let (a, b) = (digests(b"a", Algorithm::Sha256), digests(b"b", Algorithm::Sha256));

        let composite =
            Checksum::composite(Algorithm::Sha256, [&a, &b].into_iter()).expect("values are digests");

        assert!(composite.value.ends_with("=-2"), "{}", composite.value);
        assert_eq!(composite.digest().map(|digest| digest.len()), Some(32));
    }

    #[test]
    fn a_value_of_the_wrong_length_is_not_a_digest() {
        assert_eq!(decode(Algorithm::Crc32, "AAAA"), None);
        assert_eq!(decode(Algorithm::Crc32, "not base64!"), None);
        assert_eq!(decode_md5("AAAA"), None);
    }
}
