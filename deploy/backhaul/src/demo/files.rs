//! The files of the demo: of different kinds and sizes, some with names that stores and file systems are known to stumble over.
//!
//! Written to disk first, so that the proof compares the backup with the file, not with memory.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use tokio::{
    fs::{self, File},
    io::{self, AsyncWriteExt as _, BufWriter},
};

/// A file and what it is uploaded as.
#[derive(Debug)]
pub(crate) struct DemoFile {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Key at the origin.
    pub(crate) key: String,
    /// Content-Type.
    pub(crate) content_type: &'static str,
    /// Content-Language, where it has one.
    pub(crate) language: Option<&'static str>,
    /// User metadata.
    pub(crate) metadata: BTreeMap<String, String>,
    /// Size.
    pub(crate) size_bytes: u64,
}

/// What fills a file.
enum Content {
    Text(String),
    /// Bytes that do not repeat and do not compress.
    Noise(u64),
    /// A copy of another file.
    Copy(PathBuf),
}

/// Writes all files into `folder`; the largest has `large_mib` MiB.
pub(crate) async fn write(folder: &Path, large_mib: u64) -> io::Result<Vec<DemoFile>> {
    fs::create_dir_all(folder).await?;
    let mut files = Vec::new();
    for (key, content_type, content) in contents(large_mib)? {
        let path = folder.join(format!("{:03}", files.len()));
        fill(&path, content, files.len() as u64).await?;
        let size_bytes = fs::metadata(&path).await?.len();
        let metadata = [("uploaded-by", "demo"), ("number", &files.len().to_string())]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        files.push(DemoFile {
            path,
            language: (content_type == "text/markdown").then_some("en"),
            key,
            content_type,
            metadata: metadata.into(),
            size_bytes,
        });
    }
    Ok(files)
}

fn contents(large_mib: u64) -> io::Result<Vec<(String, &'static str, Content)>> {
    let mut report = String::from("day,uploads,bytes\n");
    for day in 1..=92_u64 {
        report.push_str(&format!(
            "2026-{:02}-{:02},{},{}\n",
            7 + day / 31,
            1 + day % 28,
            day * 977,
            day * 977 * 48_211
        ));
    }
    let mut all = vec![
        ("empty".to_owned(), "application/octet-stream", Content::Text(String::new())),
        ("one-byte".to_owned(), "application/octet-stream", Content::Text("x".into())),
        (super::UNLUCKY.to_owned(), "text/csv", Content::Text(report)),
        (
            "notes/readme.md".to_owned(),
            "text/markdown",
            Content::Text("# Notes\n\nKeep two copies.\n".into()),
        ),
        (
            "notes/state.json".to_owned(),
            "application/json",
            Content::Text(r#"{"ok": true, "n": [1, 2, 3]}"#.into()),
        ),
        // The program itself: a real binary of tens of megabytes.
        ("bin/backhaul".to_owned(), "application/x-executable", Content::Copy(std::env::current_exe()?)),
        ("video/large.bin".to_owned(), "video/mp4", Content::Noise(large_mib << 20)),
        ("video/medium.bin".to_owned(), "video/mp4", Content::Noise((24 << 20) + 1)),
    ];
    for key in [
        "a//b",
        "../up",
        "dots/./and/../more",
        "/leading slash",
        "trailing/",
        "per%20cent+plus & ampersand",
        "Grüße/日本語/🗄️.txt",
        "e\u{301} is two characters, é is one",
        "quote\"back\\slash'<tag>",
        "a",
        "a/b",
    ] {
        all.push((key.to_owned(), "text/plain", Content::Text(format!("the object named {key:?}\n"))));
    }
    for n in 0..100 {
        all.push((format!("thumbnails/{n:04}.jpg"), "image/jpeg", Content::Noise(2_000 + n * 313)));
    }
    Ok(all)
}

async fn fill(path: &Path, content: Content, seed: u64) -> io::Result<()> {
    match content {
        Content::Text(text) => fs::write(path, text).await,
        Content::Copy(from) => fs::copy(from, path).await.map(drop),
        Content::Noise(bytes) => {
            let mut file = BufWriter::with_capacity(1 << 20, File::create(path).await?);
            let mut left = bytes;
            let mut state = seed;
            while left > 0 {
                let word = split_mix(&mut state).to_le_bytes();
                let take = usize::try_from(left.min(8)).unwrap_or(8);
                file.write_all(&word[..take]).await?;
                left -= take as u64;
            }
            file.flush().await
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough to make bytes that do not compress, the same at every run.
const fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
