//! What runs in the background: each task takes no input, may run at any time, and is done again after its period.

mod driver;
mod expire;
mod gauges;
mod reconcile;

use std::sync::Arc;
use std::time::Duration;

pub use driver::{TaskBoard, TaskStatus};
pub(crate) use reconcile::{Followers, follow, unfollow};

use crate::Orch;

impl Orch {
    /// Starts all background work. It ends with `shutdown`.
    pub fn start_tasks(self: &Arc<Orch>) {
        self.recover();
        let gauges = Arc::new(gauges::Gauges::default());
        driver::every(self, "health", self.settings.health_period, move |orch| {
            let gauges = gauges.clone();
            async move {
                orch.sweep().await;
                gauges.set(&orch);
                "all nodes checked".to_owned()
            }
        });
        // Beside the sweep and not in it: a Ray that hangs holds up no health check.
        if self.ray.is_configured() {
            driver::every(self, "ray", self.settings.health_period, |orch| async move {
                orch.sample_ray().await
            });
        }
        driver::every(self, "reconcile", self.settings.reconcile_period, reconcile::activate);
        // Often enough that a short grace is kept to; where no node is lost it looks at no instance.
        let period = (self.settings.reschedule_grace / 4)
            .clamp(Duration::from_millis(250), Duration::from_secs(5));
        driver::every(self, "reschedule", period, |orch| async move {
            orch.reschedule_lost().await.to_string()
        });
        driver::every(self, "expire", Duration::from_secs(60), expire::activate);
    }

    /// Stops background work and waits for it, at most until `deadline`. The answer says whether all of it ended.
    pub async fn drain(&self, deadline: Duration) -> bool {
        self.shutdown.cancel();
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }
}
