//! What a store can do, for people: everything that decides how well backups can be kept there, each tried and not believed.
//!
//! It exists so that a store is known before it is trusted with backups. The engine itself needs less and finds it out by itself
//! (`transfer::Capabilities`). Everything is written below a root that is random and removed afterwards.

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use serde::Serialize;

use crate::{
    store::{
        Attributes, ByteRange, Completion, ObjectPath, ObjectStore, Payload, Pin, Proof, Put, S3Store,
        ScratchArea, StoreError, StoreErrorKind as Kind, Terms, UploadRef, WriteOptions,
    },
    transfer::{Capabilities, key::KEY_MAX_BYTES, probe_root},
};

/// What was found out about one bucket of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbeReport {
    /// Name of the location.
    pub location: String,
    /// Bucket.
    pub bucket: String,
    /// What was tried, in order.
    pub findings: Vec<Finding>,
    /// Keys of the probe that could not be removed.
    pub left_behind: Vec<String>,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable word for programs.
    pub name: &'static str,
    /// What it means, for people.
    pub meaning: &'static str,
    /// How it ended.
    pub answer: Answer,
    /// What Backhaul does where the answer is no, or why nobody knows.
    pub remark: String,
}

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The store can do it.
    Yes,
    /// It cannot, and that costs something.
    No,
    /// It cannot, and Backhaul cannot work without it.
    Fatal,
    /// It could not be found out.
    Unknown,
}

/// A probe of one bucket.
struct Trial<'a> {
    store: &'a S3Store,
    bucket: &'a str,
    area: ScratchArea,
    /// Ask that nothing is overwritten: where the store knows that, its bucket's policy may demand it.
    create_only: bool,
    findings: Vec<Finding>,
}

/// Tries out a bucket and cleans up.
///
/// # Errors
/// When the system gives no random bytes. What a store refuses is part of the report.
pub async fn probe(store: &S3Store, bucket: &str, prefix: &str) -> Result<ProbeReport, getrandom::Error> {
    let area = ScratchArea::new(store, bucket, &probe_root(prefix))?;
    let mut trial = Trial { store, bucket, area, create_only: true, findings: Vec::new() };
    if trial.writes().await {
        trial.capabilities().await;
        trial.reads().await;
        trial.refuses_wrong_md5().await;
        trial.multipart().await;
        trial.order().await;
        trial.bucket_settings().await;
    }
    let left_behind = match trial.area.remove_all().await {
        Ok(left) => left,
        Err(error) => {
            let root = trial.area.root().to_owned();
            trial.note("listing", "objects can be listed", Answer::Unknown, &error.to_string());
            vec![root]
        }
    };
    Ok(ProbeReport {
        location: store.location().to_owned(),
        bucket: bucket.to_owned(),
        findings: trial.findings,
        left_behind,
    })
}

impl ProbeReport {
    /// Whether backups can be kept there.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.findings.iter().all(|f| f.answer != Answer::Fatal)
    }
}

impl Trial<'_> {
    async fn writes(&mut self) -> bool {
        let mut written = self.put("object", b"0123456789", Proof::default()).await;
        if written.as_ref().is_err_and(|e| matches!(e.kind, Kind::NotImplemented | Kind::Rejected)) {
            self.create_only = false;
            written = self.put("object", b"0123456789", Proof::default()).await;
        }
        match written {
            Ok(()) => self.note("writes", "an object can be written", Answer::Yes, ""),
            Err(error) => {
                self.note("writes", "an object can be written", Answer::Fatal, &error.to_string());
                return false;
            }
        }
        true
    }

    /// What the engine finds out by itself, with the same code.
    async fn capabilities(&mut self) {
        let found = Capabilities::probe(self.store, self.bucket, &format!("{}c-", self.area.root())).await;
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                let meaning = "what the engine needs to know can be found out";
                return self.note("capabilities", meaning, Answer::Fatal, &error.to_string());
            }
        };
        for (name, meaning, is_so, remark) in [
            (
                "create_only",
                "of two writes at once to one key that ask for a new object, exactly one is kept",
                found.create_only,
                "the engine looks before it writes; two workers at the same moment could both write",
            ),
            (
                "create_only_copy",
                "the same for copies inside the store",
                found.create_only_copy,
                "the engine looks before it copies",
            ),
            (
                "crc64nvme",
                "a CRC-64/NVME is checked on arrival and kept",
                found.crc64nvme,
                "MD5 is sent instead, which costs more; large objects are read back to prove them",
            ),
            ("tags", "tags are kept", found.tagging, "receipts name the tags that are not kept"),
        ] {
            self.found(name, meaning, is_so, Answer::No, remark);
        }
        let (most, wanted) = (found.key_max_bytes, KEY_MAX_BYTES);
        let remark = format!(
            "{most} at most; where a copy's key would be longer it is hashed, with a manifest beside it"
        );
        self.found("long_keys", "keys may have 1,024 bytes", most >= wanted, Answer::No, &remark);
    }

    async fn reads(&mut self) {
        let key = self.key("object");
        let at = self.at(&key);
        let other = Pin { version: None, etag: Some("0".repeat(32)) };
        let pinned = self.store.get(at, &other, None).await;
        let holds = matches!(&pinned, Err(error) if error.kind == Kind::PreconditionFailed);
        let range = ByteRange { start: 3, length: 4 };
        let part = read(self.store.get(at, &Pin::default(), Some(range)).await).await;
        let same = matches!(&part, Ok(bytes) if bytes[..] == b"3456"[..]);
        let remark = "the engine compares the ETag of every answer itself";
        self.found("pinned_reads", "a read of a version that is gone is refused", holds, Answer::No, remark);
        let remark = "large objects cannot be read";
        self.found("ranges", "a range is exactly what was asked for", same, Answer::Fatal, remark);
    }

    async fn refuses_wrong_md5(&mut self) {
        let proof = Proof { crc64nvme: None, md5: Some([7; 16]) };
        let refused = match self.put("wrong", b"hello", proof).await {
            Err(error) => error.kind == Kind::BadDigest,
            Ok(()) => false,
        };
        let remark = "bytes that are spoilt on the way are found only by what the engine compares afterwards";
        self.found("md5", "an MD5 is checked on arrival", refused, Answer::No, remark);
    }

    async fn multipart(&mut self) {
        let once = self.upload("parts").await;
        let meaning = "objects can be written in parts";
        match &once {
            Ok(kept) => {
                self.note("multipart", meaning, Answer::Yes, "");
                let meaning = "an object of parts has a CRC-64/NVME of the whole";
                let remark = "large objects are read back to prove them";
                self.found("multipart_crc64nvme", meaning, *kept, Answer::No, remark);
            }
            Err(error) => return self.note("multipart", meaning, Answer::Fatal, &error.to_string()),
        }
        let again = self.upload("parts").await;
        let refused = matches!(&again, Err(error) if error.kind == Kind::PreconditionFailed);
        let meaning = "parts do not become an object where one is";
        self.found(
            "multipart_create_only",
            meaning,
            refused,
            Answer::No,
            "the engine looks before it completes",
        );
        let key = self.key("parts");
        let listed = self.store.list_uploads(self.at(&key)).await;
        let remark = "what a worker left that was killed is found by nobody but the bucket's lifecycle rule";
        let meaning = "uploads in progress are listed, and gone once they are aborted";
        self.found("uploads_listed", meaning, listed.is_ok_and(|ids| ids.is_empty()), Answer::No, remark);
    }

    /// Uploads one part and makes it an object; whether the store told the right checksum. Leaves no upload behind.
    async fn upload(&self, name: &str) -> Result<bool, StoreError> {
        let (key, body) = (self.key(name), Payload::from(Bytes::from_static(b"part")));
        let crc = crc_fast::crc64_nvme(b"part");
        let attributes = Attributes::default();
        let write = WriteOptions {
            attributes: &attributes,
            tags: &[],
            terms: Terms::default(),
            crc64nvme: true,
            create_only: true,
        };
        let id = self.store.create_upload(self.at(&key), &write).await?;
        let upload = UploadRef { at: self.at(&key), id: &id };
        let done = async {
            let proof = Proof { crc64nvme: Some(crc), md5: None };
            let part = self.store.upload_part(upload, 1, &body, proof).await?;
            let completion = Completion { size_bytes: 4, crc64nvme: Some(crc), create_only: true };
            self.store.complete_upload(upload, &[part], completion).await
        };
        match done.await {
            Ok(written) => Ok(written.crc64nvme == Some(crc)),
            Err(error) => {
                self.store.abort_upload(upload).await?;
                Err(error)
            }
        }
    }

    async fn order(&mut self) {
        for name in ["order/a", "order/a-b", "order/a/b", "order/a0"] {
            if let Err(error) = self.put(name, b"x", Proof::default()).await {
                return self.note("byte_order", ORDER, Answer::Unknown, &error.to_string());
            }
        }
        match self.area.list("order/").await {
            Ok(keys) => {
                let sorted = keys.len() == 4 && keys.is_sorted();
                self.found(
                    "byte_order",
                    ORDER,
                    sorted,
                    Answer::No,
                    "two listings must be sorted to be compared",
                );
            }
            Err(error) => self.note("byte_order", ORDER, Answer::Unknown, &error.to_string()),
        }
    }

    async fn bucket_settings(&mut self) {
        let versions = self.area.keeps_versions().await;
        let lock = self.area.can_lock().await;
        let owner = self.area.refuses_other_owners("object").await;
        for (name, meaning, answer, remark) in [
            (
                "bucket_owner",
                "a request that names another owner of the bucket is refused",
                owner,
                "`owner` in the locations file protects nothing there",
            ),
            (
                "versions",
                "the bucket keeps versions",
                versions,
                "what others overwrite or delete there is gone",
            ),
            ("object_lock", "objects can be locked", lock, "whoever has the right can delete backups"),
        ] {
            match answer {
                Ok(is_so) => self.found(name, meaning, is_so, Answer::No, remark),
                Err(error) => self.note(name, meaning, Answer::Unknown, &error.to_string()),
            }
        }
    }

    async fn put(&self, name: &str, bytes: &'static [u8], proof: Proof) -> Result<(), StoreError> {
        let (key, body) = (self.key(name), Payload::from(Bytes::from_static(bytes)));
        let attributes = Attributes::default();
        let put = Put {
            body: &body,
            proof,
            attributes: &attributes,
            tags: &[],
            terms: Terms::default(),
            create_only: self.create_only,
        };
        self.store.put(self.at(&key), put).await.map(drop)
    }

    fn found(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        is_so: bool,
        otherwise: Answer,
        remark: &str,
    ) {
        let answer = if is_so { Answer::Yes } else { otherwise };
        self.note(name, meaning, answer, if is_so { "" } else { remark });
    }

    fn note(&mut self, name: &'static str, meaning: &'static str, answer: Answer, remark: &str) {
        self.findings.push(Finding { name, meaning, answer, remark: remark.to_owned() });
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.area.root())
    }

    fn at<'k>(&'k self, key: &'k str) -> ObjectPath<'k> {
        ObjectPath { bucket: self.bucket, key }
    }
}

const ORDER: &str = "listings are in the order of the keys' bytes";

async fn read(answer: Result<crate::store::GetResponse, StoreError>) -> Result<Vec<u8>, StoreError> {
    answer?.body.try_fold(Vec::new(), async |all, piece: Bytes| Ok([all, piece.to_vec()].concat())).await
}
