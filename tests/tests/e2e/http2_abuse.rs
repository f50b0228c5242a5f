//! Peers that speak HTTP/2 by the letter and against its purpose: each abuse costs the dispatcher a connection at most, never its memory,
//! and nobody else is held up. All of them are bounded in count.

use std::{future::pending, time::Duration};

use anyhow::{Context as _, ensure};
use backhaul_tests::{TestEnv, env::EnvOptions, settings::patience};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// More than an unoptimised dispatcher needs for what it may keep of one connection, far less than what is thrown at it.
const MOST_GROWTH_BYTES: u64 = 64 << 20;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The error code of a server that has had enough (RFC 9113, 7).
const ENHANCE_YOUR_CALM: u32 = 11;

/// Kinds of frames (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const CONNECT: &str = "/backhaul.v1.WorkerService/Connect";
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// How the server took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// Told to go, with this error.
    Goaway(u32),
    /// Closed without a word.
    Closed,
    /// It answers as before.
    Served,
}

impl Taken {
    /// The connection is over, and so is what it could cost. A word in parting may be lost on the way.
    fn is_ended(self) -> bool {
        matches!(self, Self::Goaway(ENHANCE_YOUR_CALM) | Self::Closed)
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("frames here are short").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A call's headers, without compression (RFC 7541): indexed names, literal values.
fn call(path: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    let content_type = [vec![0x0f, 0x10], text("application/grpc")].concat();
    let te = [vec![0x00], text("te"), text("trailers")].concat();
    let path = [vec![0x04], text(path)].concat();
    [vec![0x83, 0x86], path, [vec![0x01], text("dispatcher")].concat(), content_type, te].concat()
}

/// A whole call: headers, and an empty message.
fn check(number: u32) -> Vec<u8> {
    let call = frame(HEADERS, END_HEADERS, id(number), &call(CHECK));
    [call, frame(DATA, END_STREAM, id(number), &[0; 5])].concat()
}

/// Stream ids of a client are odd.
const fn id(number: u32) -> u32 {
    number * 2 + 1
}

/// Sends all of it over one connection, reading what is answered, or as much as the server takes.
async fn send(
    address: &str,
    settings: &[u8],
    chunks: impl Iterator<Item = Vec<u8>>,
    wanted: usize,
) -> anyhow::Result<Taken> {
    /// What the last ping holds, to be told from those of a flood.
    const LAST: &[u8; 8] = b"the last";
    let (read, mut write) = TcpStream::connect(address).await?.into_split();
    let sending = async {
        let mut sent = write.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await;
        for chunk in chunks {
            if sent.is_err() {
                break;
            }
            sent = write.write_all(&chunk).await;
        }
        // A server that has gone says so to whoever reads.
        drop(write.write_all(&frame(PING, 0, 0, LAST)).await);
    };
    let taken = async {
        tokio::select! {
            taken = until_taken(read, LAST, wanted) => taken,
            () = async { sending.await; pending().await } => Taken::Closed,
        }
    };
    timeout(patience(), taken).await.context("the server neither answers nor closes")
}

/// Reads until the connection ends, or the last ping and so many calls are answered.
async fn until_taken(mut read: impl AsyncRead + Unpin, last: &[u8], wanted: usize) -> Taken {
    let (mut answers, mut ponged) = (0, false);
    loop {
        let mut head = [0; 9];
        if read.read_exact(&mut head).await.is_err() {
            return Taken::Closed;
        }
        let mut body = vec![0; usize::from(head[1]) << 8 | usize::from(head[2]) | usize::from(head[0]) << 16];
        if read.read_exact(&mut body).await.is_err() {
            return Taken::Closed;
        }
        match (head[3], body.get(4..8).and_then(|code| code.try_into().ok())) {
            (GOAWAY, Some(code)) => return Taken::Goaway(u32::from_be_bytes(code)),
            (PING, _) if body == last => ponged = true,
            (DATA, _) if !body.is_empty() => answers += 1,
            _ => {}
        }
        if ponged && answers >= wanted {
            return Taken::Served;
        }
    }
}

/// Has a dispatcher abused while somebody else calls it, and looks at its memory afterwards.
async fn abuse(settings: &[u8], chunks: impl Iterator<Item = Vec<u8>>) -> anyhow::Result<Taken> {
    connect(settings, chunks, 0).await
}

/// As [`abuse`], where so many calls must be answered.
async fn connect(
    settings: &[u8],
    chunks: impl Iterator<Item = Vec<u8>>,
    wanted: usize,
) -> anyhow::Result<Taken> {
    let mut env = TestEnv::start(EnvOptions::default().workers(0)).await?;
    env.submit("before").await?;
    let before = env.dispatcher().resident_bytes()?;
    let address = env.dispatcher_address();
    let abused = send(&address, settings, chunks, wanted);
    tokio::pin!(abused);
    let taken = loop {
        tokio::select! {
            taken = &mut abused => break taken?,
            served = timeout(patience(), env.submit("meanwhile")) => drop(served.context("somebody else waits")??),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let growth = env.dispatcher().resident_bytes()?.saturating_sub(before);
    ensure!(growth < MOST_GROWTH_BYTES, "the dispatcher grew by {growth} bytes");
    env.submit("after").await?;
    env.finish().await?;
    Ok(taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_this_kind_that_behaves_is_answered() -> anyhow::Result<()> {
    let taken = Box::pin(connect(&[], (0..20).map(check), 20)).await?;
    ensure!(taken == Taken::Served, "{taken:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_reset_as_they_begin_end_their_connection() -> anyhow::Result<()> {
    let reset = |number| {
        let call = frame(HEADERS, END_HEADERS, id(number), &call(CONNECT));
        [call, frame(RST_STREAM, 0, id(number), &8_u32.to_be_bytes())].concat()
    };
    let chunks = (0..200).map(|chunk| (chunk * 100..(chunk + 1) * 100).flat_map(reset).collect());
    let taken = Box::pin(abuse(&[], chunks)).await?;
    ensure!(taken.is_ended(), "{taken:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_end_end_their_connection() -> anyhow::Result<()> {
    let begin = frame(HEADERS, 0, id(0), &call(CONNECT));
    // A header that is never complete, so that nothing is too long before it ends.
    let more = || frame(CONTINUATION, 0, id(0), &[0x00, 0x01, b'x', 0x01, b'y'].repeat(200));
    let chunks = std::iter::once(begin).chain((0..20_000).map(|_| more()));
    let taken = Box::pin(abuse(&[], chunks)).await?;
    ensure!(taken.is_ended(), "{taken:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_unfold_to_megabytes_are_refused() -> anyhow::Result<()> {
    // One header of 3,900 bytes goes into the table, and is named four thousand times.
    let mut bomb = call(CONNECT);
    bomb.extend([0x40, 0x01, b'x', 0x7f, 0xbd, 0x1d]);
    bomb.extend([b'y'; 3_900]);
    bomb.extend([0xbe; 4_000]);
    let chunks = (0..100).map(|number| frame(HEADERS, END_HEADERS | END_STREAM, id(number), &bomb));
    // Each call is refused, or all of them at once.
    Box::pin(abuse(&[], chunks)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_and_settings_without_end_cost_nothing() -> anyhow::Result<()> {
    let chunk = [frame(PING, 0, 0, b"backhaul"), frame(SETTINGS, 0, 0, &[])].concat().repeat(100);
    let taken = Box::pin(abuse(&[], (0..1_000).map(|_| chunk.clone()))).await?;
    ensure!(taken == Taken::Served, "{taken:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_frames_without_end_cost_nothing() -> anyhow::Result<()> {
    let begin = frame(HEADERS, END_HEADERS, id(0), &call(CONNECT));
    let empty = frame(DATA, 0, id(0), &[]).repeat(100);
    let chunks = std::iter::once(begin).chain((0..1_000).map(|_| empty.clone()));
    // Whether the server has enough of them depends on how soon it reads each.
    Box::pin(abuse(&[], chunks)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_may_not_be_sent_are_not_piled_up() -> anyhow::Result<()> {
    // SETTINGS_INITIAL_WINDOW_SIZE is 4: no byte of any answer may be sent.
    let settings = [[0, 4].as_slice(), &0_u32.to_be_bytes()].concat();
    let taken = Box::pin(abuse(&settings, (0..20_000).map(check))).await?;
    ensure!(taken.is_ended(), "{taken:?}");
    Ok(())
}
