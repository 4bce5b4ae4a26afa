//! Images: what the node has, and the progress of a pull added up over its layers.

use std::collections::HashMap;

use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::models::{CreateImageInfo, ImageInspect, ImageSummary};
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::StreamExt;
use orch_core::ports::engine::{
    EngineError, EngineImage, PullProgress, PullReport, PulledImage, RegistryLogin,
};
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
    login: Option<&RegistryLogin>,
    report: &PullReport,
) -> Result<(), EngineError> {
    let options = CreateImageOptionsBuilder::new().from_image(image.as_str()).build();
    let credentials = login.map(|it| DockerCredentials {
        username: Some(it.username.clone()),
        password: Some(it.password.expose().clone()),
        serveraddress: Some(it.registry.to_string()),
        ..DockerCredentials::default()
    });
    let username = login.map(|it| it.username.as_str());
    let mut said = docker.create_image(Some(options), None, credentials);
    let mut layers = Layers::default();
    loop {
        match tokio::time::timeout(PULL_SILENCE, said.next()).await {
            Err(_) => return Err(EngineError::Timeout { after: PULL_SILENCE }),
            Ok(None) => return Ok(()),
            Ok(Some(Err(cause))) => return Err(Failure::from(cause).of_pull(image, username)),
            Ok(Some(Ok(info))) => report(layers.note(&info)),
        }
    }
}

/// What there is after a pull, compared with what there was.
pub(super) fn pulled(
    image: &ImageRef,
    before: Option<&ImageInspect>,
    after: ImageInspect,
) -> PulledImage {
    // Each repository that it was pulled from has a digest of its own.
    let repository = image.familiar();
    let repository = repository.split_once('@').map_or(repository, |(it, _)| it);
    let last = repository.rfind('/').map_or(0, |at| at + 1);
    let repository = match repository[last..].find(':') {
        Some(at) => &repository[..last + at],
        None => repository,
    };
    let digests = after.repo_digests.unwrap_or_default();
    let of_repository = digests.iter().find_map(|it| {
        let (name, digest) = it.split_once('@')?;
        (name == repository).then(|| digest.to_owned())
    });
    let any = || digests.first().and_then(|it| it.split_once('@')).map(|it| it.1.to_owned());
    PulledImage {
        is_new: before.is_none_or(|it| it.id != after.id),
        id: after.id.unwrap_or_default(),
        digest: of_repository.or_else(any),
        size_bytes: after.size.and_then(|it| u64::try_from(it).ok()).unwrap_or_default(),
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
    fn a_pull_tells_the_digest_of_its_own_repository_and_whether_anything_came() {
        let inspected = |id: &str| ImageInspect {
            id: Some(id.to_owned()),
            repo_digests: Some(vec!["b:5000/x/app@sha256:bb".into(), "x/app@sha256:aa".into()]),
            size: Some(7),
            ..ImageInspect::default()
        };
        let image = |it: &str| ImageRef::try_new(it).unwrap();
        let new = pulled(&image("x/app:1"), None, inspected("i"));
        assert_eq!(
            (new.digest.as_deref(), new.is_new, new.size_bytes),
            (Some("sha256:aa"), true, 7)
        );
        let same = pulled(&image("b:5000/x/app"), Some(&inspected("i")), inspected("i"));
        assert_eq!((same.digest.as_deref(), same.is_new), (Some("sha256:bb"), false));
        assert!(pulled(&image("x/app"), Some(&inspected("old")), inspected("i")).is_new);
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
