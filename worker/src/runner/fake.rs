//! A copier whose copies do what a test tells them, when it tells them.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use crate::transfer::{
    Copier, CopyReceipt, CopyRequest, ProgressCell, Step, Stop, TransferError, TransferErrorKind, VerifyLevel,
};

/// Hands every copy to the test.
pub(crate) struct FakeCopier {
    started: mpsc::Sender<StartedCopy>,
    /// Copies do not hear that they should stop.
    deaf: bool,
}

/// The test's end of all copies.
pub(crate) struct StartedCopies(mpsc::Receiver<StartedCopy>);

/// A copy that waits for its end.
pub(crate) struct StartedCopy {
    pub(crate) request: CopyRequest,
    pub(crate) progress: Arc<ProgressCell>,
    pub(crate) stop: Stop,
    end: oneshot::Sender<End>,
}

enum End {
    Well,
    Badly(TransferErrorKind),
    Panicking,
}

impl FakeCopier {
    /// Its copies stop when they are told to.
    pub(crate) fn obedient() -> (Arc<dyn Copier>, StartedCopies) {
        Self::with(false)
    }

    /// Its copies go on when they are told to stop.
    pub(crate) fn deaf() -> (Arc<dyn Copier>, StartedCopies) {
        Self::with(true)
    }

    fn with(deaf: bool) -> (Arc<dyn Copier>, StartedCopies) {
        let (started, copies) = mpsc::channel(1_000);
        (Arc::new(Self { started, deaf }), StartedCopies(copies))
    }
}

impl StartedCopies {
    /// The next copy that starts.
    pub(crate) async fn next(&mut self) -> StartedCopy {
        let started = tokio::time::timeout(Duration::from_secs(20), self.0.recv()).await;
        started.expect("a copy starts soon").expect("the copier lives")
    }

    /// True when no copy has started that was not asked for yet.
    pub(crate) fn none(&mut self) -> bool {
        self.0.try_recv().is_err()
    }
}

impl StartedCopy {
    pub(crate) fn end_well(self) {
        self.end(End::Well);
    }

    pub(crate) fn fail(self, kind: TransferErrorKind) {
        self.end(End::Badly(kind));
    }

    pub(crate) fn panic(self) {
        self.end(End::Panicking);
    }

    /// Waits until nobody listens to this copy any more.
    pub(crate) async fn gone(mut self) {
        let gone = tokio::time::timeout(Duration::from_secs(20), self.end.closed()).await;
        gone.expect("the copy goes away soon");
    }

    fn end(self, end: End) {
        assert!(self.end.send(end).is_ok(), "the copy of {} has ended before", self.request.task_id);
    }
}

#[async_trait]
impl Copier for FakeCopier {
    async fn copy(
        &self,
        request: &CopyRequest,
        progress: Arc<ProgressCell>,
        stop: Stop,
    ) -> Result<CopyReceipt, TransferError> {
        let (end, mut ended) = oneshot::channel();
        let started = StartedCopy { request: request.clone(), progress, stop: stop.clone(), end };
        self.started.send(started).await.expect("the test lives");
        let end = if self.deaf {
            (&mut ended).await
        } else {
            tokio::select! {
                end = &mut ended => end,
                () = stop.abort.cancelled() => Ok(End::Badly(TransferErrorKind::Cancelled)),
                () = stop.hand_back.cancelled() => Ok(End::Badly(TransferErrorKind::Cancelled)),
            }
        };
        match end.expect("the test ends its copies") {
            End::Well => Ok(receipt(request)),
            End::Badly(kind) => {
                Err(TransferError { step: Step::Write, kind, message: "as told".to_owned(), source: None })
            }
            End::Panicking => panic!("as told"),
        }
    }
}

impl fmt::Debug for FakeCopier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeCopier")
    }
}

fn receipt(request: &CopyRequest) -> CopyReceipt {
    CopyReceipt {
        source_version: "v1".to_owned(),
        source_etag: "etag".to_owned(),
        source_modified: Some((1_700_000_000, 5)),
        backup_location: "vault".to_owned(),
        backup_bucket: "backups".to_owned(),
        backup_key: format!("{}/{}", request.location, request.key),
        backup_version: String::new(),
        backup_etag: "etag".to_owned(),
        size_bytes: 3,
        crc64nvme: 7,
        sha256: Some([9; 32]),
        verified: VerifyLevel::Head,
        already_present: false,
        not_kept: Vec::new(),
        parts: 0,
        server_side: false,
        elapsed: Duration::from_millis(12),
    }
}
