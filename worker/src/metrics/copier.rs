//! The engine with a meter around it: counts copies by what they end in, and changes none.

use std::sync::{Arc, atomic::Ordering};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Metrics, Site, labels::Outcome};
use crate::transfer::{Copier, CopyReceipt, CopyRequest, ProgressCell, Stop, TransferError};

/// A copier whose copies are counted.
#[derive(Debug)]
pub struct MeteredCopier {
    copier: Arc<dyn Copier>,
    metrics: Arc<Metrics>,
}

/// A copy under way. Counted when it is dropped, because a copy may be dropped where it stands.
struct UnderWay<'m> {
    metrics: &'m Metrics,
    site: &'m Site,
    outcome: Outcome,
}

impl MeteredCopier {
    /// Counts what `copier` is asked for.
    #[must_use]
    pub fn new(copier: Arc<dyn Copier>, metrics: Arc<Metrics>) -> Self {
        Self { copier, metrics }
    }
}

#[async_trait]
impl Copier for MeteredCopier {
    async fn copy(
        &self,
        request: &CopyRequest,
        progress: Arc<ProgressCell>,
        stop: Stop,
    ) -> Result<CopyReceipt, TransferError> {
        let mut under_way = UnderWay::new(&self.metrics, &request.location);
        let started = Instant::now();
        let result = self.copier.copy(request, progress, stop).await;
        under_way.outcome = Outcome::of(&result);
        if let Ok(receipt) = &result {
            under_way.site.copy_time.observe(started.elapsed());
            under_way.site.copied_bytes.add(receipt.size_bytes);
        }
        result
    }
}

impl<'m> UnderWay<'m> {
    fn new(metrics: &'m Metrics, location: &str) -> Self {
        metrics.copying.fetch_add(1, Ordering::Relaxed);
        Self { metrics, site: metrics.site(location), outcome: Outcome::Dropped }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.metrics.copying.fetch_sub(1, Ordering::Relaxed);
        self.site.copies.of(self.outcome).inc();
    }
}
