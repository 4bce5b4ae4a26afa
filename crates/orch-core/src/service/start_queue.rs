//! placeholder
use orch_domain::name::UserId;
pub struct StartQueue(tokio::sync::Semaphore);
pub struct Permit<'a>(#[allow(dead_code)] tokio::sync::SemaphorePermit<'a>);
impl StartQueue {
    pub fn new(cap: usize) -> StartQueue {
        StartQueue(tokio::sync::Semaphore::new(cap))
    }
    pub async fn enter(&self, _: &UserId) -> Permit<'_> {
        Permit(self.0.acquire().await.expect("never closed"))
    }
}
