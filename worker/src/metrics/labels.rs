//! The values that labels of the worker's metrics have, besides names of locations. All of them are ours.

use backhaul_runtime::labels;

use crate::{
    store::{Operation, StoreErrorKind},
    transfer::{CopyReceipt, StoreState, TransferError, TransferErrorKind},
};

labels! {
    /// What a copy ended in.
    pub(super) enum Outcome {
        /// It was made and proved.
        Done => "done",
        /// An equal one was there.
        Present => "present",
        /// There is no such object any more.
        SourceGone => "source_gone",
        /// The object kept changing.
        SourceChanged => "source_changed",
        /// A store refused.
        Denied => "denied",
        /// A location's endpoint leads elsewhere.
        Misdirected => "misdirected",
        /// There is no such bucket.
        NoSuchBucket => "no_such_bucket",
        /// A store asked for less load.
        Throttled => "throttled",
        /// Bytes were not what they should be.
        Integrity => "integrity",
        /// Another object is under the backup's key.
        DestinationConflict => "destination_conflict",
        /// It can never work.
        Unsupported => "unsupported",
        /// A store did not answer.
        Io => "io",
        /// It was told to stop.
        Cancelled => "cancelled",
        /// It was dropped where it stood, or panicked.
        Dropped => "dropped",
    }
}

labels! {
    /// Verbs of a store.
    pub(super) enum Verb {
        /// Describe an object.
        Head => "head",
        /// Read, up to the first byte.
        Get => "get",
        /// Read tags.
        GetTags => "get_tags",
        /// Look who has rights.
        GetAcl => "get_acl",
        /// Write a whole object.
        Put => "put",
        /// Copy inside the store.
        Copy => "copy",
        /// Start a multipart upload.
        CreateUpload => "create_upload",
        /// Write a part.
        UploadPart => "upload_part",
        /// Copy a part inside the store.
        CopyPart => "copy_part",
        /// Find uploads.
        ListUploads => "list_uploads",
        /// Find parts.
        ListParts => "list_parts",
        /// Objects.
        ListObjects => "list_objects",
        /// Versions of objects.
        ListVersions => "list_versions",
        /// Make the parts one object.
        CompleteUpload => "complete_upload",
        /// Drop the parts.
        AbortUpload => "abort_upload",
    }
}

labels! {
    /// Why a request did not succeed.
    pub(super) enum Fault {
        /// Something that was asked for is not there.
        NotFound => "not_found",
        /// A condition did not hold: the key exists, or the source has changed.
        Precondition => "precondition",
        /// Another write to the same key was going on.
        Conflict => "conflict",
        /// Credentials or action were refused.
        Denied => "denied",
        /// The store asks for less load.
        Throttled => "throttled",
        /// The store got other bytes than were sent.
        BadDigest => "bad_digest",
        /// The store does not do this.
        Refused => "refused",
        /// The store failed.
        Server => "server",
        /// No answer in time.
        Timeout => "timeout",
        /// The connection broke.
        Connection => "connection",
        /// An answer that makes no sense.
        BadAnswer => "bad_answer",
    }
}

labels! {
    /// How a store stands.
    pub(super) enum Standing {
        /// It answers.
        Answers => "answers",
        /// It failed too often in a row.
        Away => "away",
        /// It asked to be left alone.
        Rests => "rests",
    }
}

impl From<StoreState> for Standing {
    fn from(state: StoreState) -> Self {
        match state {
            StoreState::Answers => Self::Answers,
            StoreState::Away => Self::Away,
            StoreState::Rests => Self::Rests,
        }
    }
}

impl Outcome {
    pub(super) fn of(result: &Result<CopyReceipt, TransferError>) -> Self {
        match result {
            Ok(receipt) if receipt.already_present => Self::Present,
            Ok(_) => Self::Done,
            Err(error) => match error.kind {
                TransferErrorKind::SourceGone => Self::SourceGone,
                TransferErrorKind::SourceChanged => Self::SourceChanged,
                TransferErrorKind::Denied => Self::Denied,
                TransferErrorKind::Misdirected => Self::Misdirected,
                TransferErrorKind::NoSuchBucket => Self::NoSuchBucket,
                TransferErrorKind::Throttled { .. } => Self::Throttled,
                TransferErrorKind::Integrity => Self::Integrity,
                TransferErrorKind::DestinationConflict => Self::DestinationConflict,
                TransferErrorKind::Unsupported => Self::Unsupported,
                TransferErrorKind::Io => Self::Io,
                TransferErrorKind::Cancelled => Self::Cancelled,
            },
        }
    }
}

impl From<Operation> for Verb {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Head => Self::Head,
            Operation::Get => Self::Get,
            Operation::GetTags => Self::GetTags,
            Operation::GetAcl => Self::GetAcl,
            Operation::Put => Self::Put,
            Operation::Copy => Self::Copy,
            Operation::CreateUpload => Self::CreateUpload,
            Operation::UploadPart => Self::UploadPart,
            Operation::CopyPart => Self::CopyPart,
            Operation::ListUploads => Self::ListUploads,
            Operation::ListParts => Self::ListParts,
            Operation::ListObjects => Self::ListObjects,
            Operation::ListVersions => Self::ListVersions,
            Operation::CompleteUpload => Self::CompleteUpload,
            Operation::AbortUpload => Self::AbortUpload,
        }
    }
}

impl From<StoreErrorKind> for Fault {
    fn from(kind: StoreErrorKind) -> Self {
        match kind {
            StoreErrorKind::NotFound
            | StoreErrorKind::NoSuchKey
            | StoreErrorKind::NoSuchVersion
            | StoreErrorKind::NoSuchBucket
            | StoreErrorKind::NoSuchUpload
            | StoreErrorKind::InvalidPart => Self::NotFound,
            StoreErrorKind::PreconditionFailed => Self::Precondition,
            StoreErrorKind::Conflict => Self::Conflict,
            // Somebody has to change a setting of the location.
            StoreErrorKind::Denied
            | StoreErrorKind::Misdirected
            | StoreErrorKind::CredentialsExpired
            | StoreErrorKind::ClockSkew => Self::Denied,
            StoreErrorKind::Throttled { .. } => Self::Throttled,
            StoreErrorKind::BadDigest => Self::BadDigest,
            StoreErrorKind::InvalidRange
            | StoreErrorKind::Archived
            | StoreErrorKind::TooLarge
            | StoreErrorKind::NotImplemented
            | StoreErrorKind::Rejected => Self::Refused,
            StoreErrorKind::Server => Self::Server,
            StoreErrorKind::Timeout => Self::Timeout,
            StoreErrorKind::Connection => Self::Connection,
            StoreErrorKind::BadAnswer => Self::BadAnswer,
        }
    }
}
