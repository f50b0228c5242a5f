//! Reading a pinned range of an object whole, whatever goes wrong on the way.
//!
//! An answer is believed only when it is what was asked for: the right range of an object of the right size, ETag and version, and
//! not a byte more. A body that breaks off is continued where it ended; what it brought is kept.

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::{
    Step,
    buffers::{BUFFER_BYTES, Buffer, Buffers},
    checksum::{Crc, RunningCrc},
    failure::{Halt, Side},
    job::Job,
};
use crate::store::{
    ByteRange, GetResponse, ObjectInfo, ObjectPath, Operation, Payload, Pin, StoreError,
    StoreErrorKind as Kind,
};

/// A store that sends a little each time it is asked makes progress, but not for ever.
const MAX_CONTINUATIONS: u32 = 64;

/// What is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) side: Side,
    pub(super) step: Step,
    pub(super) at: ObjectPath<'a>,
    pub(super) pin: &'a Pin,
    /// First byte.
    pub(super) start: u64,
    /// Bytes; the object may be empty.
    pub(super) length: u64,
    /// Length of the whole object.
    pub(super) total: u64,
}

/// What is kept of a body: the bytes, in buffers that hold nothing else. A piece as it comes from the network may keep a buffer alive that
/// is many times its size, so the memory of many of them would be anybody's guess.
struct Kept {
    buffers: Buffers,
    full: Vec<Bytes>,
    filling: Option<Buffer>,
    /// Bytes that no buffer has been made for yet.
    left: u64,
}

/// What came so far.
struct Received {
    pieces: Vec<Bytes>,
    crc: RunningCrc,
    bytes: u64,
}

/// Reads it into memory, and its checksum while the bytes are still in the processor's caches. `first` is an answer that has already
/// begun to come, for exactly that range.
pub(super) async fn read(
    job: &Job<'_>,
    wanted: Wanted<'_>,
    first: Option<GetResponse>,
) -> Result<(Payload, Crc), Halt> {
    let mut have = Received { pieces: Vec::new(), crc: RunningCrc::new(), bytes: 0 };
    let mut tries = 0;
    let mut continuations = 0;
    let mut begun = first;
    loop {
        let before = have.bytes;
        let attempt = job.unless_stopped(once(job, wanted, begun.take(), &mut have)).await;
        match attempt.map_err(|r| job.halt(r, wanted.side, wanted.step))? {
            Ok(()) => return Ok((Payload::new(have.pieces), have.crc.finish())),
            Err(Problem::Changed) => return Err(Halt::Changed),
            Err(Problem::Store(error)) => {
                continuations += 1;
                tries = if have.bytes > before && continuations < MAX_CONTINUATIONS { 1 } else { tries + 1 };
                let paused = job.pause(wanted.side, tries, error).await;
                paused.map_err(|refusal| job.halt(refusal, wanted.side, wanted.step))?;
            }
        }
    }
}

impl Kept {
    /// Room for so many bytes, made as they come.
    fn of(bytes: u64, buffers: &Buffers) -> Self {
        Self { buffers: buffers.clone(), full: Vec::new(), filling: None, left: bytes }
    }

    fn add(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let mut filling = self.filling.take().unwrap_or_else(|| self.next());
            piece = &piece[filling.add(piece)..];
            if filling.is_full() {
                self.full.push(filling.freeze());
            } else {
                self.filling = Some(filling);
            }
        }
    }

    fn next(&mut self) -> Buffer {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).clamp(1, BUFFER_BYTES);
        self.left = self.left.saturating_sub(room as u64);
        self.buffers.take(room)
    }

    fn into_pieces(self) -> impl Iterator<Item = Bytes> {
        self.full.into_iter().chain(self.filling.map(Buffer::freeze))
    }
}

enum Problem {
    Changed,
    Store(StoreError),
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

async fn once(
    job: &Job<'_>,
    wanted: Wanted<'_>,
    begun: Option<GetResponse>,
    have: &mut Received,
) -> Result<(), Problem> {
    let rest = ByteRange { start: wanted.start + have.bytes, length: wanted.length - have.bytes };
    let response = match begun {
        Some(response) => {
            job.site(wanted.side).gate.take_bytes(rest.length).await;
            response
        }
        None => {
            let site = job.site(wanted.side);
            let range = (rest.length < wanted.total).then_some(rest);
            site.gate.take_bytes(rest.length).await;
            site.gate.pass(site.store.get(wanted.at, wanted.pin, range)).await?
        }
    };
    check(&response, wanted, rest)?;
    let mut body = response.body;
    let mut fresh = Kept::of(rest.length, job.memory.buffers());
    let mut crc = have.crc;
    let mut received = 0;
    let ended = loop {
        let complete = received == rest.length;
        match timeout(job.settings.idle_timeout, body.next()).await {
            Ok(Some(Ok(piece))) => {
                received += piece.len() as u64;
                if received > rest.length {
                    // Nothing of an answer that is too long can be trusted.
                    return Err(bad("more bytes than asked for").into());
                }
                if !piece.is_empty() {
                    crc.update(&piece);
                    fresh.add(&piece);
                }
            }
            // Whatever befalls a body behind its last byte; it was only watched for bytes too many.
            Ok(None | Some(Err(_))) | Err(_) if complete => break Ok(()),
            Ok(Some(Err(error))) => break Err(error),
            Ok(None) => {
                let message = format!("the body ended after {received} of {} bytes", rest.length);
                break Err(StoreError::new(Operation::Get, Kind::Connection, message));
            }
            Err(_) => {
                job.site(wanted.side).gate.stalled();
                break Err(StoreError::new(Operation::Get, Kind::Timeout, "no more bytes of the body came"));
            }
        }
    };
    have.pieces.extend(fresh.into_pieces());
    have.crc = crc;
    have.bytes += received;
    Ok(ended?)
}

/// Whether an answer is the one that was asked for.
fn check(response: &GetResponse, wanted: Wanted<'_>, rest: ByteRange) -> Result<(), Problem> {
    // Another length of the same version: one of the two answers was wrong, and nobody knows which.
    if is_other(&response.info, wanted.pin) || response.info.size_bytes != wanted.total {
        return Err(Problem::Changed);
    }
    let (start, length) = match response.range {
        Some(range) => (range.start, range.end - range.start + 1),
        None => (0, response.length.unwrap_or(wanted.total)),
    };
    if start != rest.start || length != rest.length {
        let message =
            format!("asked for {} bytes from {} and got {length} from {start}", rest.length, rest.start);
        return Err(bad(&message).into());
    }
    Ok(())
}

/// Whether an answer is about another state of the object than the pinned one. Stores that ignore `If-Match` show themselves here.
fn is_other(info: &ObjectInfo, pin: &Pin) -> bool {
    let other_etag = pin.etag.as_ref().is_some_and(|etag| *etag != info.etag);
    let other_version = match (&pin.version, &info.version) {
        (Some(wanted), Some(got)) => wanted != got,
        _ => false,
    };
    other_etag || other_version
}

fn bad(message: &str) -> StoreError {
    StoreError::new(Operation::Get, Kind::BadAnswer, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_kept_in_few_buffers_of_their_own_however_they_came() {
        let body: Vec<u8> = (0..700_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        let buffers = Buffers::default();
        for step in [1, 1_000, 8_192, 400_000, 700_000] {
            let mut kept = Kept::of(700_000, &buffers);
            for piece in body.chunks(step) {
                kept.add(piece);
            }
            let pieces: Vec<Bytes> = kept.into_pieces().collect();
            assert_eq!(pieces.concat(), body);
            assert_eq!(
                pieces.iter().map(Bytes::len).collect::<Vec<_>>(),
                [262_144, 262_144, 175_712],
                "{step}"
            );
        }
        // What breaks off half-way is kept as well; more than was announced is none of its business.
        let mut kept = Kept::of(10, &buffers);
        kept.add(b"1234");
        assert_eq!(kept.into_pieces().collect::<Vec<_>>(), ["1234"]);
        let mut kept = Kept::of(2, &buffers);
        kept.add(b"123");
        assert_eq!(kept.into_pieces().collect::<Vec<_>>().concat(), b"123");
        assert_eq!(Kept::of(0, &buffers).into_pieces().count(), 0);
    }
}
