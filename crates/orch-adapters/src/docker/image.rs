//! Images: what the node has, and the progress of a pull added up over its layers.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::{CreateImageInfo, ImageSummary};
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::StreamExt;
use orch_core::ports::engine::{EngineError, EngineImage, PullProgress, PullReport};
use orch_domain::image::ImageRef;
use orch_domain::time::Timestamp;

use super::connect::PULL_SILENCE;
use super::error::{Failure, clean};

pub(super) fn listed(it: ImageSummary) -> EngineImage {
    EngineImage {
        // Old engines name untagged images `<none>:<none>`.
        references: it.repo_tags.into_iter().filter(|it| !it.contains("<none>")).collect(),
        id: it.id,
        size_bytes: u64::try_from(it.size).unwrap_or_default(),
        created_at: Timestamp::from_millis(it.created.saturating_mul(1000)),
    }
}

pub(super) async fn pull(
    docker: &Docker,
    image: &ImageRef,
    report: &PullReport,
) -> Result<(), EngineError> {
    let options = CreateImageOptionsBuilder::new().from_image(image.as_str()).build();
    let mut said = docker.create_image(Some(options), None, None);
    let mut layers = Layers::default();
    loop {
        match tokio::time::timeout(PULL_SILENCE, said.next()).await {
            Err(_) => return Err(EngineError::Timeout { after: PULL_SILENCE }),
            Ok(None) => return Ok(()),
            Ok(Some(Err(cause))) => return Err(Failure::from(cause).of_pull(image)),
            Ok(Some(Ok(info))) => report(layers.note(&info)),
        }
    }
}

/// Bytes of each layer, as far as they are known.
#[derive(Default)]
struct Layers(HashMap<String, (u64, u64)>);

impl Layers {
    fn note(&mut self, info: &CreateImageInfo) -> PullProgress {
        let status = info.status.as_deref().unwrap_or_default();
        if let Some(id) = &info.id {
            let detail = info.progress_detail.as_ref();
            let number = |it: Option<i64>| it.and_then(|it| u64::try_from(it).ok());
            match status {
                "Downloading" => {
                    let done = detail.and_then(|it| number(it.current)).unwrap_or_default();
                    let total = detail.and_then(|it| number(it.total)).unwrap_or_default();
                    let layer = self.0.entry(id.clone()).or_default();
                    // Never back: a retried layer starts over, a progress bar does not.
                    *layer = (layer.0.max(done), layer.1.max(total).max(done));
                }
                // What comes after it counts the same bytes again.
                "Download complete" | "Pull complete" => {
                    if let Some(layer) = self.0.get_mut(id) {
                        layer.0 = layer.1;
                    }
                }
                _ => {}
            }
        }
        let (done_bytes, total_bytes) = self
            .0
            .values()
            .fold((0u64, 0u64), |sum, it| (sum.0.saturating_add(it.0), sum.1.saturating_add(it.1)));
        let message = match &info.id {
            Some(id) => format!("{} {}", clean(status).to_lowercase(), clean(id)),
            None => clean(status),
        };
        PullProgress { done_bytes, total_bytes, message }
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    fn said(id: &str, status: &str, current: i64, total: i64) -> CreateImageInfo {
        CreateImageInfo {
            id: Some(id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: Some(ProgressDetail { current: Some(current), total: Some(total) }),
            ..CreateImageInfo::default()
        }
    }

    #[test]
    fn layers_add_up_and_never_go_back() {
        let mut layers = Layers::default();
        let mut last = 0;
        let mut end = None;
        for it in [
            said("a", "Pulling fs layer", 0, 0),
            said("a", "Downloading", 10, 100),
            said("b", "Downloading", 20, 50),
            said("a", "Downloading", 5, 100),
            said("a", "Download complete", 0, 0),
            said("a", "Extracting", 3, 100),
            said("b", "Download complete", 0, 0),
            said("b", "Pull complete", 0, 0),
        ] {
            let progress = layers.note(&it);
            assert!(last <= progress.done_bytes, "{it:?}");
            last = progress.done_bytes;
            end = Some((progress.done_bytes, progress.total_bytes));
        }
        assert_eq!(end, Some((150, 150)));
    }
}
