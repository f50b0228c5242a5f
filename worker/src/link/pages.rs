//! Pages that a dispatcher wants listed: the seam between the link and whoever lists, and the pages that are being listed.
//!
//! A page belongs to its stream. It holds no lease in the queue and nothing of it must outlive the stream, so there is nothing to keep, to
//! confirm or to hand back: when the stream ends the page is dropped, and somebody else is asked for it.

use std::{fmt, future::pending, sync::Arc, time::Duration};

use async_trait::async_trait;
use backhaul_proto::v1;
use tokio::{task::JoinSet, time::timeout};
use tracing::{debug, error};

/// Lists pages.
#[async_trait]
pub trait PageLister: Send + Sync + fmt::Debug + 'static {
    /// Lists one page. Whatever goes wrong is an answer too. The token of the answer is filled in by the caller.
    async fn list(&self, page: v1::ListPage) -> v1::ListedPage;
}

/// Pages that are being listed.
#[derive(Debug)]
pub(super) struct Pages {
    lister: Arc<dyn PageLister>,
    running: JoinSet<v1::ListedPage>,
}

impl Pages {
    pub(super) fn new(lister: Arc<dyn PageLister>) -> Self {
        Self { lister, running: JoinSet::new() }
    }

    /// Begins to list a page.
    pub(super) fn start(&mut self, page: v1::ListPage) {
        let lister = Arc::clone(&self.lister);
        let lease = page.lease.clone();
        let within = Duration::from_millis(page.within_ms);
        debug!(prefix_backup_id = page.prefix_backup_id, "listing a page");
        self.running.spawn(async move {
            let answer = timeout(within, lister.list(page)).await;
            let answer = answer.unwrap_or_else(|_| refusal(v1::FailureClass::Retry, "timeout"));
            v1::ListedPage { lease, ..answer }
        });
    }

    /// Drops all pages: nobody waits for them.
    pub(super) fn drop_all(&mut self) {
        self.running = JoinSet::new();
    }

    /// The next page that was listed; for ever when none is being listed. May be dropped at any await.
    pub(super) async fn next(&mut self) -> v1::ListedPage {
        loop {
            match self.running.join_next().await {
                Some(Ok(page)) => return page,
                // The dispatcher asks again when its time is over.
                Some(Err(panic)) => error!(error = %panic, "listing a page failed"),
                None => return pending().await,
            }
        }
    }
}

/// An answer that says only why there is none.
pub(super) fn refusal(class: v1::FailureClass, code: &str) -> v1::ListedPage {
    let failure =
        v1::Failure { class: class.into(), code: code.to_owned(), message: String::new(), retry_after_ms: 0 };
    v1::ListedPage { failure: Some(failure), ..v1::ListedPage::default() }
}
