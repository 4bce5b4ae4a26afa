//! One suite for all engines: what the services rely on holds for the simulated engine and for Docker alike.

mod docker_only;
mod health;
mod subject;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use orch_core::ports::engine::{
    Container, ContainerState, EngineError, ExecRequest, LogLine, LogQuery, LogStream,
};
use orch_domain::image::ImageRef;

use self::health::{answers_at_every_level, tells_what_is_in_use};
use self::subject::{Life, Subject};
use crate::harness::{eventually, within};

macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        mod sim {
            $(#[tokio::test]
            async fn $name() {
                super::run(super::Subject::sim(), super::$name).await;
            })*
        }
        mod docker {
            $(#[tokio::test]
            async fn $name() {
                if let Some(subject) = super::Subject::docker().await {
                    super::run(subject, super::$name).await;
                }
            })*
        }
        mod docker_over_ssh {
            $(#[tokio::test]
            async fn $name() {
                if let Some(subject) = super::Subject::docker_over_ssh().await {
                    super::run(subject, super::$name).await;
                }
            })*
        }
    };
}

suite!(
    says_what_it_is,
    answers_at_every_level,
    tells_what_is_in_use,
    creating_again_adopts_and_other_labels_are_refused,
    every_verb_may_be_repeated,
    verbs_on_a_container_that_is_not_there,
    a_port_in_use_is_named_and_the_container_stays_created,
    exit_codes_are_seen,
    running_out_of_memory_is_seen,
    lists_hold_ours_only,
    events_tell_of_ours_only,
    events_from_before_the_first_look_are_not_lost,
    logs_are_read_from_either_end,
    logs_are_followed_until_the_end,
    hostile_bytes_do_not_break_logs,
    commands_run_to_their_end,
    commands_that_last_too_long_are_ended,
    output_beyond_the_limit_is_dropped,
    commands_need_a_running_container,
    stats_show_the_limit,
    an_image_that_is_nowhere,
    an_engine_that_is_not_there,
);

/// Runs one test and takes away what it made, whatever became of it.
async fn run<F>(subject: Subject, test: impl FnOnce(Subject) -> F)
where
    F: Future<Output = ()>,
{
    let outcome = AssertUnwindSafe(within("the test", test(subject.clone()))).catch_unwind().await;
    subject.clean_up().await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

async fn says_what_it_is(subject: Subject) {
    let info = subject.engine.describe().await.unwrap();
    assert!(info.version.starts_with(subject.kind()), "{info:?}");
    assert!(0 < info.capacity.cpu.millis() && 0 < info.capacity.memory.mib(), "{info:?}");
    assert!(!info.hostname.is_empty());

    let images = subject.engine.images().await.unwrap();
    let image = images.iter().find(|it| it.references.contains(&subject.image().to_string()));
    assert!(image.is_some_and(|it| 0 < it.size_bytes), "{images:?}");
    assert!(subject.engine.has_image(&subject.image()).await.unwrap());
}

async fn creating_again_adopts_and_other_labels_are_refused(subject: Subject) {
    let spec = subject.spec(Life::Forever);
    let id = subject.engine.create(&spec).await.unwrap();
    assert_eq!(subject.engine.create(&spec).await.unwrap(), id);

    let mut newer = spec.clone();
    newer.labels.generation += 1;
    let err = subject.engine.create(&newer).await.unwrap_err();
    assert!(matches!(&err, EngineError::NameTaken { name } if *name == spec.name), "{err:?}");

    let decoy = subject.spec(Life::Forever);
    subject.put_decoy(&decoy.name, None).await;
    let err = subject.engine.create(&decoy).await.unwrap_err();
    assert!(matches!(err, EngineError::NameTaken { .. }), "{err:?}");

    let racing = subject.spec(Life::Forever);
    let creates = (0..16).map(|_| subject.engine.create(&racing));
    let ids = futures::future::try_join_all(creates).await.unwrap();
    assert!(ids.iter().all(|it| *it == ids[0]), "{ids:?}");
    assert_eq!(subject.list().await.len(), 2);
}

async fn every_verb_may_be_repeated(subject: Subject) {
    let spec = subject.spec(Life::Forever);
    let id = subject.engine.create(&spec).await.unwrap();
    assert_eq!(subject.state(&spec.name).await, Some(ContainerState::Created));
    for _ in 0..2 {
        subject.engine.start(&spec.name).await.unwrap();
        assert_eq!(subject.state(&spec.name).await, Some(ContainerState::Running));
    }
    let seen = subject.engine.inspect(&spec.name).await.unwrap().unwrap();
    assert_eq!((seen.id, seen.name), (id, spec.name.clone()));
    assert_eq!(seen.labels, Some(spec.labels.clone()));
    assert!(0 < seen.created_at.as_millis());

    for _ in 0..2 {
        subject.engine.stop(&spec.name, Duration::from_secs(10)).await.unwrap();
        let state = subject.state(&spec.name).await;
        assert!(matches!(state, Some(ContainerState::Exited { .. })), "{state:?}");
    }
    subject.engine.start(&spec.name).await.unwrap();
    assert_eq!(subject.state(&spec.name).await, Some(ContainerState::Running));

    for _ in 0..2 {
        subject.engine.remove(&spec.name).await.unwrap();
        assert_eq!(subject.state(&spec.name).await, None);
    }

    let racing = subject.running(Life::Forever).await;
    let removals = (0..8).map(|_| subject.engine.remove(&racing.name));
    futures::future::try_join_all(removals).await.unwrap();
    assert_eq!(subject.state(&racing.name).await, None);
}

async fn verbs_on_a_container_that_is_not_there(subject: Subject) {
    let name = subject.spec(Life::Forever).name;
    let engine = &subject.engine;
    let query = LogQuery { tail: None, since: None, follow: false };
    let errs = [
        engine.start(&name).await.unwrap_err(),
        engine.stop(&name, Duration::from_secs(1)).await.unwrap_err(),
        engine.stats(&name).await.unwrap_err(),
        engine.exec(&name, command(&["true"])).await.unwrap_err(),
        engine.logs(&name, query).await.map(|_| ()).unwrap_err(),
    ];
    for err in errs {
        assert!(matches!(err, EngineError::NoSuchContainer { .. }), "{err:?}");
    }
}

async fn a_port_in_use_is_named_and_the_container_stays_created(subject: Subject) {
    let mut spec = subject.spec(Life::Forever);
    let (taken, free) = (subject.occupy_port(), subject.free_port());
    subject.publish(&mut spec, &[free, taken.port]);
    subject.engine.create(&spec).await.unwrap();
    match subject.engine.start(&spec.name).await.unwrap_err() {
        EngineError::PortInUse { ports } => assert_eq!(ports, [taken.port]),
        other => panic!("{other:?}"),
    }
    assert_eq!(subject.state(&spec.name).await, Some(ContainerState::Created));
    let mut wanted = vec![free, taken.port];
    wanted.sort_unstable();
    let seen = subject.engine.inspect(&spec.name).await.unwrap().unwrap();
    assert_eq!(seen.host_ports, wanted);
    assert_eq!(sorted(subject.list().await[0].host_ports.clone()), wanted);

    // Ours, this time.
    let mut holder = subject.spec(Life::Forever);
    subject.publish(&mut holder, &[free]);
    subject.engine.create(&holder).await.unwrap();
    subject.engine.start(&holder.name).await.unwrap();
    let mut second = subject.spec(Life::Forever);
    subject.publish(&mut second, &[free]);
    subject.engine.create(&second).await.unwrap();
    match subject.engine.start(&second.name).await.unwrap_err() {
        EngineError::PortInUse { ports } => assert_eq!(ports, [free]),
        other => panic!("{other:?}"),
    }

    subject.engine.remove(&holder.name).await.unwrap();
    subject.release_port(taken);
    subject.engine.start(&spec.name).await.unwrap();
    assert_eq!(subject.state(&spec.name).await, Some(ContainerState::Running));
}

async fn exit_codes_are_seen(subject: Subject) {
    let spec = subject.running(Life::ExitsWith(7)).await;
    let expected =
        ContainerState::Exited { exit_code: 7, out_of_memory: false, error: String::new() };
    subject.until_it_is(&spec.name, &expected).await;
    assert_eq!(subject.list().await[0].state, expected);
}

async fn running_out_of_memory_is_seen(subject: Subject) {
    let spec = subject.running(Life::EatsMemory).await;
    let expected =
        ContainerState::Exited { exit_code: 137, out_of_memory: true, error: String::new() };
    subject.until_it_is(&spec.name, &expected).await;
}

async fn lists_hold_ours_only(subject: Subject) {
    let ours = subject.running(Life::Forever).await;
    let created = subject.spec(Life::Forever);
    subject.engine.create(&created).await.unwrap();
    let mut decoys = Vec::new();
    for with_labels in [false, true] {
        let decoy = subject.spec(Life::Forever);
        let mut labels = decoy.labels.clone();
        labels.controller_id.push_str("-of-somebody-else");
        subject.put_decoy(&decoy.name, with_labels.then_some(labels)).await;
        decoys.push(decoy.name);
    }
    let mut listed: Vec<(String, ContainerState)> =
        subject.list().await.into_iter().map(|it| (it.name, it.state)).collect();
    listed.sort_by(|a, b| a.0.cmp(&b.0));
    let mut expected =
        vec![(ours.name.clone(), ContainerState::Running), (created.name, ContainerState::Created)];
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(listed, expected);
    for it in subject.list().await {
        assert!(it.labels.is_some_and(|it| it.controller_id == ours.labels.controller_id));
        subject.engine.remove(&it.name).await.unwrap();
    }
    assert!(subject.list().await.is_empty());
    for decoy in decoys {
        assert_eq!(subject.state(&decoy).await, Some(ContainerState::Running));
    }
}

async fn events_tell_of_ours_only(subject: Subject) {
    let controller_id = &subject.spec(Life::Forever).labels.controller_id;
    let mut events = subject.engine.events(controller_id).await.unwrap();
    subject.put_decoy(&subject.spec(Life::Forever).name, None).await;
    let spec = subject.running(Life::Forever).await;
    subject.engine.exec(&spec.name, command(&["true"])).await.unwrap();
    subject.engine.remove(&spec.name).await.unwrap();
    let mut actions = Vec::new();
    while actions.last().is_none_or(|it| it != "destroy") {
        let event = within("an event", events.next()).await.unwrap().unwrap();
        assert_eq!(event.container_name, spec.name);
        assert_eq!(event.instance_id.as_ref(), Some(&spec.labels.instance_id));
        actions.push(event.action);
    }
    actions.retain(|it| it != "kill" && it != "stop");
    assert_eq!(actions, ["create", "start", "die", "destroy"]);
}

async fn events_from_before_the_first_look_are_not_lost(subject: Subject) {
    let controller_id = &subject.spec(Life::Forever).labels.controller_id;
    let mut events = subject.engine.events(controller_id).await.unwrap();
    let spec = subject.spec(Life::Forever);
    subject.engine.create(&spec).await.unwrap();
    let first = within("an event", events.next()).await.unwrap().unwrap();
    assert_eq!((first.container_name, first.action.as_str()), (spec.name, "create"));
}

async fn logs_are_read_from_either_end(subject: Subject) {
    let spec = subject.running(Life::Forever).await;
    for (stream, text) in [(LogStream::Stdout, "one"), (LogStream::Stderr, "two")] {
        subject.write_log(&spec.name, stream, text).await;
    }
    subject.until_logged(&spec.name, "two").await;
    subject.write_log(&spec.name, LogStream::Stdout, "three").await;
    subject.until_logged(&spec.name, "three").await;

    let all = subject.logs(&spec.name, LogQuery { tail: None, since: None, follow: false }).await;
    let written: Vec<(LogStream, &str)> = all
        .iter()
        .map(|it| (it.stream, it.text.as_str()))
        .filter(|(_, text)| ["one", "two", "three"].contains(text))
        .collect();
    assert_eq!(
        written,
        [(LogStream::Stdout, "one"), (LogStream::Stderr, "two"), (LogStream::Stdout, "three")]
    );
    assert!(all.iter().all(|it| it.at.is_some()), "{all:?}");

    let last = LogQuery { tail: Some(1), since: None, follow: false };
    assert_eq!(texts(&subject.logs(&spec.name, last).await), ["three"]);
    let since = all.last().and_then(|it| it.at);
    let recent = LogQuery { tail: None, since, follow: false };
    assert_eq!(texts(&subject.logs(&spec.name, recent).await).last(), Some(&"three"));
    let later = since.map(|it| it.plus_millis(3_600_000));
    let none = LogQuery { tail: None, since: later, follow: false };
    assert_eq!(subject.logs(&spec.name, none).await, []);
}

async fn logs_are_followed_until_the_end(subject: Subject) {
    let spec = subject.running(Life::Forever).await;
    subject.write_log(&spec.name, LogStream::Stdout, "before").await;
    let query = LogQuery { tail: None, since: None, follow: true };
    let mut lines = subject.engine.logs(&spec.name, query).await.unwrap();
    until_line(&mut lines, "before").await;
    subject.write_log(&spec.name, LogStream::Stdout, "later").await;
    until_line(&mut lines, "later").await;
    subject.engine.stop(&spec.name, Duration::from_secs(10)).await.unwrap();
    assert!(within("the end", lines.next()).await.is_none());
}

async fn hostile_bytes_do_not_break_logs(subject: Subject) {
    let spec = subject.running(Life::Forever).await;
    let hostile = "a\u{1b}[2Jb\u{202e}c\u{1}\u{2}\u{7}d";
    subject.write_log(&spec.name, LogStream::Stdout, hostile).await;
    subject.write_log(&spec.name, LogStream::Stdout, &"x".repeat(100_000)).await;
    subject.write_log(&spec.name, LogStream::Stdout, "after").await;
    subject.until_logged(&spec.name, "after").await;
    let lines = subject.logs(&spec.name, LogQuery { tail: None, since: None, follow: false }).await;
    let seen = texts(&lines);
    assert!(seen.contains(&hostile), "{seen:?}");
    // However it is cut, all of the long line is there.
    let pieces = seen.iter().filter(|it| it.bytes().all(|it| it == b'x'));
    assert_eq!(pieces.map(|it| it.len()).sum::<usize>(), 100_000);
    assert_eq!(seen.last(), Some(&"after"));
}

async fn commands_run_to_their_end(subject: Subject) {
    let spec = subject.running(Life::Forever).await;
    let exec = |request| subject.engine.exec(&spec.name, request);
    let out = exec(command(&["echo", "hello", "world"])).await.unwrap();
    assert_eq!((out.exit_code, out.stdout.as_slice()), (Some(0), b"hello world\n".as_slice()));
    assert!(out.stderr.is_empty() && !out.is_truncated, "{out:?}");

    assert_eq!(exec(command(&["false"])).await.unwrap().exit_code, Some(1));
    let out = exec(command(&["sleep", "x"])).await.unwrap();
    assert!(out.exit_code == Some(1) && !out.stderr.is_empty(), "{out:?}");

    let mut request = command(&["env"]);
    request.env.insert("GREETING".to_owned(), "good day".to_owned());
    let out = String::from_utf8(exec(request).await.unwrap().stdout).unwrap();
    assert!(out.lines().any(|it| it == "GREETING=good day"), "{out}");
    assert!(out.lines().any(|it| it == "FROM_SPEC=1"), "{out}");

    let err = exec(command(&["no-such-program"])).await.unwrap_err();
    match err {
        EngineError::InvalidCommand { message } => {
            assert!(message.contains("no-such-program"), "{message}");
            assert!(!message.contains("OCI"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

async fn commands_that_last_too_long_are_ended(subject: Subject) {
    let spec = subject.running(Life::Forever).await;
    let mut request = command(&["sleep", "1234"]);
    request.timeout = Duration::from_millis(500);
    let begun = std::time::Instant::now();
    let out = subject.engine.exec(&spec.name, request).await.unwrap();
    assert_eq!(out.exit_code, None);
    assert!(Duration::from_millis(500) <= begun.elapsed());
}

async fn output_beyond_the_limit_is_dropped(subject: Subject) {
    let spec = subject.running(Life::Forever).await;
    let long = "y".repeat(10_000);
    let mut request = command(&["echo", &long]);
    request.max_output_bytes = 100;
    let out = subject.engine.exec(&spec.name, request).await.unwrap();
    assert!(out.is_truncated);
    assert_eq!((out.exit_code, out.stdout.len()), (Some(0), 100));
}

async fn commands_need_a_running_container(subject: Subject) {
    let spec = subject.spec(Life::Forever);
    subject.engine.create(&spec).await.unwrap();
    let err = subject.engine.exec(&spec.name, command(&["true"])).await.unwrap_err();
    assert!(matches!(err, EngineError::NotRunning { .. }), "{err:?}");
    let err = subject.engine.stats(&spec.name).await.unwrap_err();
    assert!(matches!(err, EngineError::NotRunning { .. }), "{err:?}");
}

async fn stats_show_the_limit(subject: Subject) {
    let spec = subject.running(Life::Forever).await;
    let stats = subject.engine.stats(&spec.name).await.unwrap();
    assert_eq!(stats.memory_limit_bytes, spec.resources.memory.bytes() as u64);
    assert!(0 < stats.memory_used_bytes && stats.memory_used_bytes < stats.memory_limit_bytes);
    assert!((0.0..2.0).contains(&stats.cpu_used), "{stats:?}");
    assert!(0 < stats.n_processes, "{stats:?}");
}

async fn an_image_that_is_nowhere(subject: Subject) {
    let mut spec = subject.spec(Life::Forever);
    // Nothing listens there.
    spec.image = ImageRef::try_new("127.0.0.1:1/missing:1").unwrap();
    assert!(!subject.engine.has_image(&spec.image).await.unwrap());
    let err = subject.engine.create(&spec).await.unwrap_err();
    assert!(matches!(err, EngineError::ImageNotFound { .. }), "{err:?}");
    assert_eq!(subject.state(&spec.name).await, None);
    match subject.engine.pull(&spec.image, None, Arc::new(|_| ())).await.unwrap_err() {
        EngineError::ImageNotFound { image, message } => {
            assert_eq!(image, spec.image);
            assert!(20 < message.len() && !message.contains("127.0.0.1"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

async fn an_engine_that_is_not_there(subject: Subject) {
    let nowhere = subject.nowhere();
    let err = nowhere.describe().await.unwrap_err();
    assert!(err.is_transient() && matches!(err, EngineError::Unreachable { .. }), "{err:?}");
    assert!(!err.to_string().contains('/'), "{err}");
    let err = nowhere.list("x").await.unwrap_err();
    assert!(matches!(err, EngineError::Unreachable { .. }), "{err:?}");
}

async fn until_line(lines: &mut BoxStream<'static, Result<LogLine, EngineError>>, wanted: &str) {
    while within(wanted, lines.next()).await.unwrap().unwrap().text != wanted {}
}

fn command(words: &[&str]) -> ExecRequest {
    ExecRequest {
        command: words.iter().map(|it| (*it).to_owned()).collect(),
        env: Default::default(),
        working_dir: None,
        timeout: Duration::from_secs(30),
        max_output_bytes: 64 * 1024,
    }
}

fn texts(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|it| it.text.as_str()).collect()
}

fn sorted(mut ports: Vec<u16>) -> Vec<u16> {
    ports.sort_unstable();
    ports
}

impl Subject {
    async fn list(&self) -> Vec<Container> {
        self.engine.list(self.controller_id()).await.unwrap()
    }

    async fn state(&self, name: &str) -> Option<ContainerState> {
        self.engine.inspect(name).await.unwrap().map(|it| it.state)
    }

    async fn until_it_is(&self, name: &str, expected: &ContainerState) {
        eventually(&format!("{name} is {expected:?}"), || async {
            (self.state(name).await.as_ref() == Some(expected)).then_some(())
        })
        .await;
    }

    async fn logs(&self, name: &str, query: LogQuery) -> Vec<LogLine> {
        let lines = self.engine.logs(name, query).await.unwrap();
        lines.map(Result::unwrap).collect().await
    }

    async fn until_logged(&self, name: &str, text: &str) {
        eventually(&format!("`{text}` in the logs of {name}"), || async {
            let query = LogQuery { tail: Some(1), since: None, follow: false };
            self.logs(name, query).await.iter().any(|it| it.text == text).then_some(())
        })
        .await;
    }
}
