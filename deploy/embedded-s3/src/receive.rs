//! Request bodies: streamed into a blob while they are hashed, then held against what the client promised.
//!
//! Until the caller commits what was received, nobody sees it; an error or a cancelled request leaves nothing behind.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::{HeaderMap, StatusCode};
use s3s::dto::StreamingBlob;
use s3s::{S3Error, S3Request, S3Result, StdError, TrailingHeaders, s3_error};

use crate::blobs::Hold;
use crate::checksums::{Algorithm, Digester, Digests, decode, decode_md5};
use crate::errors::custom;
use crate::faults::RequestFault;
use crate::store::Store;

/// The largest object in one request, and the largest part.
pub(crate) const MAX_BODY_BYTES: u64 = 5 * 1024 * 1024 * 1024;

/// How much of a refused body is read, so that the client sees the answer and not a reset connection.
const DRAIN_BYTES: u64 = 64 * 1024 * 1024;

/// What the headers say about a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    md5: Option<[u8; 16]>,
    checksum: Option<(Algorithm, Promise)>,
}

/// Where a promised checksum is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Promise {
    Header(String),
    Trailer,
}

/// A body that kept its promises.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) hold: Hold,
    pub(crate) digests: Digests,
}

/// A request body with all that belongs to it.
#[derive(Debug)]
pub(crate) struct Incoming {
    body: Option<StreamingBlob>,
    content_length: u64,
    trailers: Option<TrailingHeaders>,
    fault: RequestFault,
}

impl Expected {
    /// Reads Content-MD5 and the checksum headers.
    ///
    /// # Errors
    /// `InvalidDigest` for a malformed MD5, `InvalidRequest` for a malformed, repeated or missing checksum.
    pub(crate) fn from_headers(headers: &HeaderMap) -> S3Result<Self> {
        let md5 = match header(headers, "content-md5") {
            None => None,
            Some(value) => Some(
                decode_md5(value)
                    .ok_or_else(|| s3_error!(InvalidDigest, "The Content-MD5 you specified was invalid"))?,
            ),
        };
        let mut checksum = None;
        for algorithm in Algorithm::ALL {
            let Some(promise) = promise(headers, algorithm)? else { continue };
            if checksum.replace((algorithm, promise)).is_some() {
                return Err(s3_error!(
                    InvalidRequest,
                    "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
                ));
            }
        }
        if header(headers, "x-amz-sdk-checksum-algorithm").is_some() && checksum.is_none() {
            return Err(s3_error!(
                InvalidRequest,
                "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer \
                 headers were found."
            ));
        }
        Ok(Self { md5, checksum })
    }

    /// The algorithm of the promised checksum.
    pub(crate) fn algorithm(&self) -> Option<Algorithm> {
        self.checksum.as_ref().map(|(algorithm, _)| *algorithm)
    }

    fn check(&self, digests: &Digests, trailers: Option<&HeaderMap>) -> S3Result<()> {
        if self.md5.is_some_and(|md5| md5 != digests.md5) {
            return Err(s3_error!(
                BadDigest,
                "The Content-MD5 you specified did not match what we received."
            ));
        }
        let Some((algorithm, promise)) = &self.checksum else { return Ok(()) };
        let promised = match promise {
            Promise::Header(value) => Some(value.as_str()),
            Promise::Trailer => trailers.and_then(|trailers| header(trailers, algorithm.header())),
        };
        let Some(promised) = promised else {
            return Err(custom(
                "MalformedTrailerError",
                StatusCode::BAD_REQUEST,
                "The announced checksum trailer is missing",
            ));
        };
        if digests.get(*algorithm).is_some_and(|computed| computed.value == promised) {
            return Ok(());
        }
        Err(s3_error!(
            BadDigest,
            "The {} you specified did not match the calculated checksum.",
            algorithm.name()
        ))
    }
}

impl Incoming {
    /// Takes the body and what belongs to it out of a request.
    pub(crate) fn take<T>(
        request: &mut S3Request<T>,
        body: impl FnOnce(&mut T) -> Option<StreamingBlob>,
    ) -> Self {
        let content_length = header(&request.headers, "content-length").and_then(|value| value.parse().ok());
        Self {
            body: body(&mut request.input),
            content_length: content_length.unwrap_or(0),
            trailers: request.trailing_headers.take(),
            fault: request.extensions.get::<RequestFault>().cloned().unwrap_or_default(),
        }
    }

    /// Stores the body if it is what was promised. Besides, `also` is computed over it.
    ///
    /// # Errors
    /// `EntityTooLarge`, `BadDigest`, `IncompleteBody` and what else S3 says about bodies; `InternalError` when the
    /// storage refuses.
    pub(crate) async fn store(
        self,
        store: &Store,
        expected: &Expected,
        also: Option<Algorithm>,
    ) -> S3Result<Received> {
        if self.content_length > MAX_BODY_BYTES {
            return Err(too_large());
        }
        let mut digester = Digester::new(expected.algorithm().or(also));
        let mut writer = store
            .blobs
            .create(store.next_id(), self.content_length)
            .await
            .map_err(S3Error::internal_error)?;
        let mut len = 0;
        let mut body = self.body;
        while let Some(chunk) = next_chunk(&mut body).await {
            let mut chunk = chunk.map_err(body_error)?;
            flip_bit(&mut chunk, self.fault.flip_before_checks, len);
            digester.update(&chunk);
            flip_bit(&mut chunk, self.fault.flip_after_checks, len);
            len += chunk.len() as u64;
            if len > MAX_BODY_BYTES {
                return Err(too_large());
            }
            writer.write(&chunk).await.map_err(S3Error::internal_error)?;
        }
        let trailers = self.trailers.and_then(|trailers| trailers.take());
        let digests = digester.finish();
        expected.check(&digests, trailers.as_ref())?;
        let hold = writer.finish(len).await.map_err(S3Error::internal_error)?;
        Ok(Received { hold, digests })
    }

    /// Reads a bounded rest of a body that is refused, and passes `error` on.
    pub(crate) async fn refuse(mut self, error: S3Error) -> S3Error {
        let mut read = 0;
        while read < DRAIN_BYTES
            && let Some(Ok(chunk)) = next_chunk(&mut self.body).await
        {
            read += chunk.len() as u64;
        }
        error
    }
}

async fn next_chunk(body: &mut Option<StreamingBlob>) -> Option<Result<Bytes, StdError>> {
    body.as_mut()?.next().await
}

fn promise(headers: &HeaderMap, algorithm: Algorithm) -> S3Result<Option<Promise>> {
    let name = algorithm.header();
    if let Some(value) = header(headers, name) {
        if decode(algorithm, value).is_none() {
            return Err(s3_error!(InvalidRequest, "Value for {name} header is invalid."));
        }
        return Ok(Some(Promise::Header(value.to_owned())));
    }
    let announced = header(headers, "x-amz-trailer").unwrap_or_default();
    let in_trailer = announced.split(',').any(|trailer| trailer.trim().eq_ignore_ascii_case(name));
    Ok(in_trailer.then_some(Promise::Trailer))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Flips the lowest bit of byte `position` of a body if it is in `chunk`, which begins at `offset`.
fn flip_bit(chunk: &mut Bytes, position: Option<u64>, offset: u64) {
    let within = position.and_then(|position| position.checked_sub(offset));
    let Some(within) = within.and_then(|within| usize::try_from(within).ok()) else { return };
    if within < chunk.len() {
        let mut changed = BytesMut::from(&chunk[..]);
        changed[within] ^= 1;
        *chunk = changed.freeze();
    }
}

fn too_large() -> S3Error {
    s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed size")
}

/// What S3 says when a body breaks off or its signature does not fit. The protocol crate keeps these error types to
/// itself, so they are told apart by what they print.
fn body_error(error: StdError) -> S3Error {
    let text = error.to_string();
    let mut answer = if text.contains("Sha256Mismatch") {
        let message = "The provided 'x-amz-content-sha256' header does not match what was computed.";
        custom("XAmzContentSHA256Mismatch", StatusCode::BAD_REQUEST, message)
    } else if text.contains("SignatureMismatch") {
        s3_error!(SignatureDoesNotMatch, "A chunk's signature does not match")
    } else {
        s3_error!(IncompleteBody, "The request body terminated unexpectedly")
    };
    answer.set_source(error);
    answer
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn expected(pairs: &[(&'static str, &'static str)]) -> Result<Expected, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        Expected::from_headers(&headers).map_err(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn malformed_promises_are_refused_before_the_body_is_read() {
        let refused = [
            (&[("content-md5", "short")][..], "InvalidDigest"),
            (&[("x-amz-checksum-crc32", "AA==")], "InvalidRequest"),
            (
                &[("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-checksum-crc32c", "AAAAAA==")],
                "InvalidRequest",
            ),
            (&[("x-amz-sdk-checksum-algorithm", "CRC32")], "InvalidRequest"),
        ];
        for (pairs, code) in refused {
            assert_eq!(expected(pairs).expect_err("malformed"), code, "{pairs:?}");
        }
        let trailer =
            expected(&[("x-amz-trailer", "x-amz-checksum-sha256")]).expect("a trailer is announced");
        assert_eq!(trailer.checksum, Some((Algorithm::Sha256, Promise::Trailer)));
    }

    #[test]
    fn a_flipped_bit_is_found_by_its_position_in_the_body() {
        let mut chunk = Bytes::from_static(&[0, 0, 0]);
        flip_bit(&mut chunk, Some(12), 10);
        assert_eq!(chunk, [0_u8, 0, 1][..]);
        flip_bit(&mut chunk, Some(9), 10);
        flip_bit(&mut chunk, Some(13), 10);
        flip_bit(&mut chunk, None, 0);
        assert_eq!(chunk, [0_u8, 0, 1][..]);
    }
}
