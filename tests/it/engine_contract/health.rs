//! What a check of a node asks of its engine.

use orch_domain::health::Level;

use super::subject::{Life, Subject};
use crate::harness::within;

pub(super) async fn answers_at_every_level(subject: Subject) {
    let levels = subject.engine.levels();
    assert_eq!((levels.first(), levels.last()), (Some(&Level::Address), Some(&Level::Engine)));
    for level in levels {
        // Twice: over a connection that is not there yet, and over one that is.
        for _ in 0..2 {
            within("an answer", subject.engine.reach(*level)).await.unwrap();
        }
    }
    let nowhere = subject.nowhere();
    let first = nowhere.levels()[0];
    assert_eq!(first, Level::Address);
    let err = within("a refusal", nowhere.reach(first)).await.unwrap_err();
    assert!(err.is_transient(), "{err:?}");
}

pub(super) async fn tells_what_is_in_use(subject: Subject) {
    let running = subject.running(Life::Forever).await;
    let info = subject.engine.describe().await.unwrap();
    assert!(0 < info.n_running && info.n_running <= info.n_containers, "{info:?}");
    let sample = within("a sample", subject.engine.sample(&info)).await.unwrap();
    let (memory, disk) = (sample.memory_used_bytes.unwrap(), sample.disk_used_bytes.unwrap());
    assert!(0 < memory && memory < sample.memory_total_bytes.unwrap(), "{sample:?}");
    assert!(0 < disk && disk < sample.disk_total_bytes.unwrap(), "{sample:?}");
    assert!(sample.cpu.is_some() && sample.load_average.is_some(), "{sample:?}");
    assert_eq!(sample.gpus.map(|it| it.len()), Some(info.capacity.gpu as usize));
    subject.engine.remove(&running.name).await.unwrap();
}
